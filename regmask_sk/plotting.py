"""Draw one locus: its tracks, its mask, the elements called and known, and the TSS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from regmask_sk.windows import Windows

# Okabe and Ito's palette, told apart under the common kinds of colour blindness. The mask and
# what comes from it are vermilion, known elements bluish green, the TSS black; tracks take the
# rest in turn.
_MASK, _KNOWN, _TSS = "#D55E00", "#009E73", "#000000"
_TRACKS = ("#0072B2", "#56B4E9", "#CC79A7", "#E69F00")
_SEQUENCE = ("A", "C", "G", "T")
# More points than a printed panel can show; longer windows are drawn in bins.
_MAX_POINTS = 2_000


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

    Everything is drawn in genomic orientation whatever the strand, which the arrow at the TSS
    shows. Windows of more than 2,000 bp are drawn in bins: the mean of a track, the greatest
    value of the mask.

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
        Where to draw; a new figure by default. Pass ``pyplot.figure(layout="constrained")`` to
        show the plot in a window.

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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plot_locus needs matplotlib. Install it: pip install "regmask_sk[plot]"'
        ) from error

    names = _drawn_channels(tuple(windows.channel_names), channels)
    values = np.asarray(mask, dtype=np.float64)
    if values.shape != (windows.length,):
        raise ValueError(
            f"mask has shape {values.shape}; expected ({windows.length},), one value a base of the "
            "window, as transform(windows)[row]."
        )
    one = windows[np.array([row])]
    gene, chrom = one.loci.index[0], str(one.loci["chrom"].iloc[0])
    tss, strand = int(one.loci["tss"].iloc[0]), str(one.loci["strand"].iloc[0])
    start, step = int(one.starts[0]), -1 if bool(one.reversed[0]) else 1
    end = start + windows.length

    bars = [
        (label, _spans(table, argument, chrom, start, end), colour)
        for label, argument, table, colour in (
            ("called", "elements", elements, _MASK),
            ("known", "known", known, _KNOWN),
        )
        if table is not None
    ]
    heights = [1.0] * len(names) + [1.2] + [0.28] * len(bars)
    if figure is None:
        figure = Figure(figsize=(8.0, 0.9 + 0.85 * sum(heights)), layout="constrained")
    axes: list[Axes] = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0].tolist()

    # A thin edge keeps single bases visible, which are narrower than a pixel.
    if names:
        sample = windows[int(row)][[windows.channel_names.index(name) for name in names], ::step]
        for k, name in enumerate(names):
            x, y = _binned(sample[k], start, np.mean)
            colour = _TRACKS[k % len(_TRACKS)]
            axes[k].fill_between(x / 1000, y, step="post", color=colour, linewidth=0.6)
            axes[k].axhline(0, color="0.6", linewidth=0.5)
            axes[k].set_ylabel(name, rotation=0, ha="right", va="center")
            axes[k].locator_params(axis="y", nbins=3)
            if y.min() >= 0:
                axes[k].set_ylim(0, None if y.max() > 0 else 1)
    panel = axes[len(names)]
    x, y = _binned(values[::step], start, np.max)
    panel.fill_between(x / 1000, y, step="post", color=_MASK, linewidth=0.6)
    panel.axhline(threshold, color="0.25", linewidth=0.8, linestyle=(0, (4, 3)))
    panel.set_ylabel("mask", rotation=0, ha="right", va="center")
    panel.set(ylim=(0, 1.05), yticks=[0, 0.5, 1])
    for axis, (label, spans, colour) in zip(axes[len(names) + 1 :], bars, strict=True):
        axis.broken_barh([(a / 1000, (b - a) / 1000) for a, b in spans], (0, 1), color=colour)
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.set(ylim=(-0.15, 1.15), yticks=[])
        axis.spines["left"].set_visible(False)
        axis.spines["bottom"].set_visible(axis is axes[-1])

    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.axvline((tss + 0.5) / 1000, color=_TSS, linewidth=0.8, linestyle=":")
        if axis is not axes[-1]:
            axis.tick_params(axis="x", length=0)
    axes[-1].set(xlim=(start / 1000, end / 1000), xlabel=f"{chrom} (kb)")
    axes[-1].ticklabel_format(axis="x", style="plain", useOffset=False)
    _draw_tss(axes[0], (tss + 0.5) / 1000, strand)
    axes[0].set_title(
        f"{gene}  {chrom}:{start:,}-{end:,} ({strand})", loc="left", fontsize="medium", pad=14
    )
    figure.align_ylabels(axes)
    return figure


def _drawn_channels(names: tuple[str, ...], asked: Sequence[str] | None) -> list[str]:
    if asked is None:
        validity = {f"{name}_covered" for name in names}
        return [name for name in names if name not in _SEQUENCE and name not in validity]
    missing = [name for name in asked if name not in names]
    if missing:
        raise ValueError(
            f"channels {missing} are not among those of windows, {names}. Name some of these, or "
            "leave channels out to draw every track."
        )
    return list(asked)


def _binned(
    values: NDArray[Any], start: int, reduce: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bin edges in bp and one value an edge (the last one twice, to close the steps)."""
    width = -(-len(values) // _MAX_POINTS)
    n_whole = len(values) // width * width
    y = reduce(values[:n_whole].reshape(-1, width), axis=1)
    edges = start + np.arange(len(y) + 1, dtype=np.float64) * width
    if n_whole < len(values):
        y = np.append(y, reduce(values[n_whole:]))
        edges = np.append(edges, start + len(values))
    return edges, np.append(y, y[-1])


def _spans(
    table: pd.DataFrame, argument: str, chrom: str, start: int, end: int
) -> list[tuple[int, int]]:
    """Return the intervals of a table that lie in the window, cut to it."""
    missing = [name for name in ("start", "end") if name not in table.columns]
    if missing:
        raise ValueError(
            f"{argument} lacks the columns {missing}; found {list(table.columns)}. Give 0-based "
            "half-open genomic intervals, as gene_elements and read_regions do."
        )
    if "chrom" in table.columns:
        table = table[table["chrom"] == chrom]
    table = table[(table["end"] > start) & (table["start"] < end)]
    return [
        (max(int(a), start), min(int(b), end))
        for a, b in zip(table["start"], table["end"], strict=True)
    ]


def _draw_tss(axis: Axes, x: float, strand: str) -> None:
    """Draw a bent arrow above the panel that points the way the gene is read."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    mixed = blended_transform_factory(axis.transData, axis.transAxes)

    def points(right: float, up: float) -> Any:
        # Offsets in points keep the arrow's size whatever the panel's.
        return mixed + ScaledTranslation(right / 72, up / 72, axis.figure.dpi_scale_trans)

    height, reach = 8.0, {"+": 18.0, "-": -18.0}.get(strand)
    plain = {"arrowstyle": "-", "color": _TSS, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    axis.annotate(
        "",
        xy=(x, 1),
        xycoords=points(0, height),
        xytext=(x, 1),
        textcoords=mixed,
        arrowprops=plain,
        annotation_clip=False,
    )
    if reach is not None:
        axis.annotate(
            "",
            xy=(x, 1),
            xycoords=points(reach, height),
            xytext=(x, 1),
            textcoords=points(0, height),
            arrowprops=plain | {"arrowstyle": "-|>", "mutation_scale": 9},
            annotation_clip=False,
        )
