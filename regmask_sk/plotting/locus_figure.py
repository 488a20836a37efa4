"""``plot_locus``: a locus in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from numpy.typing import ArrayLike

from regmask_sk.plotting._axes import need_matplotlib
from regmask_sk.plotting.locus import LocusDisplay

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from regmask_sk.windows import Windows


def plot_locus(
    windows: Windows,
    row: int,
    mask: ArrayLike,
    *,
    elements: pd.DataFrame | None = None,
    known: pd.DataFrame | None = None,
    threshold: float = 0.5,
    channels: Sequence[str] | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw the tracks, the mask and the elements of one gene along the genome.

    :meth:`LocusDisplay.from_predictions` in one call that gives the figure; it can do more.

    Parameters
    ----------
    windows : Windows
        The loci and their channels.
    row : int
        Row of the gene in `windows`.
    mask : array-like of shape (length,)
        Its mask in gene orientation, as ``estimator.transform(windows[[row]])[0]`` gives it.
    elements : pandas.DataFrame, optional
        Called elements, columns ``start`` and ``end`` (0-based, half-open, genomic) and, if
        there, ``chrom``: :func:`regmask_sk.gene_elements`, or a BED file read with
        ``read_regions``. What lies outside the window is not drawn.
    known : pandas.DataFrame, optional
        Known elements, the same columns.
    threshold : float, default=0.5
        Drawn as a line in the panel of the mask.
    channels : sequence of str, optional
        Channels to draw, from top to bottom. By default every one but the sequence (A, C, G, T)
        and the validity channels (``NAME_covered``).
    figure : matplotlib Figure or SubFigure, optional
        Where to draw; by default a new figure that pyplot does not know.

    Returns
    -------
    Figure or SubFigure
        The figure; ``figure.savefig(path)`` writes it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If the mask does not fit the window, or channels or columns are missing.

    See Also
    --------
    LocusDisplay : Gene models, uncertainty, zoom and sequence too.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [500], "strand": ["-"]}, index=["g"])
    >>> figure = plot_locus(Windows(loci, length=200), 0, np.linspace(0, 1, 200))
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['mask']
    """
    need_matplotlib("plot_locus")
    from matplotlib.figure import Figure

    mine = Figure(layout="constrained") if figure is None else None
    display = LocusDisplay.from_predictions(
        windows, row, mask, elements=elements, known=known, threshold=threshold,
        channels=channels, figure=figure if mine is None else mine,
    )  # fmt: skip
    if mine is not None:
        mine.set_size_inches(*display._size())
    return display.figure_
