"""The paper's numbers, unrounded where its stored results give them, each with the protocol it was measured under."""

from collections.abc import Iterable, Mapping
from typing import Any

from fewshot.results.protocol import Protocol, as_settings

TASKS = {"sine": 2000, "omniglot": 600, "mini": 600, "cub": 600}
SEQUENCE = {"method.support_mode": "sequence"}
SEQUENCE_ON_SINE = SEQUENCE | {"method.first_labels": True}  # only the set variant hides the labels at first
TEN_QUERIES = {
    "data.train_queries": 10,
    "data.val_queries": 10,
}  # section 5.1: all that 20 drawings leave at 10 shots

# means over three runs: MSE on sine, accuracy in % elsewhere; test queries as many as shots, but 50 on sine
WITHIN: dict[tuple[str, str], dict[int, float]] = {  # Tables 1 to 3: (data, method) → {shots: mean}
    ("sine", "maml"): {5: 0.17653, 10: 0.03295, 20: 0.00487},
    ("sine", "lstm"): {
        5: 0.04060,
        10: 0.01414,
        20: 0.00651,
        30: 0.0064,
        40: 0.0043,
        50: 0.0038,
    },  # and Figure 5
    ("sine", "oplstm"): {5: 0.10540, 10: 0.00757, 20: 0.00269},
    ("omniglot", "maml"): {1: 84.09, 5: 93.52},
    ("omniglot", "protonet"): {1: 83.60, 5: 93.39},
    ("omniglot", "lstm"): {1: 72.57, 5: 84.84},
    ("omniglot", "oplstm"): {1: 84.27, 5: 91.78},
    ("mini", "maml"): {1: 48.60, 5: 63.02},
    ("mini", "protonet"): {1: 50.11, 5: 65.36},
    ("mini", "lstm"): {1: 20.27, 5: 19.86},  # it prints 20.2 and 19.4, to which its intervals belong
    ("mini", "oplstm"): {1: 51.89, 5: 67.87},
    ("mini", "sap"): {1: 52.96, 5: 67.62},
    ("mini", "warpmaml"): {1: 50.44, 5: 65.55},
    ("cub", "maml"): {1: 57.49, 5: 74.81},
    ("cub", "protonet"): {1: 50.86, 5: 63.73},
    ("cub", "oplstm"): {1: 60.21, 5: 73.10},
    ("cub", "sap"): {1: 63.47, 5: 73.88},
    ("cub", "warpmaml"): {1: 59.57, 5: 74.16},
}
ACROSS: dict[
    tuple[str, str, str], dict[int, float]
] = {  # Table 4: (trained on, tested on, method), 15 queries
    ("mini", "cub", "lstm"): {1: 20.1, 5: 20.0},
    ("mini", "cub", "oplstm"): {1: 42.33, 5: 58.47},
    ("mini", "cub", "maml"): {1: 37.91, 5: 53.65},
    ("mini", "cub", "protonet"): {1: 39.71, 5: 56.01},
    ("mini", "cub", "sap"): {1: 41.48, 5: 58.00},
    ("mini", "cub", "warpmaml"): {1: 42.01, 5: 56.94},
    ("cub", "mini", "oplstm"): {1: 35.82, 5: 49.02},
    ("cub", "mini", "maml"): {1: 31.06, 5: 45.79},
    ("cub", "mini", "protonet"): {1: 31.75, 5: 45.32},
    ("cub", "mini", "sap"): {1: 33.26, 5: 47.09},
    ("cub", "mini", "warpmaml"): {1: 31.07, 5: 41.34},
}
FIGURE_5: list[
    tuple[str, dict[str, Any], dict[int, float]]
] = [  # of the plain LSTM: (data, settings, {shots: mean})
    ("sine", SEQUENCE_ON_SINE, {5: 0.0536, 10: 0.0177, 20: 0.0080, 30: 0.0056, 40: 0.0057, 50: 0.0081}),
    ("omniglot", TEN_QUERIES, {1: 72.60, 3: 82.88, 5: 83.60, 8: 87.35, 10: 86.25}),
    ("omniglot", TEN_QUERIES | SEQUENCE, {1: 66.00, 3: 40.07, 5: 56.82, 8: 41.31, 10: 48.89}),
]
FIGURE_6 = {  # of OP-LSTM on mini 1-shot: {measure: {validation: value}}, 0 before training, 32 (reckoned) the last
    "cosine_gradient": {0: 0.0, 1: 0.96, 12: 0.80, 32: 0.94},
    "cosine_prototypes": {0: 0.0, 5: 0.52, 32: 0.75},
    "distance_gradient": {0: 0.1, 32: 4.5},
    "distance_prototypes": {0: 200.0, 10: 106.0, 32: 45.0},
}
TABLE_A1 = {
    "prev_target": 0.04,
    "prev_target_pred": 0.03,
    "prev_target_err": 0.05,
    "prev_target_pred_err": 0.06,
}

# half-widths of the paper's 95% intervals, which are over the tasks of all three runs, as its tables print them
WITHIN_CI95: dict[tuple[str, str], dict[int, float]] = {
    ("sine", "maml"): {5: 0.009, 10: 0.003, 20: 0.001},
    ("sine", "lstm"): {5: 0.002, 10: 0.001, 20: 0.000},
    ("sine", "oplstm"): {5: 0.009, 10: 0.001, 20: 0.000},
    ("omniglot", "maml"): {1: 0.9, 5: 0.3},
    ("omniglot", "protonet"): {1: 0.88, 5: 0.29},
    ("omniglot", "lstm"): {1: 0.9, 5: 0.5},
    ("omniglot", "oplstm"): {1: 0.9, 5: 0.3},
    ("mini", "maml"): {1: 1.04, 5: 0.54},
    ("mini", "protonet"): {1: 1.04, 5: 0.53},
    ("mini", "lstm"): {1: 0.2, 5: 0.2},
    ("mini", "oplstm"): {1: 1.04, 5: 0.5},
    ("mini", "sap"): {1: 1.08, 5: 0.51},
    ("mini", "warpmaml"): {1: 1.04, 5: 0.53},
    ("cub", "maml"): {1: 1.04, 5: 0.51},
    ("cub", "protonet"): {1: 1.01, 5: 0.55},
    ("cub", "oplstm"): {1: 1.04, 5: 0.52},
    ("cub", "sap"): {1: 1.0, 5: 0.51},
    ("cub", "warpmaml"): {1: 1.0, 5: 0.51},
}
ACROSS_CI95: dict[tuple[str, str, str], dict[int, float]] = {
    ("mini", "cub", "lstm"): {1: 0.28, 5: 0.25},
    ("mini", "cub", "oplstm"): {1: 0.42, 5: 0.41},
    ("mini", "cub", "maml"): {1: 0.40, 5: 0.40},
    ("mini", "cub", "protonet"): {1: 0.41, 5: 0.41},
    ("mini", "cub", "sap"): {1: 0.44, 5: 0.41},
    ("mini", "cub", "warpmaml"): {1: 0.43, 5: 0.42},
    ("cub", "mini", "oplstm"): {1: 0.40, 5: 0.4},
    ("cub", "mini", "maml"): {1: 0.36, 5: 0.39},
    ("cub", "mini", "protonet"): {1: 0.34, 5: 0.38},
    ("cub", "mini", "sap"): {1: 0.39, 5: 0.39},
    ("cub", "mini", "warpmaml"): {1: 0.35, 5: 0.36},
}
# and over the means of its seeds (Tables B4 to B6)
WITHIN_SEEDS: dict[tuple[str, str], dict[int, float]] = {
    ("omniglot", "maml"): {1: 3.10, 5: 0.70},
    ("omniglot", "protonet"): {1: 0.52, 5: 1.48},
    ("omniglot", "lstm"): {1: 3.87, 5: 6.12},
    ("omniglot", "oplstm"): {1: 3.18, 5: 0.70},
    ("mini", "maml"): {1: 4.00, 5: 0.33},
    ("mini", "protonet"): {1: 4.06, 5: 2.84},
    ("mini", "lstm"): {1: 0.60, 5: 0.47},
    ("mini", "oplstm"): {1: 2.52, 5: 2.40},
    ("mini", "sap"): {1: 3.71, 5: 0.47},
    ("mini", "warpmaml"): {1: 2.58, 5: 0.98},
    ("cub", "maml"): {1: 0.83, 5: 2.10},
    ("cub", "protonet"): {1: 2.35, 5: 0.47},
    ("cub", "oplstm"): {1: 1.58, 5: 1.57},
    ("cub", "sap"): {1: 6.24, 5: 1.57},
    ("cub", "warpmaml"): {1: 2.15, 5: 2.51},
}
ACROSS_SEEDS: dict[tuple[str, str, str], dict[int, float]] = {
    ("mini", "cub", "lstm"): {1: 0.77, 5: 0.40},
    ("mini", "cub", "oplstm"): {1: 1.90, 5: 1.49},
    ("mini", "cub", "maml"): {1: 2.22, 5: 0.67},
    ("mini", "cub", "protonet"): {1: 4.11, 5: 4.89},
    ("mini", "cub", "sap"): {1: 3.72, 5: 1.79},
    ("mini", "cub", "warpmaml"): {1: 0.85, 5: 4.16},
    ("cub", "mini", "oplstm"): {1: 2.98, 5: 0.80},
    ("cub", "mini", "maml"): {1: 1.19, 5: 2.06},
    ("cub", "mini", "protonet"): {1: 0.20, 5: 1.84},
    ("cub", "mini", "sap"): {1: 2.33, 5: 1.28},
    ("cub", "mini", "warpmaml"): {1: 1.59, 5: 1.37},
}
# weights (Tables 1 to 3), and minutes of a run on one RTX 2080 Ti at 1 and 5 shots (Table B3)
PARAMETERS: dict[tuple[str, str], int] = {
    ("sine", "maml"): 17_018,
    ("sine", "lstm"): 20_201,
    ("sine", "oplstm"): 18_107,
    ("omniglot", "maml"): 247_621,
    ("omniglot", "protonet"): 247_621,
    ("omniglot", "lstm"): 13_530_097,
    ("omniglot", "oplstm"): 249_167,
} | {
    (data, method): number
    for data in ("mini", "cub")
    for method, number in (
        ("maml", 121_093),
        ("warpmaml", 231_877),
        ("sap", 412_852),
        ("protonet", 121_093),
        ("lstm", 55_879_349),
        ("oplstm", 141_187),
    )
}
MINUTES: dict[tuple[str, str], dict[int, float]] = {
    ("mini", "maml"): {1: 789, 5: 721},
    ("mini", "warpmaml"): {1: 745, 5: 750},
    ("mini", "sap"): {1: 340, 5: 674},
    ("mini", "protonet"): {1: 254, 5: 306},
    ("mini", "lstm"): {1: 2414, 5: 2807},
    ("mini", "oplstm"): {1: 290, 5: 331},
    ("cub", "maml"): {1: 1617, 5: 1059},
    ("cub", "warpmaml"): {1: 786, 5: 768},
    ("cub", "sap"): {1: 431, 5: 677},
    ("cub", "protonet"): {1: 1878, 5: 2326},
    ("cub", "oplstm"): {1: 1918, 5: 2408},
}
TABLE_A1_CI95 = dict(zip(TABLE_A1, (0.002, 0.002, 0.004, 0.011), strict=True))
Within = Mapping[tuple[str, str], Mapping[int, float]]
Across = Mapping[tuple[str, str, str], Mapping[int, float]]


def of_tables(
    within: Within, across: Across, a1: Mapping[str, float]
) -> Iterable[tuple[tuple[str, Protocol], float]]:
    """((method, protocol), number) of every number of Tables 1 to 4 and A1."""
    for (data, method), means in within.items():
        for shots, mean in means.items():
            yield (method, released(data, data, shots)), mean
    for (trained_on, data, method), means in across.items():
        for shots, mean in means.items():
            yield (method, released(trained_on, data, shots)), mean
    for inputs, mean in a1.items():
        yield ("lstm", released("sine", "sine", 5, SEQUENCE_ON_SINE | {"method.inputs": inputs})), mean


def of_figure_5() -> Iterable[tuple[tuple[str, Protocol], float]]:
    for data, settings, means in FIGURE_5:
        for shots, mean in means.items():
            yield ("lstm", released(data, data, shots, settings)), mean


def released(trained_on: str, data: str, shots: int, settings: Mapping[str, Any] | None = None) -> Protocol:
    """The protocol of the paper's released runs."""
    return Protocol(
        trained_on=trained_on,
        data=data,
        ways=1 if data == "sine" else 5,
        shots=shots,
        trained_for=shots,
        queries=15 if trained_on != data else 50 if data == "sine" else shots,
        tasks=TASKS[data],
        variant="released",
        settings=as_settings(settings or {}),
        status="finished",
    )


FIGURES = dict([*of_tables(WITHIN, ACROSS, TABLE_A1), *of_figure_5()])
INTERVALS = dict(of_tables(WITHIN_CI95, ACROSS_CI95, TABLE_A1_CI95))
OVER_SEEDS = dict(of_tables(WITHIN_SEEDS, ACROSS_SEEDS, {}))
RUNNING_TIMES = dict(of_tables(MINUTES, {}, {}))


def has_table(method: str, data: str) -> bool:
    """Whether the paper has numbers of a method trained and tested on a data set."""
    return (data, method) in WITHIN


def paper_figure(result: Mapping[str, Any]) -> float | None:
    """The paper's mean over three runs for a result's method, or None where its protocol is not the paper's."""
    return FIGURES.get((result["method"], Protocol.of(result)))
