"""``compare``: several estimators on the same genes, splits and seeds, in one table.

A *cell* is one estimator fitted and scored on one split with one seed. An error in one is a row of
the table; finished ones can be kept in a folder, from which an interrupted comparison goes on.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from regmask_sk import _benchmark_tables
from regmask_sk._benchmark_cells import SCORES, Outcome, Task
from regmask_sk._benchmark_plan import (
    Cell,
    check_seeds,
    check_target,
    make_cells,
    make_folds,
    variants,
)
from regmask_sk._benchmark_run import find, keep, run_tasks
from regmask_sk._files import write_whole
from regmask_sk.plotting._axes import need_matplotlib
from regmask_sk.plotting.benchmark import BenchmarkDisplay

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from regmask_sk.windows import Windows


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare` measured.

    Attributes
    ----------
    cells : DataFrame
        One row a cell, in the order in which the estimators were given: ``estimator, fold,
        seed``; ``mse, mae, pearson, spearman, r2`` of the test genes (NaN where not defined, as a
        correlation with a constant); ``mask_fraction``, the mean of the test genes' masks;
        ``n_parameters``; ``fit_seconds``, ``predict_seconds``; ``peak_memory_mb``,
        ``peak_gpu_memory_mb``; ``n_train, n_test``; ``error``, empty where all went well;
        ``warnings``.
    predictions : DataFrame
        One row a test gene of each finished cell: ``estimator, fold, seed``, ``row`` (position
        in the loci), ``gene``, ``cell_type`` where the loci have it, ``measured, predicted``.
    """

    cells: pd.DataFrame
    predictions: pd.DataFrame

    def summary(self) -> pd.DataFrame:
        """Take means over cells, and the spread over splits and over seeds.

        Returns
        -------
        DataFrame
            One row an estimator (the index), in the order of the mean ``mse``, estimators of
            which cells failed last: their means are over other cells than those of the rest.
            ``n_cells`` and ``n_failed``; the mean of each score over the finished cells (NaN if
            it is not defined in one of them), ``SCORE_sd_folds``, the standard deviation of the
            splits' means, and ``SCORE_sd_seeds``, that of the seeds within a split (the root of
            the mean variance), NaN where there is one split or one seed; the mean of each cost.
        """
        return _benchmark_tables.summarise(self.cells)

    def paired_tests(self, reference: str | None = None, *, metric: str = "mse") -> pd.DataFrame:
        """Compare every estimator with one of them, pair by pair.

        Two tests, both two-sided, both on what the cells that *both* have finished. The corrected
        resampled t-test (Nadeau and Bengio, 2003) is on the differences of `metric`, one a split
        and seed; its variance is enlarged by the ratio of test to training genes, because splits
        share training genes. The Wilcoxon signed-rank test is on the absolute errors of the
        genes, each the mean over its cells; it takes genes as independent, which neighbours are
        not, so that its p-values are too small rather than too large. Choose the reference
        before you look at the results.

        Parameters
        ----------
        reference : str, optional
            Name of an estimator; the first by default.
        metric : {"mse", "mae", "pearson", "spearman", "r2"}, default="mse"
            Of the t-test.

        Returns
        -------
        DataFrame
            One row an estimator (the index) other than the reference: ``reference``;
            ``n_cells``, ``difference`` (mean, the estimator's `metric` less the reference's),
            ``t, p_t, p_t_holm``; ``n_genes``, ``error_difference`` (mean difference of the
            absolute errors), ``share_better`` (share of the genes with less error than the
            reference), ``p_wilcoxon, p_wilcoxon_holm``. The columns ``_holm`` are adjusted by
            Holm's method over the rows of the table, for each test by itself. NaN where there is
            no test to make: fewer than two cells, or cells without spread.

        Raises
        ------
        ValueError
            If there is no such estimator or metric.

        References
        ----------
        Nadeau and Bengio, Machine Learning 52:239 (2003). Bouckaert and Frank, PAKDD 2004. Holm,
        Scand. J. Statist. 6:65 (1979).
        """
        names = list(self.cells["estimator"].unique())
        chosen = names[0] if reference is None else reference
        if chosen not in names:
            raise ValueError(f"reference is {chosen!r}; expected one of {names}.")
        if metric not in SCORES:
            raise ValueError(f"metric is {metric!r}; expected one of {list(SCORES)}.")
        return _benchmark_tables.paired(
            self.cells, self.predictions, reference=chosen, metric=metric
        )

    def to_tsv(self) -> str:
        """Write :meth:`summary` as tab-separated text.

        Returns
        -------
        str
            A header and one line an estimator.
        """
        return str(self.summary().to_csv(sep="\t"))

    def to_markdown(self, reference: str | None = None) -> str:
        """Write the summary, the errors and the paired tests as Markdown.

        Parameters
        ----------
        reference : str, optional
            As in :meth:`paired_tests`.

        Returns
        -------
        str
            Two tables with what their figures are.
        """
        tests = self.paired_tests(reference)
        return _benchmark_tables.markdown(self.cells, self.summary(), tests, metric="mse")

    def plot(
        self,
        metrics: Sequence[str] = ("mse", "pearson"),
        *,
        figure: Figure | SubFigure | None = None,
    ) -> Figure | SubFigure:
        """Draw each estimator's cells, their mean and its spread.

        Parameters
        ----------
        metrics : sequence of str, default=("mse", "pearson")
            One panel for each, of ``mse, mae, pearson, spearman, r2``.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Figure or SubFigure
            A row an estimator, in the order of :meth:`summary`: an open dot for each cell, a
            filled one at the mean, with a line of one standard deviation to either side, of the
            splits' means or, where there is one split, over the seeds.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such metric.
        """
        need_matplotlib("plot")
        display = BenchmarkDisplay(self.cells, self.summary(), metrics)
        if figure is None:  # not pyplot's: nothing is left open
            from matplotlib.figure import Figure

            figure = Figure(figsize=display._size(), layout="constrained")
        return display.plot(figure=figure).figure_

    def save(
        self, folder: str | os.PathLike[str], *, reference: str | None = None, plot: bool = True
    ) -> None:
        """Write all of it to files, each replaced as a whole.

        Parameters
        ----------
        folder : path-like
            Made where it does not exist. Gets ``cells.tsv``, ``summary.tsv``, ``summary.md``,
            ``tests.tsv``, ``predictions.tsv`` and ``comparison.png``.
        reference : str, optional
            As in :meth:`paired_tests`.
        plot : bool, default=True
            Whether to draw ``comparison.png``, which needs matplotlib.

        Raises
        ------
        ImportError
            If there is something to plot and no matplotlib: before anything is written.
        """
        target = Path(folder)
        picture = io.BytesIO()
        if plot:
            self.plot().savefig(picture, format="png", dpi=150)  # type: ignore[union-attr]
        target.mkdir(parents=True, exist_ok=True)
        write_whole(target / "cells.tsv", self.cells.to_csv(sep="\t", index=False))
        write_whole(target / "summary.tsv", self.to_tsv())
        write_whole(target / "summary.md", self.to_markdown(reference))
        write_whole(target / "tests.tsv", self.paired_tests(reference).to_csv(sep="\t"))
        write_whole(target / "predictions.tsv", self.predictions.to_csv(sep="\t", index=False))
        if plot:
            write_whole(target / "comparison.png", picture.getvalue())


def compare(
    estimators: Mapping[str, Any],
    loci: pd.DataFrame | Windows | ArrayLike,
    y: ArrayLike,
    *,
    cv: Any,
    seeds: Iterable[int] = (0,),
    out: str | os.PathLike[str] | None = None,
    n_jobs: int | None = 1,
    truncate: int | None = None,
    ablate_signals: bool = False,
    groups: ArrayLike | None = None,
    isolate: bool = False,
    verbose: int = 0,
) -> Comparison:
    """Fit and score several estimators on the same splits with the same seeds.

    Parameters
    ----------
    estimators : dict of str to estimator
        Names and estimators, such as pipelines that begin with ``TSSWindows``. They are cloned,
        never fitted; every ``random_state`` in them is set to the cell's seed.
    loci : DataFrame
        One row a gene, as the estimators take it. ``Windows`` and arrays are taken too.
    y : array-like of shape (n_genes,)
        Measured expression, without missing values.
    cv : splitter, dict of str to (train, test), or iterable of (train, test)
        The splits: a scikit-learn splitter, such as ``GroupKFold(5)``, or rows, by position or as
        boolean masks. They are made once, for all estimators and seeds.
    seeds : iterable of int, default=(0,)
        Seeds; each estimator is fitted with each of them on each split.
    out : path-like, optional
        Folder in which finished cells are kept, each moved into place when it is complete:
        ``cells/KEY.json``. The key is a digest of the estimator's class and parameters (but not
        ``verbose``), of the rows of `loci` and `y` on either side, in order, of the seed and of
        this package's version; a file that a parameter names counts by path, size and time of
        change. A later call with the same folder takes what is there and runs what is missing:
        changed parameters are other cells, failed cells are run again. The code of classes is
        not part of the key: after a change of it use another folder.
    n_jobs : int or None, default=1
        Cells at a time, by joblib. With None or -1 a backend set by ``joblib.parallel_config``,
        such as dask's or ray's, decides, and runs cells on other machines, which must see the
        same files. Threads share torch's random numbers; with a backend of threads, isolate.
    truncate : int, optional
        Run every estimator a second time, as ``NAME, 2000 bp`` (for 2000), with ``TSSWindows`` of
        that length. Other parameters stay.
    ablate_signals : bool, default=False
        Run every estimator a second time, as ``NAME, sequence only``, with its ``SignalChannels``
        and ``ContactChannel`` left out (``"passthrough"``). Covariates stay.
    groups : array-like of shape (n_genes,), optional
        Groups for the splitter; the column ``chrom`` of the loci by default.
    isolate : bool, default=False
        Whether each cell runs in a new process, which takes seconds to start. With it the peak
        of memory is measured, and a cell that is killed, as where memory runs out, is a failed
        one among others; without, it takes the comparison with it.
    verbose : int, default=0
        Above 0: one line on stderr for each cell.

    Returns
    -------
    Comparison
        Cells and predictions. An estimator that raises an error, or a variant that cannot be
        made, has rows that say why.

    Raises
    ------
    TypeError, ValueError
        If an argument is malformed: before any cell is run.
    KeyboardInterrupt
        At Ctrl-C; what is finished stays in `out`.

    Notes
    -----
    ``fit_seconds`` and ``predict_seconds`` include the reading of files; a ``WindowCache`` that
    an earlier cell has filled makes them shorter. ``peak_memory_mb``, with `isolate`, is the
    greatest resident memory (10**6 bytes) of the cell's process up to the end of ``predict``:
    interpreter and libraries (some 160 MB with scikit-learn, 650 MB with torch), the gene
    table and mapped files that were read are in it, loader processes (``n_workers``) are not. In
    a new process the first ``fit`` also takes the seconds in which libraries load or compile what
    they need. ``peak_gpu_memory_mb`` is torch's
    greatest allocation on the current CUDA device.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.dummy import DummyRegressor
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import KFold
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 4))
    >>> y = X[:, 0] + 0.1 * rng.normal(size=60)
    >>> models = {"ridge": Ridge(), "mean": DummyRegressor()}
    >>> result = compare(models, X, y, cv=KFold(3))
    >>> result.summary()[["n_cells", "mse"]].round(2)
               n_cells   mse
    estimator
    ridge            3  0.01
    mean             3  0.84
    """
    models = variants(estimators, truncate=truncate, ablate_signals=ablate_signals)
    rows = loci if hasattr(loci, "shape") else np.asarray(loci)
    target = check_target(y, int(rows.shape[0]))
    folds = make_folds(cv, rows, target, groups)
    cells = make_cells(models, rows, target, folds, check_seeds(seeds))
    kept = None if out is None else Path(out) / "cells"
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)

    outcomes: dict[int, Outcome] = {}
    for place, cell in enumerate(cells):
        if cell.problem:
            outcomes[place] = Outcome({}, None, cell.problem)
        elif kept is not None and (found := find(kept, cell)) is not None:
            outcomes[place] = found
    missing = [place for place in range(len(cells)) if place not in outcomes]
    if verbose and len(missing) < len(cells):
        _say(f"{len(cells) - len(missing)} of {len(cells)} cells need no run")
    tasks = {
        place: Task(cells[place].estimator, rows, target, *cells[place].fold[1:])
        for place in missing
    }
    for place, outcome in run_tasks(tasks, n_jobs=n_jobs, isolate=isolate):
        if kept is not None and not outcome.error:
            keep(kept, cells[place], outcome)
        outcomes[place] = outcome
        if verbose:
            _say(f"[{len(outcomes)}/{len(cells)}] {_line(cells[place], outcome)}")
    order = {name: number for number, name in enumerate(models)}
    places = sorted(range(len(cells)), key=lambda place: order[cells[place].name])
    pairs = [(cells[place], outcomes[place]) for place in places]
    return Comparison(
        _benchmark_tables.cell_table(pairs),
        _benchmark_tables.prediction_table(pairs, rows, target),
    )


def _line(cell: Cell, outcome: Outcome) -> str:
    text = f"{cell.name}, split {cell.fold.name}, seed {cell.seed}: "
    if outcome.error:
        return text + f"failed: {outcome.error}"
    m = outcome.measures
    return text + f"mse {m['mse']:.4g}, pearson {m['pearson']:.3f}, {m['fit_seconds']:.1f} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
