"""Predictions, training histories, fronts and comparisons as they are drawn."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn_text import assert_readable
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline

import regmask_sk.plotting
from regmask_sk import (
    BenchmarkDisplay,
    HistoryDisplay,
    PredictionDisplay,
    SparsityFrontDisplay,
)

HISTORY = pd.DataFrame(
    {
        "epoch": range(1, 13),
        "stage": ["predictor"] * 8 + ["generator"] * 3 + ["finetune"],
        "train_loss": np.linspace(1.0, 0.3, 12),
        "valid_loss": np.linspace(1.2, 0.4, 12),
        "train_kept": np.linspace(1.0, 0.2, 12),
        "valid_kept": [0.2] * 12,
        "seconds": 1.0,
    }
)

# --- predictions -------------------------------------------------------------------------------


def test_dots_scores_and_equal_axes() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=50)
    guess = 0.5 * y + rng.normal(size=50)
    display = PredictionDisplay.from_predictions(y, guess, unit="log2 TPM")
    dots, diagonal = display.ax_.lines
    np.testing.assert_array_equal(dots.get_xdata(), y)
    np.testing.assert_array_equal(dots.get_ydata(), guess)
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
    assert display.ax_.get_xlim() == display.ax_.get_ylim()
    assert display.ax_.get_ylim()[1] > max(y.max(), guess.max())
    title = display.ax_.get_title(loc="left")
    assert title.startswith("50 genes\n")
    assert f"Pearson {np.corrcoef(y, guess)[0, 1]:.3f}" in title
    assert f"R² {r2_score(y, guess):.3f}" in title
    assert display.ax_.get_ylabel() == "predicted expression (log2 TPM)"
    assert_readable(display.figure_)


def test_many_genes_are_drawn_as_their_density() -> None:
    y = np.random.default_rng(0).normal(size=2_500)
    display = PredictionDisplay.from_predictions(y, y)
    (cells,) = [c for c in display.ax_.collections if isinstance(c, PolyCollection)]
    assert cells.get_array().sum() == 2_500
    assert_readable(display.figure_)


def test_predictions_of_an_estimator_and_of_constants() -> None:
    X, y = np.arange(6.0)[:, np.newaxis], np.arange(6.0)
    display = PredictionDisplay.from_estimator(LinearRegression().fit(X, y), X, y)
    np.testing.assert_allclose(display.predicted, y, atol=1e-12)
    flat = PredictionDisplay.from_predictions(np.ones(3), np.ones(3))
    assert flat.ax_.get_xlim() == (0.5, 1.5)
    assert "Pearson nan" in flat.ax_.get_title(loc="left")
    with pytest.raises(ValueError, match="expected the same genes"):
        PredictionDisplay.from_predictions([1.0], [1.0, 2.0])


# --- histories ---------------------------------------------------------------------------------


def test_stages_are_marked_and_lines_broken_between_them() -> None:
    display = HistoryDisplay.from_history(HISTORY)
    loss, kept = display.axes_["loss"], display.axes_["kept"]
    assert display.ax_ is loss
    assert [t.get_text() for t in loss.texts] == ["predictor", "generator", "finetune"]
    assert [t.get_rotation() for t in loss.texts] == [0, 0, 90]  # where it is narrow, upright
    assert [t.get_position()[0] for t in loss.texts] == [4.5, 10.0, 12.0]
    for panel, name in ((loss, "loss"), (kept, "kept")):
        lines = [line for line in panel.lines if len(line.get_xdata())]
        assert [len(line.get_xdata()) for line in lines] == [8, 3, 1, 8, 3, 1]
        drawn = np.concatenate([line.get_ydata() for line in lines])
        expected = np.r_[HISTORY[f"train_{name}"], HISTORY[f"valid_{name}"]]
        np.testing.assert_allclose(drawn, expected)
    spans = [patch.get_x() for patch in loss.patches]
    assert spans == [8.5]  # the second stage of three
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        *("training", "validation")
    ]
    assert kept.get_xlabel() == "epoch"
    assert loss.get_ylim()[1] > 1.2 * 1.1  # room for the names
    assert_readable(display.figure_)


def test_a_stage_that_comes_again_is_marked_again() -> None:
    history = HISTORY.assign(stage=["generator"] * 4 + ["finetune"] * 4 + ["generator"] * 4)
    display = HistoryDisplay.from_history(history)
    assert [t.get_text() for t in display.ax_.texts] == ["generator", "finetune", "generator"]


def test_histories_without_stages_shares_or_validation() -> None:
    plain = HISTORY[["epoch", "train_loss", "valid_loss"]].assign(valid_loss=np.nan)
    model = SimpleNamespace(history_=plain)
    display = HistoryDisplay.from_estimator(Pipeline([("model", model)]))
    assert list(display.axes_) == ["loss"]
    lines = [line for line in display.ax_.lines if len(line.get_xdata())]
    assert len(lines) == 1
    assert display.ax_.get_xlabel() == "epoch"
    with pytest.raises(ValueError, match=r"history has 0 rows and lacks the columns \[\]"):
        HistoryDisplay.from_history(plain.iloc[:0])
    with pytest.raises(ValueError, match=r"lacks the columns \['train_loss'\]"):
        HistoryDisplay.from_history(plain[["epoch"]])


# --- fronts ------------------------------------------------------------------------------------


def test_the_front_is_what_no_other_beats_in_both() -> None:
    rng = np.random.default_rng(1)
    kept, error = rng.integers(0, 6, 40) / 10, rng.integers(0, 6, 40) / 10  # with ties
    display = SparsityFrontDisplay.from_predictions(kept, error)
    expected = [
        not any(
            k <= kept[i] and e <= error[i] and (k < kept[i] or e < error[i])
            for k, e in zip(kept, error, strict=True)
        )
        for i in range(40)
    ]
    assert display.points["on_front"].tolist() == expected
    line = next(line for line in display.ax_.lines if line.get_label() == "front")
    assert (np.diff(line.get_xdata()) >= 0).all()
    assert len(line.get_xdata()) == sum(expected)
    assert_readable(display.figure_)


def test_a_path_is_scored_on_held_out_genes() -> None:
    class Share:
        def __init__(self, share: float) -> None:
            self.share = share

        def transform(self, X: np.ndarray) -> np.ndarray:
            return np.full(X.shape, self.share)

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X[:, 0] + self.share

    X = np.random.default_rng(0).normal(size=(30, 7))
    path = [Share(0.4), Pipeline([("model", Share(0.1))])]
    display = SparsityFrontDisplay.from_estimators(path, X, X[:, 0])
    np.testing.assert_allclose(display.points["kept"], [0.4, 0.1])
    np.testing.assert_allclose(display.points["error"], [0.16, 0.01])
    assert display.points["on_front"].tolist() == [False, True]
    assert display.ax_.get_ylabel() == "held-out mean squared error"


def test_a_search_shows_its_finished_trials_and_the_choice() -> None:
    trials = pd.DataFrame(
        {
            "state": ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"],
            "kept": [0.4, 0.3, 0.2, 0.1],
            "error": [0.30, 0.9, 0.31, 0.5],
            "error_se": [0.02, np.nan, 0.03, 0.04],
            "on_front": [True, False, True, True],
        }
    )
    tuning = SimpleNamespace(trials=trials, best_number_=2)
    display = SparsityFrontDisplay.from_tuning(tuning)
    lines = {line.get_label(): line for line in display.ax_.lines}
    np.testing.assert_allclose(lines["chosen"].get_xdata(), [0.2])
    np.testing.assert_allclose(lines["lowest + 1 SE"].get_ydata(), 0.32)
    np.testing.assert_allclose(lines["front"].get_xdata(), [0.1, 0.2, 0.4])
    (trial,) = display.ax_.containers
    assert trial.get_label() == "trial"
    segments = trial.lines[2][0].get_segments()
    np.testing.assert_allclose([np.ptp(s[:, 1]) / 2 for s in segments], [0.02, 0.03, 0.04])
    assert_readable(display.figure_)


@pytest.mark.parametrize(("kept", "error"), [([], []), ([0.1], [1, 2]), ([np.nan], [1.0])])
def test_shares_and_errors_must_fit(kept: list[float], error: list[float]) -> None:
    with pytest.raises(ValueError, match="expected one finite value a model in both"):
        SparsityFrontDisplay.from_predictions(kept, error)


# --- comparisons -------------------------------------------------------------------------------


def comparison(n_folds: int) -> SimpleNamespace:
    cells = pd.DataFrame(
        [
            (name, fold, seed, base + 0.1 * fold + 0.01 * seed)
            for name, base in (("ridge", 0.5), ("regmask $x$", 0.3))
            for fold in range(n_folds)
            for seed in range(2)
        ],
        columns=["estimator", "fold", "seed", "mse"],
    ).assign(pearson=0.5)
    summary = cells.groupby("estimator")[["mse", "pearson"]].mean().sort_values("mse")
    for kind, value in (("folds", 0.07), ("seeds", 0.02)):
        summary[[f"mse_sd_{kind}", f"pearson_sd_{kind}"]] = value
    return SimpleNamespace(cells=cells, summary=lambda: summary)


@pytest.mark.parametrize(("n_folds", "spread", "word"), [(3, 0.07, "splits"), (1, 0.02, "seeds")])
def test_fits_means_and_spread(n_folds: int, spread: float, word: str) -> None:
    display = BenchmarkDisplay.from_comparison(comparison(n_folds))
    assert list(display.axes_) == ["mse", "pearson"]
    panel = display.axes_["mse"]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["regmask $x$", "ridge"]
    dots = [line for line in panel.lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in dots] == [2 * n_folds] * 2
    bars = [np.ptp(c.lines[2][0].get_segments()[0][:, 0]) / 2 for c in panel.containers]
    assert bars == pytest.approx([spread, spread])
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["one fit", f"mean ± 1 SD over {word}"]
    assert_readable(display.figure_)


def test_metrics_are_checked_and_axes_are_shared_out() -> None:
    with pytest.raises(ValueError, match=r"metrics is \['loss'\]; expected some of"):
        BenchmarkDisplay.from_comparison(comparison(2), metrics=["loss"])
    with pytest.raises(ValueError, match="metrics is"):
        BenchmarkDisplay.from_comparison(comparison(2), metrics=[])
    figure, axes = plt.subplots(1, 2)
    display = BenchmarkDisplay.from_comparison(comparison(2), ax=axes[0])
    assert display.figure_ is figure
    assert display.axes_["pearson"].get_position().x1 <= axes[1].get_position().x0


# --- all of them -------------------------------------------------------------------------------

DRAWN = {
    "HistoryDisplay": lambda: HistoryDisplay.from_history(HISTORY),
    "PredictionDisplay": lambda: PredictionDisplay.from_predictions([1.0, 2.0], [1.0, 2.0]),
    "SparsityFrontDisplay": lambda: SparsityFrontDisplay.from_predictions([0.1], [1.0]),
    "BenchmarkDisplay": lambda: BenchmarkDisplay.from_comparison(comparison(2)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_without_matplotlib_the_error_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=rf'{name} needs matplotlib.*"regmask_sk\[plot\]"'):
        DRAWN[name]()


@pytest.mark.parametrize("name", DRAWN)
def test_a_display_can_be_drawn_again(name: str) -> None:
    display = DRAWN[name]()
    ax = plt.subplots()[1]
    before = display.ax_
    assert display.plot(ax=ax) is display
    assert display.ax_ is not before
    assert display.figure_ is ax.figure


def test_every_display_has_the_words_of_scikit_learn() -> None:
    for name in regmask_sk.plotting.__all__:
        if name == "plot_locus":
            continue
        display = getattr(regmask_sk.plotting, name)
        makers = [word for word in vars(display) if word.startswith("from_")]
        assert makers, name
        assert "Examples" in display.__doc__
        assert {"ax_", "figure_"} <= set(display.__doc__.replace(",", "").split())
