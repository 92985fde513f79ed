"""What a sandbox is: a Linux machine of its own, with Python's numeric stack loaded.

    sandflare run -- python3 - < examples/hello.py
"""

import os
import platform

import numpy as np
import pandas as pd

rng = np.random.default_rng(7)
days = pd.date_range("2026-01-01", periods=90, freq="D")
visits = 200 + 1.5 * np.arange(90) + 40 * np.sin(np.arange(90) * 2 * np.pi / 7) + rng.normal(0, 8, 90)
table = pd.DataFrame({"visits": visits.round().astype(int)}, index=days)

slope, start = np.polyfit(np.arange(90), table["visits"], 1)
by_month = table.groupby(table.index.month_name(), sort=False)["visits"].agg(["mean", "min", "max"])

print(f"kernel {platform.release()}, python {platform.python_version()}, "
      f"numpy {np.__version__}, pandas {pd.__version__}, {os.cpu_count()} CPU, user {os.environ.get('USER', os.getuid())}")
print(by_month.round(1).to_string())
print(f"trend: {slope:+.2f} visits a day, from {start:.0f}")
