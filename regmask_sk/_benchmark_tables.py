"""Tables of a comparison: means and spread, paired tests, and both as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from regmask_sk._benchmark_cells import COSTS, SCORES, Outcome
from regmask_sk._benchmark_plan import Cell

_TITLES = {
    "mse": "MSE",
    "mae": "MAE",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
    "mask_fraction": "bases kept",
    "n_parameters": "parameters",
    "fit_seconds": "fit (s)",
    "predict_seconds": "predict (s)",
    "peak_memory_mb": "peak memory (MB)",
    "peak_gpu_memory_mb": "peak GPU memory (MB)",
}


def summarise(cells: pd.DataFrame) -> pd.DataFrame:
    """Means and spread of each estimator's cells.

    Parameters
    ----------
    cells : DataFrame
        As ``Comparison.cells``.

    Returns
    -------
    DataFrame
        See ``Comparison.summary``.
    """
    rows = {}
    for name, own in cells.groupby("estimator", sort=False):
        done = own[own["error"] == ""]
        row: dict[str, float] = {"n_cells": len(own), "n_failed": len(own) - len(done)}
        for score in SCORES:
            # A score that one cell lacks (a constant has no correlation) has no mean: that of
            # the other cells would flatter.
            row[score] = done[score].mean(skipna=False) if len(done) else np.nan
            row[f"{score}_sd_folds"], row[f"{score}_sd_seeds"] = _spread(done, score)
        for cost in COSTS:
            row[cost] = done[cost].mean() if len(done) else np.nan
        rows[name] = row
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("estimator")
    table = table.astype({"n_cells": int, "n_failed": int})
    # Those of which cells failed last: their means are over other cells.
    order = np.lexsort((table["mse"].fillna(np.inf), table["n_failed"] > 0))
    return table.iloc[order]


def _spread(done: pd.DataFrame, score: str) -> tuple[float, float]:
    """Take the standard deviations of the folds' means, and of a fold's seeds (pooled)."""
    by_fold = done.groupby("fold", sort=False)[score]
    folds = float(by_fold.mean().std(ddof=1)) if by_fold.ngroups > 1 else np.nan
    variances = by_fold.var(ddof=1).dropna()
    seeds = float(np.sqrt(variances.mean())) if len(variances) else np.nan
    return folds, seeds


def paired(
    cells: pd.DataFrame, predictions: pd.DataFrame, *, reference: str, metric: str
) -> pd.DataFrame:
    """Compare each estimator with the reference; see ``Comparison.paired_tests``."""
    done = cells[cells["error"] == ""].set_index(["fold", "seed"])
    others = [name for name in cells["estimator"].unique() if name != reference]
    own = done[done["estimator"] == reference]
    rows = []
    for name in others:
        other = done[done["estimator"] == name]
        both = own.index.intersection(other.index)
        difference = (other.loc[both, metric] - own.loc[both, metric]).to_numpy(np.float64)
        ratio = float((own.loc[both, "n_test"] / own.loc[both, "n_train"]).mean())
        t, p_t = corrected_t_test(difference, ratio)
        errors = _errors_by_gene(predictions, both, (name, reference))
        gap = (errors[name] - errors[reference]).to_numpy()
        rows.append(
            {
                "estimator": name,
                "reference": reference,
                "n_cells": len(both),
                "difference": difference.mean() if len(both) else np.nan,
                "t": t,
                "p_t": p_t,
                "n_genes": len(gap),
                "error_difference": gap.mean() if len(gap) else np.nan,
                "share_better": (gap < 0).mean() if len(gap) else np.nan,
                "p_wilcoxon": wilcoxon(gap),
            }
        )
    columns = [
        "estimator", "reference", "n_cells", "difference", "t", "p_t", "p_t_holm", "n_genes",
        "error_difference", "share_better", "p_wilcoxon", "p_wilcoxon_holm",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=[c for c in columns if not c.endswith("_holm")])
    for test in ("p_t", "p_wilcoxon"):
        table[f"{test}_holm"] = holm(table[test].to_numpy(np.float64))
    return table[columns].set_index("estimator")


def _errors_by_gene(
    predictions: pd.DataFrame, cells: pd.Index, names: tuple[str, str]
) -> pd.DataFrame:
    """Mean absolute error of each row of the loci, over the cells that both have."""
    if not len(cells):
        return pd.DataFrame(columns=list(names), dtype=np.float64)
    kept = predictions[predictions["estimator"].isin(names)]
    kept = kept[pd.MultiIndex.from_frame(kept[["fold", "seed"]]).isin(cells)]
    errors = (kept["predicted"] - kept["measured"]).abs()
    table = errors.groupby([kept["row"], kept["estimator"]]).mean().unstack("estimator")
    return table.reindex(columns=list(names))


def corrected_t_test(difference: ArrayLike, ratio: float) -> tuple[float, float]:
    """Corrected resampled t-test of Nadeau and Bengio (2003).

    The cells' training rows overlap, so that their scores are less independent than they look:
    the variance of the mean is taken as ``(1 / n + ratio) * s**2`` in place of ``s**2 / n``.

    Parameters
    ----------
    difference : array-like of shape (n_cells,)
        Differences of a score, cell by cell.
    ratio : float
        Number of test rows by that of training rows.

    Returns
    -------
    t, p : float
        Statistic and two-sided p-value with ``n_cells - 1`` degrees of freedom. NaN for fewer
        than two cells, and where all differences are equal and not 0, which shows no spread to
        judge by; ``(0, 1)`` where all are 0.

    References
    ----------
    Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52:239 (2003),
    section 3. Bouckaert and Frank, PAKDD 2004: the same for repeated cross-validation.

    Examples
    --------
    >>> t, p = corrected_t_test([0.1, 0.3, 0.2], ratio=0.25)
    >>> round(t, 3), round(p, 3)
    (2.619, 0.12)
    """
    d = np.asarray(difference, dtype=np.float64)
    if len(d) < 2 or not np.isfinite(d).all():
        return float("nan"), float("nan")
    if not d.any():
        return 0.0, 1.0
    spread = d.std(ddof=1)
    if spread <= 1e-12 * np.abs(d).max():
        return float("nan"), float("nan")
    t = d.mean() / np.sqrt((1 / len(d) + ratio) * spread**2)
    return float(t), float(2 * stats.t.sf(abs(t), df=len(d) - 1))


def wilcoxon(difference: NDArray[np.float64]) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test.

    Parameters
    ----------
    difference : ndarray of shape (n_genes,)
        Paired differences.

    Returns
    -------
    float
        NaN without genes, 1 where all differences are 0.

    Examples
    --------
    >>> wilcoxon(np.zeros(5)), wilcoxon(np.array([1.0, 2.0, 3.0, 4.0]))
    (1.0, 0.125)
    """
    if not len(difference):
        return float("nan")
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference, zero_method="wilcox").pvalue)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values by the method of Holm (1979), which holds the family-wise error rate.

    Parameters
    ----------
    p : ndarray of shape (n,)
        P-values; NaN, a test that was not made, stays NaN and does not count.

    Returns
    -------
    ndarray of shape (n,)
        Adjusted p-values.

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6:65 (1979).

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03]))
    array([0.03, 0.06, 0.06])
    """
    adjusted = np.full(len(p), np.nan)
    order = np.argsort(p, kind="stable")  # NaN last
    order = order[: np.count_nonzero(~np.isnan(p))]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return adjusted


def markdown(
    cells: pd.DataFrame, summary: pd.DataFrame, tests: pd.DataFrame, *, metric: str
) -> str:
    """Both tables as Markdown, with what their figures are and which cells failed."""
    n_folds, n_seeds = cells["fold"].nunique(), cells["seed"].nunique()
    spread = "folds" if n_folds > 1 else "seeds"
    parts = [_summary_table(summary, spread), "", _caption(n_folds, n_seeds, spread)]
    failures = cells[cells["error"] != ""]
    if len(failures):
        parts += ["", "Cells that failed, and are in no mean:", ""]
    for name, own in failures.groupby("estimator", sort=False):
        n_cells = int((cells["estimator"] == name).sum())
        errors = "; ".join(own["error"].unique())
        parts.append(f"- {_cell(str(name))}: {len(own)} of {n_cells}: {_cell(errors)}")
    if len(tests):
        title = _TITLES[metric]
        parts += ["", _tests_table(tests, title), "", _tests_caption(tests, title)]
    return "\n".join(parts) + "\n"


def _summary_table(summary: pd.DataFrame, spread: str) -> str:
    costs = [cost for cost in COSTS if summary[cost].notna().any()]
    lines = [_row(["estimator", *(_TITLES[name] for name in (*SCORES, *costs))])]
    lines.append("|---|" + "---:|" * (len(SCORES) + len(costs)))
    for name, row in summary.iterrows():
        label = str(name)
        if row["n_failed"]:
            label += f" ({int(row['n_failed'])} of {int(row['n_cells'])} failed)"
        scores = [
            _number(row[score], "#.4g") + _plus_minus(row[f"{score}_sd_{spread}"])
            for score in SCORES
        ]
        lines.append(_row([label, *scores, *(_cost(cost, row[cost]) for cost in costs)]))
    return "\n".join(lines)


def _caption(n_folds: int, n_seeds: int, spread: str) -> str:
    text = f"Means over {_count(n_folds, 'split')} and {_count(n_seeds, 'seed')}"
    if n_folds > 1:
        text += "; ± is the standard deviation of the splits' means"
    elif n_seeds > 1:
        text += "; ± is the standard deviation over the seeds"
    return text + ". In the order of the MSE, estimators of which cells failed last."


def _tests_table(tests: pd.DataFrame, title: str) -> str:
    titles = [
        "estimator", "cells", f"difference of {title}", "t", "p", "p (Holm)", "genes",
        "difference of the absolute error", "genes with less error", "p", "p (Holm)",
    ]  # fmt: skip
    lines = [_row(titles), "|---|" + "---:|" * (len(titles) - 1)]
    for name, row in tests.iterrows():
        values = [
            f"{int(row['n_cells'])}", _number(row["difference"], "+#.3g"), _number(row["t"], ".2f"),
            _number(row["p_t"], ".2g"), _number(row["p_t_holm"], ".2g"), f"{int(row['n_genes'])}",
            _number(row["error_difference"], "+#.3g"), _number(row["share_better"], ".1%"),
            _number(row["p_wilcoxon"], ".2g"), _number(row["p_wilcoxon_holm"], ".2g"),
        ]  # fmt: skip
        lines.append(_row([str(name), *values]))
    return "\n".join(lines)


def _tests_caption(tests: pd.DataFrame, title: str) -> str:
    reference = _cell(str(tests["reference"].iloc[0]))
    return (
        f"Against {reference}, on the cells that both have finished: differences are the "
        f"estimator's value less that of {reference}. Left: the corrected resampled t-test "
        f"(Nadeau and Bengio, 2003) on the {title} of the cells. Right: the Wilcoxon signed-rank "
        "test on each gene's absolute error, averaged over its cells; genes near each other are "
        "not independent, so that its p-values are too small rather than too large. Two-sided; "
        "Holm's correction is over the estimators of the table, for each test by itself."
    )


def _row(values: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(value) for value in values) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)


def _plus_minus(spread: float) -> str:
    return "" if np.isnan(spread) else f" ± {spread:#.2g}"


def _cost(name: str, value: float) -> str:
    forms = {"mask_fraction": ".1%", "fit_seconds": ",.1f", "predict_seconds": ",.2f"}
    return _number(value, forms.get(name, ",.0f"))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def cell_table(pairs: Sequence[tuple[Cell, Outcome]]) -> pd.DataFrame:
    """One row a cell; see ``Comparison.cells``."""
    nothing = dict.fromkeys((*SCORES, *COSTS), float("nan"))
    return pd.DataFrame(
        [
            {
                "estimator": cell.name,
                "fold": cell.fold.name,
                "seed": cell.seed,
                **(outcome.measures or nothing),
                "n_train": len(cell.fold.train),
                "n_test": len(cell.fold.test),
                "error": outcome.error,
                "warnings": "; ".join(outcome.warnings),
            }
            for cell, outcome in pairs
        ]
    )


def prediction_table(pairs: Sequence[tuple[Cell, Outcome]], rows: Any, target: Any) -> pd.DataFrame:
    """One row a test gene of each finished cell; see ``Comparison.predictions``."""
    table = rows if isinstance(rows, pd.DataFrame) else getattr(rows, "loci", None)
    names = np.arange(len(target)) if table is None else table.index.to_numpy()
    columns = ["estimator", "fold", "seed", "row", "gene", "measured", "predicted"]
    parts = [
        pd.DataFrame(
            {
                "estimator": cell.name,
                "fold": cell.fold.name,
                "seed": cell.seed,
                "row": cell.fold.test,
                "gene": names[cell.fold.test],
                "measured": target[cell.fold.test],
                "predicted": outcome.predicted,
            }
        )
        for cell, outcome in pairs
        if outcome.predicted is not None
    ]
    found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    if table is not None and "cell_type" in table.columns:
        types = table["cell_type"].to_numpy()[found["row"].to_numpy(dtype=np.intp)]
        found.insert(5, "cell_type", types)
    return found
