"""Masks fixed from peaks: where they lie, how much they keep, and the predictor under them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SIZES, write_bigwig
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import Pipeline

from regmask_sk.baselines._peak_masks import open_peaks
from regmask_sk.baselines.peak_mask import PeakMaskRegressor
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.peaks import Peaks, call_peaks
from regmask_sk.persistence import load_model, save_model
from regmask_sk.regressor import RegMaskRegressor
from regmask_sk.windows import Windows

TINY: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 8, "max_epochs": 1, "random_state": 0,
    "device": "cpu", "dropout": 0.0,
}  # fmt: skip
CALLING: dict[str, Any] = {"bandwidth": 15, "background": (), "min_width": 10, "merge_gap": 5}
LENGTH = 200
ELEMENTS = pd.DataFrame(
    [(c, s, s + 40, k) for c, n in SIZES.items() for k, s in enumerate(range(100, n - 60, 170))],
    columns=["chrom", "start", "end", "score"],
)


class Tracks(NamedTuple):
    """Files, and what they hold by chromosome."""

    counts: Path
    inside: Path
    values: dict[str, np.ndarray]
    open: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tracks(tmp_path_factory: pytest.TempPathFactory) -> Tracks:
    """Counts that pile up in ELEMENTS, and 1 within them."""
    folder, rng = tmp_path_factory.mktemp("peaks"), np.random.default_rng(0)
    values, inside = {}, {}
    for chrom, size in SIZES.items():
        within = np.zeros(size, np.float32)
        for start, end in ELEMENTS.loc[ELEMENTS["chrom"] == chrom, ["start", "end"]].to_numpy():
            within[start:end] = 1.0
        drawn = rng.poisson(0.05 + 2.0 * within).astype(np.float32)
        values[chrom], inside[chrom] = np.where(drawn > 0, drawn, np.nan), within
    files = [write_bigwig(folder / f"{n}.bw", v) for n, v in (("counts", values), ("in", inside))]
    return Tracks(*files, values, inside)


@pytest.fixture
def windows(toy_genome: Any, tracks: Tracks) -> Windows:
    placed = TSSWindows(LENGTH, jitter=9).fit_transform(toy_genome.loci)
    placed = SequenceChannels(toy_genome.fasta).fit_transform(placed)
    return SignalChannels({"atac": tracks.counts, "inside": tracks.inside}).fit_transform(placed)


@pytest.fixture
def y(toy_genome: Any) -> np.ndarray:
    return toy_genome.loci["expression"].to_numpy()


def along(windows: Windows, by_chrom: dict[str, np.ndarray]) -> np.ndarray:
    """What windows see of values on the genome, 0 off its ends."""
    rows = []
    for row in range(len(windows)):
        chrom, start, end, *_ = windows.interval(row)
        padded = np.pad(by_chrom[chrom], LENGTH)[start + LENGTH : end + LENGTH]
        rows.append(padded[::-1] if windows.reversed[row] else padded)
    return np.nan_to_num(np.array(rows))


def with_promoter(masks: np.ndarray, promoter: slice) -> np.ndarray:
    opened = masks.copy()
    opened[:, promoter] = 1.0
    return opened


# -- regions ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["table", "bed", "narrowPeak"])
def test_masks_are_the_regions_and_the_promoter(
    windows: Windows, y: np.ndarray, tracks: Tracks, tmp_path: Path, kind: str
) -> None:
    peaks: Any = ELEMENTS
    if kind != "table":
        peaks = tmp_path / f"peaks.{kind}"
        tail = "\t.\t7.1\t3.2\t2.9\t20" if kind == "narrowPeak" else ""
        peaks.write_text(
            "".join(f"{c}\t{s}\t{e}\tpeak\t{k}{tail}\n" for c, s, e, k in ELEMENTS.to_numpy())
        )
    model = PeakMaskRegressor(peaks=peaks, **TINY).fit(windows, y)
    masks = model.transform(windows)
    assert masks.shape == (40, LENGTH)
    assert masks.dtype == np.float32
    assert model.promoter_columns_ == slice(95, 105)
    expected = with_promoter(along(windows, tracks.open), model.promoter_columns_)
    np.testing.assert_array_equal(masks, expected)
    assert model.get_feature_names_out()[[0, 100]].tolist() == ["tss-100", "tss+0"]


@pytest.mark.parametrize("reverse_complement", ["none", "augment"])
def test_masks_move_with_shifted_and_turned_windows(
    windows: Windows, y: np.ndarray, reverse_complement: str
) -> None:
    model = PeakMaskRegressor(
        peaks=ELEMENTS, reverse_complement=reverse_complement, validation_fraction=0.0, **TINY
    )
    data = model._begin(windows, y, None, None, reset=True)
    torch.manual_seed(0)
    seen = [data.train.__getitems__(list(range(40)))[0] for _ in range(3)]
    assert not torch.equal(seen[0]["x"], seen[1]["x"])
    for inputs in seen:
        inside = (inputs["x"][:, windows.channel_names.index("inside")] > 0).float().numpy()
        expected = with_promoter(inside, model.promoter_columns_)
        np.testing.assert_array_equal(inputs["mask"].numpy(), expected)


def test_a_budget_keeps_the_best_regions(windows: Windows, y: np.ndarray) -> None:
    every = PeakMaskRegressor(peaks=ELEMENTS, **TINY).fit(windows, y).transform(windows)
    model = PeakMaskRegressor(peaks=ELEMENTS, sparsity=0.2, **TINY).fit(windows, y)
    masks = model.transform(windows)
    np.testing.assert_array_equal(masks.sum(axis=1), np.minimum(every.sum(axis=1), 40))
    assert (masks <= every).all()
    assert masks[:, model.promoter_columns_].all()
    scores = np.full(LENGTH, -1)
    row = int(np.argmax(every.sum(axis=1)))
    chrom, start, end, *_ = windows.interval(row)
    for _, first, last, score in ELEMENTS[ELEMENTS["chrom"] == chrom].to_numpy():
        scores[max(first - start, 0) : max(min(last, end) - start, 0)] = score
    if windows.reversed[row]:
        scores = scores[::-1]
    kept, left = (masks[row] > 0) & (every[row] > 0), (masks[row] == 0) & (every[row] > 0)
    kept[model.promoter_columns_] = False
    assert scores[kept].min() >= scores[left].max()


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_open_peaks_are_those_of_a_loop(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 30))
    edges = sorted(data.draw(st.sets(st.integers(0, length), max_size=10)))
    bounds = list(zip(edges[::2], edges[1::2], strict=False))
    scores = [data.draw(st.sampled_from([1.0, 2.0, 3.0])) for _ in bounds]
    summits = [data.draw(st.integers(a, b - 1)) for a, b in bounds]
    first = data.draw(st.integers(0, length))
    end = data.draw(st.integers(first, length))
    most = data.draw(st.one_of(st.none(), st.integers(end - first, length)))
    opened = set(range(first, end))
    for i in sorted(range(len(bounds)), key=lambda i: (-scores[i], i)):
        for column in sorted(range(*bounds[i]), key=lambda c: (abs(c - summits[i]), c)):
            if most is None or len(opened) < most:
                opened.add(column)
    peaks = Peaks(
        *np.array(bounds, np.int64).reshape(-1, 2).T, np.array(summits, np.int64), np.array(scores)
    )
    assert set(np.flatnonzero(open_peaks(peaks, length, (first, end), most))) == opened


# -- calling ---------------------------------------------------------------------------


def test_peaks_are_called_on_raw_values(
    windows: Windows, y: np.ndarray, tracks: Tracks, toy_genome: Any
) -> None:
    model = PeakMaskRegressor(**CALLING, **TINY).fit(windows, y)
    masks = model.transform(windows)
    raw = along(windows, tracks.values)
    for mask, track in zip(masks, raw, strict=True):
        expected = np.zeros(LENGTH, np.float32)
        for start, end in call_peaks(track, **CALLING).intervals:
            expected[start:end] = 1.0
        expected[model.promoter_columns_] = 1.0
        np.testing.assert_array_equal(mask, expected)
    elements = along(windows, tracks.open)
    assert masks[elements > 0].mean() > 0.9
    assert masks[elements == 0].mean() < 0.25
    # The values that the network reads are scaled: called on these, peaks would be others.
    scaled = windows[0][windows.channel_names.index("atac")]
    assert np.abs(scaled - raw[0]).max() > 0.1
    unscaled = SignalChannels({"atac": tracks.counts}, scaling="none").fit_transform(
        TSSWindows(LENGTH).fit_transform(toy_genome.loci)
    )
    again = PeakMaskRegressor(**CALLING, **TINY).fit(unscaled, y)
    np.testing.assert_array_equal(again.transform(unscaled), masks)


def test_called_peaks_turn_with_the_window(windows: Windows, y: np.ndarray) -> None:
    model = PeakMaskRegressor(**CALLING, sparsity=0.3, **TINY).fit(windows, y)
    swapped = {"+": "-", "-": "+"}
    loci = windows.loci.assign(strand=windows.loci["strand"].map(swapped))
    opposite = Windows(loci.assign(tss=loci["tss"] + np.where(loci["strand"] == "+", 1, -1)),
                       LENGTH, windows.sources)  # fmt: skip
    np.testing.assert_array_equal(model.transform(opposite)[:, ::-1], model.transform(windows))


def test_each_cell_type_has_its_own_scale(toy_genome: Any, tracks: Tracks, tmp_path: Path) -> None:
    tenfold = {chrom: 10 * values for chrom, values in tracks.values.items()}
    files = {"a": tracks.counts, "b": write_bigwig(tmp_path / "tenfold.bw", tenfold)}
    loci = pd.concat([toy_genome.loci.assign(cell_type=name) for name in files])
    windows = SignalChannels({"atac": files}).fit_transform(TSSWindows(LENGTH).fit_transform(loci))
    masks = PeakMaskRegressor(**CALLING, **TINY).fit(windows, loci["expression"]).transform(windows)
    b = windows[40:]
    expected = [call_peaks(track, **CALLING).intervals for track in along(b, tenfold)]
    for mask, intervals in zip(masks[40:], expected, strict=True):
        opened = np.zeros(LENGTH, np.float32)
        for start, end in intervals:
            opened[start:end] = 1.0
        opened[95:105] = 1.0
        np.testing.assert_array_equal(mask, opened)
    assert not np.array_equal(masks[:40], masks[40:])  # ten times the counts, more of them unlikely


def test_a_called_mask_is_saved_and_pickled_with_its_pipeline(
    toy_genome: Any, tracks: Tracks, tmp_path: Path
) -> None:
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(LENGTH)),
            ("signal", SignalChannels({"atac": tracks.counts})),
            ("model", PeakMaskRegressor(**CALLING, n_workers=1, **TINY)),
        ]
    ).fit(loci, y)
    loaded = load_model(save_model(pipeline, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(loci), pipeline.predict(loci))
    np.testing.assert_array_equal(loaded.transform(loci), pipeline.transform(loci))


# -- the predictor ---------------------------------------------------------------------


def test_nothing_but_the_mask_is_read(windows: Windows, y: np.ndarray) -> None:
    model = PeakMaskRegressor(peaks=ELEMENTS, **TINY).fit(windows, y)
    module = model.net_.ready_module.eval()
    inputs = next(model.net_.batches(model._dataset(windows)))
    closed = (inputs["mask"] == 0).unsqueeze(1)
    with torch.no_grad():
        predicted = module(**inputs)
        blind = module(**{**inputs, "x": inputs["x"] + 5.0 * closed})
        other = module(**{**inputs, "x": inputs["x"] + 5.0 * ~closed})
    assert torch.equal(blind, predicted)
    assert not torch.equal(other, predicted)


@pytest.mark.parametrize("reverse_complement", ["ph", "ps"])
def test_predictions_do_not_change_with_the_strand(
    windows: Windows, y: np.ndarray, reverse_complement: str
) -> None:
    model = PeakMaskRegressor(
        peaks=ELEMENTS, reverse_complement=reverse_complement, **TINY
    ).fit(windows, y)  # fmt: skip
    module = model.net_.ready_module.eval()
    inputs = next(model.net_.batches(model._dataset(windows)))
    x, mask, nothing = inputs["x"], inputs["mask"], inputs["covariates"]
    turned = x[:, list(windows.complement)].flip(2)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, nothing, mask=mask),
            module(turned, nothing, mask=mask.flip(1)),
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip


def test_it_learns_what_peaks_tell() -> None:
    rng = np.random.default_rng(0)
    height = rng.gamma(4.0, 1.0, 240)
    X = rng.poisson(0.1, (240, 2, 120)).astype(np.float32)
    places = rng.integers(0, 100, 240)
    for row, place in enumerate(places):
        X[row, 0, place : place + 20] += rng.poisson(height[row], 20)
    model = PeakMaskRegressor(
        track=0, **CALLING, **{**TINY, "max_epochs": 25, "learning_rate": 0.02},
        validation_fraction=0.0, ema_decay=0.9,
    ).fit(X[:180], height[:180])  # fmt: skip
    assert model.score(X[180:], height[180:]) > 0.5
    assert 0.1 < model.transform(X).mean() < 0.4


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"track": "dnase"}, r"track='dnase' is not among the tracks of X, \['atac', 'inside'\]"),
        ({"track": "A"}, r"track='A' is not among the tracks"),
        ({"track": 4}, r"track=4 is not among the tracks"),
        ({"bandwidth": 0}, r"bandwidth is 0"),
        ({"sparsity": 1.5}, r"sparsity == 1.5"),
        ({"sparsity": 0.01, "promoter_length": 20}, r"promoter_length=20 is 10.0% of the window"),
        ({"peaks": ELEMENTS.drop(columns="score"), "sparsity": 0.2}, r"peaks has no column score"),
        ({"peaks": ELEMENTS.assign(score="."), "sparsity": 0.2}, r"first '\.'"),
        ({"peaks": ELEMENTS.assign(chrom="7")}, r"peaks shares no chromosome with X"),
        ({"reverse_complement": "ph", "promoter_length": 3}, r"a promoter window in the middle"),
    ],
)
def test_what_does_not_fit_is_refused(
    windows: Windows, y: np.ndarray, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PeakMaskRegressor(**{**TINY, **parameters}).fit(windows, y)


def test_a_signed_track_is_refused(toy_genome: Any, y: np.ndarray) -> None:
    placed = TSSWindows(LENGTH).fit_transform(toy_genome.loci)
    for scaling, message in (("robust", "track='atac' has negative values"), ("none", "down to -")):
        signal = SignalChannels({"atac": toy_genome.tracks["ratio"]}, scaling=scaling)
        with pytest.raises(ValueError, match=message):
            PeakMaskRegressor(**TINY).fit(signal.fit_transform(placed), y)


def test_arrays_have_channels_and_no_regions() -> None:
    X, y = np.ones((20, 2, 64), np.float32), np.arange(20.0)
    with pytest.raises(ValueError, match=r"track='atac', but X is an array of 2 channels"):
        PeakMaskRegressor(**TINY).fit(X, y)
    with pytest.raises(ValueError, match=r"peaks are given in coordinates of the genome"):
        PeakMaskRegressor(peaks=ELEMENTS, **TINY).fit(X, y)
    with pytest.raises(ValueError, match=r"expected counts, which are not negative"):
        PeakMaskRegressor(track=1, **TINY).fit(-X, y)


def test_only_a_peak_mask_may_have_no_budget() -> None:
    with pytest.raises(TypeError, match="sparsity"):
        RegMaskRegressor(sparsity=None).fit(np.ones((20, 2, 64)), np.arange(20.0))
