"""Controls of masks against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from positions_track import Positions, make_windows

from regmask_sk.metrics import smoothed_track


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-9, 9), min_size=1, max_size=25),
    st.integers(1, 40),
)
def test_smoothed_track_is_the_mean_of_the_bases_inside(track: list[int], width: int) -> None:
    class OneTrack:
        channel_names = ("signal",)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, row: int) -> np.ndarray:
            return np.array([track], dtype=np.float32)

    (found,) = smoothed_track(OneTrack(), "signal", width=width)
    for j in range(len(track)):
        inside = track[max(0, j - width // 2) : j - width // 2 + width]
        assert found[j] == pytest.approx(np.mean(inside), abs=1e-5)
    assert found.dtype == np.float32


def test_smoothed_track_reads_one_window_at_a_time_in_gene_orientation() -> None:
    windows = make_windows([("chr1", 50, "+"), ("chr1", 50, "-")], 4, sources=(Positions(),))
    rows = smoothed_track(windows, "position", width=1)
    assert next(rows).tolist() == [48, 49, 50, 51]
    assert next(rows).tolist() == [52, 51, 50, 49]
    with pytest.raises(StopIteration):
        next(rows)


def test_smoothed_track_names_what_is_wrong_at_the_call() -> None:
    windows = make_windows([("chr1", 50, "+")], 4, sources=(Positions(),))
    with pytest.raises(ValueError, match=r"'DNase' is not among.*\('other', 'position'\)"):
        smoothed_track(windows, "DNase")
    with pytest.raises(ValueError, match="width is 0"):
        smoothed_track(windows, "other", width=0)
