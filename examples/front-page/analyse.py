"""Runs in the sandbox: reads data.csv, says what is in it, draws chart.png."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("data.csv", parse_dates=["time"])
print(f"rows: {len(table)}, missing temperatures: {table.temperature_c.isna().sum()}", flush=True)

by_station = table.groupby("station").agg(
    mean=("temperature_c", "mean"),
    coldest=("temperature_c", "min"),
    warmest=("temperature_c", "max"),
    strongest_wind=("wind_ms", "max"),
)
print(by_station.round(1).to_string(), flush=True)

weeks = table.pivot_table(
    index=pd.Grouper(key="time", freq="W"), columns="station", values="temperature_c"
)
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 8))
weeks.plot(ax=above)
above.set(title="Temperature, mean of each week", xlabel="", ylabel="°C")
sample = table.dropna().sample(2000, random_state=1)
below.scatter(sample.temperature_c, sample.humidity_pct, s=4, alpha=0.4)
below.set(title="Humidity against temperature", xlabel="°C", ylabel="%")
figure.tight_layout()
figure.savefig("chart.png", dpi=100)
print("chart.png is drawn", flush=True)
