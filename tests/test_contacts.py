"""ContactChannel: coordinates, missing bins, scales, and its place in a pipeline."""

from __future__ import annotations

import pickle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SIZES, ToyGenome
from cool_files import maps, write_cool
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from regmask_sk.baselines import BackboneRegressor
from regmask_sk.contacts import ContactChannel
from regmask_sk.features import SequenceChannels, TSSWindows
from regmask_sk.persistence import load_model, save_model
from regmask_sk.window_cache import WindowCache
from regmask_sk.windows import Interval, Windows

BIN = 70  # divides no chromosome


@pytest.fixture(scope="module")
def counts() -> dict[str, np.ndarray]:
    return maps(SIZES, BIN)


@pytest.fixture(scope="module")
def weights(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    drawn = {chrom: np.linspace(0.5, 2.0, len(array)) for chrom, array in counts.items()}
    for array in drawn.values():
        array[[3, 10]] = np.nan
    return drawn


@pytest.fixture(scope="module")
def cool(
    counts: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    path = tmp_path_factory.mktemp("maps") / "x.cool"
    return write_cool(path, SIZES, BIN, counts, {"weight": weights})


def one_gene(chrom: str, tss: int, strand: str) -> pd.DataFrame:
    return pd.DataFrame({"chrom": [chrom], "tss": [tss], "strand": [strand]}, index=["a"])


def position(gene: pd.Series, column: int, length: int, shift: int) -> int:
    offset = column - length // 2 + shift
    return int(gene["tss"] - offset if gene["strand"] == "-" else gene["tss"] + offset)


def law(bins: int, bin_size: int, gamma: float) -> float:
    return (max(abs(bins) * bin_size, bin_size) / 1000) ** -gamma


@settings(max_examples=80, deadline=None)
@given(
    chrom=st.sampled_from(["chr1", "chr4"]),
    place=st.floats(0, 1),
    strand=st.sampled_from("+-"),
    length=st.integers(1, 90) | st.sampled_from([700, 701]),
    bin_size=st.integers(1, 80),
    gamma=st.floats(0.2, 2.0),
    shift=st.integers(-9, 9),
    cached=st.booleans(),
)
def test_power_law_against_an_oracle(
    toy_genome: ToyGenome,
    chrom: str,
    place: float,
    strand: str,
    length: int,
    bin_size: int,
    gamma: float,
    shift: int,
    cached: bool,
) -> None:
    loci = one_gene(chrom, round(place * (SIZES[chrom] - 1)), strand)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(Windows(loci, length, jitter=5))
    channel = ContactChannel(bin_size=bin_size, gamma=gamma, scaling="none")
    windows = channel.fit_transform(windows)
    if cached:
        windows = WindowCache().fit_transform(windows)
    gene = loci.iloc[0]
    expected = np.zeros(length, np.float32)
    for column in range(length):
        base = position(gene, column, length, shift)
        if 0 <= base < SIZES[chrom]:
            expected[column] = law(base // bin_size - gene["tss"] // bin_size, bin_size, gamma)
    np.testing.assert_allclose(windows.read(0, shift)[4], expected, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    chrom=st.sampled_from(["chr1", "chr4"]),
    place=st.floats(0, 1),
    strand=st.sampled_from("+-"),
    length=st.integers(1, 90) | st.sampled_from([700, 701]),
    shift=st.integers(-9, 9),
    balance=st.booleans(),
    missing=st.sampled_from(["power_law", "zero"]),
    cached=st.booleans(),
)
def test_a_map_against_an_oracle(
    cool: str,
    counts: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    chrom: str,
    place: float,
    strand: str,
    length: int,
    shift: int,
    balance: bool,
    missing: Any,
    cached: bool,
) -> None:
    loci = one_gene(chrom, round(place * (SIZES[chrom] - 1)), strand)
    several = pd.concat([loci, one_gene(chrom, 500, "+")])  # some bins have a value
    channel = ContactChannel(cool, balance=balance, missing=missing, scaling="none")
    windows = channel.fit(Windows(several, length)).transform(Windows(loci, length, jitter=5))
    if cached:
        windows = WindowCache().fit_transform(windows)
    gene = loci.iloc[0]
    here = gene["tss"] // BIN
    expected = np.zeros(length)
    for column in range(length):
        base = position(gene, column, length, shift)
        if 0 <= base < SIZES[chrom]:
            there = base // BIN
            value = float(counts[chrom][here, there])
            if balance:
                value *= weights[chrom][here] * weights[chrom][there]
            if np.isnan(value):
                value = channel.power_law_scale_ * law(there - here, BIN, 0.87)
                value *= missing == "power_law"
            expected[column] = value
    np.testing.assert_allclose(windows.read(0, shift)[0], expected, rtol=1e-5)


def test_the_law_is_in_the_unit_of_the_file(cool: str) -> None:
    loci = pd.concat([one_gene("chr1", 800, "+"), one_gene("chr2", 1_200, "-")])
    windows = Windows(loci, 1_401)
    channel = ContactChannel(cool, missing="zero", scaling="none").fit(windows)
    assert channel.power_law_scale_ == 1.0
    found = channel.transform(windows).to_numpy()[:, 0]
    filled = ContactChannel(cool, scaling="none").fit(windows)
    expected = ContactChannel(bin_size=BIN, scaling="none").fit_transform(windows)
    expected = expected.to_numpy()[:, 0]
    covered = found > 0  # no count is 0 so near
    np.testing.assert_allclose(
        filled.power_law_scale_, found[covered].sum() / expected[covered].sum(), rtol=1e-5
    )


def test_scalings(cool: str, toy_genome: ToyGenome) -> None:
    windows = TSSWindows(700).fit_transform(toy_genome.loci)
    plain = ContactChannel(cool, scaling="none").fit_transform(windows).to_numpy()
    log = ContactChannel(cool, scaling="log1p").fit_transform(windows).to_numpy()
    np.testing.assert_allclose(log, np.log10(1 + plain), rtol=1e-5, atol=1e-7)
    robust = ContactChannel(cool).fit(windows)
    scale = robust.scales_["contact"]["scale"]
    np.testing.assert_allclose(scale, np.median(plain[plain > 0]), rtol=1e-5)
    np.testing.assert_allclose(
        robust.transform(windows).to_numpy(), np.arcsinh(plain / scale), rtol=1e-5, atol=1e-6
    )
    robust.set_params(name="loops")  # what was learned goes with a new name
    assert robust.transform(windows).channel_names == ("loops",)
    np.testing.assert_allclose(robust.transform(windows)[0], np.arcsinh(plain[0] / scale), 1e-5)
    robust.set_params(scaling="none")
    with pytest.raises(ValueError, match="scaling is 'none', but fit ran with another"):
        robust.transform(windows)


def test_scales_come_from_the_rows_of_fit(cool: str, toy_genome: ToyGenome) -> None:
    windows = TSSWindows(700).fit_transform(toy_genome.loci)
    some = ContactChannel(cool, random_state=0).fit(windows[:5])
    few = ContactChannel(cool, n_scaling_windows=5, random_state=0).fit(windows)
    whole = ContactChannel(cool).fit(windows)
    assert len({some.power_law_scale_, few.power_law_scale_, whole.power_law_scale_}) == 3
    again = ContactChannel(cool, n_scaling_windows=5, random_state=0).fit(windows)
    assert again.scales_ == few.scales_


def test_a_channel_among_others(toy_genome: ToyGenome) -> None:
    pipe = make_pipeline(TSSWindows(64), SequenceChannels(toy_genome.fasta), ContactChannel())
    windows = pipe.fit_transform(toy_genome.loci)
    assert windows.channel_names == ("A", "C", "G", "T", "contact")
    assert windows.complement == (3, 2, 1, 0, 4)
    for step in (pipe[-1], ContactChannel("x.cool", balance="VC", gamma=1.0)):
        again = clone(step)
        assert again.get_params() == step.get_params()
        assert vars(again) == again.get_params(deep=False)  # __init__ only stores
    with pytest.raises(ValueError, match=r"channels \['contact'\] occur more than once"):
        ContactChannel().fit(windows)
    with pytest.raises(TypeError, match="ContactChannel expects Windows"):
        ContactChannel().fit(toy_genome.loci)
    with pytest.raises(ValueError, match="has no tss"):
        windows.sources[-1].read(Interval("chr1", 0, 10))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_pickles_and_forks_read_the_same(cool: str, toy_genome: ToyGenome) -> None:
    windows = ContactChannel(cool).fit_transform(TSSWindows(700).fit_transform(toy_genome.loci))
    expected = windows.to_numpy()
    assert len(pickle.dumps(windows.sources)) < 2_000
    again = pickle.loads(pickle.dumps(windows))
    np.testing.assert_array_equal(again.to_numpy(), expected)

    def work() -> None:
        for row in range(len(windows)):
            np.testing.assert_array_equal(windows[row], expected[row])

    workers = [get_context("fork").Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def test_caches_know_what_they_hold(cool: str, toy_genome: ToyGenome, tmp_path: Path) -> None:
    windows = TSSWindows(700, jitter=3).fit_transform(toy_genome.loci)
    for options in (
        {}, {"gamma": 1.0}, {"bin_size": 100}, {"contacts": cool}, {"contacts": cool, "gamma": 1.0},
        {"contacts": cool, "balance": False}, {"contacts": cool, "missing": "zero"},
        {"contacts": cool, "scaling": "log1p"},
    ):  # fmt: skip
        plain = ContactChannel(**options).fit_transform(windows)
        for path in (None, tmp_path):
            cached = WindowCache(path).fit_transform(plain)
            for shift in (-3, 0, 5):
                np.testing.assert_array_equal(cached.read(7, shift), plain.read(7, shift))


def test_chromosomes_are_checked(cool: str, toy_genome: ToyGenome, tmp_path: Path) -> None:
    renamed = toy_genome.loci.assign(chrom=toy_genome.loci["chrom"].str.removeprefix("chr"))
    windows = Windows(renamed, 700)
    with pytest.raises(ValueError, match=r"4 of the 4 chromosomes .* are not in cooler"):
        ContactChannel(cool).fit(windows)
    alias = {str(i): f"chr{i}" for i in range(1, 5)}
    found = ContactChannel(cool, chrom_alias=alias).fit_transform(windows)
    expected = ContactChannel(cool).fit_transform(Windows(toy_genome.loci, 700))
    np.testing.assert_array_equal(found[5], expected[5])

    other = {**SIZES, "chr4": 1_600}
    longer = write_cool(tmp_path / "long.cool", other, 100, maps(other, 100))
    sequence = SequenceChannels(toy_genome.fasta).fit_transform(Windows(toy_genome.loci, 700))
    with pytest.raises(ValueError, match=r"'chr4' has 1500 bp in FASTA .* and 1600 bp in cooler"):
        ContactChannel(longer, balance=False).fit(sequence)


def test_a_chromosome_that_the_map_lacks(toy_genome: ToyGenome, tmp_path: Path) -> None:
    sizes = {chrom: SIZES[chrom] for chrom in ("chr1", "chr2")}
    cool = write_cool(tmp_path / "x.cool", sizes, BIN, maps(sizes, BIN))
    windows = Windows(toy_genome.loci, 64)
    last = int(np.flatnonzero(toy_genome.loci["tss"].between(100, 1_400))[-1])  # on chr4
    channel = ContactChannel(cool, balance=False, scaling="none")
    with pytest.warns(UserWarning, match="2 of the 4 chromosomes of the loci are not in cooler"):
        channel.fit(windows)
    with pytest.warns(UserWarning, match="are not in cooler"):
        filled = channel.transform(windows)[last]
    expected = ContactChannel(bin_size=BIN, scaling="none").fit_transform(windows)[last]
    np.testing.assert_allclose(filled, expected * channel.power_law_scale_, rtol=1e-5)
    with pytest.warns(UserWarning, match="are not in cooler"):
        zero = channel.set_params(missing="zero").transform(windows)[last]
    assert not zero.any()


def test_a_map_without_a_value(toy_genome: ToyGenome, tmp_path: Path) -> None:
    counts = maps(SIZES, BIN)
    nothing = {chrom: np.full(len(array), np.nan) for chrom, array in counts.items()}
    cool = write_cool(tmp_path / "x.cool", SIZES, BIN, counts, {"weight": nothing})
    windows = Windows(toy_genome.loci, 64)
    with pytest.raises(ValueError, match="have no value in any of the windows given to fit"):
        ContactChannel(cool).fit(windows)
    with pytest.warns(UserWarning, match="the channel tells the model nothing"):
        ContactChannel(cool, missing="zero").fit(windows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scaling": "log"}, r"scaling is 'log'; expected one of \('robust', 'log1p', 'none'\)"),
        ({"missing": "mask"}, "missing is 'mask'"),
        ({"bin_size": 0}, "bin_size is 0; expected an integer of at least 1"),
        ({"bin_size": 2.5}, r"bin_size is 2\.5"),
        ({"n_scaling_windows": True}, "n_scaling_windows is True"),
        ({"gamma": 0.0}, r"gamma is 0\.0; expected a number above 0"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"name": ""}, "name is ''; expected a channel name"),
        ({"balance": 1}, "balance is 1; expected True, False or the name"),
        ({"contacts": 5}, "contacts is 5; expected the path of a cooler file"),
    ],
)
def test_wrong_parameters(toy_genome: ToyGenome, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContactChannel(**options).fit(Windows(toy_genome.loci, 10))


def test_bins_are_those_of_the_file(cool: str, toy_genome: ToyGenome) -> None:
    windows = Windows(toy_genome.loci, 10)
    with pytest.raises(ValueError, match=r"bin_size is 50, but the bins of .* have 70 bp"):
        ContactChannel(cool, bin_size=50).fit(windows)
    ContactChannel(cool, bin_size=70).fit(windows)


@pytest.mark.parametrize("with_map", [False, True])
def test_a_saved_model_has_it(
    toy_genome: ToyGenome,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_map: bool,
) -> None:
    contacts = None
    if with_map:
        folder, _, contacts = request.getfixturevalue("cool").rpartition("/")
        monkeypatch.chdir(folder)
    pipe = make_pipeline(
        TSSWindows(64),
        SequenceChannels(toy_genome.fasta),
        ContactChannel(contacts, bin_size=None if with_map else 16),
        BackboneRegressor(
            d_model=4, n_layers=1, resolution=8, max_epochs=1, random_state=0, device="cpu",
            reverse_complement="augment",
        ),
    )  # fmt: skip
    loci = toy_genome.loci
    predicted = pipe.fit(loci, loci["expression"]).predict(loci)
    saved = save_model(pipe, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(load_model(saved).predict(loci), predicted)
