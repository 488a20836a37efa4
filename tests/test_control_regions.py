"""Matched regions keep what they promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._control_regions import MatchedRegions

UNREAD = 4


SIZE = 4_000


def matched(
    rng: np.random.Generator, elements: list[tuple[int, int]], **options: object
) -> tuple[MatchedRegions, np.ndarray, pd.DataFrame]:
    codes = rng.choice(5, SIZE, p=[0.3, 0.19, 0.19, 0.3, 0.02]).astype(np.uint8)
    loci = pd.DataFrame(
        {"tss": rng.choice(SIZE, 60, replace=False), "strand": rng.choice(["+", "-"], 60)}
    )
    how = {"position_tolerance": 20, "gc_tolerance": 0.1, "max_tries": 400, **options}
    return (
        MatchedRegions(codes, loci, np.array(elements).reshape(-1, 2), **how, rng=rng),
        codes,
        loci,
    )


def naive_distance(loci: pd.DataFrame, start: int, end: int) -> set[float]:
    """Signed distances to the nearest TSS; several where two genes are as near."""
    centre = (start + end - 1) / 2
    near = (loci["tss"] - centre).abs()
    best = loci[near == near.min()]
    return {(centre - gene.tss) * (1 if gene.strand == "+" else -1) for gene in best.itertuples()}


def gc_share(codes: np.ndarray) -> float:
    read = codes[codes < UNREAD]
    return float(np.isin(read, [1, 2]).mean()) if len(read) else 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 4))
def test_controls_are_like_the_region_and_apart_from_all_elements(
    seed: int, width: int, n: int
) -> None:
    rng = np.random.default_rng(seed)
    elements = [(start, start + width) for start in range(100, SIZE - 200, 1_100)]
    regions, codes, loci = matched(rng, elements)
    taken = list(elements)
    for start, end in elements:
        controls = regions.draw(start, end, n)
        assert len(controls) <= n
        assert regions.distance(start, end) in naive_distance(loci, start, end)
        for first, last in controls:
            assert 0 <= first < last <= SIZE
            assert last - first == width
            assert all(last <= a or b <= first for a, b in taken)
            gap = abs(regions.distance(first, last) - regions.distance(start, end))
            assert gap <= 20 + 0.5
            assert abs(gc_share(codes[first:last]) - gc_share(codes[start:end])) <= 0.1
            unread = [int((codes[a:b] == UNREAD).sum()) for a, b in ((first, last), (start, end))]
            assert unread[0] <= unread[1]
            taken.append((first, last))


def test_controls_lie_on_the_same_side_of_the_tss() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 20_000).astype(np.uint8)
    tss = np.arange(500, 20_000, 1_000)
    loci = pd.DataFrame({"tss": tss, "strand": np.where(np.arange(len(tss)) % 2, "-", "+")})
    regions = MatchedRegions(
        codes, loci, np.array([[350, 400]]), position_tolerance=10, gc_tolerance=1.0,
        max_tries=400, rng=rng,
    )  # fmt: skip
    # Upstream of the first gene, a plus-strand one.
    assert regions.distance(350, 400) == -125.5
    controls = regions.draw(350, 400, 6)
    assert len(controls) == 6
    for start, end in controls:
        gene = int(np.abs(tss - (start + end) / 2).argmin())
        side = -1 if loci["strand"][gene] == "-" else 1
        assert side * ((start + end - 1) / 2 - tss[gene]) == pytest.approx(-125.5, abs=10.5)


def test_where_there_is_no_room_there_is_no_control() -> None:
    rng = np.random.default_rng(0)
    regions, _, _ = matched(rng, [(0, SIZE)])
    assert regions.draw(100, 150, 3) == []
    crowded, _, _ = matched(rng, [(0, 50)], position_tolerance=0, gc_tolerance=0.0)
    assert len(crowded.draw(0, 50, 1_000)) < 60
