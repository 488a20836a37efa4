"""Windows of training and test that overlap, against sets of bases."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk import ChromosomeKFold, TSSWindows
from regmask_sk.model_selection import overlapping_rows

CHROMS = ["chr1", "chr2", "chr3"]


def table(chroms: list[str], tss: list[int], strands: list[str]) -> pd.DataFrame:
    genes = [f"g{i}" for i in range(len(chroms))]
    columns = {"chrom": chroms, "tss": tss, "strand": strands}
    return pd.DataFrame(columns, index=pd.Index(genes, name="gene"))


genes = st.lists(
    st.tuples(st.sampled_from(CHROMS), st.integers(0, 120), st.sampled_from("+-")),
    min_size=2,
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(genes=genes, length=st.integers(1, 30), data=st.data(), as_windows=st.booleans())
def test_overlaps_against_sets_of_bases(
    genes: list[tuple[str, int, str]], length: int, data: st.DataObject, as_windows: bool
) -> None:
    loci = table(*map(list, zip(*genes, strict=True)))
    tested = np.array(data.draw(st.lists(st.booleans(), min_size=len(loci), max_size=len(loci))))
    train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # genes at one place are duplicates
        windows = TSSWindows(length).fit_transform(loci)
        found = overlapping_rows(windows if as_windows else loci, train, test, length)
    bases = []
    for row in range(len(loci)):
        chrom, start, end, *_ = windows.interval(row)
        bases.append({(chrom, base) for base in range(start, end)})
    wanted = [row for row in train if any(bases[row] & bases[other] for other in test)]
    assert found.tolist() == wanted


@pytest.fixture
def crowded() -> pd.DataFrame:
    """Genes 0 to 3 lie 50 bp apart, gene 4 far from them; groups tear them apart."""
    loci = table(["chr1"] * 5, [500, 550, 600, 650, 2_000], ["+"] * 5)
    return loci.assign(part=[0, 0, 1, 1, 0])


def test_an_overlap_is_an_error_or_left_out(crowded: pd.DataFrame) -> None:
    groups = crowded["part"]
    with pytest.raises(ValueError, match=r"windows of 1 training genes overlap .* 'g2'.*purge="):
        list(ChromosomeKFold(2, length=60).split(crowded, groups=groups))
    purged = ChromosomeKFold(2, length=60, purge=True)
    with pytest.warns(UserWarning, match="1 of . training genes are left out"):
        folds = list(purged.split(crowded, groups=groups))
    assert [(train.tolist(), test.tolist()) for train, test in folds] == [
        ([3], [0, 1, 4]),
        ([0, 4], [2, 3]),
    ]
    # Windows know how long they are.
    windows = TSSWindows(60).fit_transform(crowded)
    with pytest.raises(ValueError, match="overlap windows of test genes"):
        list(ChromosomeKFold(2).split(windows, groups=groups))
    assert len(list(ChromosomeKFold(2).split(TSSWindows(50).fit_transform(crowded), groups=groups)))
