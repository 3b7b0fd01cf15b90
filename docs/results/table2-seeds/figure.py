"""Draws seeds.png and in-full.png: python figure.py OUTPUTS FULL

OUTPUTS holds the runs of first-updates.tar.xz, FULL those of runs.tar.xz and ../table2/runs.tar.xz.
seeds.png: validation by updates; accuracy after 2 500 updates by the first update of the hidden layers;
accuracy by the number of passes in the test. in-full.png: validation by updates; the tests of complete runs.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

HERE = Path(__file__).parent
STYLES = {
    ("released", "OPLSTM"): ("C0", "released"),
    ("released", "StillHidden"): ("C1", "first hidden update zero"),
    ("released", "FlippedHidden"): ("C3", "first hidden update reversed"),
    ("paper", "OPLSTM"): ("C2", "the paper's equations"),
}


def curves(axes: Axes, outputs: Path) -> None:
    for path in sorted(outputs.rglob("metrics.csv")):
        result = pd.read_json(path.with_name("result.json"), typ="series")
        rows = pd.read_csv(path).query("metric == 'val/accuracy'")
        name = result["config_diff"].get("method._target_", "OPLSTM").rpartition(".")[2]
        color, _ = STYLES[result["variant"], name]
        axes.plot(rows["step"], rows["value"], color=color, linewidth=0.8)
    axes.set(xlabel="updates", ylabel="validation accuracy, 600 tasks, %")


def by_size(axes: Axes, states: pd.DataFrame) -> None:
    wide = states.pivot(index=["variant", "class", "seed"], columns="update")
    for (variant, name), rows in wide.groupby(level=["variant", "class"]):
        color, label = STYLES[variant, name]
        sizes = rows["size_0", 0].clip(lower=0.01)
        axes.scatter(sizes, rows["accuracy_1_passes", 2500], color=color, label=label)
    axes.set(
        xscale="log",
        xlabel="|first update| / |weights|, first layer (.01: less, or none)",
        ylabel="accuracy after 2 500 updates, 100 tasks, %",
    )
    axes.legend(fontsize=7)


def by_passes(axes: Axes, states: pd.DataFrame) -> None:
    for _, row in states[states["update"] == 2500].iterrows():
        color, _ = STYLES[row["variant"], row["class"]]
        line = "-" if row["label_effect"] > 0 else ":"
        axes.plot(row.filter(regex=r"accuracy_\d_passes").to_numpy(), line, color=color, linewidth=0.8)
    axes.set(xlabel="passes (dotted: negative label effect)", ylabel="accuracy, 100 tasks, %")


def in_full(curves: Axes, histogram: Axes, outputs: Path) -> None:
    tests: dict[str, list[float]] = {"seeds 1 to 12": [], "Table 2's runs": []}
    for path in sorted(outputs.glob("omniglot/oplstm/1-shot/*/metrics.csv")):
        result = pd.read_json(path.with_name("result.json"), typ="series")
        label, color = ("seeds 1 to 12", "C0") if 1 <= result["seed"] <= 12 else ("Table 2's runs", "C1")
        rows = pd.read_csv(path).query("metric == 'val/accuracy' and step > 0")
        curves.plot(rows["step"], rows["value"], color=color, linewidth=0.8)
        tests[label].append(result["mean"])
    curves.set(xlabel="updates", ylabel="validation accuracy, 600 tasks, %", ylim=(45, 88))
    edges = [79 + 0.5 * number for number in range(15)]
    histogram.hist([*tests.values()], edges, stacked=True, color=["C0", "C1"], label=[*tests])
    histogram.axvline(84.27, color="black", linestyle="--", label="the paper's mean of three")
    histogram.set(xlabel="test accuracy, 600 tasks, %", ylabel="runs", ylim=(0, 4.5))
    histogram.legend(fontsize=8)


if __name__ == "__main__":
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    states = pd.read_csv(HERE / "states.csv")
    curves(left, Path(sys.argv[1]))
    by_size(middle, states)
    by_passes(right, states)
    figure.savefig(HERE / "seeds.png", dpi=110)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    in_full(left, right, Path(sys.argv[2]))
    figure.savefig(HERE / "in-full.png", dpi=110)
