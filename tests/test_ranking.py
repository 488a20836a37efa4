"""Masks against labels: scores of scikit-learn, and edges."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from regmask_sk.metrics import mask_average_precision, mask_roc_auc, position_only_mask


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.random((30, 40)) < 0.2
    labels[4] = False  # a gene without a region
    labels[:, 7] = False  # a column without one
    masks = (rng.random((30, 40)) + 0.3 * labels).round(1).astype(np.float32)  # with ties
    return masks, labels


def test_scores_over_all_bases_are_those_of_scikit_learn(
    scored: tuple[np.ndarray, np.ndarray],
) -> None:
    masks, labels = scored
    promoter = slice(18, 23)
    kept = np.r_[0:18, 23:40]
    for exclude, columns in (
        (None, np.arange(40)),
        (promoter, kept),
        (~np.isin(np.arange(40), kept), kept),
    ):
        truth, scores = labels[:, columns].ravel(), masks[:, columns].ravel()
        assert mask_average_precision(masks, labels, exclude=exclude) == pytest.approx(
            average_precision_score(truth, scores)
        )
        assert mask_roc_auc(masks, labels, exclude=exclude) == pytest.approx(
            roc_auc_score(truth, scores)
        )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(mask_average_precision, average_precision_score), (mask_roc_auc, roc_auc_score)],
)
def test_scores_within_genes_and_positions_are_means_over_them(
    scored: tuple[np.ndarray, np.ndarray], ours: object, theirs: object
) -> None:
    masks, labels = scored
    rows = [theirs(t, s) for t, s in zip(labels, masks, strict=True) if 0 < t.sum() < len(t)]
    assert len(rows) == 29
    assert ours(masks, labels, within="gene") == pytest.approx(np.mean(rows))
    both = [j for j in range(40) if 0 < labels[:, j].sum() < 30 and not 18 <= j < 23]
    columns = [theirs(labels[:, j], masks[:, j]) for j in both]
    found = ours(masks, labels, within="position", exclude=slice(18, 23))
    assert found == pytest.approx(np.mean(columns))


def test_a_position_only_mask_knows_nothing_once_positions_are_matched() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((50, 100), dtype=bool)
    for row in labels:  # every gene's region lies at nearly the same place
        start = 30 + rng.integers(-4, 5)
        row[start : start + 20] = True
    control = position_only_mask(labels)
    assert mask_roc_auc(control, labels) > 0.97
    assert mask_roc_auc(control, labels, within="position") == 0.5
    assert mask_roc_auc(labels.astype(float), labels, within="position") == 1.0


def test_masks_may_be_streamed(scored: tuple[np.ndarray, np.ndarray]) -> None:
    masks, labels = scored
    assert mask_roc_auc(iter(masks), labels) == mask_roc_auc(masks, labels)


def test_no_comparison_is_nan_and_warns_not() -> None:
    masks = np.random.default_rng(0).random((2, 3))
    none, every = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    for within in ("all", "gene", "position"):
        assert np.isnan(mask_average_precision(masks, none, within=within))
        assert np.isnan(mask_roc_auc(masks, none, within=within))
        assert np.isnan(mask_roc_auc(masks, every, within=within))
    assert mask_average_precision(masks, every) == 1.0


def test_a_constant_mask_scores_what_chance_does() -> None:
    labels = np.random.default_rng(0).random((20, 30)) < 0.3
    assert mask_roc_auc(np.zeros(30), labels) == 0.5
    assert mask_average_precision(np.zeros(30), labels) == pytest.approx(labels.mean())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((2, 3))}, "dtype float64; expected booleans"),
        ({"labels": np.zeros(3, bool)}, r"shape \(3,\)"),
        ({"masks": np.zeros((3, 3))}, r"masks has shape \(3, 3\) and labels \(2, 3\)"),
        ({"masks": np.full((2, 3), np.nan)}, "NaN"),
        ({"exclude": slice(0, 3)}, "no base is left"),
        ({"within": "row"}, "within is 'row'; expected 'all', 'gene' or 'position'"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {"masks": np.zeros((2, 3)), "labels": np.ones((2, 3), bool)} | change
    for measure in (mask_average_precision, mask_roc_auc):
        with pytest.raises(ValueError, match=message):
            measure(**arguments)
