"""Methods compared in pairs on the same test tasks, so that the difficulty of a task cancels.

Shape suffixes: S seeds, N tasks of a seed.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fewshot.report.table import one_task
from fewshot.results.statistics import half_width

LEVEL = 0.05
HEADINGS = {
    **{"first": "", "second": "less", "column": "on", "seeds": "seeds", "difference": "difference"},
    **{"ci95_tasks": "± tasks", "ci95_seeds": "± seeds", "p_tasks": "p tasks", "p_seeds": "p seeds"},
    **{"effect": "effect d", "one_task": "one task has"},
}


def paired(difference_SN: np.ndarray) -> dict[str, Any]:
    """Mean, intervals, uncorrected p-values and effect size of paired differences."""
    seeds_S, pooled = difference_SN.mean(1), difference_SN.ravel()
    sd = pooled.std(ddof=1) if len(pooled) > 1 else 0
    return {
        "difference": pooled.mean(),
        "ci95_tasks": half_width(pooled) if len(pooled) > 1 else np.nan,
        "ci95_seeds": half_width(seeds_S) if len(seeds_S) > 1 else np.nan,
        "p_tasks": p_value(pooled) if len(pooled) > 1 else 1.0,
        "p_seeds": p_value(seeds_S) if len(seeds_S) > 1 else np.nan,
        "effect": pooled.mean() / sd if sd else 0.0,
        "tasks": pooled.size,
        "seeds": len(seeds_S),
    }


def p_value(differences: np.ndarray) -> float:
    """Of a t-test that the mean difference is zero."""
    if np.ptp(differences) == 0:  # NaN in scipy
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Every two rows of a column over the seeds that both have: the first's scores less the second's.

    `ci95_tasks` and `p_tasks` say what these trained runs do on other tasks, `ci95_seeds` and `p_seeds`
    what the methods do when trained again; p-values have Holm's correction over all pairs. `effect` is
    Cohen's d for pairs, `better` the row with the better mean.
    """
    found = []
    for column, cells in runs[runs["scores"].notna()].groupby("column", sort=False):
        by_seed, metric = cells.pivot(index="seed", columns="name", values="scores"), cells["metric"].iloc[0]
        for first, second in combinations(cells["name"].unique(), 2):
            common = by_seed[[first, second]].dropna()
            if common.empty:
                continue
            difference_SN = np.stack((common[first] - common[second]).to_list())
            test = paired(difference_SN)
            better = first if (test["difference"] < 0) == (metric == "mse") else second
            row = {"column": column, "first": first, "second": second, "metric": metric, "better": better}
            row["one_task"] = one_task(difference_SN.ravel(), metric)
            found.append(row | test)
    return corrected(pd.DataFrame(found))


def corrected(found: pd.DataFrame) -> pd.DataFrame:
    """The pairs with Holm's correction of both p-values."""
    for name in ("p_tasks", "p_seeds") if len(found) else ():
        tested = found[name].notna()
        if tested.any():
            found.loc[tested, name] = multipletests(found.loc[tested, name], LEVEL, "holm")[1]
    return found


def ranks(runs: pd.DataFrame) -> pd.Series:
    """Each row's mean rank, 1 is best, over the columns and seeds in which every row with a score has one."""
    done = runs[runs["scores"].notna()]
    means = done.pivot(index=["column", "seed"], columns="name", values="mean").astype(float).dropna()
    lower_is_better = "mse" in set(done["metric"])
    return means.rank(axis=1, ascending=lower_is_better).mean().dropna().sort_values()


def verdict(found: pd.DataFrame) -> str:
    """Which differences are significant, in words."""

    def better(name: str) -> str:
        words = []
        for pair in found[found[name] < LEVEL].to_dict("records"):
            worse = pair["second"] if pair["better"] == pair["first"] else pair["first"]
            words.append(f"{pair['better']} over {worse} ({pair['column']})")
        return "; ".join(words) or "none"

    number = f"{len(found)} pairs" if len(found) > 1 else "one pair"
    words = f"Significant at 5% after Holm's correction over {number}, between these trained runs: "
    words += f"{better('p_tasks')}."
    over_seeds = f" Between the methods, over further seeds: {better('p_seeds')}."
    return words + over_seeds * bool(found["p_seeds"].notna().any())
