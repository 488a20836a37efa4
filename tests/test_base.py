"""Checks that all estimators on windows share: each error names what was found and expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from regmask_sk._base import WindowEstimator, resolve_device
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.windows import Windows

LENGTH = 60


class Estimator(WindowEstimator):
    """The base alone, with what its checks need."""

    def seen(self, X: Any) -> Any:
        return self._check_windows(X, reset=True)

    def checked(self, X: Any) -> Any:
        return self._check_windows(X, reset=False)

    def split(self, X: Any, **changed: Any) -> tuple[np.ndarray, np.ndarray]:
        settings: dict[str, Any] = {
            "validation_chroms": None, "validation_fraction": 0.25, "groups": None, "seed": 0,
        }  # fmt: skip
        return self._split_validation(X, **{**settings, **changed})


def make_windows(
    toy_genome: Any,
    *tracks: str,
    length: int = LENGTH,
    loci: pd.DataFrame | None = None,
    sequence: bool = True,
) -> Windows:
    chosen = toy_genome.loci if loci is None else loci
    windows = TSSWindows(length).fit_transform(chosen)
    if sequence:
        windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    if tracks:
        windows = SignalChannels({t: toy_genome.tracks[t] for t in tracks}).fit_transform(windows)
    return windows


# -- X ---------------------------------------------------------------------------------


def test_windows_stay_lazy_and_leave_their_names(toy_genome: Any) -> None:
    estimator, X = Estimator(), make_windows(toy_genome, "counts")
    assert estimator.seen(X) is X
    assert estimator.channel_names_in_ == ("A", "C", "G", "T", "counts")
    assert (estimator.n_channels_in_, estimator.n_features_in_) == (5, LENGTH)
    assert estimator.checked(X[:3]).shape == (3, 5, LENGTH)


@pytest.mark.parametrize(("shape", "expected"), [((7, 12), (7, 1, 12)), ((7, 3, 12), (7, 3, 12))])
def test_arrays_become_float32_channels(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    estimator = Estimator()
    X = np.random.default_rng(0).normal(size=shape)
    windows = estimator.seen(X)
    assert windows.shape == expected
    assert windows.dtype == np.float32
    assert estimator.channel_names_in_ is None
    assert estimator.seen(X.tolist()).shape == expected  # lists as well


def test_other_dimensions_are_refused() -> None:
    for shape in ((5,), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match=r"dim|1D|2D"):
            Estimator().seen(np.zeros(shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 6)])
def test_arrays_with_missing_values_are_refused(shape: tuple[int, ...], bad: float) -> None:
    X = np.zeros(shape)
    X[1, ..., 2] = bad
    with pytest.raises(ValueError, match=r"Input X contains"):
        Estimator().seen(X)


def test_no_rows_and_no_channels_are_refused(toy_genome: Any) -> None:
    with pytest.raises(ValueError, match=r"0 windows.*filters"):
        Estimator().seen(make_windows(toy_genome)[:0])
    with pytest.raises(ValueError, match=r"without channels.*SequenceChannels or SignalChannels"):
        Estimator().seen(TSSWindows(LENGTH).fit_transform(toy_genome.loci))


def test_another_length_names_both(toy_genome: Any) -> None:
    estimator = Estimator()
    estimator.seen(make_windows(toy_genome))
    with pytest.raises(ValueError, match=r"X has 80 features.*expecting 60 features"):
        estimator.checked(make_windows(toy_genome, length=80))


def test_another_number_of_channels_names_both(toy_genome: Any) -> None:
    estimator = Estimator()
    estimator.seen(make_windows(toy_genome, "counts"))
    with pytest.raises(ValueError, match=r"X has 3 channels.*expecting 5 channels"):
        estimator.checked(np.zeros((2, 3, LENGTH)))
    with pytest.raises(ValueError, match=r"X has 1 channels.*expecting 5 channels"):
        estimator.checked(np.zeros((2, LENGTH)))


def test_other_channel_names_are_named(toy_genome: Any) -> None:
    estimator = Estimator()
    estimator.seen(make_windows(toy_genome, "counts"))
    with pytest.raises(ValueError, match=r"missing \['counts'\], unexpected \['ratio'\]"):
        estimator.checked(make_windows(toy_genome, "ratio"))
    with pytest.raises(ValueError, match=r"missing \['counts'\], unexpected \[\]"):
        estimator.checked(make_windows(toy_genome))


def test_reordered_channel_names_are_an_error(toy_genome: Any) -> None:
    estimator = Estimator()
    estimator.seen(make_windows(toy_genome, "counts", "ratio"))
    with pytest.raises(
        ValueError,
        match=r"'ratio', 'counts'\], but Estimator was fitted on.*'counts', 'ratio'\]: the same "
        r"names in another order",
    ):
        estimator.checked(make_windows(toy_genome, "ratio", "counts"))


def test_names_are_not_asked_of_arrays(toy_genome: Any) -> None:
    estimator, X = Estimator(), make_windows(toy_genome, "counts")
    estimator.seen(X)
    assert estimator.checked(X.to_numpy()).shape == X.shape
    estimator.seen(X.to_numpy())
    assert estimator.checked(X) is X


# -- y and weights ---------------------------------------------------------------------


def test_targets_become_columns() -> None:
    X = np.zeros((3, 1, 4), np.float32)
    assert Estimator()._check_targets(X, [1, 2, 3]).tolist() == [[1.0], [2.0], [3.0]]
    assert Estimator()._check_targets(X, np.ones((3, 2))).shape == (3, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_missing_target_names_its_gene(toy_genome: Any, bad: float) -> None:
    X = make_windows(toy_genome)
    y = np.zeros(40)
    y[[3, 17]] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity in 2 of 40 rows.*'gene03', 'gene17'"):
        Estimator()._check_targets(X, y)
    with pytest.raises(ValueError, match=r"in 2 of 40 rows.*3.*17"):
        Estimator()._check_targets(np.zeros((40, 1, 4), np.float32), y)


def test_targets_of_another_length_or_none_are_refused() -> None:
    X = np.zeros((3, 1, 4), np.float32)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        Estimator()._check_targets(X, [1.0, 2.0])
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        Estimator()._check_targets(X, None)
    with pytest.raises(ValueError, match=r"3|dim"):
        Estimator()._check_targets(X, np.zeros((3, 1, 1)))


def test_weights_are_ones_unless_given() -> None:
    X = np.zeros((3, 1, 4), np.float32)
    assert Estimator()._check_weights(X, None).tolist() == [1.0, 1.0, 1.0]
    assert Estimator()._check_weights(X, [0, 1, 2.5]).tolist() == [0.0, 1.0, 2.5]


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, 2.0], "inconsistent"),
        ([1.0, -1.0, 1.0], "1 negative and 2 positive"),
        ([0.0, 0.0, 0.0], "0 negative and 0 positive"),
        ([1.0, np.nan, 1.0], "NaN"),
        ([[1.0], [1.0], [1.0]], "1D array"),
    ],
)
def test_weights_that_cannot_be_are_refused(weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Estimator()._check_weights(np.zeros((3, 1, 4), np.float32), weight)


# -- covariates ------------------------------------------------------------------------


def test_covariates_come_from_the_loci_in_the_order_asked_for(toy_genome: Any) -> None:
    X = make_windows(toy_genome)[[4, 2]]
    table = Estimator()._covariate_table(X, ["gc", "tss"])
    np.testing.assert_allclose(table, toy_genome.loci.iloc[[4, 2]][["gc", "tss"]].to_numpy())
    assert Estimator()._covariate_table(X, ()).shape == (2, 0)


def test_a_covariate_that_is_no_column_lists_the_columns(toy_genome: Any) -> None:
    with pytest.raises(ValueError, match=r"covariates \['length'\] are not among.*'gc'"):
        Estimator()._covariate_table(make_windows(toy_genome), ["gc", "length"])


def test_covariates_need_windows(toy_genome: Any) -> None:
    with pytest.raises(
        ValueError, match=r"\['gc'\] are columns of the loci table, but X is an arr"
    ):
        Estimator()._covariate_table(np.zeros((3, 1, 4), np.float32), ["gc"])


def test_a_lone_name_is_no_sequence_of_names(toy_genome: Any) -> None:
    with pytest.raises(ValueError, match=r"covariates must be a sequence of names, got 'gc'"):
        Estimator()._covariate_table(make_windows(toy_genome), "gc")


@pytest.mark.parametrize("bad", [np.nan, np.inf, "high"])
def test_a_missing_covariate_is_named(toy_genome: Any, bad: Any) -> None:
    loci = toy_genome.loci.astype({"gc": object})
    loci.iloc[7, loci.columns.get_loc("gc")] = bad
    with pytest.raises(ValueError, match=r"covariates \['gc'\] hold missing or non-numeric"):
        Estimator()._covariate_table(make_windows(toy_genome, loci=loci), ["tss", "gc"])


# -- the validation split --------------------------------------------------------------


def test_validation_holds_out_whole_chromosomes(toy_genome: Any) -> None:
    X = make_windows(toy_genome)
    chroms = toy_genome.loci["chrom"].to_numpy()
    held_out = set()
    for seed in range(8):
        train, valid = Estimator().split(X, seed=seed)
        assert sorted([*train, *valid]) == list(range(40))
        assert not set(chroms[train]) & set(chroms[valid])
        assert len(set(chroms[valid])) == 1
        held_out.add(chroms[valid[0]])
    assert len(held_out) > 1  # the seed decides
    np.testing.assert_array_equal(Estimator().split(X, seed=3)[1], Estimator().split(X, seed=3)[1])


def test_validation_chroms_are_the_ones_held_out(toy_genome: Any) -> None:
    X = make_windows(toy_genome)
    _, valid = Estimator().split(X, validation_chroms=["chr4", "chr2"], validation_fraction=0.0)
    assert set(toy_genome.loci["chrom"].iloc[valid]) == {"chr2", "chr4"}
    assert len(valid) == 20


def test_unknown_validation_chroms_list_the_known_ones(toy_genome: Any) -> None:
    X = make_windows(toy_genome)
    with pytest.raises(ValueError, match=r"\['chrX'\] have no training rows.*'chr1', 'chr2'"):
        Estimator().split(X, validation_chroms=["chr1", "chrX"])
    with pytest.raises(ValueError, match=r"all the rows lie on them"):
        Estimator().split(X[:10], validation_chroms=["chr1"])
    with pytest.raises(ValueError, match=r"X is an array. Pass Windows, or groups"):
        Estimator().split(np.zeros((9, 1, 4), np.float32), validation_chroms=["chr1"])


def test_a_lone_chromosome_name_is_not_read_letter_by_letter(toy_genome: Any) -> None:
    """``"IV"`` must not hold out I and V."""
    loci = toy_genome.loci.copy()
    X = make_windows(toy_genome)
    object.__setattr__(X, "loci", loci.assign(chrom=np.repeat(["I", "IV", "V", "X"], 10)))
    with pytest.raises(ValueError, match=r"validation_chroms must be a sequence of names"):
        Estimator().split(X, validation_chroms="IV")


def test_one_chromosome_warns_and_holds_out_nothing(toy_genome: Any) -> None:
    with pytest.warns(UserWarning, match=r"all 10 training rows lie on one chromosome.*=0"):
        train, valid = Estimator().split(make_windows(toy_genome)[:10])
    assert len(train) == 10
    assert len(valid) == 0


def test_a_fraction_of_zero_holds_out_nothing_without_a_word(toy_genome: Any) -> None:
    for X in (make_windows(toy_genome)[:10], np.zeros((10, 1, 4), np.float32)):
        train, valid = Estimator().split(X, validation_fraction=0.0)
        assert (len(train), len(valid)) == (10, 0)


def test_rows_of_an_array_are_drawn(toy_genome: Any) -> None:
    X = np.zeros((20, 1, 4), np.float32)
    train, valid = Estimator().split(X)
    assert len(valid) == 5
    assert sorted([*train, *valid]) == list(range(20))
    assert len(Estimator().split(X[:3], validation_fraction=0.1)[1]) == 0  # too few rows


def test_groups_take_the_place_of_chromosomes(toy_genome: Any) -> None:
    groups = np.arange(40) % 5
    for X in (make_windows(toy_genome), np.zeros((40, 1, 4), np.float32)):
        train, valid = Estimator().split(X, groups=groups)
        assert not set(groups[train]) & set(groups[valid])
        assert len(valid) > 0
    named = np.where(groups < 2, "left", "right")
    _, valid = Estimator().split(np.zeros((40, 1, 4)), groups=named, validation_chroms=["left"])
    assert (groups[valid] < 2).all()
    assert len(valid) == 16


@pytest.mark.parametrize("chroms", [None, ["a"]])
def test_groups_of_another_length_are_refused(chroms: Any) -> None:
    X = np.zeros((10, 1, 4), np.float32)
    with pytest.raises(ValueError, match="inconsistent"):
        Estimator().split(X, groups=["a", "b", "b"], validation_chroms=chroms)


# -- the rest --------------------------------------------------------------------------


def test_the_complement_pairs_bases_and_leaves_tracks(toy_genome: Any) -> None:
    estimator, X = Estimator(), make_windows(toy_genome, "counts")
    assert list(estimator._complement(estimator.seen(X))) == [3, 2, 1, 0, 4]


def test_the_complement_needs_bases_by_name(toy_genome: Any) -> None:
    estimator = Estimator()
    nameless = np.zeros((3, 4, 10))
    for X, found in (
        (make_windows(toy_genome, "counts", sequence=False), "counts"),
        (nameless, ""),
    ):
        with pytest.raises(ValueError, match=rf"needs the channels A, C, G and T by.*{found}"):
            estimator._complement(estimator.seen(X))


def test_devices() -> None:
    assert resolve_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"device='gpu' is no torch device; expected 'auto'"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match=r"device='cuda:0', but torch .* sees no CUDA device"):
        resolve_device("cuda:0")
