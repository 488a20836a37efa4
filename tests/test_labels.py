"""Labels of bases against a base-by-base oracle."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from positions_track import Positions, make_windows

from regmask_sk.metrics import region_labels

region = st.tuples(
    st.sampled_from(["chr1", "chr2"]),
    st.integers(0, 60),
    st.integers(1, 15),
    st.sampled_from(["g0", "g1", "g2"]),
)
locus = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.sampled_from("+-"))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(region, min_size=1, max_size=8),
    st.lists(locus, min_size=1, max_size=4, unique=True),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
)
def test_region_labels_agree_base_by_base(
    regions: list[tuple[str, int, int, str]],
    loci: list[tuple[str, int, str]],
    length: int,
    own_only: bool,
    stranded: bool,
) -> None:
    table = pd.DataFrame(regions, columns=["chrom", "start", "end", "target"])
    table["end"] += table["start"]
    windows = make_windows(loci, length, stranded=stranded)
    genes = set(windows.loci.index)
    if not {r[0] for r in regions} & {x[0] for x in loci} or (
        own_only and not genes & {r[3] for r in regions}
    ):
        with pytest.raises(ValueError, match=r"share no chromosome|no gene of"):
            region_labels(windows, table, gene_column="target" if own_only else None)
        return
    found = region_labels(windows, table, gene_column="target" if own_only else None)
    assert found.shape == (len(loci), length)
    assert found.dtype == bool
    for row, (chrom, tss, strand) in enumerate(loci):
        sign = -1 if strand == "-" and stranded else 1
        for j in range(length):
            at = tss + sign * (j - length // 2)
            inside = any(
                r.chrom == chrom
                and r.start <= at < r.end
                and (not own_only or r.target == f"g{row}")
                for r in table.itertuples()
            )
            assert found[row, j] == inside


def test_labels_lie_on_the_columns_that_the_windows_read() -> None:
    windows = make_windows([("chr1", 50, "+"), ("chr1", 50, "-")], 9, sources=(Positions(),))
    regions = pd.DataFrame({"chrom": ["chr1"], "start": [52], "end": [54]})
    labels = region_labels(windows, regions)
    for row in range(2):
        assert sorted(windows[row][1][labels[row]]) == [52, 53]


@pytest.mark.parametrize(
    ("regions", "gene_column", "message"),
    [
        ({"chrom": ["chr1"], "start": [1]}, None, r"lacks the columns \['end'\]"),
        ({"chrom": ["chr1"], "start": [1], "end": [3]}, "gene", r"lacks the columns \['gene'\]"),
        ({"chrom": ["chr1"], "start": [5], "end": [5]}, None, "1 of 1 regions have end <= start"),
        ({"chrom": ["1"], "start": [1], "end": [3]}, None, r"no chromosome: \['1'\].*\['chr1'\]"),
        (
            {"chrom": ["chr1"], "start": [1], "end": [3], "gene": ["YAL001C"]},
            "gene",
            r"no gene of .*\['g0'\] against \['YAL001C'\]",
        ),
    ],
)
def test_bad_regions_are_named(
    regions: dict[str, list], gene_column: str | None, message: str
) -> None:
    windows = make_windows([("chr1", 50, "+")], 10)
    with pytest.raises(ValueError, match=message):
        region_labels(windows, pd.DataFrame(regions), gene_column=gene_column)
