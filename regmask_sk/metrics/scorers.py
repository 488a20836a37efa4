"""Faithfulness and agreement as scikit-learn scorers, for ``cross_validate`` and searches.

A scorer is a callable ``scorer(estimator, X, y)`` of which more is better. X may be the gene
table, where the estimator is a pipeline that makes windows of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid
from sklearn.pipeline import Pipeline

from regmask_sk.metrics._reading import Reader, Removal
from regmask_sk.metrics.curves import deletion_curve, insertion_curve
from regmask_sk.metrics.faithfulness import comprehensiveness, output_scores, sufficiency
from regmask_sk.metrics.labels import region_labels
from regmask_sk.metrics.ranking import Within, mask_average_precision, mask_roc_auc
from regmask_sk.windows import Windows

Kind = Literal["sufficiency", "comprehensiveness", "deletion", "insertion"]
Metric = Literal["r2", "pearson", "neg_mean_squared_error"]
Scorer = Callable[[Any, Any, Any], float]


@dataclass(frozen=True)
class FaithfulnessScorer:
    """What :func:`faithfulness_scorer` gives; its parameters are the fields."""

    kind: Kind
    metric: Metric
    share: float | None
    removal: Removal
    exclude_promoter: bool
    n_draws: int
    n_steps: int
    block_size: int
    batch_size: int
    random_state: int | None

    def __call__(self, estimator: Any, X: Any, y: ArrayLike) -> float:
        """Score a fitted estimator's masks.

        Parameters
        ----------
        estimator : estimator
            Fitted, with masks of its own.
        X : DataFrame, Windows or ndarray
            What it takes.
        y : array-like of shape (n_genes,) or (n_genes, n_outputs)
            Measured expression.

        Returns
        -------
        float
            The score.
        """
        options: dict[str, Any] = {
            "removal": self.removal,
            "batch_size": self.batch_size,
            "random_state": self.random_state,
            "exclude": _promoter(estimator, self.exclude_promoter),
        }
        if self.kind in ("deletion", "insertion"):
            options |= {"n_steps": self.n_steps, "block_size": self.block_size}
            if self.kind == "insertion":
                curve = insertion_curve(estimator, X, **options)
                area = np.array([self._score(y, step) for step in curve.predictions])
            else:
                curve = deletion_curve(estimator, X, **options)
                whole = self._score(y, curve.whole)
                area = np.array([whole - self._score(y, step) for step in curve.predictions])
            return float(trapezoid(area, curve.share))
        options |= {"share": self.share, "n_draws": self.n_draws}
        if self.kind == "sufficiency":
            return self._score(y, sufficiency(estimator, X, **options).altered)
        found = comprehensiveness(estimator, X, **options)
        return self._score(y, found.whole) - self._score(y, found.altered)

    def _score(self, y: ArrayLike, predicted: NDArray[np.float64]) -> float:
        found = output_scores(y, predicted)
        if self.metric == "neg_mean_squared_error":
            return -found["mse"]
        # All equal predictions know nothing, and a fold must not end in NaN for that.
        value = found[self.metric]
        return 0.0 if self.metric == "pearson" and np.isnan(value) else value


def faithfulness_scorer(
    kind: Kind,
    *,
    metric: Metric = "r2",
    share: float | None = None,
    removal: Removal = "auto",
    exclude_promoter: bool = False,
    n_draws: int = 1,
    n_steps: int = 10,
    block_size: int = 16,
    batch_size: int = 64,
    random_state: int | None = 0,
) -> FaithfulnessScorer:
    """Make a scikit-learn scorer of an estimator's own masks.

    Parameters
    ----------
    kind : {"sufficiency", "comprehensiveness", "deletion", "insertion"}
        "sufficiency" is the metric of predictions from the mask alone, "comprehensiveness" by how
        much it falls without the mask; "insertion" is the area under the metric as bases come,
        "deletion" that of its fall as bases go. Of all four more is better.
    metric : {"r2", "pearson", "neg_mean_squared_error"}, default="r2"
        How predictions are compared with y. Pearson's r of predictions that are all equal counts
        as 0; of several outputs the mean.
    share, removal, n_draws, batch_size, random_state
        As in :func:`regmask_sk.metrics.sufficiency`.
    exclude_promoter : bool, default=False
        Whether ``promoter_columns_``, which every mask keeps, are never taken away.
    n_steps, block_size
        As in :func:`regmask_sk.metrics.deletion_curve`.

    Returns
    -------
    FaithfulnessScorer
        A callable ``scorer(estimator, X, y)``; it can be pickled.

    Raises
    ------
    ValueError
        If `kind` or `metric` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_validate
    >>> from regmask_sk import RegMaskRegressor
    >>> X = np.random.default_rng(0).normal(size=(24, 2, 32)).astype("float32")
    >>> model = RegMaskRegressor(resolution=4, sparsity=0.3, max_epochs=1, random_state=0)
    >>> scoring = {kind: faithfulness_scorer(kind) for kind in ("sufficiency", "comprehensiveness")}
    >>> found = cross_validate(model, X, X[:, 0, :8].sum(axis=1), cv=2, scoring=scoring)
    >>> sorted(name for name in found if name.startswith("test"))
    ['test_comprehensiveness', 'test_sufficiency']
    """
    for name, value, known in (("kind", kind, Kind), ("metric", metric, Metric)):
        if value not in get_args(known):
            raise ValueError(f"{name} is {value!r}; expected one of {get_args(known)}.")
    return FaithfulnessScorer(
        kind,
        metric,
        share,
        removal,
        exclude_promoter,
        n_draws,
        n_steps,
        block_size,
        batch_size,
        random_state,
    )


@dataclass(frozen=True, eq=False)
class AgreementScorer:
    """What :func:`agreement_scorer` gives; its parameters are the fields."""

    regions: pd.DataFrame
    metric: Literal["average_precision", "roc_auc"]
    gene_column: str | None
    within: Within
    exclude_promoter: bool
    batch_size: int

    def __call__(self, estimator: Any, X: Any, y: ArrayLike | None = None) -> float:
        """Score a fitted estimator's masks against the regions.

        Parameters
        ----------
        estimator : estimator
            Fitted, with masks of its own.
        X : DataFrame or Windows
            What it takes.
        y : ignored
            For scikit-learn's interface.

        Returns
        -------
        float
            The score.
        """
        reader = Reader(estimator, X, removal="auto", batch_size=self.batch_size, random_state=0)
        if not isinstance(reader.windows, Windows):
            raise TypeError(
                "regions lie on the genome, but X is an array. Pass the gene table to a pipeline "
                "with TSSWindows, or Windows."
            )
        labels = region_labels(reader.windows, self.regions, gene_column=self.gene_column)
        masks = np.concatenate([own for _, (own,) in reader.scored_batches(None)])
        measure = mask_roc_auc if self.metric == "roc_auc" else mask_average_precision
        exclude = _promoter(estimator, self.exclude_promoter)
        return measure(masks, labels, exclude=exclude, within=self.within)


def agreement_scorer(
    regions: pd.DataFrame,
    *,
    metric: Literal["average_precision", "roc_auc"] = "average_precision",
    gene_column: str | None = None,
    within: Within = "all",
    exclude_promoter: bool = True,
    batch_size: int = 64,
) -> AgreementScorer:
    """Make a scikit-learn scorer of an estimator's masks against known regions.

    Parameters
    ----------
    regions : pandas.DataFrame
        Known regions, as for :func:`regmask_sk.region_labels`. Never an input of the model.
    metric : {"average_precision", "roc_auc"}, default="average_precision"
        :func:`regmask_sk.mask_average_precision` or :func:`regmask_sk.mask_roc_auc`.
    gene_column : str, optional
        Column of `regions` that names the gene of each; by default all count for every window.
    within : {"all", "gene", "position"}, default="all"
        What is compared with what.
    exclude_promoter : bool, default=True
        Whether ``promoter_columns_``, which every mask keeps, are left out.
    batch_size : int, default=64
        Windows handed to the estimator at a time. All masks of a fold are held in memory.

    Returns
    -------
    AgreementScorer
        A callable ``scorer(estimator, X, y)``; it can be pickled.

    Raises
    ------
    ValueError
        If `metric` or `within` is unknown.

    Examples
    --------
    >>> import pandas as pd
    >>> known = pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [300]})
    >>> agreement_scorer(known, within="position").metric
    'average_precision'
    """
    if metric not in ("average_precision", "roc_auc"):
        raise ValueError(f"metric is {metric!r}; expected 'average_precision' or 'roc_auc'.")
    if within not in get_args(Within):
        raise ValueError(f"within is {within!r}; expected 'all', 'gene' or 'position'.")
    return AgreementScorer(regions, metric, gene_column, within, exclude_promoter, batch_size)


def _promoter(estimator: Any, exclude: bool) -> slice | None:
    """Columns of the promoter of a fitted estimator, where they are to be left out."""
    if not exclude:
        return None
    for step in ("best_estimator_", "regressor_"):
        if hasattr(estimator, step):
            return _promoter(getattr(estimator, step), exclude)
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    columns: slice | None = getattr(last, "promoter_columns_", None)
    if columns is None:
        raise TypeError(
            f"exclude_promoter=True, but {type(last).__name__} has no promoter_columns_. Give "
            "exclude_promoter=False."
        )
    return columns
