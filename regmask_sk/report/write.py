"""``write_report``: what was trained, on what, how well it predicts, and what its masks show."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline

from regmask_sk._files import package_versions, write_whole
from regmask_sk.plotting._axes import need_matplotlib
from regmask_sk.plotting._locus_data import row_of
from regmask_sk.report._data import Genes, data_parts, split_parts, validation_of
from regmask_sk.report._page import Table, number, render
from regmask_sk.report._results import accuracy_parts, history_parts, mask_parts
from regmask_sk.report.elements import element_parts, top_elements
from regmask_sk.windows import Windows

_MOST_GENES = 2_000  # whose masks are computed
_MOST_BASES = 2**28  # of all their masks together: 1 GiB
_SLACK = 1e-5  # by which rounding may carry a mask out of [0, 1]


class _Section(NamedTuple):
    anchor: str
    title: str
    parts: list[tuple[str, Any]]


def write_report(
    path: str | os.PathLike[str],
    model: Pipeline,
    loci: pd.DataFrame,
    y: ArrayLike,
    *,
    test_chroms: Sequence[str] = (),
    target: str = "expression",
    unit: str | None = None,
    baselines: bool = True,
    show: Sequence[str] = (),
    known: pd.DataFrame | None = None,
    gene_models: pd.DataFrame | None = None,
    motifs: pd.DataFrame | None = None,
    n_elements: int = 20,
    threshold: float = 0.5,
    min_width: int = 20,
    merge_gap: int = 50,
    predictions: pd.DataFrame | None = None,
    commands: Sequence[str] = (),
    facts: Sequence[tuple[str, str]] = (),
    random_state: int = 0,
) -> Path:
    """Write one HTML file on a trained model; it holds its pictures and needs no network.

    The same arguments give the same file. Predictions and masks are computed anew, for test genes,
    masks for at most 2,000 of them.

    Parameters
    ----------
    path : path-like
        File to write; one that is there is replaced.
    model : Pipeline
        Fitted: steps that read windows and, last, a regressor.
    loci : DataFrame
        All genes, those that the model was trained on too.
    y : array-like of shape (n_genes,)
        Measured expression.
    test_chroms : sequence of str, default=()
        Chromosomes that were held out of the fit.
    target, unit : str
        What `y` is, and its unit, such as ``"log2 TPM"``.
    baselines : bool, default=True
        Whether to fit a ridge on binned tracks (without tracks: on counts of 4-mers), which reads
        all windows.
    show : sequence of str, default=()
        Names of the genes whose loci are drawn; by default the test genes of highest, middle and
        lowest measured expression.
    known : DataFrame, optional
        Known elements to draw, as :func:`regmask_sk.read_regions` gives them.
    gene_models : DataFrame, optional
        Genes to draw, as :func:`regmask_sk.read_gene_models` gives them.
    motifs : DataFrame, optional
        Motif occurrences, as :func:`regmask_sk.read_motif_table` gives them.
    n_elements : int, default=20
        Elements in the table.
    threshold, min_width, merge_gap
        Of elements, as in :func:`regmask_sk.call_elements`.
    predictions : DataFrame, optional
        What the fit has written for the test genes, index ``gene``, column ``predicted``: the
        report says whether the model still predicts the same.
    commands : sequence of str, default=()
        Commands that made the model and the report.
    facts : sequence of (str, str), default=()
        More to tell about how the model was made: a name and a value each.
    random_state : int, default=0
        Of the genes that are drawn where there are too many.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `model` is no pipeline.
    ValueError
        If `y` does not fit `loci` or holds missing values, all genes are held out, or a gene of
        `show` is not there or was trained on.
    """
    need_matplotlib("regmask report")
    genes, last = _genes(model, loci, y, test_chroms)
    rows = _rows_of_masks(genes, show, random_state)
    places = _shown(genes, rows, show)
    scored = genes.scored
    predicted = np.asarray(last.predict(genes.windows[scored]), dtype=np.float64)
    held_out_by = (
        f"Test: {', '.join(test_chroms)}, whole chromosomes." if len(test_chroms) else "No test."
    )
    accuracy, scores = accuracy_parts(
        genes, last, predicted, baselines=baselines, unit=unit, earlier=predictions
    )
    sections = [
        _Section("data", "Data checks", data_parts(
            genes, model, target=target, random_state=random_state)),
        _Section("splits", "Splits", split_parts(genes, held_out_by)),
        _Section("training", "Training", history_parts(getattr(last, "history_", None))),
        _Section("accuracy", "Accuracy", accuracy),
    ]  # fmt: skip
    kept = float("nan")
    masks = _masks(last, genes.windows[rows])
    if masks is None:
        told = "The estimator gives no masks: one value from 0 to 1 for each base."
        sections.append(_Section("masks", "Masks", [("text", told)]))
    else:
        kept = float(masks.mean())
        calling = {"threshold": threshold, "min_width": min_width, "merge_gap": merge_gap}
        drawing = {"known": known, "genes": gene_models}
        elements = top_elements(genes, last, rows, masks, calling=calling)
        sections += [
            _Section("masks", "Masks", mask_parts(
                genes, last, rows, masks, unit=unit, named=places, drawing=drawing,
                calling=calling)),
            _Section("elements", "Top elements", element_parts(
                elements, motifs, n_shown=n_elements, calling=calling)),
        ]  # fmt: skip
    sections.append(_Section("reproduce", "How to reproduce this", _reproduce(
        model, commands, facts)))  # fmt: skip
    sections.insert(0, _Section("summary", "Summary", _summary(genes, scores, kept)))
    page = render(
        {
            "title": f"{type(last).__name__}: {target}",
            "lead": f"A model trained on {int((~genes.test).sum()):,} genes, "
            + (f"tested on {int(genes.test.sum()):,}." if genes.test.any() else "not tested."),
            "version": metadata.version("regmask_sk"),
            "sections": sections,
        }
    )
    write_whole(path, page)
    return Path(path)


def _genes(
    model: Any, loci: pd.DataFrame, y: ArrayLike, test_chroms: Sequence[str]
) -> tuple[Genes, Any]:
    if not isinstance(model, Pipeline) or len(model) < 2:
        raise TypeError(
            f"model is a {type(model).__name__}; expected a fitted Pipeline of steps that read "
            "windows and a regressor, which names the files that the report is about."
        )
    measured = np.asarray(y, dtype=np.float64)
    if measured.shape != (len(loci),) or not np.isfinite(measured).all():
        raise ValueError(
            f"y has shape {measured.shape} and {int((~np.isfinite(measured)).sum())} missing "
            f"values; expected ({len(loci)},), one finite value a gene."
        )
    windows = model[:-1].transform(loci)
    test = loci["chrom"].astype(str).isin([str(chrom) for chrom in test_chroms]).to_numpy()
    if test.all():
        raise ValueError(
            "test_chroms has all chromosomes of the loci; expected the genes of the training too."
        )
    return Genes(loci, measured, windows, test, validation_of(model[-1], windows, test)), model[-1]


def _masks(model: Any, windows: Windows) -> NDArray[Any] | None:
    """Compute masks, or None where what ``transform`` gives is something else."""
    if not hasattr(model, "transform"):
        return None
    masks = np.asarray(model.transform(windows))
    if masks.shape != (len(windows), windows.length):
        return None
    return masks if masks.min() >= -_SLACK and masks.max() <= 1 + _SLACK else None


def _rows_of_masks(genes: Genes, show: Sequence[str], random_state: int) -> NDArray[np.intp]:
    most = max(1, min(_MOST_GENES, _MOST_BASES // genes.windows.length))
    scored = genes.scored
    if len(scored) <= most:
        return scored
    drawn = np.random.default_rng(random_state).choice(scored, most, replace=False)
    wanted = [row_of(genes.windows, name) for name in show]
    # Those that are to be seen are among them in any case.
    return np.unique([*drawn, *np.intersect1d(wanted, scored)]).astype(np.intp)


def _shown(genes: Genes, rows: NDArray[np.intp], show: Sequence[str]) -> list[int]:
    """Places in `rows` of the loci to draw."""
    if show:
        wanted = [row_of(genes.windows, name) for name in show]
        missing = [name for name, row in zip(show, wanted, strict=True) if row not in rows]
        if missing:
            raise ValueError(
                f"show names {missing}, which the model was trained on; name test genes, whose "
                "masks the report is about."
            )
        return [int(np.flatnonzero(rows == row)[0]) for row in wanted]
    order = np.argsort(-genes.measured[rows], kind="stable")
    return list(dict.fromkeys(int(order[at]) for at in (0, len(order) // 2, len(order) - 1)))


def _summary(genes: Genes, scores: pd.DataFrame, kept: float) -> list[tuple[str, Any]]:
    rows = [
        ["genes in training, validation, test", ", ".join(
            number(int(mask.sum())) for mask in (genes.train, genes.validation, genes.test))],
        ["Pearson correlation", number(scores["pearson"].iloc[0])],
        ["mean squared error", number(scores["mse"].iloc[0])],
    ]  # fmt: skip
    for name, row in scores.iloc[1:].iterrows():
        rows.append([f"mean squared error, {name}", number(row["mse"])])
    if np.isfinite(kept):
        rows.append(["share of bases kept", f"{kept:.1%}"])
    which = "test genes" if genes.test.any() else "genes of the training: none was held out"
    return [("table", Table(f"Of {which}.", ["figure", "value"], rows))]


def _reproduce(
    model: Pipeline, commands: Sequence[str], facts: Sequence[tuple[str, str]]
) -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    if commands:
        parts += [("text", "Commands, in the folder in which they were given:")]
        parts += [("code", command) for command in commands]
    seeds = [
        (f"random_state of {name}", str(step.get_params(deep=False)["random_state"]))
        for name, step in model.steps
        if hasattr(step, "get_params") and "random_state" in step.get_params(deep=False)
    ]
    told = [[f"{name} of this report", value] for name, value in package_versions().items()]
    rows = [[name, value] for name, value in (*facts, *seeds)] + told
    parts.append(("table", Table("Seeds and versions.", ["what", "value"], rows, frozenset({1}))))
    given = [
        [f"{name}: {key}", re.sub(r"\s+", " ", str(value))]
        for name, step in model.steps
        if hasattr(step, "get_params")
        for key, value in step.get_params(deep=False).items()
    ]
    caption = "Parameters of every step, defaults among them."
    parts.append(("table", Table(caption, ["step and parameter", "value"], given, frozenset({1}))))
    return parts
