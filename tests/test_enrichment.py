"""Enrichment over matched controls, against a loop over stretches and genes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from linear_readers import Sequence, Tracks, make_windows

from regmask_sk.metrics import overlap_enrichment
from regmask_sk.metrics.enrichment import gc_bases

LENGTH = 40


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    found, start = [], None
    for j, kept in enumerate([*mask, False]):
        if kept and start is None:
            start = j
        elif not kept and start is not None:
            found.append((start, j))
            start = None
    return found


def oracle(
    kept: np.ndarray, labels: np.ndarray, gc: np.ndarray | None, gc_bin: float, least: int
) -> dict[str, float]:
    observed, expected, n, unmatched, bases = 0.0, 0.0, 0, 0, 0
    for gene, mask in enumerate(kept):
        for start, end in runs(mask):
            controls = [
                other
                for other in range(len(kept))
                if other != gene
                and (
                    gc is None
                    or abs(gc[other, start:end].mean() - gc[gene, start:end].mean())
                    <= gc_bin / 2 + 1e-12
                )
            ]
            if len(controls) < least:
                unmatched += 1
                continue
            n += 1
            bases += end - start
            observed += labels[gene, start:end].sum()
            expected += np.mean([labels[other, start:end].sum() for other in controls])
    odds = (observed / (bases - observed)) / (expected / (bases - expected))
    return {
        "n_stretches": n, "n_unmatched": unmatched, "n_bases": bases, "observed": observed,
        "expected": expected, "ratio": observed / expected, "odds_ratio": odds,
    }  # fmt: skip


def test_counts_agree_with_a_loop() -> None:
    windows = make_windows(30)
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.random((30, 8)) < 0.3, 5, axis=1)
    kept = (np.repeat(rng.random((30, 20)) < 0.2, 2, axis=1)) | (
        labels & (rng.random(labels.shape) < 0.5)
    )
    gc = gc_bases(windows)
    found = overlap_enrichment(
        kept, labels, windows, gc_bin=0.2, min_controls=5, random_state=0, n_permutations=50
    )
    assert list(found.index) == ["distance", "distance and GC"]
    for control, flags in (("distance", None), ("distance and GC", gc)):
        expected = oracle(kept, labels, flags, 0.2, 5)
        assert found.loc[control, list(expected)].to_dict() == pytest.approx(expected)
    assert found.loc["distance and GC", "n_unmatched"] > 0
    assert found.loc["distance", "n_unmatched"] == 0


def test_gc_is_read_from_the_sequence_on_either_strand() -> None:
    for one_hot in (False, True):
        windows = make_windows(6, LENGTH, (Tracks(), Sequence(one_hot)))
        x = windows.to_numpy()
        np.testing.assert_array_equal(gc_bases(windows), (x[:, 3] + x[:, 4]) == 1)


def test_a_position_only_mask_is_not_enriched() -> None:
    rng = np.random.default_rng(1)
    labels = np.zeros((60, LENGTH), dtype=bool)
    for row in labels:
        start = 10 + rng.integers(-3, 4)
        row[start : start + 8] = True
    kept = np.zeros(LENGTH, dtype=bool)
    kept[12:16] = True
    windows = make_windows(60)
    found = overlap_enrichment(kept, labels, windows, random_state=0, gc_bin=None)
    assert found.loc["distance", "ratio"] == pytest.approx(1)
    assert found.loc["distance", "p"] > 0.2
    own = overlap_enrichment(labels, labels, windows, random_state=0, gc_bin=None)
    assert own.loc["distance", "ratio"] > 1.2
    assert own.loc["distance", "p"] == pytest.approx(1 / 1001)


def test_gc_alone_explains_what_gc_made() -> None:
    windows = make_windows(60, LENGTH)
    gc = gc_bases(windows)
    # Labels and kept bases both follow GC, and nothing else.
    share = np.add.reduceat(gc.astype(int), np.arange(0, LENGTH, 10), axis=1)
    rich = np.repeat(share >= 6, 10, axis=1)
    found = overlap_enrichment(
        rich, rich, windows, gc_bin=0.05, min_controls=3, random_state=0, exclude=None
    )
    assert found.loc["distance", "ratio"] > 1.5
    assert found.loc["distance and GC", "ratio"] < found.loc["distance", "ratio"]


def test_the_test_holds_its_level_and_the_interval_its_middle() -> None:
    windows = make_windows(40)
    rng = np.random.default_rng(3)
    p_values, covered = [], 0
    for seed in range(30):
        labels = np.repeat(rng.random((40, 8)) < 0.3, 5, axis=1)
        kept = np.repeat(rng.random((40, 8)) < 0.2, 5, axis=1)
        row = overlap_enrichment(
            kept, labels, windows, gc_bin=None, n_permutations=99, random_state=seed
        ).loc["distance"]
        p_values.append(row["p"])
        covered += row["low"] <= 1 <= row["high"]
    assert np.mean(np.array(p_values) <= 0.1) < 0.25
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.15)
    assert covered > 15  # three chromosomes do not reach what is aimed at


def test_edges() -> None:
    windows = make_windows(20)
    none, every = np.zeros((20, LENGTH), bool), np.ones((20, LENGTH), bool)
    some = np.zeros((20, LENGTH), bool)
    some[:, 3:9] = True
    empty = overlap_enrichment(none, some, windows).loc["distance"]
    assert empty["n_stretches"] == 0
    assert np.isnan(empty[["ratio", "odds_ratio", "p", "low"]].to_numpy(float)).all()
    nothing = overlap_enrichment(some, none, windows, random_state=0).loc["distance"]
    assert np.isnan(nothing["ratio"])
    assert nothing["p"] == 1
    whole = overlap_enrichment(some, every, windows, random_state=0).loc["distance"]
    assert whole["ratio"] == 1
    assert np.isnan(whole["odds_ratio"])
    alone = none.copy()
    alone[0, 3:9] = True
    lone = overlap_enrichment(alone, alone, windows, gc_bin=None, random_state=0).loc["distance"]
    assert np.isinf(lone["ratio"])
    one = overlap_enrichment(some, some, windows[[0, 3, 6, 9] * 5], gc_bin=None).loc["distance"]
    assert np.isnan(one["low"])
    cut = overlap_enrichment(some, some, windows, exclude=slice(5, 6), gc_bin=None)
    assert cut.loc["distance", "n_stretches"] == 40
    assert cut.loc["distance", "n_bases"] == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": np.zeros((20, LENGTH))}, "kept has dtype float64; expected booleans. Cut"),
        ({"labels": np.zeros((20, LENGTH))}, "labels has shape .* dtype float64"),
        ({"gc_bin": 0.0}, "gc_bin is 0.0"),
        ({"min_controls": 0}, "min_controls is 0"),
        ({"n_permutations": 0}, "n_permutations is 0"),
        ({"windows": make_windows(3)}, r"labels has shape \(20, 40\) and windows \(3, 40\)"),
        ({"windows": make_windows(20, LENGTH, (Tracks(),))}, "no channels A, C, G and T"),
        ({"level": 2.0}, "level is 2.0"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    flags = np.zeros((20, LENGTH), bool)
    arguments = {"kept": flags, "labels": flags, "windows": make_windows(20)} | change
    with pytest.raises(ValueError, match=message):
        overlap_enrichment(**arguments)


def test_the_table_is_one_of_numbers() -> None:
    some = np.zeros((20, LENGTH), bool)
    some[::2, 3:9] = True
    found = overlap_enrichment(some, some, make_windows(20), random_state=0)
    pd.testing.assert_frame_equal(
        found, overlap_enrichment(some, some, make_windows(20), random_state=0)
    )
    assert all(dtype.kind in "fi" for dtype in found.dtypes)
