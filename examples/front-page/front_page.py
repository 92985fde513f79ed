#!/usr/bin/env python3
"""An agent's first program: data in, analysis in a microVM of its own, chart out.

It needs a node (`sandflare up`) and the package (`pip install ./sdk/python`):

    python3 examples/front-page/front_page.py [chart.png]
"""

import sys
from pathlib import Path

from make_data import make_csv

from sandflare import Sandbox

csv_bytes = make_csv()
analyse = Path(__file__).with_name("analyse.py")

sb = Sandbox.create("agent", size="nano")
sb.upload(csv_bytes, "/home/agent/data.csv")
sb.upload(analyse, "/home/agent/analyse.py")
for event in sb.stream("python3 analyse.py"):
    if event.event == "stdout":
        print(event.line)
chart = sb.download("/home/agent/chart.png")
sb.kill()

to = Path(sys.argv[1] if len(sys.argv) > 1 else "chart.png")
to.write_bytes(chart)
print(f"{to}: {len(chart)} bytes")
