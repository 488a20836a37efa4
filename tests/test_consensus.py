"""Consensus of several fits, against a base-by-base oracle."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.export import gene_elements
from regmask_sk.metrics import consensus_elements, consensus_mask, selection_frequency, top_share
from regmask_sk.windows import Windows


def test_means_medians_and_frequencies() -> None:
    rng = np.random.default_rng(0)
    fits = rng.random((5, 7, 30))
    np.testing.assert_allclose(consensus_mask(fits), fits.mean(axis=0))
    np.testing.assert_allclose(consensus_mask(list(fits), how="median"), np.median(fits, axis=0))
    named = dict(zip("abcde", fits, strict=True))
    np.testing.assert_allclose(selection_frequency(named), (fits >= 0.5).mean(axis=0))
    expected = np.mean([top_share(fit, 0.2, block_size=3) for fit in fits], axis=0)
    np.testing.assert_allclose(selection_frequency(fits, share=0.2, block_size=3), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 90), st.sampled_from("+-")), min_size=1, max_size=3),
    st.sampled_from([0.2, 0.5, 0.75, 1.0]),
    st.integers(1, 4),
)
def test_elements_agree_base_by_base(
    seed: int, n_fits: int, genes: list[tuple[int, str]], frequency: float, min_width: int
) -> None:
    length = 21
    loci = pd.DataFrame(genes, columns=["tss", "strand"]).assign(chrom="chr1")
    windows = Windows(loci, length)
    rng = np.random.default_rng(seed)
    fits = np.repeat(rng.random((n_fits, len(loci), 7)) < 0.6, 3, axis=2)
    found = consensus_elements(windows, fits, frequency=frequency, min_width=min_width, merge_gap=0)
    expected = []
    for row, (tss, strand) in enumerate(genes):
        sign = -1 if strand == "-" else 1
        chosen = {}
        for j in range(length):
            votes = fits[:, row, j].sum()
            if votes >= frequency * n_fits - 1e-9:
                chosen[tss + sign * (j - length // 2)] = j
        runs: list[list[int]] = []
        for at in sorted(chosen):
            if runs and runs[-1][-1] == at - 1:
                runs[-1].append(at)
            else:
                runs.append([at])
        for run in runs:
            if len(run) < min_width or run[-1] < 0:
                continue
            columns = [chosen[at] for at in run]
            offsets = [sign * (at - tss) for at in run]
            expected.append(
                (
                    max(run[0], 0),
                    run[-1] + 1,
                    str(row),
                    strand,
                    min(offsets, key=abs),
                    pytest.approx(fits[:, row, columns].mean()),
                    int((fits[:, row, columns].mean(axis=1) >= 0.5).sum()),
                )
            )
    columns = ["start", "end", "name", "strand", "distance", "frequency", "n_fits"]
    assert list(found[columns].itertuples(index=False, name=None)) == expected
    assert (found["chrom"] == "chr1").all()


def test_one_fit_gives_its_own_elements() -> None:
    loci = pd.DataFrame(
        {"chrom": ["chr1"] * 2, "tss": [500, 2000], "strand": ["-", "+"]}, index=["a", "b"]
    )
    windows = Windows(loci, 300)
    masks = np.repeat(np.random.default_rng(0).random((2, 10)), 30, axis=1)
    found = consensus_elements(windows, [masks])
    for row, name in enumerate(loci.index):
        own = gene_elements(windows, row, masks[row], chrom_sizes={"chr1": 5000})
        mine = found[found["name"] == name].reset_index(drop=True)
        columns = ["chrom", "start", "end", "name", "strand"]
        pd.testing.assert_frame_equal(mine[columns], own[columns], check_dtype=False)


def test_nothing_kept_is_no_element() -> None:
    windows = Windows(pd.DataFrame({"chrom": ["1"], "tss": [50], "strand": ["+"]}), 40)
    empty = consensus_elements(windows, np.zeros((2, 1, 40)))
    assert empty.empty
    assert list(empty.columns)[:3] == ["chrom", "start", "end"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: consensus_mask([]), "masks has 0 fits; expected the masks of at least 1"),
        (lambda w: consensus_mask([[[0.0]]], how="mode"), "how is 'mode'; expected 'mean'"),
        (lambda w: consensus_elements(w, np.zeros((2, 1, 40)), frequency=0), "frequency is 0"),
        (lambda w: consensus_elements(w, np.zeros((2, 1, 9))), r"masks has shape \(1, 9\) and"),
        (lambda w: consensus_elements(w, np.zeros((2, 1, 40)), min_width=0), "min_width is 0"),
        (lambda w: selection_frequency(np.full((2, 1, 40), np.nan)), r"masks\[0\] holds NaN"),
        (lambda w: selection_frequency(np.zeros((2, 1, 4)), random_state=-1), "random_state is -1"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    windows = Windows(pd.DataFrame({"chrom": ["1"], "tss": [50], "strand": ["+"]}), 40)
    with pytest.raises(ValueError, match=message):
        call(windows)  # type: ignore[operator]
