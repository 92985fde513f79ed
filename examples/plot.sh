#!/bin/sh
# Data in by standard input, a chart out by standard output: draws rainfall.csv into rainfall.png.
set -eu
here=$(dirname "$0")

sandflare run -- python3 -c '
import sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv(sys.stdin, index_col="month")
table.plot.bar(figsize=(8, 4), ylabel="mm", title="Rainfall")
plt.tight_layout()
plt.savefig(sys.stdout.buffer, format="png")
' <"$here/rainfall.csv" >rainfall.png
echo "wrote rainfall.png, $(wc -c <rainfall.png) bytes"
