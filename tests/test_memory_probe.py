"""Counting of tensors, short windows, and what is carried over to long ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regmask_sk import RegMaskRegressor, SequenceChannels, SignalChannels, TSSWindows, WindowCache
from regmask_sk._memory_probe import Tally, carried_over, lengths_to_measure, shortened
from regmask_sk.backbones.caduceus import BiMambaMixer
from regmask_sk.windows import Windows

KB = 4 * 250  # bytes of 250 numbers


def test_what_is_freed_is_no_longer_counted() -> None:
    with Tally() as tally:
        kept = torch.zeros(250)
        gone = torch.zeros(500)
        view = kept.view(25, 10)[3:]
        assert (tally.live, tally.peak) == (3 * KB, 3 * KB)
        del gone
        assert tally.live == KB
        view.add_(1.0)
        del kept
        assert tally.live == KB, "a view keeps what it shows"
        del view
        assert tally.live == 0
        assert tally.restart() == 0
        assert tally.peak == 0


def test_what_backward_needs_is_counted_until_backward() -> None:
    x = torch.zeros(250, requires_grad=True)
    with Tally() as tally:
        y = x.exp()
        z = y.sin()
        loss = z.sum()
        del y, z
        # exp keeps its result for backward, sin the same as what it read; sin's result is free.
        assert tally.live == KB + 4
        loss.backward()
        del loss
        assert tally.live == KB, "the gradient of x"
        assert tally.peak >= 3 * KB


def test_the_state_space_counts_what_it_has_in_the_middle() -> None:
    mixer = BiMambaMixer(32)
    h = torch.rand(1, 5000, 32)
    with torch.no_grad(), Tally() as tally:
        mixer(h)
    n_bytes = 4 * h.numel()
    assert tally.live < 1.1 * n_bytes  # what came in, and parameters
    # Beside that input and gate, four times as much; the output before it is projected, and after.
    assert (1 + 4 + 2 + 1) * n_bytes <= tally.peak <= 8.2 * n_bytes


def test_convolutions_count_what_they_copy() -> None:
    conv = nn.Conv1d(1, 2, 3, padding=1, bias=False)
    x = torch.zeros(1, 1, 1000)
    with torch.no_grad(), Tally() as tally:
        conv(x)
    assert tally.peak == 4 * (2000 + 1000 + 2000 + 6)


@given(
    st.integers(1, 10**6), st.integers(0, 100), st.integers(0, 100), st.sampled_from([1, 32, 256])
)
def test_polynomials_of_the_second_degree_are_carried_over_exactly(
    length: int, linear: int, bend: int, grain: int
) -> None:
    lengths = lengths_to_measure(length, grain)
    assert list(lengths) == sorted(set(lengths))
    assert max(lengths) <= length
    if len(lengths) > 1:
        assert all(at % grain == 0 for at in lengths)
        assert max(lengths) < length / 1.9

    def size(at: int) -> int:
        return 7 + linear * at + bend * at**2

    found = carried_over(lengths, [size(at) for at in lengths], length)
    assert found == pytest.approx(size(length))


def test_what_bends_downwards_is_carried_over_by_a_line() -> None:
    assert carried_over((1, 2, 4), (0, 10, 14), 8) == 14 + 4 * 2


def test_short_windows_of_arrays_are_their_middle() -> None:
    X = np.arange(24.0).reshape(2, 2, 6)
    np.testing.assert_array_equal(shortened(X, 2, 3), X[[0, 0, 0], :, 2:4])
    np.testing.assert_array_equal(shortened(X, 6, 1), X[:1])


def windows_of(toy_genome: Any, cache: WindowCache | None = None) -> Windows:
    made = TSSWindows(64).fit_transform(toy_genome.loci)
    made = SequenceChannels(toy_genome.fasta).fit_transform(made)
    made = SignalChannels({"counts": toy_genome.tracks["counts"]}).fit_transform(made)
    made = made if cache is None else cache.fit_transform(made)
    assert isinstance(made, Windows)
    return made


def test_short_windows_are_around_the_same_tss(toy_genome: Any) -> None:
    X = windows_of(toy_genome, WindowCache())
    short = shortened(X, 16, 2)
    assert short.shape == (2, 5, 16)
    np.testing.assert_array_equal(short[1], X[0][:, 24:40])


def test_what_a_cache_will_hold(toy_genome: Any) -> None:
    X = windows_of(toy_genome, WindowCache())
    store: Any = X.store
    expected = store.expected_bytes(X)
    # A byte for each base, four for each value of the track; a few windows may be the same.
    assert expected == len(set(X.row_keys)) * 64 * 5
    store.fill(X)
    assert store.nbytes == expected == store.expected_bytes(X)
    store.max_bytes = 10
    assert type(store)("key", X, 1000).expected_bytes(X) == 1000


def test_an_estimate_is_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a fit that is shared, one process may be alone in asking for it."""

    def joined(*_: Any) -> None:
        raise AssertionError("the other processes do not take part")

    monkeypatch.setattr("regmask_sk._network.join", joined)
    model = RegMaskRegressor(accelerate=True, d_model=4, n_layers=1, resolution=8, device="cpu")
    assert model.estimate_memory(np.zeros((4, 1, 64), np.float32)).fit > 0
