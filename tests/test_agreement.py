"""The table of agreement against the measures of its columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from linear_readers import Sequence, Tracks, make_windows
from sklearn.metrics import average_precision_score, roc_auc_score

from regmask_sk import position_only_mask, smoothed_track
from regmask_sk.metrics import (
    agreement_table,
    chromosome_bootstrap,
    mask_roc_auc,
    overlap_enrichment,
    top_share,
)
from regmask_sk.windows import Windows

N, LENGTH = 30, 40
OPTIONS = {"n_permutations": 50, "n_resamples": 60, "random_state": 0, "block_size": 4}


@pytest.fixture
def windows() -> Windows:
    return make_windows(N, LENGTH)


@pytest.fixture
def labels() -> np.ndarray:
    return np.repeat(np.random.default_rng(0).random((N, 8)) < 0.3, 5, axis=1)


@pytest.fixture
def masks(labels: np.ndarray) -> np.ndarray:
    return 0.4 * labels + 0.6 * np.random.default_rng(1).random(labels.shape)


def test_rows_are_masks_and_both_controls(
    windows: Windows, labels: np.ndarray, masks: np.ndarray
) -> None:
    table = agreement_table(
        {"mine": masks, "theirs": 10 * masks - 3}, labels, windows, widths=(1, 9), **OPTIONS
    )
    assert list(table.index) == [
        "mine", "theirs", "position-only mask", "position, 1 bp", "position, 9 bp",
        "square, 1 bp", "square, 9 bp",
    ]  # fmt: skip
    pd.testing.assert_series_equal(table.loc["mine"], table.loc["theirs"], check_names=False)
    control = position_only_mask(masks)
    assert table.loc["position-only mask", "roc_auc"] == pytest.approx(
        mask_roc_auc(control, labels)
    )
    assert table.loc["position-only mask", "roc_auc_at_position"] == 0.5
    track = np.stack(list(smoothed_track(windows, "square", width=9)))
    assert table.loc["square, 9 bp", "average_precision"] == pytest.approx(
        average_precision_score(labels.ravel(), track.ravel())
    )
    one = agreement_table(masks, labels, windows, tracks=[], **OPTIONS)
    pd.testing.assert_series_equal(one.loc["mask"], table.loc["mine"], check_names=False)
    given = agreement_table(masks, labels, windows, tracks=[], profile=labels.mean(0), **OPTIONS)
    assert given.loc["position-only mask", "roc_auc"] == pytest.approx(
        mask_roc_auc(labels.mean(axis=0), labels)
    )


def test_columns_are_those_of_the_measures(
    windows: Windows, labels: np.ndarray, masks: np.ndarray
) -> None:
    promoter = slice(18, 22)
    row = agreement_table(
        masks, labels, windows, tracks=[], exclude=promoter, share=0.25, **OPTIONS
    ).loc["mask"]
    free = np.r_[0:18, 22:40]
    truth, scores = labels[:, free], masks[:, free]
    assert row["average_precision"] == pytest.approx(
        average_precision_score(truth.ravel(), scores.ravel())
    )
    assert row["roc_auc"] == pytest.approx(roc_auc_score(truth.ravel(), scores.ravel()))
    assert row["roc_auc_at_position"] == pytest.approx(
        mask_roc_auc(scores, truth, within="position")
    )
    assert row["base_rate"] == pytest.approx(truth.mean())
    for name, measure in (
        ("average_precision", average_precision_score),
        ("roc_auc", roc_auc_score),
    ):
        interval = chromosome_bootstrap(
            lambda rows, measure=measure: measure(truth[rows].ravel(), scores[rows].ravel()),
            windows.loci["chrom"],
            n_resamples=60,
            random_state=0,
        )
        assert row[f"{name}_low"] == pytest.approx(interval.low)
        assert row[f"{name}_high"] == pytest.approx(interval.high)
    kept = top_share(masks, 0.25, block_size=4, within="all", exclude=promoter, random_state=0)
    enriched = overlap_enrichment(kept, labels, windows, n_permutations=50, random_state=0)
    for control, suffix in (("distance", ""), ("distance and GC", "_gc")):
        expected = enriched.loc[control]
        assert row[f"ratio{suffix}"] == pytest.approx(expected["ratio"], nan_ok=True)
        assert row[f"ratio_low{suffix}"] == pytest.approx(expected["low"], nan_ok=True)
        assert row[f"odds_ratio{suffix}"] == pytest.approx(expected["odds_ratio"], nan_ok=True)
        assert row[f"p{suffix}"] == pytest.approx(expected["p"], nan_ok=True)


def test_the_share_is_that_of_the_first_mask(
    windows: Windows, labels: np.ndarray, masks: np.ndarray
) -> None:
    table = agreement_table(masks, labels, windows, tracks=[], gc_bin=None, **OPTIONS)
    assert table["share"].tolist() == pytest.approx([(masks >= 0.5).mean()] * 2)
    assert not [name for name in table.columns if name.endswith("_gc")]
    with pytest.raises(ValueError, match=r"keeps nothing at 0.5. Give the share"):
        agreement_table(masks / 10, labels, windows, tracks=[], **OPTIONS)


def test_edges(windows: Windows, masks: np.ndarray) -> None:
    options = OPTIONS | {"gc_bin": None, "tracks": []}
    none, every = np.zeros((N, LENGTH), bool), np.ones((N, LENGTH), bool)
    row = agreement_table(masks, none, windows, **options).loc["mask"]
    assert np.isnan(row[["average_precision", "average_precision_low", "roc_auc"]]).all()
    row = agreement_table(masks, every, windows, **options).loc["mask"]
    assert row["average_precision"] == 1
    assert np.isnan(row[["roc_auc", "roc_auc_high", "roc_auc_at_position"]]).all()
    one = windows[np.flatnonzero(windows.loci["chrom"] == "chr1")]
    some = none[: len(one)].copy()
    some[:, :8] = True
    row = agreement_table(masks[: len(one)], some, one, **options | {"block_size": 1}).loc["mask"]
    assert np.isfinite(row["roc_auc"])
    assert np.isnan(row[["roc_auc_low", "roc_auc_high", "ratio_low"]]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": {}}, "masks is empty"),
        ({"masks": np.zeros((2, LENGTH))}, r"masks has shape \(2, 40\) and labels \(30, 40\)"),
        ({"masks": np.full((N, LENGTH), np.nan)}, "NaN or infinite"),
        ({"windows": make_windows(3)}, r"labels has shape \(30, 40\) and windows \(3, 40\)"),
        ({"tracks": ["atac"]}, "channel 'atac' is not among the channels"),
        ({"profile": np.zeros(3)}, r"masks has shape \(30, 3\)"),
        ({"windows": make_windows(N, LENGTH, (Tracks(),))}, "no channels A, C, G and T"),
        ({"level": 0.0}, "level is 0.0"),
    ],
)
def test_bad_arguments_are_named(
    labels: np.ndarray, masks: np.ndarray, change: dict, message: str
) -> None:
    windows = make_windows(N, LENGTH, (Sequence(), Tracks()))
    arguments = {"masks": masks, "labels": labels, "windows": windows} | OPTIONS | change
    with pytest.raises(ValueError, match=message):
        agreement_table(**arguments)
