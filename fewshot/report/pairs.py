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

LEVEL = 0.05  # of significance
COLUMNS = (
    "first less column seeds difference ci95_tasks ci95_seeds p_tasks p_seeds effect one_task significant"
)


def paired(difference_SN: np.ndarray) -> dict[str, Any]:
    """Mean, intervals, uncorrected p-values and Cohen's d of paired differences."""
    seeds_S, pooled = difference_SN.mean(1), difference_SN.ravel()
    return {
        "seeds": len(seeds_S),
        "difference": pooled.mean(),
        "ci95_tasks": half_width(pooled),
        "ci95_seeds": half_width(seeds_S),
        "p_tasks": p_value(pooled),
        "p_seeds": p_value(seeds_S),
        "effect": pooled.mean() / pooled.std(ddof=1) if np.ptp(pooled) else 0.0,
    }


def p_value(differences: np.ndarray) -> float:
    """Of a t-test that the mean difference is zero; NaN for one difference."""
    if np.ptp(differences) == 0:  # NaN in scipy
        return np.nan if len(differences) == 1 else float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Every two rows of a column over the seeds that both have: the first's scores less the second's.

    `ci95_tasks` and `p_tasks` say what these trained runs do on other tasks, `ci95_seeds` and `p_seeds`
    what the methods do when trained again; p-values have Holm's correction over all pairs.
    """
    found = []
    for column, cells in runs[runs["scores"].notna()].groupby("column", sort=False):
        by_seed, metric = cells.pivot(index="seed", columns="name", values="scores"), cells["metric"].iloc[0]
        for first, second in combinations(by_seed[cells["name"].unique()], 2):
            common = by_seed[[first, second]].dropna()
            if len(common):
                difference_SN = np.stack((common[first] - common[second]).to_list())
                row = {"column": column, "first": first, "less": second, "metric": metric}
                found.append(row | paired(difference_SN) | {"one_task": one_task(difference_SN, metric)})
    return corrected(pd.DataFrame(found)) if found else pd.DataFrame()


def corrected(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with Holm's correction of both p-values, and what is significant after it."""
    pairs["significant"] = ""
    for over in ("tasks", "seeds"):
        p = pairs[f"p_{over}"].dropna()
        if len(p):
            pairs[f"p_{over}"] = pd.Series(multipletests(p, method="holm")[1], p.index)
        pairs.loc[pairs[f"p_{over}"] < LEVEL, "significant"] += f"{over} "
    return pairs


def ranks(runs: pd.DataFrame) -> pd.DataFrame:
    """Each row's mean rank, 1 is best, over the columns and seeds in which every row with a score has one."""
    done = runs[runs["scores"].notna()]
    means = done.pivot(index=["column", "seed"], columns="name", values="mean").dropna()
    rank = means.rank(axis=1, ascending="mse" in set(done["metric"])).mean().dropna().sort_values()
    return pd.DataFrame({"": rank.index, "rank": rank.map("{:.2f}".format)})
