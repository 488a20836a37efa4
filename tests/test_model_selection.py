"""Splits of the gene table, against naive oracles, and masks of held-out genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ToyGenome
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BinnedSignalRegressor,
    ChromosomeKFold,
    LeaveCellTypesOut,
    LeaveChromosomesOut,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    TwelveFold,
    cross_val_masks,
)
from regmask_sk.model_selection import TWELVE_FOLDS

CHROMS = ["chr1", "chr2", "chr3"]


@given(
    chroms=st.lists(st.sampled_from([f"chr{i}" for i in range(8)]), min_size=8, max_size=60),
    n_splits=st.integers(2, 5),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_folds_of_whole_chromosomes(chroms: list[str], n_splits: int, seed: int | None) -> None:
    loci = pd.DataFrame({"chrom": chroms})
    splitter = ChromosomeKFold(n_splits, shuffle=seed is not None, random_state=seed)
    if len(set(chroms)) < n_splits:
        with pytest.raises(ValueError, match="Lower n_splits"):
            list(splitter.split(loci))
        return
    folds = list(splitter.split(loci))
    assert len(folds) == splitter.get_n_splits() == n_splits
    tested = np.concatenate([test for _, test in folds])
    assert sorted(tested.tolist()) == list(range(len(loci)))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(len(loci)))
        assert not set(loci["chrom"].iloc[train]) & set(loci["chrom"].iloc[test])
    if seed is None:  # no chromosome could move from the fullest fold and leave it even
        sizes = [len(test) for _, test in folds]
        assert max(sizes) - min(sizes) <= loci["chrom"].value_counts().max()


def test_each_chromosome_or_those_that_are_named() -> None:
    loci = pd.DataFrame({"chrom": ["b", "a", "b", "c", "a"]})
    held_out = [test.tolist() for _, test in LeaveChromosomesOut().split(loci)]
    assert held_out == [[1, 4], [0, 2], [3]]
    named = LeaveChromosomesOut(["c", ("a", "b")])
    assert [test.tolist() for _, test in named.split(loci)] == [[3], [0, 1, 2, 4]]
    assert (LeaveChromosomesOut().get_n_splits(loci), named.get_n_splits(loci)) == (3, 2)


def test_the_published_folds_partition_the_chromosomes() -> None:
    names = [name for held_out in TWELVE_FOLDS.values() for name in held_out]
    assert sorted(names) == sorted([*map(str, range(1, 23)), "X"])
    loci = pd.DataFrame({"chrom": [f"chr{name}" for name in names] * 2})
    folds = list(TwelveFold().split(loci))
    assert len(folds) == 12
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(loci)))
    bare = pd.DataFrame({"chrom": names * 2})  # as files without "chr" name them
    ((_, test),) = TwelveFold([11]).split(bare)
    assert set(bare["chrom"].iloc[test]) == {"22", "X"}


def test_cell_types() -> None:
    chroms = [chrom for chrom in CHROMS for _ in range(6)]
    loci = pd.DataFrame({"chrom": chroms, "cell_type": ["K562", "H1", "GM12878"] * 6})
    splits = list(LeaveCellTypesOut().split(loci))
    assert len(splits) == LeaveCellTypesOut().get_n_splits(loci) == 3
    for train, test in splits:
        assert set(loci["cell_type"].iloc[test]).isdisjoint(loci["cell_type"].iloc[train])
        assert len(train) + len(test) == len(loci)
    both = LeaveCellTypesOut(n_chrom_folds=3)
    splits = list(both.split(loci))
    assert len(splits) == both.get_n_splits(loci) == 9
    for train, test in splits:
        for column in ("chrom", "cell_type"):
            assert set(loci[column].iloc[test]).isdisjoint(loci[column].iloc[train])
    assert sorted(np.concatenate([test for _, test in splits])) == list(range(len(loci)))


@pytest.mark.parametrize(
    ("splitter", "X", "groups", "message"),
    [
        (ChromosomeKFold(2), np.zeros((4, 2)), None, "'chrom' of the gene table, but X"),
        (ChromosomeKFold(2), pd.DataFrame({"tss": [1, 2]}), None, r"X has the columns \['tss'\]"),
        (ChromosomeKFold(2), pd.DataFrame({"chrom": ["a", "b"]}), [1], r"groups has shape \(1,\)"),
        (ChromosomeKFold(2, purge=True), pd.DataFrame({"chrom": ["a", "b"]}), None, "pass length"),
        (ChromosomeKFold(2, length=9), np.zeros((2, 1)), [0, 1], "X is no gene table"),
        (LeaveChromosomesOut(), pd.DataFrame({"chrom": ["a", "a"]}), None, "lie on one chromosome"),
        (LeaveChromosomesOut("a"), pd.DataFrame({"chrom": ["a", "b"]}), None, r"Write \['a'\]"),
        (LeaveChromosomesOut(["q"]), pd.DataFrame({"chrom": ["a", "b"]}), None, r"\['q'\] have no"),
        (
            LeaveChromosomesOut([("a", "b")]), pd.DataFrame({"chrom": ["a", "b"]}), None,
            "no rows are left",
        ),
        (TwelveFold(), pd.DataFrame({"chrom": ["chrI", "chrII"]}), None, "fold 1 tests the chrom"),
        (TwelveFold([13]), pd.DataFrame({"chrom": ["chr1"]}), None, "expected some of 1 to 12"),
        (LeaveCellTypesOut(), pd.DataFrame({"chrom": ["a"]}), None, "reads the column 'cell_type'"),
        (LeaveCellTypesOut(), pd.DataFrame({"cell_type": ["a"]}), None, "are of one cell type"),
        (
            LeaveCellTypesOut(2), pd.DataFrame({"chrom": ["a", "b"], "cell_type": ["x", "y"]}),
            None, "no rows on one side",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_split(splitter: Any, X: Any, groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(splitter.split(X, groups=groups))


# --- in scikit-learn's tools ---------------------------------------------------------------------


def pipeline(toy: ToyGenome, model: Any) -> Pipeline:
    return Pipeline(
        [
            ("windows", TSSWindows(64)),
            ("sequence", SequenceChannels(toy.fasta)),
            ("signal", SignalChannels({"counts": toy.tracks["counts"]})),
            ("model", model),
        ]
    )


def test_splitters_are_standard_tools(toy_genome: ToyGenome) -> None:
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    steps = pipeline(toy_genome, BinnedSignalRegressor(bin_size=8))
    scores = cross_validate(steps, loci, y, cv=ChromosomeKFold(2, length=64), n_jobs=2)
    assert len(scores["test_score"]) == 2
    search = GridSearchCV(steps, {"model__bin_size": [8, 16]}, cv=LeaveChromosomesOut())
    assert search.fit(loci, y).n_splits_ == 4
    assert repr(clone(search).cv).startswith("LeaveChromosomesOut(length=None, purge=False,")


def test_masks_of_genes_that_were_held_out(toy_genome: ToyGenome) -> None:
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    model = RegMaskRegressor(
        resolution=8, sparsity=0.4, promoter_length=8, d_model=8, n_layers=1, max_epochs=1,
        validation_fraction=0.0, random_state=0, device="cpu",
    )  # fmt: skip
    steps, cv = pipeline(toy_genome, model), ChromosomeKFold(2)
    masks = cross_val_masks(steps, loci, y, cv=cv)
    assert masks.shape == (40, 64)
    for train, test in cv.split(loci):
        alone = clone(steps).fit(loci.iloc[train], y.iloc[train]).transform(loci.iloc[test])
        np.testing.assert_array_equal(masks[test], alone)
    with pytest.raises(ValueError, match="tests 30 of 40 rows never, and 0 more than once"):
        cross_val_masks(steps, loci, y, cv=LeaveChromosomesOut(["chr1"]))
    with pytest.raises(TypeError, match="DummyRegressor without transform"):
        cross_val_masks(DummyRegressor(), loci, y, cv=KFold(2))
