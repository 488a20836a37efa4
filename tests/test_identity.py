"""What tells one fit from another; checkpoints use it in test_checkpoint.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from regmask_sk import SignalChannels, TSSWindows
from regmask_sk._batches import WindowDataset
from regmask_sk._identity import fit_identity, shared_identity

if TYPE_CHECKING:
    from conftest import ToyGenome


def parts(y: float = 1.0, weight: float = 1.0, covariate: float = 1.0) -> list[Any]:
    x, ones = np.zeros((4, 2, 8), np.float32), np.ones((4, 1), np.float32)
    return [WindowDataset(x, ones * covariate, ones * y, ones[:, 0] * weight), None]


BASE: dict[str, Any] = {
    "params": {"d_model": 8, "verbose": 0}, "X": np.zeros((4, 2, 8)), "parts": parts(),
    "known": {"scale": 1.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"params": {"d_model": 9, "verbose": 0}}, "d_model"),
        ({"params": {"d_model": 8, "verbose": 1}}, None),
        ({"params": {"d_model": 8, "accelerate": True}}, None),
        ({"X": np.ones((4, 2, 8))}, "X"),
        ({"X": np.zeros((5, 2, 8))}, "X"),
        ({"parts": parts(y=2.0)}, "y"),
        ({"parts": parts(weight=2.0)}, "sample_weight"),
        ({"parts": parts(covariate=2.0)}, "values of the covariates"),
        ({"known": {"scale": 2.0}}, "scales and regions"),
    ],
)
def test_what_differs_has_a_name(change: dict[str, Any], name: str | None) -> None:
    one, other = shared_identity(**BASE), shared_identity(**{**BASE, **change})
    assert {key for key in one if one[key] != other[key]} == ({name} if name else set())
    one, other = fit_identity(**BASE), fit_identity(**{**BASE, **change})
    assert (one == other) is (name is None)


def test_what_cannot_be_written_is_told_by_its_kind() -> None:
    params = {"random_state": np.random.RandomState(0), "backbone": WindowDataset}
    told = shared_identity(**{**BASE, "params": params})
    assert told["random_state"] == "RandomState"
    assert told["backbone"] == '"regmask_sk._batches:WindowDataset"'


def test_scales_of_tracks_count_and_paths_do_not(toy_genome: ToyGenome, tmp_path: Any) -> None:
    copied = tmp_path / "elsewhere.bw"
    copied.write_bytes(toy_genome.tracks["counts"].read_bytes())
    windows = TSSWindows(400).fit_transform(toy_genome.loci)
    shape = (40, 1, 400)

    def told(path: Any, scaling: Any = "robust") -> dict[str, str]:
        X = SignalChannels({"a": path}, scaling=scaling, random_state=0).fit_transform(windows)
        assert X.shape == shape
        return shared_identity(**{**BASE, "X": X})

    one = told(toy_genome.tracks["counts"])
    assert told(copied) == one
    raw = told(copied, scaling="none")
    assert {key for key in one if one[key] != raw[key]} == {"X"}
