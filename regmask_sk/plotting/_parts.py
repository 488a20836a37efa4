"""Parts of the picture of a locus: the TSS, gene models, letters of the sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.plotting._axes import BASES, TSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_THIN, _THICK = 0.05, 0.45  # heights of a gene's line of introns and of its exons, in rows
_LETTER_POINTS = 5.5  # about the width of a letter of a small gene name


def draw_tss(axis: Axes, x: float, strand: str) -> None:
    """Draw a bent arrow above the panel that points the way the gene is read.

    Parameters
    ----------
    axis : Axes
        The uppermost panel.
    x : float
        The TSS, in the unit of the axis.
    strand : str
        ``"+"``, ``"-"``, or anything else for no direction.
    """
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    mixed = blended_transform_factory(axis.transData, axis.transAxes)

    def points(right: float, up: float) -> Any:
        # Offsets in points keep the arrow's size whatever the panel's.
        return mixed + ScaledTranslation(right / 72, up / 72, axis.figure.dpi_scale_trans)

    height, reach = 8.0, {"+": 18.0, "-": -18.0}.get(strand)
    plain = {"arrowstyle": "-", "color": TSS, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
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


def gene_rows(genes: pd.DataFrame, start: int, end: int, width_points: float) -> list[int]:
    """Give genes rows in which neither they nor their names overlap.

    Parameters
    ----------
    genes : DataFrame
        ``start``, ``end`` and ``name``, cut to the panel.
    start, end : int
        Of the panel, in base pairs.
    width_points : float
        Width of the panel in points, about.

    Returns
    -------
    list of int
        A row for each gene, from 0.

    Examples
    --------
    >>> genes = pd.DataFrame({"start": [0, 5, 50], "end": [9, 20, 60], "name": ["a", "b", "c"]})
    >>> gene_rows(genes, 0, 100, 400.0)
    [0, 1, 0]
    """
    per_point = (end - start) / width_points
    free: list[float] = []  # where each row is free from
    rows: dict[int, int] = {}
    for place in np.argsort(genes["start"].to_numpy(), kind="stable").tolist():
        first, last, name = genes[["start", "end", "name"]].iloc[place]
        name_end = first + _LETTER_POINTS * (len(str(name)) + 2) * per_point
        row = next((number for number, at in enumerate(free) if at <= first), len(free))
        free[row : row + 1] = [max(last + 4 * per_point, name_end)]
        rows[place] = row
    return [rows[place] for place in range(len(genes))]


def draw_genes(
    axis: Axes, models: pd.DataFrame, rows: list[int], *, start: int, end: int, scale: float
) -> None:
    """Draw gene models: a line a gene, boxes at its exons, arrow heads along its strand.

    Parameters
    ----------
    axis : Axes
        The panel.
    models : DataFrame
        ``start``, ``end``, ``strand``, ``name``, and ``exons``, a list of (start, end) each.
    rows : list of int
        The row of each.
    start, end : int
        Of the panel, in base pairs.
    scale : float
        Base pairs in a unit of the axis.
    """
    step = (end - start) / 40
    for row, gene in zip(rows, models.itertuples(index=False), strict=True):
        low, high = max(gene.start, start), min(gene.end, end)
        # In one order, whether there are exons or not: the line, then boxes over it.
        axis.broken_barh(
            [(low / scale, (high - low) / scale)], (row + 0.5 - _THIN / 2, _THIN), color="0.35"
        )
        boxes = [(max(a, start), min(b, end)) for a, b in gene.exons if a < end and b > start]
        axis.broken_barh(
            [(a / scale, (b - a) / scale) for a, b in boxes],
            (row + 0.5 - _THICK / 2, _THICK),
            color="0.35",
        )
        heads = np.arange(low + step / 2, high, step) / scale
        if gene.strand in ("+", "-") and len(heads):
            axis.plot(
                heads, np.full(len(heads), row + 0.5), linestyle="none", color="0.35",
                marker=9 if gene.strand == "+" else 8, markersize=5, markeredgewidth=0,
            )  # fmt: skip
        axis.annotate(
            str(gene.name), (low / scale, row + 0.5 - _THICK / 2), xytext=(1, 1),
            textcoords="offset points", ha="left", va="bottom", fontsize="x-small",
            fontstyle="italic", parse_math=False, annotation_clip=True,
        )  # fmt: skip
    axis.set(ylim=(max(rows, default=0) + 1.0, -0.25), yticks=[])


def draw_letters(
    axis: Axes, bases: str, heights: NDArray[np.float64], *, start: int, scale: float
) -> None:
    """Draw each base as a letter as high as its value; letters of negative ones hang down.

    Parameters
    ----------
    axis : Axes
        The panel.
    bases : str
        Of the plus strand; others than A, C, G and T are left blank.
    heights : ndarray of shape (len(bases),)
        Their values.
    start : int
        0-based position of the first base.
    scale : float
        Base pairs in a unit of the axis.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    font = FontProperties(family="DejaVu Sans", weight="bold")
    outlines = {base: TextPath((0, 0), base, size=1.0, prop=font) for base in BASES}
    for place, (base, height) in enumerate(zip(bases, heights.tolist(), strict=True)):
        if base not in outlines or height == 0.0:
            continue
        box = outlines[base].get_extents()
        fit = (
            Affine2D()
            .translate(-box.x0, -box.y0)
            .scale(0.92 / box.width / scale, height / box.height)
            .translate((start + place + 0.04) / scale, 0.0)
        )
        axis.add_patch(
            PathPatch(fit.transform_path(outlines[base]), color=BASES[base], linewidth=0)
        )
