"""Windows without some of their bases, base by base."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from linear_readers import Sequence, Tracks, make_windows
from sklearn.pipeline import Pipeline

from regmask_sk import BinnedSignalRegressor, SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.metrics._altered import read_rows, take_away
from regmask_sk.windows import Windows

if TYPE_CHECKING:
    from conftest import ToyGenome

LENGTH = 40


def removed_bases(n: int) -> np.ndarray:
    removed = np.zeros((n, LENGTH), dtype=bool)
    removed[:, 3:20] = True
    removed[:, 26:36] = True
    removed[0] = False
    return removed


def codes(x: np.ndarray) -> np.ndarray:
    return np.where(x[:4].any(axis=0), x[:4].argmax(axis=0), 4)


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_shuffle_keeps_dinucleotides_and_values(one_hot: bool) -> None:
    windows = make_windows(6, LENGTH, (Sequence(one_hot), Tracks()))
    removed = removed_bases(6)
    seeds = [(1, row) for row in range(6)]
    altered = take_away(windows, read_rows(windows), removed, "shuffle", seeds)
    assert altered.shape == windows.shape
    for row in range(6):
        before, after = windows[row], altered[row]
        np.testing.assert_array_equal(before[:, ~removed[row]], after[:, ~removed[row]])
        assert sorted(pairwise(codes(before))) == sorted(pairwise(codes(after)))
        np.testing.assert_array_equal(after[5], after[4] ** 2)  # one permutation for all tracks
        np.testing.assert_array_equal(np.sort(before[4]), np.sort(after[4]))
        if row:
            assert (before[4] != after[4]).sum() > 15
    changed = [(codes(windows[row]) != codes(altered[row])).sum() for row in range(1, 6)]
    assert sum(changed) > 20
    again = take_away(windows, read_rows(windows), removed, "shuffle", seeds)
    np.testing.assert_array_equal(altered.to_numpy(), again.to_numpy())
    other = take_away(windows, read_rows(windows), removed, "shuffle", [(2, r) for r in range(6)])
    assert (altered.to_numpy() != other.to_numpy()).any()


def test_zero_makes_bases_unknown() -> None:
    windows = make_windows(6, LENGTH)
    removed = removed_bases(6)
    altered = take_away(windows, read_rows(windows), removed, "zero", [(0, r) for r in range(6)])
    expected = windows.to_numpy() * ~removed[:, np.newaxis]
    np.testing.assert_array_equal(altered.to_numpy(), expected)


def test_rows_stay_those_of_their_loci_in_any_slice_and_are_not_read_again() -> None:
    source = Sequence()
    windows = make_windows(6, LENGTH, (source, Tracks()))
    rows = read_rows(windows)
    altered = take_away(windows, rows, removed_bases(6), "zero", [(0, r) for r in range(6)])
    before = source.n_reads
    turned = altered[[4, 2]]
    np.testing.assert_array_equal(turned[0], altered[4])
    np.testing.assert_array_equal(turned[1], altered[2])
    assert source.n_reads == before
    assert altered.loci["gc"].tolist() == windows.loci["gc"].tolist()
    assert (altered.starts == windows.starts).all()
    assert windows.loci.index[0] == "g0"


def test_arrays_are_permuted_channel_by_channel_alike() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, LENGTH)).astype(np.float32)
    x[:, 1] = 2 * x[:, 0]
    removed = removed_bases(3)
    altered = take_away(x, read_rows(x), removed, "shuffle", [(0, r) for r in range(3)])
    np.testing.assert_array_equal(altered[0], x[0])
    np.testing.assert_array_equal(altered[:, 1], 2 * altered[:, 0])
    np.testing.assert_array_equal(np.sort(altered[1, 0]), np.sort(x[1, 0]))
    assert (altered[1:] != x[1:]).any()
    zeroed = take_away(x, read_rows(x), removed, "zero", [(0, r) for r in range(3)])
    np.testing.assert_array_equal(zeroed, x * ~removed[:, np.newaxis])


def test_tracks_of_files_lose_their_values_and_say_so(toy_genome: ToyGenome) -> None:
    tracks = SignalChannels(toy_genome.tracks, missing="mask", random_state=0)
    steps = Pipeline(
        [("windows", TSSWindows(LENGTH)), ("bases", SequenceChannels(toy_genome.fasta)),
         ("signal", tracks)]
    )  # fmt: skip
    windows = steps.fit_transform(toy_genome.loci)
    assert isinstance(windows, Windows)
    removed = np.zeros((len(windows), LENGTH), dtype=bool)
    removed[:, 10:30] = True
    seeds = [(0, row) for row in range(len(windows))]
    for how in ("zero", "shuffle"):
        altered = take_away(windows, read_rows(windows), removed, how, seeds)
        before, after = windows.to_numpy(), altered.to_numpy()
        np.testing.assert_array_equal(before[..., :10], after[..., :10])
        np.testing.assert_array_equal(before[..., 30:], after[..., 30:])
        inside = after[..., 10:30]
        if how == "zero":
            assert before[:, 6:, 10:30].any()
            assert not inside.any()
        else:
            np.testing.assert_allclose(inside[:, 4:].sum(-1), before[:, 4:, 10:30].sum(-1), 1e-5)
    y = toy_genome.loci["expression"]
    assert len(BinnedSignalRegressor(bin_size=10).fit(windows, y).predict(altered)) == len(y)
