#!/usr/bin/env python3
"""Write a CSV of 50,000 sensor readings, always the same, to standard output or to a file.

python3 make_data.py [data.csv]
"""

import csv
import io
import math
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path

ROWS = 50_000
STATIONS = ("harbour", "hill", "lake", "old town", "airport")


def make_csv(rows: int = ROWS) -> bytes:
    """Readings of five weather stations, one every hour, some of them missing."""
    chance = random.Random(7)
    out = io.StringIO(newline="")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["time", "station", "temperature_c", "humidity_pct", "wind_ms"])
    begin = datetime(2024, 1, 1)
    for row in range(rows):
        place = row % len(STATIONS)
        time = begin + timedelta(hours=row // len(STATIONS))
        year = math.cos(2 * math.pi * (time.timetuple().tm_yday - 200) / 365)
        day = math.cos(2 * math.pi * (time.hour - 15) / 24)
        temperature = 11 + 10 * year + 4 * day - 1.5 * place + chance.gauss(0, 1.5)
        humidity = min(100.0, max(5.0, 70 - 12 * year - 8 * day + chance.gauss(0, 6)))
        wind = chance.weibullvariate(4 + place, 1.8)
        missing = chance.random() < 0.01
        shown = "" if missing else f"{temperature:.1f}"
        table.writerow([time.isoformat(), STATIONS[place], shown, f"{humidity:.0f}", f"{wind:.1f}"])
    return out.getvalue().encode()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_bytes(make_csv())
    else:
        sys.stdout.buffer.write(make_csv())
