"""The table of pairs against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from regmask_sk.metrics import (
    activity_contact,
    chromosome_bootstrap,
    mask_pair_scores,
    pair_table,
    read_crispri_pairs,
)
from regmask_sk.windows import Windows


@pytest.fixture
def pairs() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    n = 200
    distance = rng.integers(0, 300_000, n)
    return pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2", "chr3", "chr4", "chr5"], n),
            "start": 0,
            "end": 500,
            "gene": rng.choice(list("abcdef"), n),
            "tss": 0,
            "distance": distance,
            "regulated": rng.random(n) < np.where(distance < 100_000, 0.4, 0.1),
            "DHS.RPM": rng.random(n),
            "H3K27ac.RPM": rng.random(n),
        }
    )


def test_scores_are_those_of_scikit_learn(pairs: pd.DataFrame) -> None:
    scores = np.random.default_rng(1).random(200)
    table = pair_table(
        pairs, {"mask": scores}, distance_bins=[0, 100_000, 200_000], n_resamples=50, random_state=3
    )
    assert table.index.get_level_values(0).unique().tolist() == [
        "mask", "distance", "activity x contact",
    ]  # fmt: skip
    assert table.loc["mask"].index.tolist() == ["all", "0-100 kb", "100-200 kb"]
    predictors = {
        "mask": scores,
        "distance": -pairs["distance"].to_numpy(),
        "activity x contact": activity_contact(pairs),
    }
    strata = {
        "all": np.ones(200, bool),
        "0-100 kb": (pairs["distance"] < 100_000).to_numpy(),
        "100-200 kb": pairs["distance"].between(100_000, 199_999).to_numpy(),
    }
    for name, values in predictors.items():
        for stratum, inside in strata.items():
            row, truth = table.loc[(name, stratum)], pairs["regulated"].to_numpy()[inside]
            assert row["n_pairs"] == inside.sum()
            assert row["n_regulated"] == truth.sum()
            assert row["base_rate"] == pytest.approx(truth.mean())
            assert row["average_precision"] == pytest.approx(
                average_precision_score(truth, values[inside])
            )
            assert row["roc_auc"] == pytest.approx(roc_auc_score(truth, values[inside]))
            assert row["low"] <= row["average_precision"] <= row["high"]
    truth = pairs["regulated"].to_numpy()
    interval = chromosome_bootstrap(
        lambda rows: average_precision_score(truth[rows], scores[rows]),
        pairs["chrom"],
        n_resamples=50,
        random_state=3,
    )
    assert table.loc[("mask", "all"), "low"] == pytest.approx(interval.low)
    assert table.loc[("mask", "all"), "high"] == pytest.approx(interval.high)


def test_all_predictors_are_compared_on_the_same_pairs(pairs: pd.DataFrame) -> None:
    some = np.random.default_rng(1).random(200)
    some[:50] = np.nan
    every = np.random.default_rng(2).random(200)
    table = pair_table(pairs, {"some": some, "every": every}, n_resamples=5, random_state=0)
    for name in ("some", "every", "distance"):
        row = table.loc[(name, "all")]
        assert (row["n_pairs"], row["n_unscored"]) == (150, 50)
    assert table.loc[("every", "all"), "average_precision"] == pytest.approx(
        average_precision_score(pairs["regulated"][50:], every[50:])
    )


def test_edges(pairs: pd.DataFrame) -> None:
    none = pair_table(pairs.assign(regulated=False), {}, n_resamples=5, random_state=0)
    assert np.isnan(none.loc[("distance", "all"), ["average_precision", "low", "roc_auc"]]).all()
    every = pair_table(pairs.assign(regulated=True), {}, n_resamples=5, random_state=0)
    assert every.loc[("distance", "all"), "average_precision"] == 1
    assert np.isnan(every.loc[("distance", "all"), "roc_auc"])
    one = pair_table(pairs.assign(chrom="chr1"), {}, n_resamples=5, random_state=0)
    assert np.isnan(one.loc[("distance", "all"), "low"])
    far = pair_table(pairs, {}, distance_bins=[10**6, 10**7], n_resamples=5, random_state=0)
    row = far.loc[("distance", "1000-10000 kb")]
    assert row["n_pairs"] == 0
    assert np.isnan(row["average_precision"])
    assert "activity x contact" not in pair_table(pairs, {}, activity=None, n_resamples=1).index


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": {"m": [1.0]}}, r"scores\['m'\] has shape \(1,\)"),
        ({"scores": {"m": np.full(200, np.inf)}}, "200 infinite values"),
        ({"scores": {"m": np.full(200, np.nan)}}, r"none of the 200 pairs is scored by all"),
        ({"scores": {"distance": np.ones(200)}}, r"scores has \['distance'\], which is a baseline"),
        ({"distance_bins": [5]}, "expected two or more rising edges"),
        ({"distance_bins": [5, 5]}, "expected two or more rising edges"),
        ({"activity": ["ATAC"]}, r"lacks the columns \['ATAC'\]"),
        ({"n_resamples": 0}, "n_resamples is 0"),
    ],
)
def test_bad_arguments_are_named(pairs: pd.DataFrame, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_table(pairs, **({"scores": {}} | change))


def test_the_baselines_on_the_screens_of_k562(crispri: Path) -> None:
    pairs = read_crispri_pairs(crispri)
    table = pair_table(pairs, {}, n_resamples=20, random_state=0)["average_precision"]
    truth = pairs["regulated"]
    assert table["distance", "all"] == pytest.approx(
        average_precision_score(truth, -pairs["distance"])
    )
    # Both far above the base rate of .045, and activity x contact above distance.
    assert table["distance", "all"] == pytest.approx(0.438, abs=0.001)
    assert table["activity x contact", "all"] == pytest.approx(0.487, abs=0.001)


def test_masks_that_open_the_regulated_elements_win_on_the_screens(crispri: Path) -> None:
    pairs = read_crispri_pairs(crispri)
    pairs = pairs[pairs["chrom"] == "chr22"]
    genes = pairs.drop_duplicates("gene")
    loci = pd.DataFrame(
        {"chrom": genes["chrom"].to_numpy(), "tss": genes["tss"].to_numpy()},
        index=genes["gene"].to_numpy(),
    ).assign(strand="-")
    windows = Windows(loci, 200_000)
    masks = np.zeros((len(loci), 200_000), dtype=np.float32)
    for pair in pairs[pairs["regulated"]].itertuples():
        row = loci.index.get_loc(pair.gene)
        end = windows.starts[row] + 200_000
        masks[row, max(end - pair.end, 0) : max(end - pair.start, 0)] = 1
    scores = mask_pair_scores(pairs, windows, masks, reduction="mean")
    inside = pairs["distance"].to_numpy() < 99_000
    assert np.isfinite(scores[inside]).mean() > 0.8
    assert np.isnan(scores[pairs["distance"].to_numpy() > 120_000]).mean() > 0.8
    table = pair_table(pairs, {"mask": scores}, n_resamples=5, random_state=0)
    assert table.loc[("mask", "all"), "average_precision"] > 0.9
    assert table.loc[("mask", "all"), "n_unscored"] > 0
