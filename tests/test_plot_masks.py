"""Mean masks by expression, and heat maps of masks, against numbers worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drawn_text import assert_readable
from matplotlib import pyplot as plt
from sklearn.pipeline import Pipeline

from regmask_sk import MaskHeatmapDisplay, MaskProfileDisplay
from regmask_sk.plotting import _masks
from regmask_sk.plotting._axes import binned


class Given:
    """An estimator whose masks are its X."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def transform(self, X: np.ndarray) -> np.ndarray:
        self.batches.append(len(X))
        return X


def made(n: int = 90, length: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((n, length)), rng.normal(size=n)


def test_profiles_are_means_of_quantiles_with_their_standard_errors() -> None:
    masks, y = made()
    display = MaskProfileDisplay.from_predictions(masks, y, n_quantiles=3, unit="log2 TPM")
    thirds = np.array_split(np.argsort(y), 3)
    assert display.n_genes.tolist() == [30, 30, 30]
    for number, rows in enumerate(thirds):
        part = masks[rows]
        np.testing.assert_allclose(display.profiles[number], part.mean(axis=0))
        np.testing.assert_allclose(
            display.errors[number], part.std(axis=0, ddof=1) / np.sqrt(len(rows))
        )
        np.testing.assert_allclose(display.bounds[number], [y[rows].min(), y[rows].max()])
    # The highest first in the legend; lines and bands are the means and one error around them.
    lines = [line for line in display.ax_.lines if len(line.get_xdata()) == 40]
    assert [line.get_label().endswith("(30 genes)") for line in lines] == [True] * 3
    np.testing.assert_allclose(lines[0].get_ydata(), display.profiles[2])
    np.testing.assert_allclose(lines[0].get_xdata(), np.arange(40) - 20)
    band = display.ax_.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((display.profiles[2] + display.errors[2]).max())
    assert len({str(line.get_linestyle()) + line.get_label() for line in lines}) == 3
    assert display.ax_.get_legend().get_title().get_text() == "expression (log2 TPM)"
    assert_readable(display.figure_)


def test_genes_of_equal_expression_stay_together() -> None:
    masks = np.eye(6)
    display = MaskProfileDisplay.from_predictions(masks, [0, 0, 0, 0, 0, 1], n_quantiles=4)
    assert display.n_genes.tolist() == [5, 1]
    assert np.isnan(display.errors[1]).all()
    np.testing.assert_allclose(display.profiles[1], masks[5])
    labels = [line.get_label() for line in display.ax_.lines[:2]]
    assert labels == ["1 (1 gene)", "0 (5 genes)"]
    high = MaskProfileDisplay.from_predictions(masks, [0.5, 1, 2, 3, 4, 12345.6], n_quantiles=1)
    assert high.ax_.lines[0].get_label() == "0.5 to 12,346 (6 genes)"
    constant = MaskProfileDisplay.from_predictions(masks, np.ones(6))
    assert constant.n_genes.tolist() == [6]


def test_masks_come_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_masks, "_BATCH", 32)
    masks, y = made()
    model = Given()
    profile = MaskProfileDisplay.from_estimator(model, masks, y)
    assert model.batches == [32, 32, 26]
    whole = MaskProfileDisplay.from_predictions(masks, y)
    np.testing.assert_allclose(profile.profiles, whole.profiles)
    heat = MaskHeatmapDisplay.from_estimator(Pipeline([("model", model)]), masks, y)
    np.testing.assert_allclose(heat.values, masks[np.argsort(-y)])


def test_long_windows_are_drawn_as_means_of_bins_in_kilobases() -> None:
    masks = np.zeros((4, 10_001))
    masks[:, 5_000:5_021] = 1.0  # the TSS and 20 bases downstream: the first of a bin of 21
    display = MaskProfileDisplay.from_predictions(masks, [1, 2, 3, 4], n_quantiles=1)
    assert display.ax_.get_xlabel() == "distance to the TSS (kb)"
    line = display.ax_.lines[0]
    assert len(line.get_xdata()) == 477  # 476 whole bins of 21, and one of 5
    edges, means = binned(masks[0], 500, np.mean)
    np.testing.assert_allclose(line.get_ydata(), means)
    assert line.get_ydata().sum() * 21 == pytest.approx(21.0)
    centre = np.average(line.get_xdata(), weights=line.get_ydata())
    assert centre == pytest.approx(0.010, abs=0.011)
    heat = MaskHeatmapDisplay.from_predictions(masks)
    assert heat.values.shape == (4, len(edges) - 1)


@pytest.mark.parametrize("length", [1, 7, 500, 501, 1_003])
def test_bins_hold_every_base_once(length: int) -> None:
    values = np.random.default_rng(length).random((2, length))
    edges, sums = binned(values, 100, np.sum)
    assert len(edges) <= 101 + 1
    assert (edges[0], edges[-1]) == (0, length)
    for k, (a, b) in enumerate(pairwise(edges)):
        np.testing.assert_allclose(sums[:, k], values[:, a:b].sum(axis=1))


def test_heat_map_rows_are_sorted_and_neighbours_share_them() -> None:
    masks, y = made(n=1_300, length=20)
    display = MaskHeatmapDisplay.from_predictions(masks, y, sorted_by="measured level")
    order = np.argsort(-y)
    assert display.values.shape == (600, 20)
    row_of = np.arange(1_300) * 600 // 1_300
    assert set(np.bincount(row_of)) == {2, 3}
    for row in (0, 1, 299, 599):
        np.testing.assert_allclose(display.values[row], masks[order][row_of == row].mean(axis=0))
    (mesh,) = [c for c in display.ax_.collections if c.get_array() is not None]
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(600, 20), display.values)
    assert mesh.get_clim() == (0.0, 1.0)
    assert display.ax_.get_ylim() == (1_300, 0)  # the highest on top
    assert display.ax_.get_xlim() == (-10, 10)
    assert display.ax_.get_ylabel() == "genes, by measured level, highest on top"
    assert_readable(display.figure_)


def test_without_values_genes_keep_their_order_and_axes_may_be_given() -> None:
    masks, _ = made(n=5)
    figure, ax = plt.subplots()
    display = MaskHeatmapDisplay.from_predictions(masks, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is figure
    np.testing.assert_allclose(display.values, masks)
    assert ax.get_ylabel() == "genes"


@pytest.mark.parametrize("display", [MaskHeatmapDisplay, MaskProfileDisplay])
def test_what_does_not_fit_is_named(display: type) -> None:
    masks, y = made()
    with pytest.raises(ValueError, match=r"masks has shape \(90,\); expected \(n_genes, length\)"):
        display.from_predictions(masks[:, 0], y)
    with pytest.raises(ValueError, match=r"y has shape \(89,\)"):
        display.from_predictions(masks, y[1:])
    y[3] = np.nan
    with pytest.raises(ValueError, match="1 missing values"):
        display.from_predictions(masks, y)


def test_quantiles_are_counted() -> None:
    masks, y = made()
    with pytest.raises(ValueError, match="n_quantiles == 0, must be >= 1"):
        MaskProfileDisplay.from_predictions(masks, y, n_quantiles=0)
    with pytest.raises(ValueError, match="X has no genes"):
        MaskHeatmapDisplay.from_estimator(Given(), masks[:0])
