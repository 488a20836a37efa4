"""Draw one locus: genes, tracks, mask, elements called and known, sequence, and the TSS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.export import gene_elements
from regmask_sk.plotting._axes import (
    DATA,
    KNOWN,
    MASK,
    TRACKS,
    TSS,
    bare,
    binned,
    need_matplotlib,
    panels_in,
)
from regmask_sk.plotting._locus_data import (
    drawn_channels,
    gene_models,
    region_in,
    row_of,
    sequence_of,
    spans,
)
from regmask_sk.plotting._masks import model_and_windows
from regmask_sk.plotting._parts import draw_genes, draw_letters, draw_tss, gene_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from regmask_sk.windows import Windows

# More points than a printed panel can show; longer windows are drawn in bins.
_MAX_POINTS = 2_000
_MAX_LETTERS = 160  # bases that can still be read
_WIDTH = 8.0  # inches


class LocusDisplay:
    """One gene's tracks, mask, elements and sequence along the genome.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`. Everything is in genomic
    orientation whatever the strand, which the arrow at the TSS shows. Windows of more than
    2,000 bp are drawn in bins: the mean of a track, the greatest value of the mask.

    Parameters
    ----------
    gene, chrom, strand : str
        The gene.
    tss : int
        Its TSS, 0-based.
    start : int
        0-based position of the first base that is shown.
    mask : ndarray of shape (n_bases,)
        Mask, from left to right along the plus strand.
    std : ndarray of shape (n_bases,), optional
        Standard deviations of its gates, drawn as a band.
    tracks : dict of str to ndarray of shape (n_bases,), optional
        Signals, from top to bottom.
    sequence : str, optional
        Bases of the plus strand. Drawn as letters where there are at most 160.
    contributions : ndarray of shape (n_bases,), optional
        Heights of the letters; the mask by default.
    elements, known : list of (start, end), optional
        Called and known elements, 0-based and half-open, cut to what is shown.
    genes : DataFrame, optional
        Gene models: ``start, end, strand, name, exons``.
    threshold : float, default=0.5
        Drawn as a line in the panel of the mask.

    Attributes
    ----------
    ax_ : Axes
        The panel of the mask.
    axes_ : dict of str to Axes
        All panels, by their labels.
    figure_ : Figure or SubFigure
        Theirs.

    See Also
    --------
    regmask_sk.plot_locus : The same in one call that gives the figure.

    Examples
    --------
    >>> display = LocusDisplay(
    ...     gene="YAL1", chrom="chrI", strand="+", tss=104, start=100,
    ...     mask=np.array([0.0, 0.2, 0.9, 1.0, 1.0, 0.1]), sequence="TATAAA",
    ... ).plot()
    >>> list(display.axes_)
    ['mask', 'sequence']
    """

    def __init__(
        self,
        *,
        gene: str,
        chrom: str,
        strand: str,
        tss: int,
        start: int,
        mask: NDArray[Any],
        std: NDArray[Any] | None = None,
        tracks: dict[str, NDArray[Any]] | None = None,
        sequence: str | None = None,
        contributions: NDArray[Any] | None = None,
        elements: list[tuple[int, int]] | None = None,
        known: list[tuple[int, int]] | None = None,
        genes: pd.DataFrame | None = None,
        threshold: float = 0.5,
    ) -> None:
        self.gene = gene
        self.chrom = chrom
        self.strand = strand
        self.tss = tss
        self.start = start
        self.mask = mask
        self.std = std
        self.tracks = tracks
        self.sequence = sequence
        self.contributions = contributions
        self.elements = elements
        self.known = known
        self.genes = genes
        self.threshold = threshold

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        gene: int | str = 0,
        *,
        return_std: bool = False,
        known: pd.DataFrame | None = None,
        genes: pd.DataFrame | None = None,
        contributions: ArrayLike | None = None,
        channels: Sequence[str] | None = None,
        region: tuple[int, int] | None = None,
        threshold: float = 0.5,
        min_width: int = 20,
        merge_gap: int = 50,
        ax: Axes | None = None,
    ) -> LocusDisplay:
        """Compute the mask of a gene and the elements that it calls, and draw them.

        Parameters
        ----------
        estimator : estimator with ``transform``, or Pipeline that ends in one
            Fitted.
        X : DataFrame or Windows
            As it takes it.
        gene : int or str, default=0
            Row, or name of the gene in the index.
        return_std : bool, default=False
            Whether to draw the standard deviation of the gates as a band; the estimator's
            ``transform`` must have this parameter.
        known, genes, contributions, channels, region, ax
            As in :meth:`from_predictions`.
        threshold, min_width, merge_gap
            Of elements, as in :func:`regmask_sk.call_elements`.

        Returns
        -------
        LocusDisplay
            Drawn.
        """
        need_matplotlib(cls.__name__)
        model, windows = model_and_windows(estimator, X)
        one = windows[[row_of(windows, gene)]]
        if return_std:
            masks, stds = model.transform(one, return_std=True)
            mask, std = masks[0], stds[0]
        else:
            mask, std = model.transform(one)[0], None
        elements = gene_elements(
            one, 0, mask, threshold=threshold, min_width=min_width, merge_gap=merge_gap
        )
        return cls.from_predictions(
            one,
            0,
            mask,
            std=std,
            elements=elements,
            known=known,
            genes=genes,
            contributions=contributions,
            channels=channels,
            region=region,
            threshold=threshold,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        windows: Windows,
        gene: int | str,
        mask: ArrayLike,
        *,
        std: ArrayLike | None = None,
        elements: pd.DataFrame | None = None,
        known: pd.DataFrame | None = None,
        genes: pd.DataFrame | None = None,
        contributions: ArrayLike | None = None,
        channels: Sequence[str] | None = None,
        region: tuple[int, int] | None = None,
        threshold: float = 0.5,
        ax: Axes | None = None,
        figure: Figure | SubFigure | None = None,
    ) -> LocusDisplay:
        """Draw a mask that was computed before.

        Parameters
        ----------
        windows : Windows
            The loci and their channels.
        gene : int or str
            Row, or name of the gene in the index.
        mask : array-like of shape (length,)
            Its mask in gene orientation, as ``estimator.transform(windows[[row]])[0]`` gives it.
        std : array-like of shape (length,), optional
            Standard deviations of its gates, in the same order.
        elements : DataFrame, optional
            Called elements, columns ``start`` and ``end`` (0-based, half-open, genomic) and, if
            there, ``chrom``: :func:`regmask_sk.gene_elements`, or a BED file read with
            ``read_regions``. What lies outside of what is shown is not drawn.
        known : DataFrame, optional
            Known elements, the same columns.
        genes : DataFrame, optional
            Gene models, the same columns and, if there, ``strand``, ``name`` and ``feature``,
            as :func:`regmask_sk.read_gene_models` gives them: rows whose feature is ``exon`` or
            ``CDS`` are boxes on the others.
        contributions : array-like of shape (length,), optional
            One value a base in gene orientation, such as an attribution, for the heights of the
            letters of the sequence; the mask by default.
        channels : sequence of str, optional
            Channels to draw, from top to bottom. By default every one but the sequence (A, C, G,
            T) and the validity channels (``NAME_covered``).
        region : (start, end), optional
            What to show of the window, 0-based, half-open, genomic; all of it by default. The
            sequence is drawn where at most 160 bases are shown.
        threshold : float, default=0.5
            Drawn as a line in the panel of the mask.
        ax : matplotlib Axes, optional
            Its place is divided among the panels; a new figure by default.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw, without `ax`.

        Returns
        -------
        LocusDisplay
            Drawn.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If there is no such gene, or several rows have its name, an array does not fit the
            window, `region` is not in it, or channels or columns are missing.
        """
        need_matplotlib(cls.__name__)
        row = row_of(windows, gene)
        one = windows[np.array([row])]
        step = -1 if bool(one.reversed[0]) else 1
        window_start = int(one.starts[0])
        start, end = region_in(region, window_start, window_start + windows.length)
        shown = slice(start - window_start, end - window_start)

        def genomic(values: ArrayLike | None, name: str, unit: str) -> NDArray[Any] | None:
            if values is None:
                return None
            array = np.asarray(values, dtype=np.float64)
            if array.shape != (windows.length,):
                raise ValueError(
                    f"{name} has shape {array.shape}; expected ({windows.length},), one value a "
                    f"base of the window, {unit}."
                )
            return array[::step][shown]

        whole = genomic(mask, "mask", "as transform(windows)[row]")
        assert whole is not None
        names = drawn_channels(tuple(windows.channel_names), channels)
        letters = end - start <= _MAX_LETTERS
        sample = windows[row] if names or letters else np.empty((0, windows.length), np.float32)
        places = [windows.channel_names.index(name) for name in names]
        tracks = {
            name: sample[place][::step][shown] for name, place in zip(names, places, strict=True)
        }
        chrom = str(one.loci["chrom"].iloc[0])
        return cls(
            gene=str(one.loci.index[0]),
            chrom=chrom,
            strand=str(one.loci["strand"].iloc[0]),
            tss=int(one.loci["tss"].iloc[0]),
            start=start,
            mask=whole,
            std=genomic(std, "std", "as transform(windows, return_std=True).std[row]"),
            tracks=tracks,
            sequence=sequence_of(windows.channel_names, sample, step, shown) if letters else None,
            contributions=genomic(contributions, "contributions", "in gene orientation"),
            elements=spans(elements, "elements", chrom, start, end),
            known=spans(known, "known", chrom, start, end),
            genes=None if genes is None else gene_models(genes, chrom, start, end),
            threshold=threshold,
        ).plot(ax=ax, figure=figure)

    def plot(
        self, *, ax: Axes | None = None, figure: Figure | SubFigure | None = None
    ) -> LocusDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place is divided among the panels.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw, without `ax`; a new figure by default.

        Returns
        -------
        LocusDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        need_matplotlib(type(self).__name__)
        heights = self._heights()
        if ax is not None:
            panels = panels_in(ax, rows=list(heights.values()))
        else:
            if figure is None:
                from matplotlib import pyplot

                figure = pyplot.figure(figsize=self._size(), layout="constrained")
            panels = figure.subplots(
                len(heights), 1, sharex=True, squeeze=False,
                gridspec_kw={"height_ratios": list(heights.values())},
            )[:, 0].tolist()  # fmt: skip
        self.axes_ = dict(zip(heights, panels, strict=True))
        end = self.start + len(self.mask)
        # A zoomed view is read base by base, where kilobases would have three decimals.
        self._scale, unit = (1000.0, "kb") if "sequence" not in heights else (1.0, "bp")
        for label, panel in self.axes_.items():
            panel.set_ylabel(label, rotation=0, ha="right", va="center", parse_math=False)
        self._draw_tracks()
        self._draw_mask(self.axes_["mask"])
        if self.genes is not None:
            draw_genes(
                self.axes_["genes"], self.genes, self._gene_rows(),
                start=self.start, end=end, scale=self._scale,
            )  # fmt: skip
        if "sequence" in heights:
            self._draw_sequence(self.axes_["sequence"])
        for label, found, colour in (("called", self.elements, MASK), ("known", self.known, KNOWN)):
            if found is not None:
                boxes = [(a / self._scale, (b - a) / self._scale) for a, b in found]
                self.axes_[label].broken_barh(boxes, (0, 1), color=colour)
                self.axes_[label].set(ylim=(-0.15, 1.15), yticks=[])
        self._finish(panels, unit)
        self.ax_, self.figure_ = self.axes_["mask"], panels[0].figure
        return self

    def _heights(self) -> dict[str, float]:
        """Relative height of each panel, by its label, from top to bottom."""
        heights: dict[str, float] = {}
        if self.genes is not None:
            heights["genes"] = 0.1 + 0.42 * (max(self._gene_rows(), default=0) + 1)
        heights.update(dict.fromkeys(self.tracks or (), 1.0))
        heights["mask"] = 1.2
        if self.sequence is not None and len(self.sequence) <= _MAX_LETTERS:
            heights["sequence"] = 1.0
        heights.update({"called": 0.28} if self.elements is not None else {})
        heights.update({"known": 0.28} if self.known is not None else {})
        return heights

    def _size(self) -> tuple[float, float]:
        return _WIDTH, 0.9 + 0.85 * sum(self._heights().values())

    def _gene_rows(self) -> list[int]:
        end = self.start + len(self.mask)
        return gene_rows(self.genes, self.start, end, 0.8 * 72 * _WIDTH)

    def _steps(self, values: NDArray[Any], reduce: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Edges in the unit of the axis and one value an edge, the last twice to close steps."""
        edges, y = binned(values, _MAX_POINTS, reduce)
        return (self.start + edges) / self._scale, np.append(y, y[-1])

    def _draw_tracks(self) -> None:
        # A thin edge keeps single bases visible, which are narrower than a pixel.
        for number, (name, values) in enumerate((self.tracks or {}).items()):
            panel, colour = self.axes_[name], TRACKS[number % len(TRACKS)]
            x, y = self._steps(values, np.mean)
            panel.fill_between(x, y, step="post", color=colour, linewidth=0.6)
            panel.axhline(0, color="0.6", linewidth=0.5)
            panel.locator_params(axis="y", nbins=3)
            if y.min() >= 0:
                panel.set_ylim(0, None if y.max() > 0 else 1)

    def _draw_mask(self, panel: Axes) -> None:
        x, y = self._steps(self.mask, np.max)
        if self.std is None:
            panel.fill_between(x, y, step="post", color=MASK, linewidth=0.6)
        else:
            low = self._steps(np.clip(self.mask - self.std, 0.0, 1.0), np.max)[1]
            high = self._steps(np.clip(self.mask + self.std, 0.0, 1.0), np.max)[1]
            panel.fill_between(x, low, high, step="post", color=DATA, alpha=0.25, linewidth=0)
            panel.step(x, y, where="post", color=MASK, linewidth=1.0)
        panel.axhline(self.threshold, color="0.25", linewidth=0.8, linestyle=(0, (4, 3)))
        panel.set(ylim=(0, 1.05), yticks=[0, 0.5, 1])

    def _draw_sequence(self, panel: Axes) -> None:
        heights = self.mask if self.contributions is None else self.contributions
        assert self.sequence is not None
        draw_letters(panel, self.sequence, heights, start=self.start, scale=self._scale)
        low, high = min(0.0, float(heights.min())), max(0.0, float(heights.max()))
        margin = 0.05 * (high - low) or 0.05
        panel.set_ylim(low - margin if low < 0 else 0.0, high + margin)
        panel.axhline(0, color="0.6", linewidth=0.5)
        panel.locator_params(axis="y", nbins=3)

    def _finish(self, panels: list[Axes], unit: str) -> None:
        end = self.start + len(self.mask)
        tss = (self.tss + 0.5) / self._scale
        for label, axis in self.axes_.items():
            bare(axis)
            if label in ("genes", "called", "known"):
                axis.spines["left"].set_visible(False)
                axis.spines["bottom"].set_visible(axis is panels[-1])
            axis.axvline(tss, color=TSS, linewidth=0.8, linestyle=":")
            if axis is not panels[-1]:
                axis.tick_params(axis="x", length=0, labelbottom=False)
        panels[-1].set(xlim=(self.start / self._scale, end / self._scale))
        panels[-1].set_xlabel(f"{self.chrom} ({unit})", parse_math=False)
        if unit == "bp":
            panels[-1].xaxis.set_major_formatter("{x:,.0f}")
            panels[-1].locator_params(axis="x", nbins=7, integer=True)
        else:
            panels[-1].ticklabel_format(axis="x", style="plain", useOffset=False)
        if self.start <= self.tss < end:
            draw_tss(panels[0], tss, self.strand)
        panels[0].set_title(
            f"{self.gene}  {self.chrom}:{self.start:,}-{end:,} ({self.strand})",
            loc="left", fontsize="medium", pad=14, parse_math=False,
        )  # fmt: skip
        panels[0].figure.align_ylabels(panels)
