"""Sets of an element and its controls, counted one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._matched_sets import matched_odds
from regmask_sk._motif_sets import count_sets, matched_sets, shuffled_sets
from regmask_sk.genome import FastaReader


class FirstBases:
    """Motif k is where base k of a sequence is 1."""

    def present(self, sequences: list[np.ndarray]) -> np.ndarray:
        return np.array([codes == 1 for codes in sequences])


sets_of = st.lists(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.tuples(*[st.integers(0, 1)] * 3), min_size=n, max_size=n)
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(sets_of, st.integers(1, 40))
def test_counts_are_those_of_a_loop(drawn: list[list[tuple[int, ...]]], batch_size: int) -> None:
    sets = [[np.array(member, dtype=np.uint8) for member in members] for members in drawn]
    table = count_sets(iter(sets), FirstBases(), 3, batch_size)
    for k in range(3):
        having = [[member[k] for member in members] for members in drawn]
        row = table.iloc[k]
        assert row["n_elements"] == len(having)
        assert row["n_with_motif"] == sum(members[0] for members in having)
        assert row["n_controls"] == sum(len(members) - 1 for members in having)
        assert row["n_controls_with_motif"] == sum(sum(members[1:]) for members in having)
        telling = [members for members in having if 0 < sum(members) < len(members)]
        kinds = Counter((len(members), sum(members)) for members in telling)
        sizes, positives = zip(*kinds, strict=True) if kinds else ((), ())
        expected = matched_odds(
            sizes, positives, list(kinds.values()), sum(members[0] for members in telling)
        )
        names = ["odds_ratio", "odds_ratio_low", "odds_ratio_high", "p_value"]
        np.testing.assert_allclose(row[names].astype(float), list(expected), rtol=1e-9)


def test_sets_hold_the_element_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bases = "".join(rng.choice(list("ACGT"), 3_000))
    reader = FastaReader(write_fasta(tmp_path / "g.fa", {"a": bases, "b": bases}))
    places = {"a": np.array([[100, 160], [900, 1_000]])}
    elements = [reader.codes("a", start, end) for start, end in places["a"]]
    shuffled = list(shuffled_sets(places, reader, 3, rng))
    assert [len(members) for members in shuffled] == [4, 4]
    for members, element in zip(shuffled, elements, strict=True):
        np.testing.assert_array_equal(members[0], element)
        for control in members[1:]:
            assert np.bincount(control).tolist() == np.bincount(element).tolist()
            assert not np.array_equal(control, element)

    loci = pd.DataFrame({"chrom": "a", "tss": np.arange(50, 3_000, 100), "strand": "+"})
    how = {"position_tolerance": 10, "gc_tolerance": 1.0, "rng": rng}
    matched = list(matched_sets(places, reader, loci, 2, **how))
    assert sorted(len(members[0]) for members in matched) == [60, 100]
    assert all(len(members) == 3 for members in matched)
    for members in matched:
        assert {len(codes) for codes in members} == {len(members[0])}
    with pytest.raises(ValueError, match="none of the 2 elements has a control"):
        list(matched_sets({"b": places["a"]}, reader, loci, 2, **how))
