"""Attributions: exact ones against predictions of altered windows, the others by their axioms."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from array_source import array_windows, one_hot
from conftest import ToyGenome, write_fasta
from devices import needs_cuda
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from regmask_sk import (
    BackboneRegressor,
    BinnedSignalRegressor,
    EnformerRegressor,
    PeakMaskRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    attribute,
    attribution_batches,
    completeness_gap,
)
from regmask_sk._explained import plain_float32

LENGTH = 64
NAMES = ("atac", "atac_covered", "A", "C", "G", "T", "noise")
BASES = [2, 3, 4, 5]
TRACKS = [0, 6]
SMALL: dict[str, Any] = {
    "resolution": 8, "d_model": 8, "n_layers": 1, "max_epochs": 1, "batch_size": 8,
    "validation_fraction": 0.0, "random_state": 0, "amp": False,
}  # fmt: skip
METHODS = ("saliency", "integrated_gradients", "deeplift", "mutagenesis", "occlusion")


def shaken(estimator: Any, seed: int = 0) -> Any:
    """Give a fitted network weights that make it far from linear, whatever it has learned."""
    torch.manual_seed(seed)
    module = estimator.net_.ready_module
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.25 * torch.randn_like(parameter)
    return estimator


def make_array(n: int = 12, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    covered = (rng.random((n, 1, LENGTH)) < 0.8).astype(np.float32)
    atac = rng.gamma(1.0, 1.0, (n, 1, LENGTH)) * covered
    noise = rng.normal(size=(n, 1, LENGTH))
    sequence = one_hot(rng, n, LENGTH, unknown=0.1)
    return np.concatenate([atac, covered, sequence, noise], axis=1).astype(np.float32)


ARRAY = make_array()
Y = ARRAY[:, 2].sum(axis=1) + ARRAY[:, 0].mean(axis=1)
WINDOWS = array_windows(ARRAY, NAMES)


@pytest.fixture(scope="module")
def plain() -> BackboneRegressor:
    return shaken(BackboneRegressor(**SMALL).fit(WINDOWS, Y))


@pytest.fixture(scope="module")
def masked() -> RegMaskRegressor:
    model = RegMaskRegressor(sparsity=0.4, promoter_length=4, **SMALL).fit(WINDOWS, Y)
    module = shaken(model).net_.ready_module
    with torch.no_grad():  # half of the gates open and half closed, as in a fitted mask
        middle = module.openness(torch.from_numpy(ARRAY).to(model.device_)).median()
        module.soft_shift.fill_(-middle)
        module.hard_shift.fill_(-middle)
    return model


@pytest.fixture
def soft(masked: RegMaskRegressor) -> RegMaskRegressor:
    return masked.set_params(mask="soft")


def reference(baseline: str, array: np.ndarray = ARRAY) -> np.ndarray:
    out = np.zeros_like(array)
    out[:, 1] = array[:, 1]
    if baseline == "uniform":
        out[:, BASES] = array[:, BASES].sum(axis=1, keepdims=True) / 4
    return out


# -- mutagenesis and occlusion are exact ----------------------------------------------------------


def all_mutants(row: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Every window with one other base, and which base is where; written as plainly as can be."""
    mutants, places = [], []
    for column in range(LENGTH):
        if row[BASES, column].sum() == 0:
            continue
        for base in BASES:
            if row[base, column] == 0:
                mutant = row.copy()
                mutant[BASES, column] = 0
                mutant[base, column] = 1
                mutants.append(mutant)
                places.append((base, column))
    return np.stack(mutants), places


@pytest.mark.parametrize("kind", ["soft", "hard", "topk", None])
def test_mutagenesis_is_the_prediction_of_mutated_windows(masked, plain, kind):
    model = plain if kind is None else masked.set_params(mask=kind)
    n = 2 if kind == "soft" else 1
    each = attribute(model, WINDOWS[:n], "mutagenesis", per_channel=True)
    expected = np.zeros_like(each)
    for row in range(n):
        mutants, places = all_mutants(ARRAY[row])
        change = model.predict(mutants) - model.predict(ARRAY[row : row + 1])
        for (base, column), value in zip(places, change, strict=True):
            expected[row, base, column] = value
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(each, expected, rtol=1e-4, atol=5e-5)
    by_base = attribute(model, WINDOWS[:n], "mutagenesis")
    np.testing.assert_allclose(by_base, -expected[:, BASES].sum(axis=1) / 3, rtol=1e-4, atol=5e-5)
    unknown = ARRAY[:n, BASES].sum(axis=1) == 0
    assert unknown.any()
    assert (by_base[unknown] == 0).all()


@pytest.mark.parametrize(("width", "step"), [(None, None), (10, 10), (12, 5)])
def test_occlusion_is_the_prediction_without_each_stretch(soft, width, step):
    found = attribute(soft, WINDOWS[:2], "occlusion", width=width, step=step, baseline="uniform")
    base = reference("uniform")
    wide, far = width or 8, step or width or 8
    total, count = np.zeros((2, LENGTH)), np.zeros(LENGTH)
    for start in range(0, LENGTH, far):
        stretch = slice(start, start + wide)
        without = ARRAY[:2].copy()
        without[:, :, stretch] = base[:2, :, stretch]
        total[:, stretch] += (soft.predict(ARRAY[:2]) - soft.predict(without))[:, None]
        count[stretch] += 1
    np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=5e-5)
    assert np.abs(found).max() > 0.05


def test_occlusion_by_channel_takes_the_sequence_together_and_each_track_alone(plain):
    each = attribute(plain, WINDOWS[:2], "occlusion", per_channel=True, width=16)
    base = reference("uniform")
    for group in (BASES, TRACKS[:1], TRACKS[1:]):
        for start in range(0, LENGTH, 16):
            without = ARRAY[:2].copy()
            without[:, group, start : start + 16] = base[:2, group, start : start + 16]
            fall = (plain.predict(ARRAY[:2]) - plain.predict(without))[:, None]
            here = ARRAY[:2, group].sum(axis=1) if group == BASES else np.ones((2, LENGTH))
            np.testing.assert_allclose(
                each[:, group, start : start + 16].sum(axis=1),
                fall * here[:, start : start + 16],
                rtol=1e-4,
                atol=5e-5,
            )
    # The score of the sequence stands in the channel of the base that is there.
    assert (each[:, BASES][ARRAY[:2, BASES] == 0] == 0).all()
    assert (each[:, 1] == 0).all()


@pytest.mark.parametrize("method", ["mutagenesis", "occlusion"])
def test_columns_outside_of_those_asked_for_have_no_score(plain, method):
    some = attribute(plain, WINDOWS[:2], method, columns=slice(16, 40))
    whole = attribute(plain, WINDOWS[:2], method)
    np.testing.assert_allclose(some[:, 16:40], whole[:, 16:40], rtol=1e-4, atol=5e-5)
    assert np.isnan(np.delete(some, np.r_[16:40], axis=1)).all()
    last = attribute(plain, WINDOWS[:1], method, columns=slice(-8, None), per_channel=True)
    assert np.isfinite(last[..., -8:]).all()
    assert np.isnan(last[..., :-8]).all()


# -- which mask an altered window has -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
def test_a_fixed_mask_is_that_of_the_window_as_it_came(masked, kind):
    model = masked.set_params(mask=kind)
    each = attribute(model, WINDOWS[:1], "mutagenesis", mask="fixed", per_channel=True)
    mutants, places = all_mutants(ARRAY[0])
    mask = model.transform(ARRAY[:1])[0]
    change = model.predict_masked(mutants, mask) - model.predict(ARRAY[:1])
    found = np.array([each[0, base, column] for base, column in places])
    np.testing.assert_allclose(found, change, rtol=1e-4, atol=5e-5)
    assert np.abs(change).max() > 0.01


def test_an_open_mask_keeps_every_base(soft):
    each = attribute(soft, WINDOWS[:1], "mutagenesis", mask="open", per_channel=True)
    mutants, places = all_mutants(ARRAY[0])
    change = soft.predict_masked(mutants, np.ones(LENGTH)) - soft.predict_masked(
        ARRAY[:1], np.ones(LENGTH)
    )
    found = np.array([each[0, base, column] for base, column in places])
    np.testing.assert_allclose(found, change, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("mask", ["model", "fixed", "open"])
def test_closed_regions_stay_closed(mask):
    closed = pd.DataFrame({"chrom": [f"w{i}" for i in range(12)], "start": 10, "end": 26})
    model = RegMaskRegressor(
        sparsity=0.4, promoter_length=4, closed_regions=closed, **SMALL
    ).fit(WINDOWS, Y)  # fmt: skip
    scores = attribute(shaken(model), WINDOWS[:3], "saliency", mask=mask, baseline="zero")
    assert np.abs(scores).max() > 0.01
    if mask == "model":  # the generator reads what is closed, and decides about the rest with it
        assert np.abs(scores[:, 10:26]).max() > 0
    else:
        assert (scores[:, 10:26] == 0).all()


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "deeplift"])
@pytest.mark.parametrize("kind", ["hard", "topk"])
def test_a_mask_that_is_a_step_has_no_gradient(masked, method, kind):
    model = masked.set_params(mask=kind)
    with pytest.raises(ValueError, match=r"a step, whose gradient is 0. Pass mask='fixed'"):
        attribute(model, WINDOWS[:1], method)
    scores = attribute(model, WINDOWS[:2], method, mask="fixed")
    closed = model.transform(WINDOWS[:2]) == 0
    assert closed.any()
    assert (scores[closed] == 0).all()
    assert np.abs(scores).max() > 0.01


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zero", "uniform"])
@pytest.mark.parametrize("masks", [True, False], ids=["masked", "plain"])
def test_saliency_is_gradient_times_difference(soft, plain, masks, baseline):
    model = soft if masks else plain
    each = attribute(model, WINDOWS[:1], "saliency", baseline=baseline, per_channel=True)
    difference = (ARRAY - reference(baseline))[0]
    checked = np.argsort(-np.abs(each[0]).ravel())[:6]
    step = 2e-3
    for channel, column in zip(*np.unravel_index(checked, each[0].shape), strict=True):
        up, down = ARRAY[:1].copy(), ARRAY[:1].copy()
        up[0, channel, column] += step
        down[0, channel, column] -= step
        slope = (model.predict(up) - model.predict(down))[0] / (2 * step)
        expected = slope * difference[channel, column]
        assert each[0, channel, column] == pytest.approx(expected, rel=0.1, abs=2e-3)
    np.testing.assert_allclose(
        attribute(model, WINDOWS[:1], "saliency", baseline=baseline), each.sum(axis=1), atol=1e-6
    )


@pytest.mark.parametrize("mask", ["model", "fixed", "open"])
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift"])
@pytest.mark.parametrize("baseline", ["zero", "uniform", "array"])
def test_scores_add_up_to_the_difference_of_the_prediction(soft, method, mask, baseline):
    given = make_array(seed=1)[:3] if baseline == "array" else baseline
    base = given if baseline == "array" else reference(baseline)[:3]
    scores = attribute(soft, WINDOWS[:3], method, baseline=given, mask=mask, n_steps=100)
    if mask == "model":
        change = soft.predict(ARRAY[:3]) - soft.predict(base)
    else:
        masks = soft.transform(ARRAY[:3]) if mask == "fixed" else np.ones(LENGTH)
        change = soft.predict_masked(ARRAY[:3], masks) - soft.predict_masked(base, masks)
    assert np.abs(change).max() > 0.1
    tolerance = 0.02 * np.abs(scores).sum(axis=1).max() if method != "deeplift" else 1e-4
    np.testing.assert_allclose(scores.sum(axis=1), change, atol=tolerance)
    gap = completeness_gap(soft, WINDOWS[:3], scores, baseline=given, mask=mask)
    np.testing.assert_allclose(gap, change - scores.sum(axis=1), atol=1e-4)


def test_more_steps_close_the_gap_of_integrated_gradients(plain):
    some = WINDOWS[:4]
    gaps = [
        np.abs(
            completeness_gap(plain, some, attribute(plain, some, "integrated_gradients", n_steps=n))
        ).mean()
        for n in (1, 8, 64)
    ]
    assert gaps[2] < gaps[1] < gaps[0]
    assert gaps[2] < 0.2 * gaps[0]


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "deeplift", "occlusion"])
def test_channels_of_coverage_have_no_score_of_their_own(plain, method):
    each = attribute(plain, WINDOWS[:2], method, per_channel=True)
    assert (each[:, 1] == 0).all()
    assert (np.abs(each[:, TRACKS]).sum(axis=(1, 2)) > 0).all()
    # An unknown base has nothing to be compared with.
    unknown = ARRAY[:2, BASES].sum(axis=1) == 0
    assert (each[:, BASES].sum(axis=1)[unknown] == 0).all()
    if method != "occlusion":
        given = attribute(
            plain, WINDOWS[:2], method, per_channel=True, baseline=np.zeros(len(NAMES))
        )
        assert np.abs(given[:, 1]).max() > 0


def test_uniform_saliency_is_centred_over_the_bases(plain):
    each = attribute(plain, WINDOWS[:2], "saliency", per_channel=True)
    zero = attribute(plain, WINDOWS[:2], "saliency", per_channel=True, baseline="zero")
    bases = attribute(
        plain, WINDOWS[:2], "saliency", per_channel=True, baseline=WINDOWS.to_numpy()[:2] - 1.0
    )  # x minus this baseline is 1: the gradient itself
    gradient = bases[:, BASES]
    there = ARRAY[:2, BASES]
    np.testing.assert_allclose(zero[:, BASES], gradient * there, atol=1e-5)
    known = there.sum(axis=1)
    centred = ((gradient - gradient.mean(axis=1, keepdims=True)) * there).sum(axis=1)
    np.testing.assert_allclose(each[:, BASES].sum(axis=1), centred * known, atol=1e-5)


# -- orientation, order, units --------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_gene_on_the_minus_strand_has_the_scores_of_its_own_direction(soft, method):
    turned = WINDOWS.sources[0].reverse(ARRAY[0])[None]  # type: ignore[attr-defined]
    minus = array_windows(turned, NAMES, strand="-")
    np.testing.assert_array_equal(minus[0], ARRAY[0])
    np.testing.assert_allclose(
        attribute(soft, minus, method, per_channel=True),
        attribute(soft, WINDOWS[:1], method, per_channel=True),
        atol=1e-6,
    )


def test_mutations_of_the_genome_are_where_the_columns_say(toy_genome: ToyGenome, tmp_path):
    def pipeline(fasta: Any) -> Any:
        return make_pipeline(
            TSSWindows(LENGTH),
            SequenceChannels(fasta),
            SignalChannels(toy_genome.tracks, missing="mask", random_state=0),
        )

    loci = toy_genome.loci
    windows = pipeline(toy_genome.fasta).fit_transform(loci)
    model = BackboneRegressor(covariates=["gc"], **SMALL).fit(windows, loci["expression"])
    shaken(model)
    for strand in "+-":
        row = next(
            i
            for i, (sign, tss) in enumerate(zip(loci["strand"], loci["tss"], strict=True))
            if sign == strand and tss > LENGTH
        )
        gene = windows[[row]]
        each = attribute(model, gene, "mutagenesis", per_channel=True)[0]
        chrom, tss = loci["chrom"].iloc[row], int(loci["tss"].iloc[row])
        text = toy_genome.sequences[chrom]
        known = np.flatnonzero(gene[0][:4].sum(axis=0))
        for column in known[:: len(known) // 3]:
            offset = int(column) - LENGTH // 2
            position = tss + offset if strand == "+" else tss - offset
            letter = text[position].upper()
            other = "ACGT"[("ACGT".index(letter) + 1) % 4]
            # On the minus strand the window holds the complement of what the file has.
            channel = "ACGT".index(other if strand == "+" else "TGCA"["ACGT".index(other)])
            altered = {**toy_genome.sequences}
            altered[chrom] = text[:position] + other + text[position + 1 :]
            path = write_fasta(tmp_path / f"{row}-{column}.fa", altered)
            again = pipeline(path).fit(loci).transform(loci.iloc[[row]])
            change = model.predict(again) - model.predict(gene)
            assert change[0] != 0
            assert each[channel, column] == pytest.approx(change[0], abs=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_channels_does_not_matter(method):
    order = [2, 5, 0, 4, 3, 6, 1]  # A, T, atac, G, C, noise, atac_covered
    names = tuple(NAMES[i] for i in order)
    swapped = array_windows(ARRAY[:, order], names)
    one = BackboneRegressor(**SMALL).fit(WINDOWS, Y)
    # The same network, told its channels in another order: bodies read A, C, G, T, then tracks.
    other = BackboneRegressor(**SMALL).fit(swapped, Y)
    module, source = other.net_.ready_module, shaken(one).net_.ready_module
    read_one = [NAMES[i] for i in source.body_index]
    read_other = [names[i] for i in module.body_index]
    module.load_state_dict(source.state_dict())
    module.body_index = torch.tensor([names.index(name) for name in read_one])
    assert read_one != read_other
    np.testing.assert_allclose(
        attribute(other, swapped[:2], method, per_channel=True),
        attribute(one, WINDOWS[:2], method, per_channel=True)[:, order],
        atol=1e-5,
    )


@pytest.mark.parametrize("way", ["ph", "ps"])
def test_both_strands_of_a_symmetric_model_have_the_same_scores(way):
    model = BackboneRegressor(reverse_complement=way, **SMALL).fit(WINDOWS, Y)
    shaken(model)
    turned = np.stack([WINDOWS.sources[0].reverse(row) for row in ARRAY[:1]])  # type: ignore[attr-defined]
    for method in METHODS:
        np.testing.assert_allclose(
            attribute(model, array_windows(turned, NAMES), method)[:, ::-1],
            attribute(model, WINDOWS[:1], method),
            atol=2e-4,
            err_msg=method,
        )


def test_scores_have_the_unit_of_y_and_are_those_of_one_target():
    both = np.stack([Y, 10.0 * Y], axis=1)
    model = shaken(BackboneRegressor(**SMALL).fit(WINDOWS, both))
    for method in METHODS:
        scores = [attribute(model, WINDOWS[:1], method, output=i).astype(float) for i in range(2)]
        assert not np.allclose(scores[1], 10 * scores[0])  # two outputs, two heads
    change = model.predict(ARRAY[:1]) - model.predict(reference("uniform")[:1])
    for i in range(2):
        scores = attribute(model, WINDOWS[:1], "deeplift", output=i)
        assert scores.sum() == pytest.approx(change[0, i], rel=1e-3)


def test_covariates_are_held(plain):
    age = np.linspace(-1, 1, 12)
    model = BackboneRegressor(covariates=["age"], **SMALL)
    model.fit(array_windows(ARRAY, NAMES, age=age), Y)
    shaken(model)
    young, old = (array_windows(ARRAY[:3], NAMES, age=[a] * 3) for a in (-1.0, 1.0))
    scores = attribute(model, young, "deeplift")
    assert not np.allclose(scores, attribute(model, old, "deeplift"))
    base = array_windows(reference("uniform")[:3], NAMES, age=[-1.0] * 3)
    change = model.predict(young) - model.predict(base)
    np.testing.assert_allclose(scores.sum(axis=1), change, atol=1e-4)
    steps = attribute(model, young, "integrated_gradients", n_steps=100)
    np.testing.assert_allclose(steps.sum(axis=1), change, atol=0.02 * np.abs(steps).sum())


# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_batches_are_the_whole_and_their_size_means_nothing(soft, method):
    options: dict[str, Any] = {"n_steps": 5}
    if method in ("mutagenesis", "occlusion"):
        options["columns"] = slice(28, 32)
    whole = attribute(soft, WINDOWS, method, **options)
    batches = list(attribution_batches(soft, WINDOWS, method, **options))
    assert [len(batch) for batch in batches] == [8, 4]
    assert whole.shape == (12, LENGTH)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(batches), whole)
    assert np.isfinite(whole[:, 28:32]).all()
    small = attribute(soft, WINDOWS, method, batch_size=3, **options)
    np.testing.assert_allclose(small, whole, rtol=1e-4, atol=5e-5)


def test_the_estimator_is_left_as_it_was(soft):
    before = {k: v.clone() for k, v in soft.net_.ready_module.state_dict().items()}
    learns = [p.requires_grad for p in soft.net_.ready_module.parameters()]
    for parameter in soft.net_.ready_module.parameters():
        parameter.grad = None
    for method in METHODS:
        attribute(soft, WINDOWS[:1], method)
    after = soft.net_.ready_module.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert [p.requires_grad for p in soft.net_.ready_module.parameters()] == learns
    assert all(p.grad is None for p in soft.net_.ready_module.parameters())


def test_arrays_without_names_are_signals():
    X = np.random.default_rng(0).normal(size=(10, 3, 32)).astype("float32")
    model = shaken(BackboneRegressor(**SMALL).fit(X, X[:, 0].sum(axis=1)))
    scores = attribute(model, X[:2], "deeplift")
    change = model.predict(X[:2]) - model.predict(np.zeros_like(X[:2]))
    np.testing.assert_allclose(scores.sum(axis=1), change, atol=1e-4)
    with pytest.raises(ValueError, match="needs the channels A, C, G and T by name"):
        attribute(model, X, "mutagenesis")
    table = shaken(BackboneRegressor(**SMALL).fit(X[:, 0], X[:, 0].sum(axis=1)))
    assert attribute(table, X[:2, 0].tolist(), "occlusion").shape == (2, 32)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "shap"}, "method is 'shap'; expected one of"),
        ({"baseline": "mean"}, "baseline is 'mean'; expected 'uniform', 'zero' or an array"),
        ({"baseline": np.zeros(3)}, r"baseline has shape \(3,\); expected \(7,\)"),
        ({"baseline": np.full(7, np.nan)}, "NaN or infinite"),
        ({"mask": "closed"}, "mask is 'closed'; expected one of"),
        ({"output": 1}, "output is 1, but the estimator was fitted on 1 target"),
        ({"output": -1}, "expected 0 to 0"),
        ({"output": True}, "output is True"),
        ({"n_steps": 0}, "n_steps is 0; expected a whole number"),
        ({"width": 0}, "width is 0"),
        ({"width": 4, "step": 5}, "step is 5, more than width, 4"),
        ({"batch_size": 2.0}, "batch_size is 2.0"),
        ({"columns": slice(0, 5)}, "columns with method='saliency'"),
        ({"method": "occlusion", "columns": slice(5, 5)}, "that is not empty and has no step"),
        ({"method": "occlusion", "columns": slice(0, 9, 2)}, "no step"),
        ({"method": "occlusion", "columns": [1]}, "expected a slice"),
    ],
)
def test_bad_arguments_say_what_was_found(soft, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        attribute(soft, WINDOWS[:2], **arguments)
    with pytest.raises((ValueError, TypeError), match=message):
        attribution_batches(soft, WINDOWS[:2], **arguments)  # at once, not when it is read


def test_other_estimators_are_refused(plain):
    with pytest.raises(TypeError, match=r"expected a fitted RegMaskRegressor or BackboneRegressor"):
        attribute(BinnedSignalRegressor(), WINDOWS)
    with pytest.raises(TypeError, match=r"pipeline\[-1\]"):
        attribute(make_pipeline(plain), WINDOWS)
    with pytest.raises(NotFittedError):
        attribute(RegMaskRegressor(), WINDOWS)
    with pytest.raises(ValueError, match="BackboneRegressor has none"):
        attribute(plain, WINDOWS, mask="open")
    with pytest.raises(ValueError, match="7 channels"):
        attribute(plain, ARRAY[:, 1:])
    with pytest.raises(ValueError, match=r"scores has shape \(2, 64\); expected 12 rows"):
        completeness_gap(plain, WINDOWS, np.zeros((2, LENGTH)))
    peaks = pd.DataFrame({"chrom": ["w0"], "start": [0], "end": [20]})
    fixed = PeakMaskRegressor(peaks=peaks, promoter_length=4, **SMALL).fit(WINDOWS, Y)
    with pytest.raises(ValueError, match="reads more than the window"):
        attribute(fixed, WINDOWS)


def test_bodies_without_gradient_or_rule_are_refused():
    names = ("A", "C", "G", "T")
    windows = array_windows(ARRAY[:, BASES], names)
    codon = BackboneRegressor(backbone="codon", **SMALL).fit(windows, Y)
    for method in METHODS[:3]:
        with pytest.raises(ValueError, match="backbone='codon' counts codons"):
            attribute(codon, windows[:1], method)
    assert np.isfinite(attribute(codon, windows[:1], "mutagenesis")).all()
    mamba = BackboneRegressor(backbone="mamba", **SMALL).fit(windows, Y)
    with pytest.raises(ValueError, match="has no rule for backbone='mamba'"):
        attribute(mamba, windows[:1], "deeplift")
    scores = attribute(mamba, windows[:1], "integrated_gradients")
    assert np.isfinite(scores).all()


def test_a_body_with_an_operation_without_rule_is_found_out():
    class Cubed(torch.nn.Module):
        def __init__(self, in_channels, *, d_model, n_layers, dropout, resolution):
            super().__init__()
            self.out_channels, self.resolution = d_model, resolution
            self.mix = torch.nn.Conv1d(in_channels, d_model, resolution, stride=resolution)

        def forward(self, x):
            return torch.sin(self.mix(x))

    model = shaken(BackboneRegressor(backbone=Cubed, **SMALL).fit(WINDOWS, Y))
    with pytest.raises(ValueError, match="an operation for which there is no rule"):
        attribute(model, WINDOWS[:2], "deeplift")
    assert np.isfinite(attribute(model, WINDOWS[:2], "saliency")).all()


def test_a_missing_captum_is_named(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r'pip install "regmask_sk\[attribution\]"'):
        attribute(plain, WINDOWS, "integrated_gradients")


@pytest.mark.parametrize(
    "options",
    [
        {"training": "joint"},
        {"gate_distribution": "hard_concrete"},
        {"reverse_complement": "ps"},
        {"reverse_complement": "ph"},
        {"mask_resolution": 1},
        {"backbone": "transformer"},
        {"backbone": "hyena"},
    ],
    ids=lambda options: "-".join(map(str, next(iter(options.items())))),
)
def test_deeplift_has_rules_for_all_kinds_of_masked_models(options):
    model = RegMaskRegressor(sparsity=0.4, promoter_length=4, **options, **SMALL)
    shaken(model.fit(WINDOWS, Y))
    scores = attribute(model, WINDOWS[:3], "deeplift")
    change = model.predict(ARRAY[:3]) - model.predict(reference("uniform")[:3])
    assert np.abs(change).max() > 1e-3
    np.testing.assert_allclose(scores.sum(axis=1), change, rtol=1e-3, atol=1e-4)


def test_enformer_is_attributed_too():
    model = EnformerRegressor(
        d_model=24, n_layers=1, n_heads=2, key_width=4, n_downsamples=2, max_epochs=1,
        validation_fraction=0.0, random_state=0,
    ).fit(WINDOWS, Y)  # fmt: skip
    scores = attribute(shaken(model), WINDOWS[:2], "deeplift")
    change = model.predict(ARRAY[:2]) - model.predict(reference("uniform")[:2])
    np.testing.assert_allclose(scores.sum(axis=1), change, rtol=1e-3, atol=1e-4)
    # It has no resolution: stretches have 16 bp.
    fall = attribute(model, WINDOWS[:2], "occlusion")
    assert (np.diff(fall.reshape(2, -1, 16), axis=2) == 0).all()


# -- precision on a GPU ------------------------------------------------------------------


@pytest.mark.parametrize("given", ["tf32", "ieee"])
def test_tensorfloat_stays_away_for_the_while(plain, given):
    convolutions = torch.backends.cudnn.conv
    before, seen = convolutions.fp32_precision, []
    handle = plain.net_.ready_module.register_forward_hook(
        lambda *_: seen.append(convolutions.fp32_precision)
    )
    convolutions.fp32_precision = given
    try:
        attribute(plain, WINDOWS[:2], "occlusion")
        with pytest.raises(ZeroDivisionError), plain_float32():
            1 / 0  # noqa: B018
        after = convolutions.fp32_precision
    finally:
        handle.remove()
        convolutions.fp32_precision = before
    assert set(seen) == {"ieee"}
    assert after == given


@needs_cuda
def test_a_convolution_on_cuda_is_in_plain_float32():
    torch.manual_seed(0)
    x, weight = torch.randn(4, 64, 1000), torch.randn(64, 64, 9)
    exact = torch.nn.functional.conv1d(x.double(), weight.double())
    with plain_float32():
        found = torch.nn.functional.conv1d(x.cuda(), weight.cuda()).cpu().double()
    assert (found - exact).norm() < 2e-6 * exact.norm()
