"""Pairs of a screen, and their scores by masks, base by base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gmean

from regmask_sk.metrics import activity_contact, mask_pair_scores, read_crispri_pairs
from regmask_sk.windows import Windows

HEADER = "chrom chromStart chromEnd measuredGeneSymbol startTSS distanceToTSS Regulated note"
LINES = ["chr1 100 600 A 5000 4650 TRUE x", "chr2 10 20 B 90 75 FALSE y"]


def write(path: Path, lines: list[str], header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines]).replace(" ", "\t") + "\n")
    return path


def make_pairs(rows: list[tuple[str, int, int, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["chrom", "start", "end", "gene"])
    return table.assign(tss=0, distance=1, regulated=False)


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    pairs = read_crispri_pairs(write(tmp_path / "pairs.tsv", LINES))
    assert list(pairs.columns) == [
        "chrom", "start", "end", "gene", "tss", "distance", "regulated", "note",
    ]  # fmt: skip
    assert pairs["regulated"].tolist() == [True, False]
    assert pairs["regulated"].dtype == bool
    assert pairs.loc[0, "start"] == 100


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (LINES, HEADER.replace("startTSS", "tss"), r"has no columns \['startTSS'\]"),
        (["chr1 100 600 A 5000 4650 NA x"], HEADER, r"Regulated holds \['nan'\]"),
        (["chr1 100 600 A 5000 4650 yes x"], HEADER, r"Regulated holds \['yes'\]; expected TRUE"),
        (["chr1 600 600 A 5000 4650 TRUE x"], HEADER, "1 of 1 elements have end <= start"),
        (["chr1 1.5 600 A 5000 4650 TRUE x"], HEADER, "column start has dtype float64"),
        ([*LINES, "chr1 1 600 A NA 4650 TRUE x"], HEADER, "column tss has dtype float64"),
    ],
)
def test_other_layouts_are_refused(
    tmp_path: Path, lines: list[str], header: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_crispri_pairs(write(tmp_path / "pairs.tsv", lines, header))


def test_no_file_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_crispri_pairs(tmp_path / "none.tsv")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 120), st.integers(1, 40), st.sampled_from(["g0", "g1", "gx"])),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(0, 100), st.sampled_from("+-")), min_size=2, max_size=2),
    st.integers(1, 30),
    st.sampled_from(["sum", "mean", "max"]),
    st.integers(0, 2**31),
)
def test_scores_agree_base_by_base(
    elements: list[tuple[int, int, str]],
    genes: list[tuple[int, str]],
    length: int,
    reduction: str,
    seed: int,
) -> None:
    loci = pd.DataFrame(genes, columns=["tss", "strand"], index=["g0", "g1"]).assign(chrom="chr1")
    windows = Windows(loci, length)
    masks = np.random.default_rng(seed).random((2, length))
    pairs = make_pairs([("chr1", start, start + width, gene) for start, width, gene in elements])
    if not pairs["gene"].isin(["g0", "g1"]).any():
        with pytest.raises(ValueError, match="no gene of the pairs has a window"):
            mask_pair_scores(pairs, windows, masks)
        return
    found = mask_pair_scores(pairs, windows, iter(masks), reduction=reduction)
    for score, pair in zip(found, pairs.itertuples(), strict=True):
        values = []
        if pair.gene != "gx":
            row = int(pair.gene[1])
            tss, strand = genes[row]
            for j in range(length):
                at = tss + (j - length // 2) * (-1 if strand == "-" else 1)
                if pair.start <= at < pair.end:
                    values.append(masks[row, j])
        if not values:
            assert np.isnan(score)
        else:
            assert score == pytest.approx(getattr(np, reduction)(values))


def test_genes_may_be_named_in_a_column() -> None:
    loci = pd.DataFrame({"chrom": ["chr1"], "tss": [50], "strand": ["+"], "symbol": ["A"]})
    pairs = make_pairs([("chr1", 40, 60, "A")])
    found = mask_pair_scores(pairs, Windows(loci, 100), np.ones((1, 100)), gene_column="symbol")
    assert found.tolist() == [20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reduction": "median"}, "reduction is 'median'; expected one of"),
        ({"gene_column": "name"}, "gene_column is 'name'; the columns of windows.loci"),
        ({"pairs": make_pairs([("chr1", 4, 6, "Z")])}, r"\['Z'\] against \['A', 'B', 'B'\]"),
        ({"pairs": make_pairs([("chr1", 4, 6, "B")])}, "1 genes .* several windows, such as 'B'"),
        ({"pairs": make_pairs([("1", 4, 6, "A")])}, "1 pairs lie on another .*'A': 1 against chr1"),
        ({"pairs": make_pairs([("chr1", 6, 6, "A")])}, "1 of 1 elements have end <= start"),
        ({"pairs": pd.DataFrame({"chrom": ["chr1"]})}, "pairs lacks the columns"),
        ({"masks": np.ones((2, 100))}, r"masks has shape \(2, 100\); expected \(3, 100\)"),
        ({"masks": np.full((3, 100), np.nan)}, "NaN or infinite"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    loci = pd.DataFrame(
        {"chrom": ["chr1"] * 3, "tss": [50, 90, 95], "strand": ["+"] * 3}, index=["A", "B", "B"]
    )
    arguments = {
        "pairs": make_pairs([("chr1", 40, 60, "A")]),
        "windows": Windows(loci, 100),
        "masks": np.ones((3, 100)),
    } | change
    with pytest.raises(ValueError, match=message):
        mask_pair_scores(**arguments)


def test_activity_times_contact() -> None:
    pairs = make_pairs([("chr1", 0, 9, "A"), ("chr1", 20, 29, "A"), ("chr1", 50, 59, "B")])
    pairs["distance"] = [1_000, 10_000, 200_000]
    pairs["dhs"], pairs["ac"], pairs["hic"] = [4.0, 1.0, 9.0], [1.0, 1.0, 4.0], [3.0, 2.0, 0.0]
    found = activity_contact(pairs, ["dhs", "ac"])
    expected = gmean(pairs[["dhs", "ac"]], axis=1) * np.array([5.0, 10.0, 200.0]) ** -0.87
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(
        activity_contact(pairs, ["dhs", "ac"], contact="hic"), [6.0, 2.0, 0.0]
    )
    shares = activity_contact(pairs, ["dhs", "ac"], normalise=True)
    np.testing.assert_allclose(
        shares, [expected[0] / expected[:2].sum(), expected[1] / expected[:2].sum(), 1]
    )
    assert np.isnan(activity_contact(pairs, ["dhs"], contact="hic", normalise=True)[2])
    np.testing.assert_allclose(activity_contact(pairs, "dhs", gamma=0), [4, 1, 9])
    with pytest.raises(ValueError, match=r"lacks the columns \['DHS.RPM', 'H3K27ac.RPM'\]"):
        activity_contact(pairs)
    with pytest.raises(ValueError, match="column dhs holds 2 negative or missing values"):
        activity_contact(pairs.assign(dhs=[1.0, np.nan, -1.0]), ["dhs"])
    with pytest.raises(ValueError, match="lacks the columns"):
        activity_contact(pairs, [])


def test_the_screens_of_k562_are_read(crispri: Path) -> None:
    pairs = read_crispri_pairs(crispri)
    assert len(pairs) == 10_356
    assert pairs["regulated"].sum() == 471
    assert pairs["gene"].nunique() == 2_113
    assert (activity_contact(pairs) > 0).mean() > 0.9
