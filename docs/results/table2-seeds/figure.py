"""Draws seeds.png from states.csv and the unpacked runs: python figure.py OUTPUTS

Left: validation by updates. Middle: accuracy after 2 500 updates by the first update of the hidden layers.
Right: accuracy by the number of passes in the test.
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


if __name__ == "__main__":
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    states = pd.read_csv(HERE / "states.csv")
    curves(left, Path(sys.argv[1]))
    by_size(middle, states)
    by_passes(right, states)
    figure.savefig(HERE / "seeds.png", dpi=110)
