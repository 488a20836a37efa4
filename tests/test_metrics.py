"""Scores against scikit-learn, scipy and naive loops; labels against a base-by-base oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score

from regmask_sk.metrics import (
    mask_average_precision,
    mask_roc_auc,
    position_only_mask,
    region_labels,
    regression_metrics,
    smoothed_track,
)
from regmask_sk.windows import Windows


def make_windows(rows: list[tuple[str, int, str]], length: int, **kwargs: object) -> Windows:
    loci = pd.DataFrame(rows, columns=["chrom", "tss", "strand"])
    loci.index = pd.Index([f"g{i}" for i in range(len(rows))], name="gene")
    return Windows(loci, length=length, **kwargs)


class Positions:
    """A track that gives each base its own coordinate."""

    channel_names = ("other", "position")
    readers = ()

    def read(self, interval: object) -> np.ndarray:
        return np.arange(interval.start, interval.end, dtype=np.float32)[np.newaxis]

    def reverse(self, raw: np.ndarray) -> np.ndarray:
        return raw[:, ::-1]

    def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
        return raw

    def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
        out[0], out[1] = 0, compact[0]


# -- regression ----------------------------------------------------------------------------------


def test_regression_metrics_agree_with_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200).round(1)  # with ties
    predicted = y + rng.normal(size=200).round(1)
    found = regression_metrics(y, predicted[:, np.newaxis])
    assert list(found) == ["mse", "mae", "pearson", "spearman", "r2"]
    assert found["mse"] == pytest.approx(np.mean((y - predicted) ** 2))
    assert found["mae"] == pytest.approx(np.mean(np.abs(y - predicted)))
    assert found["pearson"] == pytest.approx(pearsonr(y, predicted).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(y, predicted).statistic)
    assert found["r2"] == pytest.approx(r2_score(y, predicted))
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e8])
def test_pearson_does_not_depend_on_the_scale(scale: float) -> None:
    rng = np.random.default_rng(1)
    y, predicted = rng.normal(size=(2, 50))
    expected = regression_metrics(y, predicted)["pearson"]
    assert regression_metrics(y * scale, predicted)["pearson"] == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_what_is_not_defined_is_nan_and_warns_not(constant: float) -> None:
    y = np.arange(7.0)
    flat = np.full(7, constant, np.float32)
    found = regression_metrics(y, flat)
    assert np.isnan([found["pearson"], found["spearman"]]).all()
    assert np.isfinite([found["mse"], found["mae"], found["r2"]]).all()
    assert np.isnan(regression_metrics(flat, y)["r2"])
    single = regression_metrics([1.0], [3.0])
    assert (single["mse"], single["mae"]) == (4.0, 2.0)
    assert np.isnan([single["pearson"], single["spearman"], single["r2"]]).all()


@pytest.mark.parametrize(
    ("y", "predicted", "message"),
    [
        ([1.0, np.nan], [1.0, 2.0], "y holds 1 values that are NaN"),
        ([1.0, 2.0], [np.inf, 2.0], "predicted holds 1 values"),
        ([1.0, 2.0], [1.0], "2 genes and predicted has 1"),
        ([], [], "at least one gene"),
        (np.zeros((2, 2)), np.zeros((2, 2)), r"shape \(2, 2\).*once per column"),
    ],
)
def test_bad_targets_are_named(y: object, predicted: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression_metrics(y, predicted)


# -- controls ------------------------------------------------------------------------------------


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


# -- labels --------------------------------------------------------------------------------------

region = st.tuples(
    st.sampled_from(["chr1", "chr2"]),
    st.integers(0, 60),
    st.integers(1, 15),
    st.sampled_from(["g0", "g1", "g2"]),
)
locus = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 60), st.sampled_from("+-"))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(region, min_size=1, max_size=8),
    st.lists(locus, min_size=1, max_size=4, unique=True),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
)
def test_region_labels_agree_base_by_base(
    regions: list[tuple[str, int, int, str]],
    loci: list[tuple[str, int, str]],
    length: int,
    own_only: bool,
    stranded: bool,
) -> None:
    table = pd.DataFrame(regions, columns=["chrom", "start", "end", "target"])
    table["end"] += table["start"]
    windows = make_windows(loci, length, stranded=stranded)
    genes = set(windows.loci.index)
    if not {r[0] for r in regions} & {x[0] for x in loci} or (
        own_only and not genes & {r[3] for r in regions}
    ):
        with pytest.raises(ValueError, match=r"share no chromosome|no gene of"):
            region_labels(windows, table, gene_column="target" if own_only else None)
        return
    found = region_labels(windows, table, gene_column="target" if own_only else None)
    assert found.shape == (len(loci), length)
    assert found.dtype == bool
    for row, (chrom, tss, strand) in enumerate(loci):
        sign = -1 if strand == "-" and stranded else 1
        for j in range(length):
            at = tss + sign * (j - length // 2)
            inside = any(
                r.chrom == chrom
                and r.start <= at < r.end
                and (not own_only or r.target == f"g{row}")
                for r in table.itertuples()
            )
            assert found[row, j] == inside


def test_labels_lie_on_the_columns_that_the_windows_read() -> None:
    windows = make_windows([("chr1", 50, "+"), ("chr1", 50, "-")], 9, sources=(Positions(),))
    regions = pd.DataFrame({"chrom": ["chr1"], "start": [52], "end": [54]})
    labels = region_labels(windows, regions)
    for row in range(2):
        assert sorted(windows[row][1][labels[row]]) == [52, 53]


@pytest.mark.parametrize(
    ("regions", "gene_column", "message"),
    [
        ({"chrom": ["chr1"], "start": [1]}, None, r"lacks the columns \['end'\]"),
        ({"chrom": ["chr1"], "start": [1], "end": [3]}, "gene", r"lacks the columns \['gene'\]"),
        ({"chrom": ["chr1"], "start": [5], "end": [5]}, None, "1 of 1 regions have end <= start"),
        ({"chrom": ["1"], "start": [1], "end": [3]}, None, r"no chromosome: \['1'\].*\['chr1'\]"),
        (
            {"chrom": ["chr1"], "start": [1], "end": [3], "gene": ["YAL001C"]},
            "gene",
            r"no gene of .*\['g0'\] against \['YAL001C'\]",
        ),
    ],
)
def test_bad_regions_are_named(
    regions: dict[str, list], gene_column: str | None, message: str
) -> None:
    windows = make_windows([("chr1", 50, "+")], 10)
    with pytest.raises(ValueError, match=message):
        region_labels(windows, pd.DataFrame(regions), gene_column=gene_column)


# -- masks against labels ------------------------------------------------------------------------


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
