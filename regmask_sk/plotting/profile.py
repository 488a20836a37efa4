"""The mean mask around the TSS, by expression."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar

from regmask_sk.plotting._axes import (
    DASHES,
    TSS,
    axes_or_new,
    bare,
    binned,
    distance_unit,
    with_unit,
)
from regmask_sk.plotting._masks import (
    checked_masks,
    checked_values,
    mask_batches,
    model_and_windows,
    row_batches,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BINS = 500


class MaskProfileDisplay:
    """Mean mask around the TSS, a line for each group of genes of like expression.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    profiles : ndarray of shape (n_groups, length)
        Mean mask of each group, in gene orientation, those with least expression first.
    errors : ndarray of shape (n_groups, length)
        Standard errors of these means over genes; NaN for a group of one gene.
    n_genes : ndarray of shape (n_groups,), int
        Genes of each group.
    bounds : ndarray of shape (n_groups, 2)
        Least and greatest expression in each group.
    expression_label : str, default="expression"
        Title of the legend.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Examples
    --------
    >>> masks = np.repeat([[0.0, 1.0, 0.5, 0.0]], 6, axis=0)
    >>> display = MaskProfileDisplay.from_predictions(masks, [1, 2, 3, 4, 5, 6], n_quantiles=2)
    >>> display.n_genes.tolist(), display.ax_.get_xlabel()
    ([3, 3], 'distance to the TSS (bp)')
    """

    def __init__(
        self,
        *,
        profiles: NDArray[np.float64],
        errors: NDArray[np.float64],
        n_genes: NDArray[np.intp],
        bounds: NDArray[np.float64],
        expression_label: str = "expression",
    ) -> None:
        self.profiles = profiles
        self.errors = errors
        self.n_genes = n_genes
        self.bounds = bounds
        self.expression_label = expression_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_quantiles: int = 4,
        unit: str | None = None,
        ax: Axes | None = None,
    ) -> MaskProfileDisplay:
        """Compute masks, a batch at a time, and draw their means.

        Parameters
        ----------
        estimator : estimator with ``transform``, or Pipeline that ends in one
            Fitted.
        X : DataFrame, Windows or ndarray
            As it takes it.
        y : array-like of shape (n_genes,)
            Expression, by which genes are grouped.
        n_quantiles : int, default=4
            Groups, of about as many genes each; genes of equal expression stay together.
        unit : str, optional
            Of expression.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        MaskProfileDisplay
            Drawn.
        """
        model, windows = model_and_windows(estimator, X)
        expression = checked_values(y, len(windows), "y")
        batches = mask_batches(model, windows, np.arange(len(windows)))
        return cls._of_batches(batches, expression, n_quantiles, unit).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        masks: ArrayLike,
        y: ArrayLike,
        *,
        n_quantiles: int = 4,
        unit: str | None = None,
        ax: Axes | None = None,
    ) -> MaskProfileDisplay:
        """Draw the means of masks that were computed before.

        Parameters
        ----------
        masks : array-like of shape (n_genes, length)
            In gene orientation, column ``length // 2`` the TSS, as ``transform`` gives them.
        y : array-like of shape (n_genes,)
            Expression, by which genes are grouped.
        n_quantiles : int, default=4
            Groups, of about as many genes each; genes of equal expression stay together.
        unit : str, optional
            Of expression.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        MaskProfileDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the arrays do not fit each other, or y holds missing values.
        """
        array = checked_masks(masks)
        expression = checked_values(y, len(array), "y")
        batches = row_batches(array, np.arange(len(array)))
        return cls._of_batches(batches, expression, n_quantiles, unit).plot(ax=ax)

    @classmethod
    def _of_batches(
        cls,
        batches: Iterable[NDArray[Any]],
        expression: NDArray[np.float64],
        n_quantiles: int,
        unit: str | None,
    ) -> MaskProfileDisplay:
        check_scalar(n_quantiles, "n_quantiles", Integral, min_val=1)
        inner = np.quantile(expression, np.arange(1, n_quantiles) / n_quantiles)
        # Quantiles that fall on one value would leave a group without genes.
        group = np.unique(np.searchsorted(inner, expression, side="left"), return_inverse=True)[1]
        count = np.bincount(group).astype(np.float64)
        sums, squares = np.zeros((0, 0)), np.zeros((0, 0))
        row = 0
        for batch in batches:
            masks = np.asarray(batch, dtype=np.float64)
            if not row:
                sums, squares = (np.zeros((len(count), masks.shape[1])) for _ in range(2))
            mine = group[row : row + len(masks)]
            np.add.at(sums, mine, masks)
            np.add.at(squares, mine, masks**2)
            row += len(masks)
        n = count[:, np.newaxis]
        means = sums / n
        with np.errstate(invalid="ignore", divide="ignore"):
            errors = np.sqrt(np.maximum(squares / n - means**2, 0.0) / (n - 1))
        errors[count < 2] = np.nan
        of_group = [expression[group == number] for number in range(len(count))]
        return cls(
            profiles=means,
            errors=errors,
            n_genes=count.astype(np.intp),
            bounds=np.array([[values.min(), values.max()] for values in of_group]),
            expression_label=with_unit("expression", unit),
        )

    def plot(self, *, ax: Axes | None = None) -> MaskProfileDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        MaskProfileDisplay
            Itself. A band is one standard error of the mean over genes to either side; windows
            of more than 500 bp are drawn as means of bins.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_or_new(ax, "MaskProfileDisplay", (6.4, 3.4))
        from matplotlib import colormaps

        length = self.profiles.shape[1]
        scale, unit = distance_unit(length)
        edges, means = binned(self.profiles, _MOST_BINS, np.mean)
        errors = binned(self.errors, _MOST_BINS, np.mean)[1]
        x = ((edges[:-1] + edges[1:] - 1) / 2 - length // 2) / scale
        n_groups = len(means)
        # Dark to light, in lightness too; yellow, which paper does not show, is left out.
        colours = colormaps["viridis"](np.linspace(0.8, 0.0, n_groups) if n_groups > 1 else [0.2])
        for number in reversed(range(n_groups)):
            low, high = self.bounds[number]
            ax.plot(
                x, means[number], color=colours[number], linewidth=1.4,
                linestyle=DASHES[(n_groups - 1 - number) % len(DASHES)],
                label=f"{_range(low, high)} ({_count(int(self.n_genes[number]))})",
            )  # fmt: skip
            ax.fill_between(
                x, means[number] - errors[number], means[number] + errors[number],
                color=colours[number], alpha=0.2, linewidth=0,
            )  # fmt: skip
        ax.axvline(0, color=TSS, linewidth=0.8, linestyle=":")
        ax.set(
            xlabel=f"distance to the TSS ({unit})", ylabel="mean mask",
            xlim=(-(length // 2) / scale, (length - length // 2) / scale), ylim=(0, None),
        )  # fmt: skip
        ax.legend(
            title=self.expression_label, frameon=False, fontsize="small", title_fontsize="small",
            loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3, handlelength=2.6,
        )  # fmt: skip
        bare(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _range(low: float, high: float) -> str:
    first, last = (f"{v:,.0f}" if abs(v) >= 1_000 else f"{v:.3g}" for v in (low, high))
    return first if first == last else f"{first} to {last}"


def _count(n_genes: int) -> str:
    return "1 gene" if n_genes == 1 else f"{n_genes:,} genes"
