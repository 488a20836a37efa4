"""Regions of the genome, against an oracle that looks at every base and every region."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._regions import ForcedRegions, Regions
from regmask_sk.loci import read_regions

Listed = list[tuple[str, int, int]]
listed = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.integers(0, 25)).map(
        lambda region: (region[0], region[1], region[1] + region[2])
    ),
    max_size=8,
)


def table(regions: Listed) -> pd.DataFrame:
    return pd.DataFrame(regions, columns=["chrom", "start", "end"]).astype(
        {"chrom": object, "start": "int64", "end": "int64"}
    )


def inside(regions: Listed, chrom: str, position: int) -> bool:
    return any(chrom == name and start <= position < end for name, start, end in regions)


@settings(deadline=None, max_examples=200)
@given(listed, listed, st.integers(-30, 70), st.integers(1, 50), st.booleans())
def test_forced_bases_are_those_of_the_oracle(
    closed: Listed, opened: Listed, start: int, length: int, reverse: bool
) -> None:
    forced = ForcedRegions(*(Regions.from_table(table(each)) for each in (closed, opened)))
    for chrom in ("chr1", "chr2", "chr3"):
        positions = list(range(start, start + length))
        expected = [
            1 if inside(opened, chrom, p) else -1 if inside(closed, chrom, p) else 0
            for p in (positions[::-1] if reverse else positions)
        ]
        found = forced.bases(chrom, start, start + length, reverse=reverse)
        assert found.dtype == np.int8
        assert found.tolist() == expected


@settings(deadline=None, max_examples=100)
@given(listed)
def test_merged_regions_are_sorted_and_apart(regions: Listed) -> None:
    for array in Regions.from_table(table(regions)).by_chrom.values():
        assert (array[:, 0] <= array[:, 1]).all()
        assert (array[1:, 0] > array[:-1, 1]).all()


@settings(deadline=None, max_examples=100)
@given(listed, listed)
def test_joined_regions_have_the_bases_of_both(one: Listed, other: Listed) -> None:
    joined = Regions.from_table(table(one)).joined(Regions.from_table(table(other)))
    for chrom in ("chr1", "chr2"):
        expected = {p for p in range(90) if inside([*one, *other], chrom, p)}
        pieces = joined.by_chrom.get(chrom, np.empty((0, 2), int)).tolist()
        assert {p for start, end in pieces for p in range(start, end)} == expected
        assert all(a[1] < b[0] for a, b in pairwise(pieces))


def test_regions_come_from_a_path_or_a_table(tmp_path: Path) -> None:
    path = tmp_path / "regions.bed"
    path.write_text("chr1\t10\t20\tx\nchr1\t15\t30\ty\n")
    for given_ in (path, str(path), read_regions(path)):
        assert Regions.read(given_, "closed_regions").by_chrom["chr1"].tolist() == [[10, 30]]


@pytest.mark.parametrize(
    ("given_", "error", "message"),
    [
        ([("chr1", 1, 2)], TypeError, r"open_regions is a list; expected the path of a BED file"),
        (pd.DataFrame({"chrom": ["chr1"]}), ValueError, r"open_regions has no column start, end"),
        (
            pd.DataFrame({"chrom": ["chr1"], "start": [5], "end": [2]}),
            ValueError,
            r"open_regions has starts or ends that are no 0-based half-open coordinates",
        ),
        (
            pd.DataFrame({"chrom": ["chr1"], "start": [0.5], "end": [2.0]}),
            ValueError,
            r"open_regions has starts or ends",
        ),
    ],
)
def test_what_is_no_table_of_regions_is_refused(given_: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Regions.read(given_, "open_regions")


@settings(deadline=None, max_examples=200)
@given(listed, listed, st.integers(0, 70))
def test_differences_and_cuts_are_those_of_the_oracle(
    one: Listed, other: Listed, size: int
) -> None:
    found = Regions.from_table(table(one)).without(Regions.from_table(table(other)))
    cut = Regions.from_table(table(one)).clipped({"chr1": size})
    n_found = n_cut = 0
    for chrom in ("chr1", "chr2"):
        for position in range(-1, 90):
            here = inside(one, chrom, position)
            expected = here and not inside(other, chrom, position)
            assert bool(list(found.within(chrom, position, position + 1))) == expected
            n_found += expected
            expected = here and chrom == "chr1" and position < size
            assert bool(list(cut.within(chrom, position, position + 1))) == expected
            n_cut += expected
    assert (found.n_bases, cut.n_bases) == (n_found, n_cut)  # no base twice
    for regions in (found, cut):
        for array in regions.by_chrom.values():
            assert len(array)
            assert (array[:, 0] < array[:, 1]).all()
            assert (array[1:, 0] >= array[:-1, 1]).all()
