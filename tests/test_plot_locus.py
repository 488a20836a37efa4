"""What the display of a locus shows: the right bases, in the right place, at any zoom."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import ToyGenome
from drawn_text import assert_readable
from matplotlib import pyplot as plt
from matplotlib.patches import PathPatch
from sklearn.pipeline import Pipeline

from regmask_sk import LocusDisplay, SequenceChannels, SignalChannels, TSSWindows, Windows
from regmask_sk.plotting._parts import gene_rows

LENGTH = 400


class Ramp:
    """Masks that rise along the gene, and a deviation of a tenth."""

    def transform(self, X: Windows, return_std: bool = False) -> object:
        masks = np.tile(np.linspace(0, 1, LENGTH), (len(X), 1))
        return (masks, np.full_like(masks, 0.1)) if return_std else masks


def windows_of(toy: ToyGenome) -> Windows:
    steps = [
        ("windows", TSSWindows(LENGTH)),
        ("sequence", SequenceChannels(toy.fasta)),
        ("signal", SignalChannels({"counts": toy.tracks["counts"]}, scaling="none")),
    ]
    return Pipeline(steps).fit_transform(toy.loci)


def row_on(windows: Windows, strand: str) -> int:
    """A gene whose window lies inside its chromosome."""
    ends = windows.loci["chrom"].map(windows.chrom_sizes).to_numpy()
    whole = (windows.starts >= 0) & (windows.starts + LENGTH <= ends)
    return int(np.flatnonzero(whole & (windows.loci["strand"] == strand).to_numpy())[0])


def letters_in(axes: object) -> list[tuple[float, float, float]]:
    boxes = [p.get_path().get_extents() for p in axes.patches if isinstance(p, PathPatch)]
    return [(box.x0, box.y0, box.y1) for box in boxes]


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_zoomed_view_shows_the_bases_of_the_plus_strand(
    toy_genome: ToyGenome, strand: str
) -> None:
    windows = windows_of(toy_genome)
    row = row_on(windows, strand)
    chrom, start = windows.loci["chrom"].iloc[row], int(windows.starts[row])
    region = (start + 30, start + 110)
    display = LocusDisplay.from_estimator(Ramp(), windows, row, region=region)
    bases = toy_genome.sequences[chrom][region[0] : region[1]].upper()
    assert display.sequence == bases
    assert "N" in bases  # so that blanks are tested too
    rising = np.linspace(0, 1, LENGTH)
    expected = (rising if strand == "+" else rising[::-1])[30:110]
    np.testing.assert_allclose(display.mask, expected)
    values = np.nan_to_num(toy_genome.values["counts"][chrom][region[0] : region[1]])
    np.testing.assert_allclose(display.tracks["counts"], values)
    # A letter a base, as high as the mask, from its position on; none for N and a mask of 0.
    shown = [(region[0] + i, h) for i, (b, h) in enumerate(zip(bases, expected, strict=True))]
    shown = [(at, h) for (at, h), b in zip(shown, bases, strict=True) if b != "N" and h > 0]
    found = letters_in(display.axes_["sequence"])
    assert len(found) == len(shown)
    for (x, low, high), (at, height) in zip(found, shown, strict=True):
        assert at < x < at + 0.1
        assert (low, high) == (pytest.approx(0.0, abs=1e-9), pytest.approx(height))
    bottom = display.figure_.axes[-1]
    assert bottom.get_xlabel() == f"{chrom} (bp)"
    assert bottom.get_xlim() == region
    assert_readable(display.figure_)


def test_contributions_may_be_negative(toy_genome: ToyGenome) -> None:
    windows = windows_of(toy_genome)
    row = row_on(windows, "-")
    start = int(windows.starts[row])
    values = np.where(np.arange(LENGTH) % 2, 1.0, -2.0)
    display = LocusDisplay.from_predictions(
        windows, row, np.zeros(LENGTH), contributions=values, region=(start, start + 100)
    )
    boxes = letters_in(display.axes_["sequence"])
    assert min(low for _, low, _ in boxes) == pytest.approx(-2.0)
    assert max(high for *_, high in boxes) == pytest.approx(1.0)
    # In gene orientation the last column is odd: on the minus strand it is the first base.
    at_start = [low for x, low, _ in boxes if x < start + 1]
    assert at_start in ([], [pytest.approx(0.0, abs=1e-9)])
    low, high = display.axes_["sequence"].get_ylim()
    assert low < -2.0 < 1.0 < high


def test_a_wide_view_has_no_letters_and_letters_need_the_sequence(toy_genome: ToyGenome) -> None:
    windows = windows_of(toy_genome)
    display = LocusDisplay.from_estimator(Ramp(), windows, 0)
    assert list(display.axes_) == ["counts", "mask", "called"]
    assert display.ax_ is display.axes_["mask"]
    alone = Windows(windows.loci, length=100)
    shown = LocusDisplay.from_predictions(alone, 0, np.ones(100))
    assert list(shown.axes_) == ["mask"]
    assert shown.sequence is None


def test_the_band_is_one_standard_deviation_and_stays_in_range(toy_genome: ToyGenome) -> None:
    windows = windows_of(toy_genome)
    row = row_on(windows, "+")
    display = LocusDisplay.from_estimator(Ramp(), windows, row, return_std=True)
    (band,) = display.ax_.collections
    y = band.get_paths()[0].vertices[:, 1]
    assert y.min() == 0.0
    assert y.max() == 1.0
    (line,) = [line for line in display.ax_.lines if len(line.get_xdata()) > LENGTH]
    x = line.get_xdata()[:-1] * 1000 - windows.starts[row]
    np.testing.assert_allclose(line.get_ydata()[:-1], x / (LENGTH - 1), atol=1e-6)
    middle = band.get_paths()[0].vertices
    at = middle[np.abs(middle[:, 0] * 1000 - windows.starts[row] - 200) < 0.5][:, 1]
    assert at.min() == pytest.approx(200 / 399 - 0.1, abs=0.01)
    assert at.max() == pytest.approx(200 / 399 + 0.1, abs=0.01)


def test_genes_are_drawn_with_their_exons_and_names(toy_genome: ToyGenome) -> None:
    windows = windows_of(toy_genome)
    row = row_on(windows, "+")
    chrom, start = windows.loci["chrom"].iloc[row], int(windows.starts[row])
    genes = pd.DataFrame(
        {
            "chrom": [chrom, chrom, chrom, chrom, "chrZ"],
            "start": np.array([20, 20, 150, 30, 0]) + start,
            "end": np.array([300, 80, 350, 60, 400]) + start,
            "strand": ["+", "+", "-", "-", "+"],
            "name": ["YAL<1>$a$", "", "other_1", "", "elsewhere"],
            "feature": ["gene", "exon", "gene", "exon", "gene"],
        }
    )
    display = LocusDisplay.from_estimator(Ramp(), windows, row, genes=genes)
    assert display.genes["name"].tolist() == ["YAL<1>$a$", "other_1"]
    # The exon of the minus strand lies in the gene of the plus strand, and is not its own.
    assert display.genes["exons"].tolist() == [[(start + 20, start + 80)], []]
    panel = display.axes_["genes"]
    assert [text.get_text() for text in panel.texts if text.get_text()] == ["YAL<1>$a$", "other_1"]
    boxes = [c.get_paths()[0].get_extents() for c in panel.collections if c.get_paths()]
    ends = [[round(1000 * box.x0) - start, round(1000 * box.x1) - start] for box in boxes]
    assert ends == [[20, 300], [20, 80], [150, 350]]
    markers = [line.get_marker() for line in panel.lines if line.get_linestyle() == "None"]
    assert markers == [9, 8]
    assert_readable(display.figure_)


def test_genes_share_a_row_only_where_they_and_their_names_fit() -> None:
    genes = pd.DataFrame(
        {"start": [0, 500, 130], "end": [100, 600, 140], "name": ["a" * 30, "c", "b"]}
    )
    # Thirty letters of a long name reach over the start of the next gene.
    assert gene_rows(genes, 0, 1000, 500.0) == [0, 0, 1]
    genes["name"] = "a"
    assert gene_rows(genes, 0, 1000, 500.0) == [0, 0, 0]
    assert gene_rows(genes.iloc[:0], 0, 1000, 500.0) == []


def test_genes_are_found_by_row_or_by_name(toy_genome: ToyGenome) -> None:
    windows = windows_of(toy_genome)
    by_name = LocusDisplay.from_estimator(Ramp(), windows, "gene07")
    assert by_name.gene == "gene07"
    assert by_name.tss == toy_genome.loci["tss"].iloc[7]
    assert LocusDisplay.from_estimator(Ramp(), windows, -1).gene == "gene39"
    with pytest.raises(ValueError, match="0 rows have the name 'gene'; expected one"):
        LocusDisplay.from_estimator(Ramp(), windows, "gene")
    twice = windows[[0, 0]]
    with pytest.raises(ValueError, match="2 rows have the name"):
        LocusDisplay.from_estimator(Ramp(), twice, twice.loci.index[0])


def test_a_pipeline_reads_the_loci_itself(toy_genome: ToyGenome) -> None:
    class Model(Ramp):
        fitted_ = True

        def fit(self, X: object, y: object = None) -> Model:
            return self

    pipeline = Pipeline([("windows", TSSWindows(LENGTH)), ("model", Model())])
    pipeline.fit(toy_genome.loci)
    with pytest.raises(ValueError, match="size"):  # no file tells where the chromosome ends
        LocusDisplay.from_estimator(pipeline, toy_genome.loci, "gene03")
    steps = [("windows", TSSWindows(LENGTH)), ("bases", SequenceChannels(toy_genome.fasta))]
    pipeline = Pipeline([*steps, ("model", Model())]).fit(toy_genome.loci)
    display = LocusDisplay.from_estimator(pipeline, toy_genome.loci, "gene03")
    assert display.elements == [(max(display.start, int(a)), int(b)) for a, b in display.elements]
    assert len(display.elements) == 1  # the half of the ramp at or above .5


def test_panels_share_the_place_of_given_axes(toy_genome: ToyGenome) -> None:
    figure, axes = plt.subplots(1, 2)
    display = LocusDisplay.from_estimator(Ramp(), windows_of(toy_genome), 0, ax=axes[1])
    assert display.figure_ is figure
    left = axes[1].get_position().x0
    assert all(panel.get_position().x0 >= left - 1e-9 for panel in display.axes_.values())
    free = figure.add_axes((0.1, 0.1, 0.2, 0.2))
    with pytest.raises(ValueError, match="ax has no place in a grid"):
        display.plot(ax=free)


def test_what_cannot_be_shown_is_named(toy_genome: ToyGenome) -> None:
    windows = windows_of(toy_genome)
    mask = np.zeros(LENGTH)
    start = int(windows.starts[0])
    with pytest.raises(ValueError, match=r"std has shape \(3,\); expected \(400,\)"):
        LocusDisplay.from_predictions(windows, 0, mask, std=[0, 0, 0])
    with pytest.raises(ValueError, match=r"contributions has shape"):
        LocusDisplay.from_predictions(windows, 0, mask, contributions=[[0]])
    for region in [(start - 1, start + 5), (start + 5, start + 5), (start, start + LENGTH + 1)]:
        with pytest.raises(ValueError, match=r"region is .*inside the window"):
            LocusDisplay.from_predictions(windows, 0, mask, region=region)
    with pytest.raises(ValueError, match=r"genes lacks the columns \['start'\]"):
        LocusDisplay.from_predictions(windows, 0, mask, genes=pd.DataFrame({"end": [1]}))
