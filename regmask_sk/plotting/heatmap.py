"""A heat map of masks: a row a gene, a column a stretch of the window."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmask_sk.plotting._axes import TSS, axes_or_new, binned, distance_unit
from regmask_sk.plotting._masks import (
    checked_masks,
    checked_values,
    mask_batches,
    model_and_windows,
    row_batches,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_ROWS, _MOST_COLUMNS = 600, 500


class MaskHeatmapDisplay:
    """Masks of many genes as an image, sorted by expression, the highest on top.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        Mean mask of each cell of the image: of more than 600 genes neighbours in the order share
        a row, of more than 500 bp neighbouring bases share a column.
    edges : ndarray of shape (n_columns + 1,), int64
        Columns of the mask at which those of the image begin, and the end of the last.
    n_genes : int
        Genes that are shown.
    sorted_by : str or None
        What genes are sorted by, for the label.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Examples
    --------
    >>> masks = np.array([[0.0, 0.1], [0.5, 1.0], [0.0, 0.6]])
    >>> MaskHeatmapDisplay.from_predictions(masks, [2.0, 3.0, 1.0]).values.tolist()
    [[0.5, 1.0], [0.0, 0.1], [0.0, 0.6]]
    """

    def __init__(
        self,
        *,
        values: NDArray[np.float64],
        edges: NDArray[np.int64],
        n_genes: int,
        sorted_by: str | None = None,
    ) -> None:
        self.values = values
        self.edges = edges
        self.n_genes = n_genes
        self.sorted_by = sorted_by

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        sorted_by: str = "expression",
        ax: Axes | None = None,
    ) -> MaskHeatmapDisplay:
        """Compute masks, a batch at a time, and draw them.

        Parameters
        ----------
        estimator : estimator with ``transform``, or Pipeline that ends in one
            Fitted.
        X : DataFrame, Windows or ndarray
            As it takes it.
        y : array-like of shape (n_genes,), optional
            Expression, or anything else to sort genes by, the greatest on top. Without it genes
            keep their order.
        sorted_by : str, default="expression"
            What `y` is, for the label.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        MaskHeatmapDisplay
            Drawn.
        """
        model, windows = model_and_windows(estimator, X)
        order = _order(y, len(windows))
        batches = mask_batches(model, windows, order)
        return cls._of_batches(batches, len(order), None if y is None else sorted_by).plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        masks: ArrayLike,
        y: ArrayLike | None = None,
        *,
        sorted_by: str = "expression",
        ax: Axes | None = None,
    ) -> MaskHeatmapDisplay:
        """Draw masks that were computed before.

        Parameters
        ----------
        masks : array-like of shape (n_genes, length)
            In gene orientation, column ``length // 2`` the TSS, as ``transform`` gives them.
        y : array-like of shape (n_genes,), optional
            Expression, or anything else to sort genes by, the greatest on top. Without it genes
            keep their order.
        sorted_by : str, default="expression"
            What `y` is, for the label.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        MaskHeatmapDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the arrays do not fit each other, or y holds missing values.
        """
        array = checked_masks(masks)
        order = _order(y, len(array))
        name = None if y is None else sorted_by
        return cls._of_batches(row_batches(array, order), len(order), name).plot(ax=ax)

    @classmethod
    def _of_batches(
        cls, batches: Iterable[NDArray[Any]], n_genes: int, sorted_by: str | None
    ) -> MaskHeatmapDisplay:
        image: NDArray[np.float64] | None = None
        # The row of the image of each gene, so that rows differ by at most one gene.
        n_rows = min(n_genes, _MOST_ROWS)
        row_of = np.arange(n_genes) * n_rows // n_genes
        edges = np.zeros(1, np.int64)
        done = 0
        for masks in batches:
            edges, cells = binned(np.asarray(masks, np.float64), _MOST_COLUMNS, np.mean)
            if image is None:
                image = np.zeros((n_rows, cells.shape[1]))
            np.add.at(image, row_of[done : done + len(cells)], cells)
            done += len(cells)
        if image is None:
            raise ValueError("X has no genes; expected at least one.")
        image /= np.bincount(row_of)[:, np.newaxis]
        return cls(values=image, edges=edges, n_genes=n_genes, sorted_by=sorted_by)

    def plot(self, *, ax: Axes | None = None) -> MaskHeatmapDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        MaskHeatmapDisplay
            Itself. The paler, the more closed.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_or_new(ax, "MaskHeatmapDisplay", (6.0, 4.2))
        length = int(self.edges[-1])
        scale, unit = distance_unit(length)
        x = (self.edges - length // 2) / scale
        y = np.linspace(0, self.n_genes, len(self.values) + 1)
        image = ax.pcolormesh(
            x, y, self.values, cmap="Oranges", vmin=0.0, vmax=1.0, rasterized=True
        )
        ax.axvline(0, color=TSS, linewidth=0.8, linestyle=":")
        label = "genes"
        if self.sorted_by is not None:
            label = f"genes, by {self.sorted_by}, highest on top"
        ax.set(xlabel=f"distance to the TSS ({unit})", ylabel=label, ylim=(self.n_genes, 0))
        ax.locator_params(axis="y", integer=True)
        ax.figure.colorbar(image, ax=ax, label="mask", shrink=0.6, aspect=14)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _order(y: ArrayLike | None, n_genes: int) -> NDArray[np.intp]:
    if y is None:
        return np.arange(n_genes)
    return np.argsort(-checked_values(y, n_genes, "y"), kind="stable")
