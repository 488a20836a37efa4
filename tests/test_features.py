"""Tests of regmask_sk.features."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SIZES, ToyGenome, write_bigwig, write_fasta
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_validate
from sklearn.pipeline import Pipeline

from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.genome import FastaReader
from regmask_sk.window_cache import WindowCache
from regmask_sk.windows import Windows


def pipeline(toy_genome: ToyGenome, **parameters: Any) -> Pipeline:
    steps = [
        ("windows", TSSWindows(100, jitter=7)),
        ("sequence", SequenceChannels(toy_genome.bgzipped)),
        ("signal", SignalChannels(toy_genome.tracks, random_state=0)),
        ("cache", WindowCache(dtype="float32")),
    ]
    return Pipeline(steps).set_params(**parameters)


def n_reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Count from now on how often a FASTA is read."""
    reads: list[Any] = []
    read = FastaReader.codes

    def counted(self: FastaReader, *interval: Any) -> Any:
        reads.append(interval)
        return read(self, *interval)

    monkeypatch.setattr(FastaReader, "codes", counted)
    return reads


# -- in series -------------------------------------------------------------------------------


def test_channels_in_series(toy_genome: ToyGenome) -> None:
    windows = pipeline(toy_genome).fit_transform(toy_genome.loci)
    assert windows.shape == (40, 6, 100)
    assert windows.channel_names == ("A", "C", "G", "T", "counts", "ratio")
    sequence, signal = windows[0][:4], windows[0][4:]
    assert set(np.unique(sequence)) == {0.0, 1.0}
    assert np.isfinite(signal).all()


def test_each_alone_and_in_the_other_order(toy_genome: ToyGenome) -> None:
    loci = toy_genome.loci
    both = pipeline(toy_genome, cache="passthrough").fit_transform(loci)
    turned = Pipeline([pipeline(toy_genome).steps[i] for i in (0, 2, 1)]).fit_transform(loci)
    assert turned.channel_names == ("counts", "ratio", "A", "C", "G", "T")
    np.testing.assert_array_equal(turned[5], both[5][[4, 5, 0, 1, 2, 3]])
    alone = pipeline(toy_genome, sequence="passthrough").fit_transform(loci)
    np.testing.assert_array_equal(alone[5], both[5][4:])


def test_ablation_by_set_params(toy_genome: ToyGenome) -> None:
    windows = pipeline(toy_genome, signal="passthrough").fit_transform(toy_genome.loci)
    assert windows.channel_names == ("A", "C", "G", "T")


@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_set_output_leaves_windows_alone(toy_genome: ToyGenome, output: str) -> None:
    with config_context(transform_output=output):
        made = pipeline(toy_genome).fit_transform(toy_genome.loci)
    assert isinstance(made, Windows)
    made = pipeline(toy_genome).set_output(transform=output).fit_transform(toy_genome.loci)
    assert isinstance(made, Windows)


def test_clone_parameters_and_pickle(toy_genome: ToyGenome) -> None:
    pipe = pipeline(toy_genome)
    for step in pipe.named_steps.values():
        again = clone(step)
        assert again.get_params() == step.get_params()
        assert vars(again) == again.get_params(deep=False)  # __init__ only stores
    windows = pipe.fit_transform(toy_genome.loci)
    stored = pickle.dumps(pipe)
    assert len(stored) < 10_000
    again = pickle.loads(stored).transform(toy_genome.loci)
    np.testing.assert_array_equal(again[3], windows[3])


@pytest.mark.parametrize("step", ["sequence", "signal", "cache"])
def test_input_must_be_windows(toy_genome: ToyGenome, step: str) -> None:
    transformer = pipeline(toy_genome).named_steps[step]
    with pytest.raises(TypeError, match=r"X is a DataFrame; .* expects Windows\. Put TSS"):
        transformer.fit(toy_genome.loci)


def test_tss_windows_checks_loci(toy_genome: ToyGenome) -> None:
    with pytest.raises(ValueError, match="no column strand"):
        TSSWindows(100).fit(toy_genome.loci.drop(columns="strand"))
    with pytest.raises(ValueError, match="length is 0"):
        TSSWindows(0).fit(toy_genome.loci)
    with pytest.raises(TypeError, match="loci is a ndarray"):
        TSSWindows(10).fit(toy_genome.loci.to_numpy())


class MeanRegressor(RegressorMixin, BaseEstimator):
    """Predicts from the mean of the last channel, row by row, and remembers its training rows."""

    def fit(self, X: Windows, y: Any) -> MeanRegressor:
        assert isinstance(X, Windows)
        self.genes_ = set(X.loci.index)
        self.shift_ = float(np.mean(y)) - np.mean([row[-1].mean() for row in X])
        return self

    def predict(self, X: Windows) -> np.ndarray:
        assert self.genes_.isdisjoint(X.loci.index)
        return np.array([X[i][-1].mean() for i in range(len(X))]) + self.shift_


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cross_validation_by_chromosome(toy_genome: ToyGenome, n_jobs: int, tmp_path: Path) -> None:
    loci = toy_genome.loci
    pipe = pipeline(toy_genome, cache__path=tmp_path)
    pipe.steps.append(("model", MeanRegressor()))
    options = {"groups": loci["chrom"], "cv": GroupKFold(4), "n_jobs": n_jobs}
    scores = cross_validate(pipe, loci, loci["expression"], error_score="raise", **options)
    assert len(scores["test_score"]) == 4
    predicted = cross_val_predict(pipe, loci, loci["expression"], **options)
    assert np.isfinite(predicted).all()


def test_cross_validation_on_windows_themselves(toy_genome: ToyGenome) -> None:
    windows = pipeline(toy_genome).fit_transform(toy_genome.loci)
    scores = cross_validate(
        MeanRegressor(),
        windows,
        toy_genome.loci["expression"],
        groups=toy_genome.loci["chrom"],
        cv=GroupKFold(2),
        error_score="raise",
    )
    assert len(scores["test_score"]) == 2


# -- chromosomes and files -------------------------------------------------------------------


def test_mismatched_names_are_an_error_and_an_alias_resolves_them(toy_genome: ToyGenome) -> None:
    loci = toy_genome.loci.assign(chrom=toy_genome.loci["chrom"].str.removeprefix("chr"))
    with pytest.raises(ValueError, match=r"'1', '2'.*'chr1', 'chr2'.*chrom_alias"):
        pipeline(toy_genome).fit(loci)
    alias = {str(i): f"chr{i}" for i in range(1, 5)}
    with pytest.raises(ValueError, match=r"bigWig .*chrom_alias"):
        pipeline(toy_genome, sequence__chrom_alias=alias).fit(loci)
    pipe = pipeline(toy_genome, sequence__chrom_alias=alias, signal__chrom_alias=alias)
    expected = pipeline(toy_genome).fit_transform(toy_genome.loci)
    np.testing.assert_array_equal(pipe.fit_transform(loci)[7], expected[7])


def test_chromosomes_are_checked_at_transform_too(toy_genome: ToyGenome) -> None:
    pipe = pipeline(toy_genome).fit(toy_genome.loci)
    with pytest.raises(ValueError, match="'chr9'"):
        pipe.transform(toy_genome.loci.assign(chrom="chr9"))
    with pytest.raises(ValueError, match=r"40 genes lies beyond.*'gene00', 'gene01'"):
        pipe.transform(toy_genome.loci.assign(tss=10**6))


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_tracks_of_another_assembly(
    toy_genome: ToyGenome, tmp_path: Path, order: tuple[int, ...]
) -> None:
    other = {chrom: np.ones(size + 1) for chrom, size in SIZES.items()}
    tracks = {"x": write_bigwig(tmp_path / "x.bw", other)}
    steps = pipeline(toy_genome, signal__tracks=tracks).steps
    with pytest.raises(ValueError, match="two assemblies"):
        Pipeline([steps[i] for i in order]).fit(toy_genome.loci)


def test_track_of_one_chromosome(toy_genome: ToyGenome, tmp_path: Path) -> None:
    path = write_bigwig(tmp_path / "one.bw", {"chr1": np.arange(1, 3_001.0)})
    pipe = pipeline(toy_genome, signal__tracks={"one": path}, signal__missing="mask")
    with pytest.warns(UserWarning, match=r"3 of the 4 chromosomes .*one\.bw"):
        windows = pipe.fit_transform(toy_genome.loci)
    covered = windows.to_numpy()[:, -1].mean(axis=1)
    assert (covered[:10] > 0.5).all()
    assert (covered[10:] == 0).all()
    elsewhere = toy_genome.loci[toy_genome.loci["chrom"] != "chr1"]
    with pytest.raises(ValueError, match=r"3 of the 3 chromosomes .*one\.bw"):
        pipe.fit(elsewhere)
    with pytest.raises(ValueError, match="3 of the 4"):
        pipe.set_params(signal__missing="error").fit(toy_genome.loci)


def test_missing_files(toy_genome: ToyGenome, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.fa"):
        pipeline(toy_genome, sequence__fasta=tmp_path / "no.fa").fit(toy_genome.loci)
    tracks = {"x": tmp_path / "no.bw"}
    with pytest.raises(FileNotFoundError, match=r"no\.bw"):
        pipeline(toy_genome, signal__tracks=tracks).fit(toy_genome.loci)


# -- SignalChannels --------------------------------------------------------------------------


def scaled(
    toy_genome: ToyGenome, folder: Path, values: dict[str, np.ndarray], **options: Any
) -> tuple[SignalChannels, Windows]:
    tracks = {"x": write_bigwig(folder / "x.bw", values)}
    windows = Windows(toy_genome.loci, 200)
    signal = SignalChannels(tracks, **options)
    return signal, signal.fit_transform(windows)


def all_chroms(make: Any) -> dict[str, np.ndarray]:
    return {chrom: make(size) for chrom, size in SIZES.items()}


@pytest.mark.parametrize("unit", [0.001, 1, 1e6])
@pytest.mark.parametrize("stored", [True, False], ids=["zeros stored", "zeros not stored"])
def test_robust_scale_of_sparse_counts(
    toy_genome: ToyGenome, tmp_path: Path, stored: bool, unit: float
) -> None:
    rng = np.random.default_rng(0)

    def make(size: int) -> np.ndarray:
        values = np.where(rng.random(size) < 0.02, rng.integers(1, 6, size) * unit, 0.0)
        values[values > 4.9 * unit] *= 1e4  # wild peaks
        return values if stored else np.where(values == 0, np.nan, values)

    signal, windows = scaled(toy_genome, tmp_path, all_chroms(make))
    scale = signal.scales_["x"]
    assert scale["center"] == 0
    assert scale["scale"] == pytest.approx(3 * unit)
    out = windows.to_numpy()
    assert out.min() == 0
    assert out.max() < 12


def test_robust_scale_of_binned_log_ratios(toy_genome: ToyGenome, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def make(size: int) -> np.ndarray:
        values = np.repeat(rng.normal(-3, 0.5, -(-size // 100)), 100)[:size]
        values[:100] = np.inf  # nothing divided by something
        return values

    signal, windows = scaled(toy_genome, tmp_path, all_chroms(make))
    assert signal.scales_["x"]["center"] == pytest.approx(-3, abs=0.3)
    assert signal.scales_["x"]["scale"] == pytest.approx(0.34, abs=0.12)
    out = windows.to_numpy()
    assert abs(np.median(out)) < 0.3
    assert out.min() < -1
    assert np.isfinite(out).all()


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0])
def test_constant_track_warns(toy_genome: ToyGenome, tmp_path: Path, value: float) -> None:
    if value == 5:  # not zero: a distance from 0, so a scale
        signal, windows = scaled(toy_genome, tmp_path, all_chroms(lambda n: np.full(n, value)))
        assert signal.scales_["x"] == {"center": 0.0, "scale": 5.0}
    else:
        with pytest.warns(UserWarning, match=rf"'x' .*x\.bw\) is {value:g} wherever"):
            _, windows = scaled(toy_genome, tmp_path, all_chroms(lambda n: np.full(n, value)))
    assert np.isfinite(windows.to_numpy()).all()


def test_track_without_data(toy_genome: ToyGenome, tmp_path: Path) -> None:
    def make(size: int) -> np.ndarray:
        return np.where(np.arange(size) < size - 1, np.nan, 1.0)

    loci = toy_genome.loci.assign(tss=100)
    tracks = {"x": write_bigwig(tmp_path / "x.bw", all_chroms(make))}
    with pytest.raises(ValueError, match=r"'x' .*x\.bw\) has no value in any of the 40 windows"):
        SignalChannels(tracks).fit(Windows(loci, 200))
    assert SignalChannels(tracks, scaling="none").fit(Windows(loci, 200)).scales_ is None


def test_rare_signal_is_looked_for_beyond_the_sample(toy_genome: ToyGenome, tmp_path: Path) -> None:
    values = all_chroms(np.zeros)
    gene = toy_genome.loci.iloc[17]
    values[gene["chrom"]][gene["tss"]] = 7
    signal, _ = scaled(toy_genome, tmp_path, values, n_scaling_windows=1, random_state=0)
    assert signal.scales_["x"]["scale"] == 7


def test_scale_is_learned_from_the_rows_of_fit_only(toy_genome: ToyGenome, tmp_path: Path) -> None:
    values = {chrom: np.full(size, 10.0**i) for i, (chrom, size) in enumerate(SIZES.items())}
    tracks = {"x": write_bigwig(tmp_path / "x.bw", values)}
    windows = Windows(toy_genome.loci, 50)
    for i, chrom in enumerate(SIZES):
        rows = (toy_genome.loci["chrom"] == chrom).to_numpy()
        signal = SignalChannels(tracks).fit(windows[rows])
        assert signal.scales_["x"]["scale"] == 10.0**i
        signal.transform(windows)
        assert signal.scales_["x"]["scale"] == 10.0**i


def test_sample_depends_on_random_state(toy_genome: ToyGenome) -> None:
    windows = Windows(toy_genome.loci, 500)

    def scales(seed: int) -> dict[str, Any]:
        signal = SignalChannels(toy_genome.tracks, n_scaling_windows=3, random_state=seed)
        return signal.fit(windows).scales_

    assert scales(0) == scales(0)
    assert scales(0) != scales(1)


def test_values_are_scaled_as_stated(toy_genome: ToyGenome) -> None:
    windows = Windows(toy_genome.loci, 80)
    raw = SignalChannels(toy_genome.tracks, scaling="none").fit_transform(windows)
    signal = SignalChannels(toy_genome.tracks).fit(windows)
    out = signal.transform(windows).to_numpy()
    covered = SignalChannels(toy_genome.tracks, missing="mask").fit_transform(windows)
    mask = covered.to_numpy()[:, 2:]
    for channel, name in enumerate(toy_genome.tracks):
        scale = signal.scales_[name]
        values = raw.to_numpy()[:, channel].astype(float)
        expected = np.arcsinh((values - scale["center"]) / scale["scale"]) * mask[:, channel]
        np.testing.assert_allclose(out[:, channel], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(covered.to_numpy()[:, :2], out)


def test_missing_bases(toy_genome: ToyGenome) -> None:
    loci = toy_genome.loci.iloc[:1].assign(tss=0, strand="+")
    windows = Windows(loci, 100)
    masked = SignalChannels(toy_genome.tracks, scaling="none", missing="mask")
    row = masked.fit_transform(windows)[0]
    expected = np.concatenate([np.zeros(50), ~np.isnan(toy_genome.values["counts"]["chr1"][:50])])
    np.testing.assert_array_equal(row[2], expected)
    with pytest.raises(ValueError, match=r"'counts' .* has no value for \d+ bases of chr1:-50-50"):
        SignalChannels(toy_genome.tracks, missing="error").fit_transform(windows)[0]
    ratio = {"ratio": toy_genome.tracks["ratio"]}
    off = SignalChannels(ratio, scaling="none", missing="error").fit_transform(windows)[0]
    np.testing.assert_array_equal(off[0, :50], 0)  # off the chromosome is no hole
    np.testing.assert_array_equal(off[0, 50:], toy_genome.values["ratio"]["chr1"][:50])


def test_blacklisted_bases_have_no_value(toy_genome: ToyGenome, tmp_path: Path) -> None:
    bed = tmp_path / "black.bed"
    bed.write_text("chr1\t0\t20\nchr1\t10\t15\nchr1\t90\t400\nchr2\t0\t5\n")
    loci = toy_genome.loci.iloc[:2].assign(chrom="chr1", tss=50, strand=["+", "-"])
    ratio = {"ratio": toy_genome.tracks["ratio"]}
    options = {"scaling": "none", "missing": "mask", "blacklist": bed}
    for length in (60, 200, 4):
        windows = SignalChannels(ratio, **options).fit_transform(Windows(loci, length))
        for row, strand in enumerate(loci["strand"]):
            columns = np.arange(length) - length // 2
            position = 50 + columns if strand == "+" else 50 - columns
            open_ = (position >= 20) & (position < 90)
            np.testing.assert_array_equal(windows[row][1], open_)
            assert not windows[row][0][~open_].any()
    bed.write_text("1\t0\t20\n")
    with pytest.raises(ValueError, match=r"blacklist .* shares no chromosome with the tracks"):
        SignalChannels(ratio, **options).fit(Windows(loci, 60))


def test_tracks_by_cell_type(toy_genome: ToyGenome, tmp_path: Path) -> None:
    paths = {
        cell: write_bigwig(tmp_path / f"{cell}.bw", all_chroms(lambda n, v=value: np.full(n, v)))
        for cell, value in (("liver", 2.0), ("brain", 30.0))
    }
    loci = toy_genome.loci.assign(cell_type=["liver", "brain"] * 20)
    tracks = {"x": paths, "ratio": toy_genome.tracks["ratio"]}
    windows = SignalChannels(tracks, scaling="none").fit_transform(Windows(loci, 2))
    assert windows.interval(1).cell_type == "brain"
    assert [windows[i][0, 1] for i in range(4)] == [2, 30, 2, 30]
    signal = SignalChannels(tracks).fit(Windows(loci, 2))
    assert {cell: scale["scale"] for cell, scale in signal.scales_["x"].items()} == {
        "liver": 2, "brain": 30,
    }  # fmt: skip
    assert set(signal.scales_["ratio"]) == {"center", "scale"}
    cached = WindowCache().fit_transform(signal.transform(Windows(loci, 2)))
    assert cached[1][0, 1] == pytest.approx(np.arcsinh(1))

    with pytest.raises(ValueError, match="no column cell_type; their columns are"):
        SignalChannels(tracks).fit(Windows(toy_genome.loci, 2))
    with pytest.raises(
        ValueError, match=r"no file.* for cell_type 'lung'; it has 'liver', 'brain'"
    ):
        signal.transform(Windows(loci.assign(cell_type="lung"), 2))
    with pytest.raises(ValueError, match="for cell_type None"):
        signal.transform(Windows(loci.assign(cell_type=np.nan), 2))
    liver = SignalChannels(tracks).fit(Windows(loci[loci["cell_type"] == "liver"], 2))
    with pytest.raises(ValueError, match="no rows in fit, for cell_type 'brain'"):
        liver.transform(Windows(loci, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "log"}, r"scaling is 'log'; expected one of \('robust', 'none'\)"),
        ({"missing": "drop"}, "missing is 'drop'"),
        ({"n_scaling_windows": 0}, "n_scaling_windows is 0"),
        ({"tracks": {}}, "tracks is {}; expected a dict"),
        ({"tracks": ["a.bw"]}, "expected a dict"),
        ({"tracks": {1: "a.bw"}}, "key 1; expected a channel name"),
        ({"tracks": {"x": {}}}, "track 'x' is {}"),
    ],
)
def test_wrong_parameters(toy_genome: ToyGenome, options: Any, message: str) -> None:
    signal = SignalChannels(toy_genome.tracks).set_params(**options)
    with pytest.raises(ValueError, match=message):
        signal.fit(Windows(toy_genome.loci, 10))


def test_names_are_unique_across_sources(toy_genome: ToyGenome) -> None:
    tracks = {"A": toy_genome.tracks["ratio"]}
    with pytest.raises(ValueError, match=r"channels \['A'\] occur more than once"):
        pipeline(toy_genome, signal__tracks=tracks).fit(toy_genome.loci)


def test_tracks_may_move_but_not_change_names(toy_genome: ToyGenome, tmp_path: Path) -> None:
    signal = SignalChannels(toy_genome.tracks).fit(Windows(toy_genome.loci, 10))
    moved = {}
    for name, path in toy_genome.tracks.items():
        moved[name] = tmp_path / f"{name}.moved"
        moved[name].write_bytes(path.read_bytes())
    expected = signal.transform(Windows(toy_genome.loci, 10))[2]
    signal.set_params(tracks=moved)
    np.testing.assert_array_equal(signal.transform(Windows(toy_genome.loci, 10))[2], expected)
    signal.set_params(tracks={"other": moved["ratio"]})
    with pytest.raises(ValueError, match=r"tracks are \['other'\]; fit has learned .*'counts'"):
        signal.transform(Windows(toy_genome.loci, 10))


# -- WindowCache -----------------------------------------------------------------------------


@pytest.fixture(params=["memory", "folder"])
def cache_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "cache" if request.param == "folder" else None


def test_cache_gives_the_same_windows(toy_genome: ToyGenome, cache_path: Path | None) -> None:
    for missing in ("zero", "mask"):
        pipe = pipeline(toy_genome, cache__path=cache_path, signal__missing=missing)
        cached = pipe.fit_transform(toy_genome.loci)
        plain = pipe[:-1].transform(toy_genome.loci)
        for row in range(40):
            for shift in (-9, -7, -1, 0, 3, 7, 8):  # beyond the jitter too
                np.testing.assert_array_equal(cached.read(row, shift), plain.read(row, shift))
        some = cached[[7, 3]]
        np.testing.assert_array_equal(some[0], plain[7])


def test_cached_rows_are_not_read_again(
    toy_genome: ToyGenome, cache_path: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = n_reads(monkeypatch)
    pipe = pipeline(toy_genome, cache__path=cache_path).fit(toy_genome.loci.iloc[:30])
    first = len(reads)
    # one more to know the size; merged, by chromosome
    assert first == 31 if cache_path is None else 4 <= first < 30
    loci = toy_genome.loci.iloc[::-1]
    windows = pipe.transform(loci)
    after = len(reads)
    copies = [row.copy() for row in windows]
    assert len(reads) == (first + 10 if cache_path is None else after)
    after = len(reads)
    again = pipe.transform(loci)
    assert all(np.array_equal(*pair) for pair in zip(again, copies, strict=True))
    assert len(reads) == after
    forward = int(np.flatnonzero(loci["strand"] == "+")[0])
    with pytest.raises(ValueError, match="read-only"):
        windows.store.row(windows, forward)[0][:] = 1  # type: ignore[union-attr]


def test_rows_are_known_by_place_strand_and_cell_type(
    toy_genome: ToyGenome, cache_path: Path | None, tmp_path: Path
) -> None:
    loci = toy_genome.loci.iloc[[5, 5, 5]].assign(strand=["+", "-", "+"], cell_type=["a", "a", "b"])
    values = {
        cell: all_chroms(lambda n, v=v: np.full(n, v)) for cell, v in (("a", 1.0), ("b", 2.0))
    }
    tracks = {"x": {c: write_bigwig(tmp_path / f"{c}.bw", values[c]) for c in "ab"}}
    pipe = pipeline(
        toy_genome, cache__path=cache_path, signal__tracks=tracks, signal__scaling="none"
    )
    rows = list(pipe.fit_transform(loci))
    np.testing.assert_array_equal(rows[0][:4, 1:], rows[1][3::-1, :0:-1])
    np.testing.assert_array_equal(rows[0][:4], rows[2][:4])
    assert rows[0][4].max() == 1
    assert rows[2][4].max() == 2


def test_new_scales_are_not_mixed_with_old_rows(
    toy_genome: ToyGenome, cache_path: Path | None
) -> None:
    pipe = pipeline(toy_genome, cache__path=cache_path)
    for part in (slice(0, 10), slice(20, 30)):
        rows = toy_genome.loci.iloc[part]
        cached = pipe.fit_transform(rows)
        plain = pipe[:-1].transform(rows)
        for row in range(10):
            np.testing.assert_array_equal(cached[row], plain[row])


def test_memory_is_left_behind(toy_genome: ToyGenome) -> None:
    pipe = pipeline(toy_genome, windows__length=2_000)
    windows = pipe.fit_transform(toy_genome.loci)
    assert windows.store.nbytes > 300_000  # type: ignore[union-attr]
    for kept in (pipe, windows):
        assert len(pickle.dumps(kept)) < 20_000
    copy = pickle.loads(pickle.dumps(windows))
    assert len(copy.store) == 0
    np.testing.assert_array_equal(copy[3], windows[3])
    assert len(copy.store) == 1  # filled again as it is read
    assert not hasattr(clone(pipe).named_steps["cache"], "_kept")


def test_max_bytes(toy_genome: ToyGenome) -> None:
    with pytest.raises(ValueError, match=r"40 windows would take .* max_bytes is 5000"):
        pipeline(toy_genome, cache__max_bytes=5_000).fit(toy_genome.loci)
    pipe = pipeline(toy_genome, cache__max_bytes=5_000).fit(toy_genome.loci.iloc[:4])
    windows = pipe.transform(toy_genome.loci)
    expected = pipe[:-1].transform(toy_genome.loci)
    for row in range(40):
        np.testing.assert_array_equal(windows[row], expected[row])
    assert windows.store.nbytes <= 5_000  # type: ignore[union-attr]


def test_channels_appended_after_the_cache(toy_genome: ToyGenome, cache_path: Path | None) -> None:
    steps = dict(pipeline(toy_genome, cache__path=cache_path).steps)
    windows = steps["sequence"].fit_transform(steps["windows"].fit_transform(toy_genome.loci))
    cached = steps["cache"].fit_transform(windows)
    later = steps["signal"].fit_transform(cached)
    plain = steps["signal"].fit_transform(windows)
    for made in (later, pickle.loads(pickle.dumps(later))):
        for row in (0, 20):
            np.testing.assert_array_equal(made.read(row, 3), plain.read(row, 3))


def test_cache_belongs_to_a_length(toy_genome: ToyGenome) -> None:
    windows = pipeline(toy_genome).fit_transform(toy_genome.loci)
    with pytest.raises(ValueError, match="store holds windows"):
        replace(windows, length=50)
    assert replace(windows, length=50, store=None)[0].shape == (6, 50)
    copy = pickle.loads(pickle.dumps(replace(windows, jitter=0)))
    np.testing.assert_array_equal(copy.read(5, 7), windows.read(5, 7))


def change(path: Path, text: str) -> None:
    path.write_text(text)
    Path(f"{path}.fai").unlink(missing_ok=True)
    os.utime(path, ns=(0, time.time_ns()))


def test_changed_file_is_read_anew(tmp_path: Path, cache_path: Path | None) -> None:
    fasta = tmp_path / "genome.fa"
    change(fasta, ">c\n" + "A" * 100 + "\n")
    loci = pd.DataFrame({"chrom": ["c"], "tss": [50], "strand": ["+"]}, index=["g"])
    pipe = Pipeline(
        [
            ("windows", TSSWindows(10)),
            ("sequence", SequenceChannels(fasta)),
            ("cache", WindowCache(cache_path)),
        ]
    )
    assert pipe.fit_transform(loci)[0].argmax(axis=0).tolist() == [0] * 10
    change(fasta, ">c\n" + "G" * 100 + "\n")
    assert pipe.transform(loci)[0].argmax(axis=0).tolist() == [2] * 10
    assert pipe.fit_transform(loci)[0].argmax(axis=0).tolist() == [2] * 10
    assert clone(pipe).fit_transform(loci)[0].argmax(axis=0).tolist() == [2] * 10


def test_files_are_kept_once_whatever_is_made_of_them(
    toy_genome: ToyGenome, tmp_path: Path
) -> None:
    def kept(**parameters: Any) -> list[str]:
        pipeline(toy_genome, cache__path=tmp_path, **parameters).fit(toy_genome.loci)
        return sorted(path.name[:-33] for path in tmp_path.glob("*-*"))

    first = ["counts.bw", "genome.fa.gz", "ratio.bw"]
    assert kept() == first
    assert kept(signal__missing="mask", signal__random_state=3) == first  # applied when read
    assert kept(windows__length=50) == first
    assert kept(windows__jitter=1) == first
    assert kept(windows__stranded=False, windows__length=98) == first
    assert kept(signal="passthrough") == first
    assert len(list(tmp_path.glob("*/part-*"))) == 3  # and nothing was written again
    assert kept(windows__length=300) == first
    assert len(list(tmp_path.glob("*/part-*"))) == 6  # what the longer ones add
    alias = {"chrA": "nowhere"}
    more = ["counts.bw", "genome.fa.gz", "genome.fa.gz", "ratio.bw"]
    assert kept(sequence__chrom_alias=alias) == more
    assert kept(cache__dtype="float16") == [more[0], *more, more[-1]]  # bases are one byte anyway


def test_folder_serves_later_runs(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pipeline(toy_genome, cache__path=tmp_path).fit_transform(toy_genome.loci)
    reads = n_reads(monkeypatch)
    later = pipeline(toy_genome, cache__path=tmp_path).fit_transform(toy_genome.loci)
    np.testing.assert_array_equal(later[11], first[11])
    copy = pickle.loads(pickle.dumps(later))
    np.testing.assert_array_equal(copy[11], first[11])
    assert not reads
    (part,) = tmp_path.glob("genome.fa.gz-*/*")
    assert {path.name for path in part.iterdir()} == {"values.npy", "segments.json"}
    assert np.load(part / "values.npy").dtype == np.uint8


def test_interrupted_writer_leaves_nothing_behind(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipeline(toy_genome, cache__path=tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipe.fit(toy_genome.loci)
    assert list(tmp_path.glob("*/*")) == []
    assert len(pipe.fit_transform(toy_genome.loci)[0]) == 6


def test_damaged_and_vanished_folders(toy_genome: ToyGenome, tmp_path: Path) -> None:
    pipe = pipeline(toy_genome, cache__path=tmp_path / "c")
    expected = pipe.fit_transform(toy_genome.loci)[0]
    (part,) = (tmp_path / "c").glob("counts*/part-*")
    content = (part / "values.npy").read_bytes()
    for wrong in (b"\x93NUMPY", content[:-1], content[:-400]):
        (part / "values.npy").write_bytes(wrong)
        with pytest.raises(ValueError, match=r"part-\w+ of WindowCache is damaged.*Delete this"):
            clone(pipe).fit(toy_genome.loci)
    stored = pickle.dumps(pipe.transform(toy_genome.loci))
    for file in part.iterdir():
        file.unlink()
    part.rmdir()
    np.testing.assert_array_equal(pickle.loads(stored)[0], expected)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file' of WindowCache cannot be written to .*Give the"):
        pipe.set_params(cache__path=tmp_path / "file").fit(toy_genome.loci)
    with pytest.raises(ValueError, match="cannot be written to"):
        pipe.set_params(cache__path=tmp_path / "file" / "below").fit(toy_genome.loci)


def test_parameters_of_the_cache_are_checked(toy_genome: ToyGenome) -> None:
    for name, value in (
        ("dtype", "float64"), ("max_bytes", -1), ("max_bytes", 1e9), ("max_bytes", True),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is {value!r}; expected"):
            pipeline(toy_genome, **{f"cache__{name}": value}).fit(toy_genome.loci)


def test_estimate_of_memory(toy_genome: ToyGenome) -> None:
    pipe = pipeline(toy_genome)
    windows = pipe[:-1].fit_transform(toy_genome.loci.iloc[[0, 1, 2, 2]])
    each = (100 + 2 * 7) * (1 + 2 * 4)
    cache = WindowCache()
    assert cache.estimate_bytes(windows) == (3 * each, 3 * each, 3 * each)
    cache.fit(windows[:2])
    assert cache.estimate_bytes(windows) == (3 * each, each, 3 * each)
    assert cache.estimate_bytes(windows[:0]) == (0, 0, 0)


def _fill(arguments: tuple[ToyGenome, Path, slice]) -> list[float]:
    toy_genome, path, part = arguments
    pipe = pipeline(toy_genome, cache__path=path, signal__scaling="none")
    windows = pipe.fit(toy_genome.loci.iloc[part]).transform(toy_genome.loci)
    return [float(windows.read(row, 5).sum()) for row in range(40)]


def test_concurrent_processes(toy_genome: ToyGenome, tmp_path: Path) -> None:
    pipe = pipeline(toy_genome, cache="passthrough", signal__scaling="none")
    plain = pipe.fit_transform(toy_genome.loci)
    expected = [float(plain.read(row, 5).sum()) for row in range(40)]
    parts = [slice(None), slice(None), slice(0, 30), slice(10, 40), slice(None), slice(5, 6)] * 2
    with get_context("spawn").Pool(3) as pool:
        results = pool.map(_fill, [(toy_genome, tmp_path, part) for part in parts], chunksize=1)
    assert all(result == expected for result in results)
    assert not list(tmp_path.glob("*/unfinished-*"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_read_a_cache(toy_genome: ToyGenome, cache_path: Path | None) -> None:
    windows = pipeline(toy_genome, cache__path=cache_path).fit_transform(toy_genome.loci)
    expected = windows.to_numpy()

    def work() -> None:
        for row in range(40):
            if not np.array_equal(windows.read(row), expected[row]):
                os._exit(1)

    workers = [get_context("fork").Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def test_reads_from_memory_are_fast(toy_genome: ToyGenome) -> None:
    tracks = dict.fromkeys("xyz", toy_genome.tracks["ratio"])
    windows = pipeline(toy_genome, windows__length=4_096, signal__tracks=tracks).fit_transform(
        toy_genome.loci
    )
    assert windows.shape == (40, 7, 4_096)
    best = np.inf
    for _ in range(20):
        began = time.perf_counter()
        for row in range(40):
            windows.read(row, 3)
        best = min(best, (time.perf_counter() - began) / 40)
    assert best < 200e-6  # about 15 us on an idle machine


# -- real data -------------------------------------------------------------------------------


def test_yeast(yeast: Path, tmp_path: Path) -> None:
    from regmask_sk.loci import read_loci

    loci = read_loci(yeast / "genes.tsv", tss_base=0)
    tracks = {name: yeast / f"{name}.bw" for name in ("atac_cuts", "atac_short_cov")}
    pipe = Pipeline(
        [
            ("windows", TSSWindows(2_048)),
            ("sequence", SequenceChannels(yeast / "sacCer3.dev14.fa.gz")),
            ("signal", SignalChannels(tracks, random_state=0)),
        ]
    )
    windows = pipe.fit_transform(loci)
    assert windows.shape == (4_564, 6, 2_048)
    assert windows[0][:4].sum() == 2_048
    profile = np.mean([windows[i][5] for i in range(0, 4_564, 10)], axis=0)
    assert profile[824:1_024].mean() > 1.5 * profile[1_224:1_424].mean()  # open before the TSS


def test_plain_and_bgzipped_sequence_agree(toy_genome: ToyGenome, tmp_path: Path) -> None:
    other = write_fasta(tmp_path / "narrow.fa", toy_genome.sequences, width=7)
    windows = Windows(toy_genome.loci, 300)
    made = [
        SequenceChannels(path).fit_transform(windows)
        for path in (toy_genome.fasta, toy_genome.bgzipped, other)
    ]
    for row in range(40):
        np.testing.assert_array_equal(made[0][row], made[1][row])
        np.testing.assert_array_equal(made[0][row], made[2][row])
