"""Sites of motifs against a naive scan of every place on both strands."""

from __future__ import annotations

import itertools
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._motif_scanner import MotifScanner

UNREAD = 4
EPSILON = 1e-4  # what memelite adds to a probability
BIN = 0.1  # of its scores, in bits


def naive_scores(matrix: np.ndarray, codes: np.ndarray) -> dict[tuple[int, int, str], float]:
    """Score of every place without unread bases: (start, end, strand) -> log2 odds."""
    odds = np.log2((matrix + EPSILON) / 0.25)
    width = len(matrix)
    found = {}
    for start in range(len(codes) - width + 1):
        site = codes[start : start + width].tolist()
        if UNREAD in site:
            continue
        turned = [3 - base for base in reversed(site)]
        for strand, bases in (("+", site), ("-", turned)):
            score = sum(odds[k, base] for k, base in enumerate(bases))
            found[start, start + width, strand] = score
    return found


def tail(matrix: np.ndarray, score: float) -> float:
    """Share of all sequences that score at least this."""
    odds = np.log2((matrix + EPSILON) / 0.25)
    every = np.zeros(1)
    for row in odds:
        every = np.add.outer(every, row).ravel()
    return float(np.mean(every >= score))


motifs = st.integers(2, 5).flatmap(
    lambda width: st.lists(
        st.tuples(*[st.integers(0, 9)] * 4).filter(any), min_size=width, max_size=width
    )
)
sequences = st.lists(st.lists(st.integers(0, UNREAD), max_size=40), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(st.lists(motifs, min_size=1, max_size=3), sequences, st.sampled_from([0.3, 0.1, 0.02]))
def test_sites_are_those_of_a_naive_scan(
    counts: list[list[tuple[int, ...]]], bases: list[list[int]], p_value: float
) -> None:
    matrices = [np.array(m, dtype=float) / np.sum(m, axis=1, keepdims=True) for m in counts]
    codes = [np.array(b, dtype=np.uint8) for b in bases]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # too short for the p-value
        scanner = MotifScanner([f"m{k}" for k in range(len(matrices))], matrices, p_value)
    table = scanner.scan(codes)
    assert not table.duplicated(["sequence", "motif", "start", "strand"]).any()
    for number, sequence in enumerate(codes):
        for k, matrix in enumerate(matrices):
            rows = table[(table["sequence"] == number) & (table["motif"] == k)]
            found = {(r.start, r.end, r.strand): r for r in rows.itertuples()}
            expected = naive_scores(matrix, sequence)
            # Scores are rounded to bins, column by column, before they have a p-value.
            slack = BIN * (len(matrix) / 2 + 2)
            for place, row in found.items():
                score = expected[place]
                assert row.score == pytest.approx(score, abs=1e-6)
                least, most = tail(matrix, score + slack), tail(matrix, score - slack)
                assert least * (1 - 1e-9) <= row.p_value <= most * (1 + 1e-9)
                assert row.p_value <= p_value
            for place, score in expected.items():
                if tail(matrix, score - slack) < p_value:
                    assert place in found
    present = scanner.present(codes)
    assert present.shape == (len(codes), len(matrices))
    expected_present = {(r.sequence, r.motif) for r in table.itertuples()}
    assert set(zip(*np.nonzero(present), strict=True)) == expected_present


def test_a_site_on_the_other_strand_and_one_broken_by_an_unread_base() -> None:
    # ACGGTA, its reverse complement TACCGT, and ACGNTA.
    matrix = np.eye(4)[[0, 1, 2, 2, 3, 0]]
    codes = np.full(40, 3, dtype=np.uint8)
    codes[5:11] = [0, 1, 2, 2, 3, 0]
    codes[20:26] = [3, 0, 1, 1, 2, 3]
    codes[30:36] = [0, 1, 2, UNREAD, 3, 0]
    table = MotifScanner(["m"], [matrix], 1e-3).scan([codes[:3], codes])
    assert table[["sequence", "start", "end", "strand"]].to_numpy().tolist() == [
        [1, 5, 11, "+"],
        [1, 20, 26, "-"],
    ]
    np.testing.assert_allclose(table["p_value"], 4.0**-6)


def test_a_palindrome_is_a_site_on_both_strands() -> None:
    matrix = np.eye(4)[[3, 2, 0, 1, 2, 3, 1, 0]]
    table = MotifScanner(["m"], [matrix], 1e-4).scan([matrix.argmax(axis=1).astype(np.uint8)])
    assert table["strand"].tolist() == ["+", "-"]


def test_no_site_spans_two_sequences_and_none_is_lost_at_an_edge() -> None:
    matrix = np.eye(4)[[0, 1, 2, 2, 3, 0]]
    site = matrix.argmax(axis=1).astype(np.uint8)
    scanner = MotifScanner(["m"], [matrix], 1e-3)
    assert scanner.scan([site[:3], site[3:]]).empty
    assert scanner.scan([site, site[:5], site])["sequence"].tolist() == [0, 2]
    assert scanner.scan([]).empty
    empty = scanner.present([site[:0], site])
    assert empty.tolist() == [[False], [True]]


def test_motifs_that_cannot_be_found_are_named() -> None:
    matrices = [np.eye(4)[[0, 1, 2]], np.eye(4)[[0, 1, 2, 3, 3, 2, 1, 0]]]
    with pytest.warns(UserWarning, match=r"1 of 2 motifs are too short .*p_value=0.0001: 'short'"):
        scanner = MotifScanner(["short", "long"], matrices, 1e-4)
    sequence = np.array([0, 1, 2, 3, 3, 2, 1, 0], dtype=np.uint8)
    assert set(scanner.scan([sequence])["motif"]) == {1}


def test_wrong_parameters_and_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"p_value is 0; expected a number between 0 and 1"):
        MotifScanner(["m"], [np.eye(4)], 0)
    with pytest.raises(ValueError, match="motifs is empty"):
        MotifScanner([], [], 0.1)
    monkeypatch.setitem(sys.modules, "memelite", None)
    with pytest.raises(ImportError, match=r"pip install 'regmask_sk\[motifs\]'"):
        MotifScanner(["m"], [np.eye(4)], 0.1)


def test_the_oracle_knows_a_tail() -> None:
    matrix = np.eye(4)[[0, 1]]
    assert tail(matrix, 3.9) == 1 / 16
    assert len(list(itertools.product(range(4), repeat=2))) * tail(matrix, -100) == 16
