"""The weighted ranking against scikit-learn's sample weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from regmask_sk.metrics._weighted import WeightedRanking


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 5))
def test_scores_are_those_of_scikit_learn(seed: int, n: int, n_groups: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 8, n) / 4, rng.random(n) < 0.4  # with ties
    groups, weights = rng.integers(0, n_groups, n), rng.integers(0, 3, n_groups)
    ranking = WeightedRanking(scores, labels, groups)
    weight = weights[groups]
    if weight[labels].sum() == 0:
        assert np.isnan(ranking.average_precision(weights))
    else:
        expected = average_precision_score(labels, scores, sample_weight=weight)
        assert ranking.average_precision(weights) == pytest.approx(expected)
    if weight[labels].sum() == 0 or weight[~labels].sum() == 0:
        assert np.isnan(ranking.roc_auc(weights))
    else:
        expected = roc_auc_score(labels, scores, sample_weight=weight)
        assert ranking.roc_auc(weights) == pytest.approx(expected)
