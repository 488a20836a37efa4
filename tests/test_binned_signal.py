"""The binned baseline: features against naive loops, and scikit-learn's own checks."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.utils.estimator_checks import parametrize_with_checks

from regmask_sk.baselines import BinnedSignalRegressor
from regmask_sk.baselines.binned_signal import _count_kmers
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.windows import Windows

LENGTH, BIN = 130, 20


# In bins of one base the estimator sees what scikit-learn's checks hand it.
@parametrize_with_checks([BinnedSignalRegressor(bin_size=1)])
def test_scikit_learn_checks(estimator: BinnedSignalRegressor, check: object) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, pd.DataFrame]:
    """A FASTA, a bigWig and genes whose expression is the signal 40 bp upstream of the TSS."""
    folder = tmp_path_factory.mktemp("genome")
    rng = np.random.default_rng(0)
    size, fasta, track = 4_000, folder / "g.fa", folder / "t.bw"
    values = {}
    with fasta.open("w") as file, pyBigWig.open(str(track), "w") as bigwig:
        bigwig.addHeader([(f"chr{k}", size) for k in range(4)])
        for k in range(4):
            bases = rng.choice(list("ACGTN"), size, p=[0.24] * 4 + [0.04])
            file.write(f">chr{k}\n{''.join(bases)}\n")
            values[f"chr{k}"] = rng.random(size).round(2)
            bigwig.addEntries(f"chr{k}", 0, values=values[f"chr{k}"].tolist(), span=1, step=1)
    loci = pd.DataFrame(
        {
            "chrom": [f"chr{k}" for k in range(4) for _ in range(60)],
            "tss": np.concatenate([rng.choice(size, 60, replace=False) for _ in range(4)]),
            "strand": rng.choice(["+", "-"], 240),
        },
        index=pd.Index([f"g{i}" for i in range(240)], name="gene"),
    )
    return fasta, track, loci


def build(genome: tuple[Path, Path, pd.DataFrame], *, sequence: bool = True) -> Windows:
    fasta, track, loci = genome
    windows = TSSWindows(LENGTH).fit_transform(loci)
    if sequence:
        windows = SequenceChannels(fasta).fit_transform(windows)
    return SignalChannels({"atac": track}, scaling="none").fit_transform(windows)


@pytest.fixture(scope="module")
def windows(genome: tuple[Path, Path, pd.DataFrame]) -> Windows:
    return build(genome)


def bin_three(windows: Windows) -> np.ndarray:
    return np.array([windows[i][4, 60:80].mean() for i in range(len(windows))])


def test_features_are_bin_means_and_kmer_counts_in_gene_orientation(
    genome: tuple[Path, Path, pd.DataFrame], windows: Windows
) -> None:
    class Keep(Ridge):
        """Shows what it is fitted on."""

        def fit(self, X: np.ndarray, y: np.ndarray) -> Keep:
            Keep.seen = X
            return super().fit(X, y)

    model = BinnedSignalRegressor(Keep(), bin_size=BIN, kmer_size=2)
    model.fit(windows, np.arange(240.0))
    scaler = model.model_[0]
    found = scaler.inverse_transform(Keep.seen)

    sequences = {}
    for record in genome[0].read_text().split(">")[1:]:
        name, bases = record.split()
        sequences[name] = bases
    names = [f"atac_bin{j}" for j in range(7)]
    names += ["kmer_" + "".join(pair) for pair in product("ACGT", repeat=2)]
    assert model.feature_names_.tolist() == names
    swap = str.maketrans("ACGT", "TGCA")
    for row in range(0, 240, 17):
        chrom, tss, strand = windows.loci[["chrom", "tss", "strand"]].iloc[row]
        sign = -1 if strand == "-" else 1
        at = [tss + sign * (j - LENGTH // 2) for j in range(LENGTH)]
        bases = "".join(sequences[chrom][p] if 0 <= p < 4_000 else "N" for p in at)
        bases = bases.translate(swap) if strand == "-" else bases
        signal = windows[row][4]
        means = [signal[j : j + BIN].mean() for j in range(0, LENGTH, BIN)]
        counts = [
            sum(bases[j : j + 2] == a + b for j in range(LENGTH - 1))
            for a, b in product("ACGT", repeat=2)
        ]
        np.testing.assert_allclose(found[row], means + counts, atol=1e-4)


@settings(max_examples=80, deadline=None)
@given(st.text("ACGTN", min_size=3, max_size=60), st.integers(1, 3))
def test_kmers_are_counted_as_a_loop_counts_them(bases: str, size: int) -> None:
    one_hot = np.array([[b == base for b in bases] for base in "ACGT"], dtype=np.float32)
    expected = [
        sum(bases[j : j + size] == "".join(kmer) for j in range(len(bases)))
        for kmer in product("ACGT", repeat=size)
    ]
    assert _count_kmers(one_hot, size).tolist() == expected


def test_learns_the_bin_that_matters(windows: Windows) -> None:
    y = bin_three(windows)
    model = BinnedSignalRegressor(bin_size=BIN).fit(windows[:180], y[:180])
    assert model.score(windows[180:], y[180:]) > 0.98
    best = np.abs(model.model_[-1].coef_).argmax()
    assert model.feature_names_[best] == "atac_bin3"
    assert model.predict(windows[:5]).shape == (5,)
    assert (model.n_features_in_, model.n_channels_in_) == (LENGTH, 5)


def test_windows_and_the_same_array_give_the_same_predictions(
    genome: tuple[Path, Path, pd.DataFrame],
) -> None:
    lazy = build(genome, sequence=False)
    y = bin_three(build(genome))
    from_windows = BinnedSignalRegressor(bin_size=BIN).fit(lazy, y).predict(lazy)
    array = lazy.to_numpy()
    three_d = BinnedSignalRegressor(bin_size=BIN).fit(array, y).predict(array)
    two_d = BinnedSignalRegressor(bin_size=BIN).fit(array[:, 0], y).predict(array[:, 0])
    np.testing.assert_array_equal(from_windows, three_d)
    np.testing.assert_array_equal(from_windows, two_d)


def test_cross_validate_by_chromosome_and_clone(windows: Windows) -> None:
    y = bin_three(windows)
    model = clone(BinnedSignalRegressor(LinearRegression(), bin_size=10, kmer_size=1))
    result = cross_validate(
        model, windows, y, groups=windows.loci["chrom"], cv=GroupKFold(4), error_score="raise"
    )
    assert result["test_score"].min() > 0.98


def test_several_outputs_and_other_estimators(windows: Windows) -> None:
    y = bin_three(windows)
    both = np.column_stack([y, -y])
    linear = BinnedSignalRegressor(bin_size=BIN).fit(windows, both)
    assert linear.predict(windows).shape == (240, 2)
    forest = RandomForestRegressor(10, random_state=0)
    fitted = BinnedSignalRegressor(forest, bin_size=BIN).fit(windows, y)
    assert fitted.score(windows, y) > 0.8
    assert not hasattr(forest, "estimators_")  # the parameter itself is left as it was


def test_what_cannot_be_done_is_named(
    genome: tuple[Path, Path, pd.DataFrame], windows: Windows
) -> None:
    y = bin_three(windows)
    with pytest.raises(ValueError, match="bin_size is 0"):
        BinnedSignalRegressor(bin_size=0).fit(windows, y)
    with pytest.raises(ValueError, match="kmer_size is 9; expected 0 to 8"):
        BinnedSignalRegressor(kmer_size=9).fit(windows, y)
    tracks = build(genome, sequence=False)
    with pytest.raises(ValueError, match=r"lacks the channels \['A', 'C', 'G', 'T'\].*kmer_size=0"):
        BinnedSignalRegressor(kmer_size=3).fit(tracks, y)
    fasta, _, loci = genome
    sequence = SequenceChannels(fasta).fit_transform(TSSWindows(4).fit_transform(loci))
    with pytest.raises(ValueError, match=r"no signal channel.*SignalChannels"):
        BinnedSignalRegressor().fit(sequence, y)
    with pytest.raises(ValueError, match="more than the windows' 4 bp"):
        BinnedSignalRegressor(kmer_size=5).fit(sequence, y)
    model = BinnedSignalRegressor().fit(windows, y)
    with pytest.raises(ValueError, match="channels"):
        model.predict(tracks)
    other = SignalChannels({"atac": genome[1]}, scaling="none").fit_transform(
        SequenceChannels(fasta).fit_transform(TSSWindows(64).fit_transform(loci))
    )
    with pytest.raises(ValueError, match="64"):
        model.predict(other)


def test_kmers_alone_are_enough(genome: tuple[Path, Path, pd.DataFrame]) -> None:
    fasta, _, loci = genome
    windows = SequenceChannels(fasta).fit_transform(TSSWindows(LENGTH).fit_transform(loci))
    y = np.array([windows[i][1].sum() for i in range(len(windows))])  # the number of Cs
    assert BinnedSignalRegressor(kmer_size=1).fit(windows, y).score(windows, y) > 0.99


def test_covariates_are_features(genome: tuple[Path, Path, pd.DataFrame]) -> None:
    fasta, track, loci = genome
    rng = np.random.default_rng(1)
    table = loci.assign(gc=rng.normal(size=len(loci)), age=rng.normal(size=len(loci)))
    windows = SequenceChannels(fasta).fit_transform(TSSWindows(LENGTH).fit_transform(table))
    windows = SignalChannels({"t": track}, random_state=0).fit_transform(windows)
    options = {"estimator": LinearRegression(), "bin_size": LENGTH, "kmer_size": 1}
    model = BinnedSignalRegressor(**options, covariates=["age", "gc"]).fit(windows, 3 * table["gc"])
    assert list(model.feature_names_) == [
        "t_bin0", "kmer_A", "kmer_C", "kmer_G", "kmer_T", "age", "gc",
    ]  # fmt: skip
    np.testing.assert_allclose(model.predict(windows), 3 * table["gc"], atol=1e-8)
    with pytest.raises(ValueError, match=r"covariates \['height'\] are not among the columns"):
        BinnedSignalRegressor(covariates=["height"]).fit(windows, table["gc"])
    with pytest.raises(ValueError, match="X is an array"):
        BinnedSignalRegressor(covariates=["gc"]).fit(np.zeros((9, 1, 50)), np.zeros(9))
