"""Adjacency of bins, base by base, on either strand."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SIZES, ToyGenome
from cool_files import maps, write_cool
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._batches import Placement, Reading, WindowDataset
from regmask_sk._contact_maps import CoolerReader
from regmask_sk.baselines._bin_tower import BinLayout
from regmask_sk.baselines._contact_graph import (
    ContactGraph,
    LoopContacts,
    MapContacts,
    NearContacts,
)
from regmask_sk.genome import FastaReader
from regmask_sk.windows import Windows

ANCHORS = st.tuples(
    st.integers(0, 400), st.integers(1, 60), st.integers(0, 400), st.integers(1, 60)
)


def positions(layout: BinLayout, start: int, reverse: bool) -> list[set[int]]:
    """The positions of each bin, from what column a base is in."""
    left, right = layout.padding
    end = start + layout.length
    bins: list[set[int]] = [set() for _ in range(layout.n_bins)]
    for column in range(-left, layout.length + right):
        place = end - 1 - column if reverse else start + column
        bins[(column + left) // layout.bin_size].add(place)
    return bins


def read(contacts: object, layout: BinLayout, placement: Placement, *sized: object) -> np.ndarray:
    graph = ContactGraph(contacts, layout, sized)  # type: ignore[arg-type]
    reading = Reading(np.zeros((1, 1, layout.length), np.float32), [placement])
    (found,) = graph(reading)["adjacency"]
    assert found.dtype == bool
    np.testing.assert_array_equal(found, found.T)
    assert not found.diagonal().any()
    return found


@settings(max_examples=80, deadline=None)
@given(
    loops=st.lists(ANCHORS, min_size=1, max_size=5),
    start=st.integers(-40, 400),
    length=st.integers(1, 90),
    bin_size=st.integers(1, 30),
    reverse=st.booleans(),
)
def test_loops_against_an_oracle(
    loops: list[tuple[int, int, int, int]],
    start: int,
    length: int,
    bin_size: int,
    reverse: bool,
) -> None:
    ends = np.array([(a, a + b, c, c + d) for a, b, c, d in loops])
    layout = BinLayout(length, bin_size)
    placement = Placement("chr1", start, start + length, reverse)
    found = read(LoopContacts({"chr1": ends}), layout, placement)
    bins = positions(layout, start, reverse)
    for i, one in enumerate(bins):
        for j, other in enumerate(bins):
            joined = any(
                (one & set(range(a, b)) and other & set(range(c, d)))
                or (other & set(range(a, b)) and one & set(range(c, d)))
                for a, b, c, d in ends.tolist()
            )
            on_chromosome = max(one) >= 0 and max(other) >= 0
            assert found[i, j] == (joined and i != j and on_chromosome), (i, j)


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(-70, 3_050),
    length=st.integers(1, 90),
    bin_size=st.integers(1, 30),
    max_distance=st.integers(0, 100),
    reverse=st.booleans(),
)
def test_distance_against_an_oracle(
    toy_genome: ToyGenome,
    start: int,
    length: int,
    bin_size: int,
    max_distance: int,
    reverse: bool,
) -> None:
    layout = BinLayout(length, bin_size)
    placement = Placement("chr1", start, start + length, reverse)
    fasta = FastaReader(toy_genome.fasta)
    found = read(NearContacts(max_distance), layout, placement, fasta)
    bins = positions(layout, start, reverse)
    there = [bool(one & set(range(SIZES["chr1"]))) for one in bins]
    for i, one in enumerate(bins):
        for j, other in enumerate(bins):
            near = abs(min(one) - min(other)) <= max_distance
            assert found[i, j] == (near and i != j and there[i] and there[j])


def test_arrays_lie_nowhere() -> None:
    layout = BinLayout(30, 10)
    graph = ContactGraph(NearContacts(10), layout, ())
    found = graph(Reading(np.zeros((2, 1, 30), np.float32), None))["adjacency"]
    np.testing.assert_array_equal(found, [NearContacts(10).edges("", 0, layout)] * 2)


def test_loops_between_chromosomes_and_other_names() -> None:
    columns = ["chrom1", "start1", "end1", "chrom2", "start2", "end2"]
    rows = [("chrI", 0, 10, "chrI", 20, 30), ("chrI", 0, 10, "chrII", 0, 10),
            ("III", 5, 6, "III", 1, 2)]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    loops = LoopContacts.from_table(table, {"I": "chrI", "II": "chrII", "III": "chrIII"})
    assert {chrom: found.tolist() for chrom, found in loops.by_chrom.items()} == {
        "I": [[0, 10, 20, 30]], "III": [[5, 6, 1, 2]],
    }  # fmt: skip
    layout = BinLayout(30, 10)
    assert loops.edges("I", 0, layout).sum() == 2
    assert not loops.edges("II", 0, layout).any()


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(-60, 1_450),
    length=st.integers(30, 400),
    bin_size=st.sampled_from([7, 20, 50]),
    enrichment=st.sampled_from([0.5, 1.0, 1.5]),
    reverse=st.booleans(),
)
def test_a_map_against_an_oracle(
    map_and_counts: tuple[CoolerReader, dict[str, np.ndarray]],
    start: int,
    length: int,
    bin_size: int,
    enrichment: float,
    reverse: bool,
) -> None:
    reader, counts = map_and_counts
    layout = BinLayout(length, bin_size)
    placement = Placement("chr4", start, start + length, reverse)
    found = read(MapContacts(reader, enrichment), layout, placement, reader)
    bins = positions(layout, start, reverse)
    there = [bool(one & set(range(SIZES["chr4"]))) for one in bins]
    middle = [(min(one) + bin_size // 2) // 20 for one in bins]
    n_map = len(counts["chr4"])
    pairs = {}
    for i, one in enumerate(middle):
        for j, other in enumerate(middle):
            if i != j and 0 <= one < n_map and 0 <= other < n_map:
                law = (max(abs(one - other) * 20, 20) / 1000) ** -0.87
                pairs[i, j] = (float(counts["chr4"][one, other]), law)
    scale = sum(c for c, _ in pairs.values()) / max(sum(law for _, law in pairs.values()), 1e-9)
    for i in range(layout.n_bins):
        for j in range(layout.n_bins):
            contact, law = pairs.get((i, j), (0.0, 1.0))
            limit = enrichment * scale * law
            if abs(contact - limit) > 1e-9 * limit:  # a tie is decided by rounding
                assert found[i, j] == (contact > limit and there[i] and there[j])


@pytest.fixture(scope="module")
def map_and_counts(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[CoolerReader, dict[str, np.ndarray]]:
    counts = maps(SIZES, 20)
    cool = write_cool(tmp_path_factory.mktemp("maps") / "x.cool", SIZES, 20, counts)
    return CoolerReader(cool, balance=False), counts


def test_bins_that_the_map_lacks_have_no_edge(tmp_path: Path) -> None:
    sizes = {"chr1": 200}
    counts = {"chr1": np.arange(100).reshape(10, 10) + np.arange(100).reshape(10, 10).T}
    weight = {"chr1": np.array([1.0, 1, np.nan, 1, 1, 1, 1, 1, 1, 1])}
    cool = write_cool(tmp_path / "x.cool", sizes, 20, counts, {"weight": weight})
    contacts = MapContacts(CoolerReader(cool), 0.0)
    found = contacts.edges("chr1", 0, BinLayout(180, 20))
    expected = ~np.eye(9, dtype=bool)
    expected[2] = expected[:, 2] = False
    np.testing.assert_array_equal(found, expected)
    assert not contacts.edges("chr2", 0, BinLayout(180, 20)).any()
    assert not contacts.edges("chr1", 500, BinLayout(180, 20)).any()


def test_it_follows_jitter_strand_and_turns(toy_genome: ToyGenome) -> None:
    """What a loader gives is the adjacency of the bases that it gives."""
    loci = toy_genome.loci.iloc[:12].assign(chrom="chr1", tss=np.arange(12) * 200 + 150)

    class Place:  # a source whose only channel is the position of each base
        channel_names = ("place",)
        readers = ()

        def read(self, interval: object) -> np.ndarray:
            return np.arange(interval.start, interval.end, dtype=np.float32)[None]  # type: ignore[attr-defined]

        def reverse(self, raw: np.ndarray) -> np.ndarray:
            return raw[:, ::-1]

        def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
            return raw

        def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
            out[:] = compact

    layout = BinLayout(50, 10)  # no padding: a bin is ten columns
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2_900, 300)
    other = one + rng.integers(15, 45, 300)
    loops = np.stack([one, one + 5, other, other + 5], axis=1)
    windows = Windows(loci, 50, (Place(),), jitter=7)  # type: ignore[arg-type]
    data = WindowDataset(
        windows,
        np.zeros((12, 0), np.float32),
        augment=True,
        complement=[0],
        extras=ContactGraph(LoopContacts({"chr1": loops}), layout, ()),
    )
    seen = 0
    for _ in range(2):
        inputs, _ = data.__getitems__(list(range(12)))
        for x, adjacency in zip(inputs["x"].numpy()[:, 0], inputs["adjacency"], strict=True):
            bins = [set(row) for row in x.reshape(5, 10).tolist()]
            for i in range(5):
                for j in range(5):
                    joined = any(
                        bins[one] & set(range(a, b)) and bins[other] & set(range(c, d))
                        for a, b, c, d in loops.tolist()
                        for one, other in ((i, j), (j, i))
                    )
                    assert bool(adjacency[i, j]) == (joined and i != j)
                    seen += joined and i != j
    assert seen > 20


def test_a_map_is_read_once(
    map_and_counts: tuple[CoolerReader, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    contacts, layout = MapContacts(map_and_counts[0], 1.0), BinLayout(180, 20)
    expected = contacts.edges("chr1", 40, layout)
    stored = pickle.dumps(contacts)
    monkeypatch.setattr(CoolerReader, "contacts", None)
    np.testing.assert_array_equal(contacts.edges("chr1", 45, layout), expected)  # the same bins
    with pytest.raises(TypeError):
        contacts.edges("chr1", 60, layout)
    with pytest.raises(TypeError):
        pickle.loads(stored).edges("chr1", 40, layout)
