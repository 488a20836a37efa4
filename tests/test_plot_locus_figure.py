"""What the figure of a locus shows, where, and what it says when it cannot be drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_text import assert_readable, words
from matplotlib.figure import Figure

from regmask_sk.export import gene_elements
from regmask_sk.plotting import plot_locus
from regmask_sk.windows import Windows

SIZES = {"chr1": 300_000}


class Tracks:
    """The base's own position as a signal, a signed track, a validity and a sequence channel."""

    channel_names = ("A", "position", "ratio", "ratio_covered")
    readers = ()

    def read(self, interval: object) -> np.ndarray:
        at = np.arange(interval.start, interval.end, dtype=np.float32)
        return np.stack([at * 0, at, np.sin(at / 50), at * 0 + 1])

    def reverse(self, raw: np.ndarray) -> np.ndarray:
        return raw[:, ::-1]

    def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
        return raw

    def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
        out[:] = compact


def make_windows(strand: str = "-", length: int = 200, tss: int = 5_000) -> Windows:
    loci = pd.DataFrame({"chrom": ["chr1"], "tss": [tss], "strand": [strand]}, index=["YAL1"])
    return Windows(loci, length=length, sources=(Tracks(),))


def panel(figure: Figure, label: str) -> object:
    return next(axes for axes in figure.axes if axes.get_ylabel() == label)


def spans(axes: object) -> list[list[float]]:
    (bars,) = axes.collections
    boxes = [path.get_extents() for path in bars.get_paths()]
    return [[round(1000 * box.x0), round(1000 * box.x1)] for box in boxes]


@pytest.mark.parametrize("strand", ["+", "-", "."])
def test_panels_and_their_places(tmp_path: Path, strand: str) -> None:
    windows = make_windows(strand)
    mask = np.zeros(200)
    mask[20:60] = 0.8
    called = gene_elements(windows, 0, mask, chrom_sizes=SIZES)
    known = pd.DataFrame(
        {
            "chrom": ["chr1", "chr1", "chr2"],
            "start": [4_000, 5_050, 4_950],
            "end": [4_920, 5_060, 4_960],
        }
    )
    figure = plot_locus(windows, 0, mask, elements=called, known=known, threshold=0.6)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        *("position", "ratio"),
        *("mask", "called", "known"),
    ]
    start = int(windows.starts[0])
    bottom = figure.axes[-1]
    assert bottom.get_xlabel() == "chr1 (kb)"
    np.testing.assert_allclose(bottom.get_xlim(), [start / 1000, (start + 200) / 1000])
    assert spans(panel(figure, "called")) == [[called["start"][0], called["end"][0]]]
    assert spans(panel(figure, "known")) == [[start, 4_920], [5_050, 5_060]]  # cut, chr2 left out
    upstream = called["end"][0] <= 5_000 if strand != "-" else called["start"][0] >= 5_001
    assert upstream
    assert any(line.get_ydata()[0] == 0.6 for line in panel(figure, "mask").lines)
    assert f"({strand})" in figure.axes[0].get_title(loc="left")
    figure.savefig(tmp_path / "locus.png")
    assert (tmp_path / "locus.png").stat().st_size > 5_000


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("length", [199, 200, 5_001])
def test_tracks_and_mask_are_in_genomic_orientation(strand: str, length: int) -> None:
    windows = make_windows(strand, length)
    column = windows[0][1]  # the genomic position of each column
    mask = (column - column.min()) / 10_000
    figure = plot_locus(windows, 0, mask)
    start = int(windows.starts[0])
    width = 1 if length <= 2_000 else 3
    for label, offset in (("position", 0), ("mask", start)):
        (area,) = panel(figure, label).collections
        x, y = area.get_paths()[0].vertices.T
        y = y * (10_000 if label == "mask" else 1) + offset
        drawn = y > offset + 1e-3 if label == "mask" else y > 1
        # Steps begin at their bin's first base and hold at most a bin's width of other bases.
        assert np.abs(x[drawn] * 1000 - y[drawn]).max() <= width + 1e-2


def test_the_arrow_points_downstream() -> None:
    figures = {s: plot_locus(make_windows(s), 0, np.zeros(200)) for s in "+-."}
    reach = {}
    for strand, figure in figures.items():
        figure.draw_without_rendering()
        arrows = [t for t in figure.axes[0].texts if t.arrow_patch is not None]
        box = [a.arrow_patch.get_window_extent() for a in arrows]
        tss = figure.axes[0].transData.transform((5_000.5 / 1000, 0))[0]
        reach[strand] = (min(b.x0 for b in box) - tss, max(b.x1 for b in box) - tss)
    assert reach["+"][1] > 15
    assert reach["+"][0] > -3
    assert reach["-"][0] < -15
    assert reach["-"][1] < 3
    assert max(np.abs(reach["."])) < 3


def test_text_does_not_overlap_and_nothing_is_clipped() -> None:
    windows = make_windows("-", 4_096, tss=200_000)
    called = pd.DataFrame({"start": [199_000], "end": [199_500]})
    figure = plot_locus(windows, 0, np.linspace(0, 1, 4_096), elements=called, known=called)
    assert len(words(figure)) > 15
    assert_readable(figure)


def test_long_windows_are_drawn_in_bins_and_no_narrow_open_base_is_lost() -> None:
    mask = np.zeros(200_000)
    mask[123_456] = 1
    figure = plot_locus(make_windows("+", 200_000, tss=150_000), 0, mask)
    (area,) = panel(figure, "mask").collections
    vertices = area.get_paths()[0].vertices
    assert len(vertices) < 10_000
    assert vertices[:, 1].max() == 1


def test_channels_and_figure_may_be_chosen() -> None:
    mine = Figure(figsize=(4, 4), layout="constrained")
    left, right = mine.subfigures(1, 2)
    assert plot_locus(make_windows(), 0, np.zeros(200), figure=left) is left
    plot_locus(make_windows(), -1, np.zeros(200), channels=["ratio_covered"], figure=right)
    assert [axes.get_ylabel() for axes in right.axes] == ["ratio_covered", "mask"]
    only_mask = plot_locus(make_windows(), 0, np.zeros(200), channels=[])
    assert [axes.get_ylabel() for axes in only_mask.axes] == ["mask"]


def test_what_cannot_be_drawn_is_named() -> None:
    windows, mask = make_windows(), np.zeros(200)
    with pytest.raises(ValueError, match=r"mask has shape \(199,\); expected \(200,\)"):
        plot_locus(windows, 0, mask[1:])
    with pytest.raises(ValueError, match=r"channels \['DNase'\] are not among"):
        plot_locus(windows, 0, mask, channels=["DNase"])
    with pytest.raises(ValueError, match=r"known lacks the columns \['end'\]"):
        plot_locus(windows, 0, mask, known=pd.DataFrame({"start": [1]}))
    with pytest.raises(IndexError, match="out of range"):
        plot_locus(windows, 1, mask)


def test_without_matplotlib_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "regmask_sk\[plot\]"') as caught:
        plot_locus(make_windows(), 0, np.zeros(200))
    assert "\n" not in str(caught.value)
