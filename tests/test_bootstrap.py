"""Intervals of whole chromosomes, against the exact distribution and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from regmask_sk.metrics import chromosome_bootstrap
from regmask_sk.metrics.bootstrap import chromosome_weights, percentile_interval


def test_chromosomes_go_as_a_whole() -> None:
    chroms = np.array(["a", "b", "a", "c", "b"])
    seen = []
    chromosome_bootstrap(
        lambda rows: seen.append(rows) or 0.0, chroms, n_resamples=200, random_state=0
    )
    assert len(seen) == 200
    for rows in seen:
        counts = np.bincount(rows, minlength=5)
        assert counts[0] == counts[2]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    assert len({tuple(sorted(rows)) for rows in seen}) == 10  # all that three of three can give


def test_with_one_row_a_chromosome_it_is_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=60)
    ours = chromosome_bootstrap(
        lambda rows: float(values[rows].mean()), np.arange(60), n_resamples=4000, random_state=0
    )
    theirs = bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    )
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.1)


def test_genes_of_one_chromosome_do_not_narrow_it() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 100)
    chroms = np.repeat(np.arange(10), 100)
    by_chrom = chromosome_bootstrap(lambda r: float(values[r].mean()), chroms, random_state=0)
    by_gene = chromosome_bootstrap(lambda r: float(values[r].mean()), range(1000), random_state=0)
    assert by_chrom.high - by_chrom.low > 5 * (by_gene.high - by_gene.low)


def test_one_chromosome_has_no_interval_and_undefined_resamples_are_counted() -> None:
    one = chromosome_bootstrap(lambda rows: 1.0, ["chr1"] * 5)
    assert np.isnan(one[:3]).all()
    assert one.n_undefined == 0
    values = np.array([np.nan, 1.0])
    found = chromosome_bootstrap(
        lambda rows: float(values[rows].mean()), ["a", "b"], n_resamples=400, random_state=0
    )
    assert (found.low, found.high) == (1.0, 1.0)
    assert 250 < found.n_undefined < 350  # all but the quarter that has the second twice
    assert np.isnan(percentile_interval([np.nan, np.nan], 0.9).low)
    infinite = percentile_interval([1.0, 2.0, np.inf, np.inf], 0.5)
    assert (infinite.low, infinite.high) == (1.0, np.inf)
    assert np.isnan(infinite.standard_error)


def test_weights_are_the_same_draws() -> None:
    weights = np.array(list(chromosome_weights(4, 500, 0)))
    assert (weights.sum(axis=1) == 4).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.15)
    assert list(chromosome_weights(1, 10, 0)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 95}, "level is 95; expected a coverage between 0 and 1"),
        ({"n_resamples": 0}, "n_resamples is 0"),
        ({"chroms": []}, "chroms has shape"),
        ({"random_state": -3}, "random_state is -3"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"chroms": ["a", "b"], "random_state": 0} | change
    with pytest.raises(ValueError, match=message):
        chromosome_bootstrap(lambda rows: 0.0, **arguments)
