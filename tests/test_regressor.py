"""``RegMaskRegressor``: the estimator's promises on arrays and on windows read from files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline

from regmask_sk.export import export_masks
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.generator import BETA_FLOOR
from regmask_sk.ops.evidence import seq2exp_gates
from regmask_sk.persistence import load_model, save_model
from regmask_sk.regressor import RegMaskRegressor
from regmask_sk.windows import Windows

TINY: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 4, "sparsity": 0.3, "max_epochs": 2,
    "generator_epochs": 1, "finetune_epochs": 1, "batch_size": 16, "random_state": 0,
    "device": "cpu",
}  # fmt: skip
N, CHANNELS, LENGTH = 40, 2, 48
Data = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, CHANNELS, LENGTH)).astype(np.float32)
    return X, 5.0 + 2.0 * X[:, 0, 8:16].mean(axis=1)


def regressor(**changed: Any) -> RegMaskRegressor:
    return RegMaskRegressor(**{**TINY, **changed})


@pytest.fixture(scope="module")
def fitted(data: Data) -> RegMaskRegressor:
    return regressor().fit(*data)


@pytest.fixture(scope="module")
def windows(toy_genome: Any) -> Windows:
    X = TSSWindows(LENGTH, jitter=3).fit_transform(toy_genome.loci)
    X = SequenceChannels(toy_genome.fasta).fit_transform(X)
    return SignalChannels({"ratio": toy_genome.tracks["ratio"]}).fit_transform(X)


@pytest.fixture(scope="module")
def expression(toy_genome: Any) -> np.ndarray:
    return toy_genome.loci["expression"].to_numpy()


# -- bits that repeat ------------------------------------------------------------------


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_the_same_seed_gives_the_same_bits(data: Data, training: Any) -> None:
    X, y = data
    first, again, other = (
        regressor(training=training, random_state=seed).fit(X, y) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.predict(X), again.predict(X))
    np.testing.assert_array_equal(first.transform(X), again.transform(X))
    assert not np.allclose(first.predict(X), other.predict(X))


def test_windows_with_jitter_and_complements_give_the_same_bits(
    windows: Windows, expression: np.ndarray
) -> None:
    models = [regressor(reverse_complement="augment").fit(windows, expression) for _ in range(2)]
    np.testing.assert_array_equal(*(model.predict(windows) for model in models))


@pytest.mark.parametrize("symmetry", ["ph", "ps"])
def test_a_gene_on_either_strand_gets_the_same_mask_and_prediction(
    windows: Windows, expression: np.ndarray, toy_genome: Any, tmp_path: Path, symmetry: Any
) -> None:
    model = regressor(reverse_complement=symmetry, mask="soft").fit(windows, expression)
    plus = toy_genome.loci.assign(strand="+")
    # The base before the TSS is the middle of the same window on the other strand.
    minus = plus.assign(strand="-", tss=plus["tss"] - 1)
    inside = (plus["tss"] > 0).to_numpy()
    placed = []
    for loci in (plus[inside], minus[inside]):
        X = TSSWindows(LENGTH).fit_transform(loci)
        X = SequenceChannels(toy_genome.fasta).fit_transform(X)
        signal = SignalChannels({"ratio": toy_genome.tracks["ratio"]}, random_state=0)
        placed.append(signal.fit_transform(X))
    np.testing.assert_array_equal(placed[0][0], placed[1][0][[3, 2, 1, 0, 4], ::-1])
    save_model(model, tmp_path / "model")
    for fitted in (model, load_model(tmp_path / "model")):
        one, other = (fitted.transform(X) for X in placed)
        np.testing.assert_allclose(other, one[:, ::-1], rtol=1e-5, atol=1e-5)
        one, other = (fitted.predict(X) for X in placed)
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
        moments, turned = (fitted.transform(X, return_std=True) for X in placed)
        np.testing.assert_allclose(moments.mask, fitted.transform(placed[0]), atol=1e-6)
        np.testing.assert_allclose(turned.std, moments.std[:, ::-1], rtol=1e-4, atol=1e-5)
        samples = fitted.predict_samples(placed[0], 3, random_state=0)
        assert samples.shape == (inside.sum(), 3)
        assert samples.std(axis=1).max() > 0


@pytest.mark.parametrize("backbone", ["caduceus", "hyena", "mamba", "transformer"])
def test_checkpoints_change_no_more_than_rounding(data: Data, backbone: str) -> None:
    X, y = data
    settings: dict[str, Any] = {"backbone": backbone, "dropout": 0.0, "max_epochs": 1}
    kept, again = (
        regressor(checkpointing=checkpointing, **settings).fit(X, y).transform(X)
        for checkpointing in (False, True)
    )
    np.testing.assert_allclose(again, kept, rtol=1e-3, atol=1e-4)


def test_the_fitted_estimator_names_what_computes_its_scans(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data
    assert regressor(max_epochs=1).fit(X, y).scan_backend_ is None
    assert regressor(backbone="mamba", max_epochs=1).fit(X, y).scan_backend_ == "numba"
    monkeypatch.setenv("REGMASK_SCAN_BACKEND", "torch")
    assert regressor(backbone="mamba", max_epochs=1).fit(X, y).scan_backend_ == "torch"


def test_a_body_without_checkpoints_refuses_them(data: Data) -> None:
    with pytest.raises(TypeError, match=r"ConvBackbone has no argument 'checkpointing'"):
        regressor(checkpointing=True).fit(*data)


def test_a_random_state_object_and_none_work(data: Data) -> None:
    X, y = data
    seeded = [regressor(random_state=np.random.RandomState(3)).fit(X, y) for _ in range(2)]
    np.testing.assert_array_equal(*(model.predict(X) for model in seeded))
    free = [regressor(random_state=None).fit(X, y) for _ in range(2)]
    assert not np.array_equal(*(model.predict(X) for model in free))


def test_the_global_random_states_are_left_alone(data: Data) -> None:
    X, y = data
    torch.manual_seed(11)
    np.random.seed(11)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    model = regressor().fit(X, y)
    assert torch.equal(torch.get_rng_state(), torch_state)
    model.partial_fit(X, y)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()
    torch.manual_seed(12)  # nor is it read
    np.testing.assert_array_equal(
        regressor().fit(X, y).predict(X), regressor().fit(X, y).predict(X)
    )


def test_reading_changes_nothing(fitted: RegMaskRegressor, data: Data) -> None:
    X = data[0]
    before = X.copy()
    first = fitted.predict(X)
    fitted.transform(X)
    fitted.predict_masked(X, np.zeros(LENGTH))
    np.testing.assert_array_equal(fitted.predict(X), first)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
def test_the_prediction_of_a_subset_is_the_subset_of_the_prediction(data: Data, kind: Any) -> None:
    X, y = data
    model = regressor(mask=kind).fit(X, y)
    rows = [31, 2, 2, 17, 0]
    np.testing.assert_array_equal(model.predict(X[rows]), model.predict(X)[rows])
    np.testing.assert_array_equal(model.transform(X[rows]), model.transform(X)[rows])
    np.testing.assert_array_equal(model.predict(X[7:8]), model.predict(X)[7:8])


def test_loader_processes_read_the_same(windows: Windows, expression: np.ndarray) -> None:
    plain = windows[:20]
    here = regressor(max_epochs=1).fit(plain, expression[:20])
    there = clone(here).set_params(n_workers=1).fit(plain, expression[:20])
    np.testing.assert_allclose(there.predict(plain).shape, (20,))
    assert there.history_["stage"].tolist() == here.history_["stage"].tolist()


# -- copies ----------------------------------------------------------------------------


def test_clone_is_unfitted_and_keeps_the_parameters(fitted: RegMaskRegressor) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "net_")


def test_pickle_and_joblib_keep_the_bits(
    windows: Windows, expression: np.ndarray, tmp_path: Path
) -> None:
    model = regressor(covariates=["gc"]).fit(windows, expression)
    joblib.dump(model, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(copy.predict(windows), model.predict(windows))
        np.testing.assert_array_equal(copy.transform(windows), model.transform(windows))
        pd.testing.assert_frame_equal(copy.history_, model.history_)


@pytest.mark.parametrize("method", ["predict", "transform", "get_feature_names_out"])
def test_an_unfitted_estimator_says_so(data: Data, method: str) -> None:
    with pytest.raises(NotFittedError):
        getattr(regressor(), method)(data[0])
    with pytest.raises(NotFittedError):
        regressor().predict_samples(data[0])
    with pytest.raises(NotFittedError):
        regressor().predict_masked(data[0], np.ones(LENGTH))


# -- shapes of X and y -----------------------------------------------------------------


def test_windows_arrays_and_tables_give_the_right_shapes(
    windows: Windows, expression: np.ndarray, data: Data
) -> None:
    X, y = data
    for given, target, length in (
        (windows, expression, LENGTH), (X, y, LENGTH), (X[:, 0], y, LENGTH),
        (X[:, 0].tolist(), y.tolist(), LENGTH), (X[:, :, :3], y, 3), (X[:, :, :1], y, 1),
    ):  # fmt: skip
        model = regressor().fit(given, target)
        assert model.n_features_in_ == length
        assert model.predict(given).shape == (40,)
        masks = model.transform(given)
        assert masks.shape == (40, length)
        assert masks.dtype == np.float32
        assert masks.min() >= 0
        assert masks.max() <= 1


def test_windows_and_their_array_predict_alike(windows: Windows, expression: np.ndarray) -> None:
    model = regressor().fit(windows, expression)
    assert model.channel_names_in_ == ("A", "C", "G", "T", "ratio")
    # An array does not say where a chromosome ends: masks of windows are closed beyond.
    sizes = windows.loci["chrom"].map(windows.chrom_sizes).to_numpy()
    inside = windows[(windows.starts >= 0) & (windows.starts + LENGTH <= sizes)]
    assert 20 < len(inside) < len(windows)
    np.testing.assert_array_equal(model.predict(inside), model.predict(inside.to_numpy()))


def test_several_outputs(data: Data) -> None:
    X, y = data
    both = np.column_stack([y, -3.0 * y])
    model = regressor().fit(X, both)
    assert model.predict(X).shape == (N, 2)
    assert model.predict_masked(X, np.ones(LENGTH)).shape == (N, 2)
    assert model.target_mean_.shape == model.target_scale_.shape == (2,)
    assert regressor().fit(X, y[:, None]).predict(X).shape == (N, 1)
    assert np.isfinite(model.score(X, both))


def test_the_unit_of_the_target_does_not_matter(data: Data) -> None:
    X, y = data
    plain = regressor().fit(X, y).predict(X)
    np.testing.assert_allclose(
        regressor().fit(X, 1e3 * y - 7e4).predict(X), 1e3 * plain - 7e4, 1e-4
    )


def test_a_constant_target_is_predicted(data: Data) -> None:
    X, _ = data
    predicted = regressor().fit(X, np.full(N, 3.5)).predict(X)
    assert np.abs(predicted - 3.5).max() < 1.0


def test_wrong_windows_at_predict_name_found_and_expected(
    fitted: RegMaskRegressor, data: Data
) -> None:
    X = data[0]
    for method in (fitted.predict, fitted.transform):
        with pytest.raises(ValueError, match=r"X has 40 features.*expecting 48 features"):
            method(X[:, :, :40])
        with pytest.raises(ValueError, match=r"X has 1 channels.*expecting 2 channels"):
            method(X[:, :1])


def test_a_callback_sees_each_epoch_and_may_end_the_fit(data: Data) -> None:
    rows: list[dict[str, Any]] = []
    model = regressor().fit(*data, callback=rows.append)
    pd.testing.assert_frame_equal(pd.DataFrame(rows), model.history_)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        model.fit(*data, callback=stop)
    assert len(model.history_) == 2


def test_other_outputs_in_a_later_partial_fit_are_refused(data: Data) -> None:
    X, y = data
    model = regressor().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y has 2 outputs"):
        model.partial_fit(X, np.column_stack([y, y]))


def three_tracks(toy_genome: Any, names: tuple[str, ...], **signal: Any) -> Windows:
    files = (toy_genome.tracks[name] for name in ("counts", "counts", "ratio"))
    X = TSSWindows(LENGTH).fit_transform(toy_genome.loci)
    X = SequenceChannels(toy_genome.fasta).fit_transform(X)
    tracks = dict(zip(names, files, strict=False))
    return SignalChannels(tracks, **{"scaling": "none", **signal}).fit_transform(X)


@pytest.mark.parametrize("preset", ["seq2exp-soft", "seq2exp-hard"])
def test_published_evidence_reads_the_raw_tracks(
    toy_genome: Any, expression: np.ndarray, preset: Any
) -> None:
    X = three_tracks(toy_genome, ("H3K27ac", "DNase", "Hi-C"))
    model = regressor(
        training="joint", evidence=preset, resolution=1, prior_concentration=100.0, kl_weight=0.01
    ).fit(X, expression)
    module = model.net_.module_
    x = torch.from_numpy(X[:5].to_numpy())
    with torch.no_grad():
        gates = module.generator.eval()(x)
        body = torch.cat([x[:, :4], torch.ones_like(x[:, :1])], dim=1)
        raw = module.generator.head(module.generator.backbone(body))
    a, b = seq2exp_gates(raw[:, 0], raw[:, 1], x[:, 4:], preset)
    torch.testing.assert_close(gates.a, a.clamp_min(BETA_FLOOR), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gates.b, b, rtol=1e-6, atol=1e-6)
    assert not hasattr(module.generator, "track_weight")


def test_published_evidence_needs_its_tracks(
    toy_genome: Any, expression: np.ndarray, data: Data
) -> None:
    def fit(X: Any, y: np.ndarray = expression, **changed: Any) -> None:
        regressor(**{"training": "joint", "evidence": "seq2exp-soft", **changed}).fit(X, y)

    names = ("H3K27ac", "DNase", "HiC")
    with pytest.raises(ValueError, match=r"X is an array\. Pass Windows"):
        fit(*data)
    for wrong in (names[:2], ("DNase", "H3K27ac", "HiC")):
        with pytest.raises(ValueError, match=r"needs three tracks, H3K27ac, DNase, Hi-C.*X has"):
            fit(three_tracks(toy_genome, wrong))
    with pytest.raises(ValueError, match=r"needs raw signals.*SignalChannels\(scaling='none'\)"):
        fit(three_tracks(toy_genome, names, scaling="robust"))
    for changed in ({"training": "decoupled"}, {"gate_distribution": "kumaraswamy"}):
        with pytest.raises(ValueError, match=r"evidence='seq2exp-soft' is for jointly trained"):
            fit(three_tracks(toy_genome, names), **changed)


# -- masks -----------------------------------------------------------------------------


def test_the_promoter_columns_are_kept(data: Data) -> None:
    X, y = data
    model = regressor(promoter_length=10, mask="hard").fit(X, y)
    assert model.promoter_columns_ == slice(19, 29)  # around column 24, the TSS
    assert (model.transform(X)[:, model.promoter_columns_] == 1).all()
    none = regressor(promoter_length=0).fit(X, y)
    assert none.promoter_columns_.start == none.promoter_columns_.stop


def test_the_kind_of_mask_can_be_chosen_after_fit(data: Data) -> None:
    X, y = data
    model = regressor(generator_epochs=3).fit(X, y)
    masks = {kind: model.set_params(mask=kind).transform(X) for kind in ("soft", "hard", "topk")}
    assert len(np.unique(masks["soft"])) > 2
    for kind in ("hard", "topk"):
        assert set(np.unique(masks[kind])) == {0.0, 1.0}
    assert np.abs(masks["topk"].mean(axis=1) - 0.3).max() <= 4 / LENGTH  # in each window
    predictions = [model.set_params(mask=kind).predict(X) for kind in masks]
    assert not np.array_equal(predictions[0], predictions[1])


def test_predict_is_predict_masked_under_the_own_masks(
    fitted: RegMaskRegressor, data: Data
) -> None:
    X = data[0]
    under_own = fitted.predict_masked(X, fitted.transform(X))
    np.testing.assert_allclose(under_own, fitted.predict(X), rtol=1e-5)


def test_predict_masked_takes_one_mask_or_one_a_window(
    fitted: RegMaskRegressor, data: Data
) -> None:
    X = data[0]
    mask = np.linspace(0, 1, LENGTH)
    one = fitted.predict_masked(X, mask)
    np.testing.assert_array_equal(one, fitted.predict_masked(X, np.tile(mask, (N, 1))))
    opened = fitted.predict_masked(X, np.ones(LENGTH, bool))
    assert opened.shape == (N,)
    assert not np.allclose(opened, one)
    masks = np.random.default_rng(0).random((N, LENGTH))
    np.testing.assert_array_equal(
        fitted.predict_masked(X[3:5], masks[3:5]), fitted.predict_masked(X, masks)[3:5]
    )


def test_under_a_closed_mask_all_windows_look_alike(fitted: RegMaskRegressor, data: Data) -> None:
    assert len(np.unique(fitted.predict_masked(data[0], np.zeros(LENGTH)))) == 1


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            np.ones(LENGTH - 1),
            r"masks has shape \(47,\); expected \(40, 48\).*\(48,\), one for all",
        ),
        (np.ones((N - 1, LENGTH)), r"masks has shape \(39, 48\)"),
        (np.full(LENGTH, 1.5), r"masks must lie in \[0, 1\]"),
        (np.full(LENGTH, -0.1), r"masks must lie in \[0, 1\]"),
        (np.full(LENGTH, np.nan), r"masks must lie in \[0, 1\]"),
    ],
)
def test_masks_that_cannot_be_are_refused(
    fitted: RegMaskRegressor, data: Data, masks: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted.predict_masked(data[0], masks)


def test_columns_are_named_by_their_distance_to_the_tss(fitted: RegMaskRegressor) -> None:
    names = fitted.get_feature_names_out()
    assert len(names) == fitted.n_features_in_ == LENGTH
    assert (names[0], names[LENGTH // 2], names[-1]) == ("tss-24", "tss+0", "tss+23")
    assert len(set(names)) == LENGTH


def test_masks_come_as_a_table_where_that_is_asked_for(data: Data) -> None:
    X, y = data
    model = regressor().set_output(transform="pandas").fit(X, y)
    table = model.transform(X)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(model.get_feature_names_out())
    with config_context(transform_output="pandas"):
        assert isinstance(regressor().fit(X[:, 0], y).transform(X[:, 0]), pd.DataFrame)
    assert isinstance(model.set_output(transform="default").transform(X), np.ndarray)


FAMILIES = ["beta", "kumaraswamy", "hard_concrete", "relaxed_bernoulli"]


@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_masks_come_with_the_std_of_their_gates(data: Data, training: Any, kind: Any) -> None:
    X, y = data
    model = regressor(training=training, mask=kind).fit(X, y)
    mask, std = model.transform(X, return_std=True)
    np.testing.assert_array_equal(mask, model.transform(X))
    assert std.shape == mask.shape
    assert std.dtype == np.float32
    assert (std[:, model.promoter_columns_] == 0).all()
    outside = np.delete(std, np.r_[model.promoter_columns_], axis=1)
    assert (outside > 0).all()
    assert (outside <= 0.5).all()
    if training == "decoupled" and kind == "soft":  # of a gate that is 0 or 1
        np.testing.assert_allclose(std, np.sqrt(mask * (1 - mask)), atol=1e-3)


def test_the_std_comes_beside_a_table(data: Data) -> None:
    X, y = data
    model = regressor().set_output(transform="pandas").fit(X, y)
    found = model.transform(X, return_std=True)
    assert isinstance(found.mask, pd.DataFrame)
    assert found.std.shape == found.mask.shape
    pd.testing.assert_frame_equal(found.mask, model.transform(X))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_predictions_under_sampled_masks(data: Data, training: Any, name: Any) -> None:
    X, y = data
    model = regressor(training=training, gate_distribution=name).fit(X, y)
    for kind in ("soft", "hard", "topk"):
        model.set_params(mask=kind)
        drawn = model.predict_samples(X[:6], 7, random_state=0)
        assert drawn.shape == (6, 7)
        assert np.isfinite(drawn).all()
        assert (drawn.std(axis=1) > 0).all()
        np.testing.assert_array_equal(drawn, model.predict_samples(X[:6], 7, random_state=0))
        assert not np.array_equal(drawn, model.predict_samples(X[:6], 7, random_state=1))


def test_sampled_masks_are_those_of_the_gates(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data
    for training in ("decoupled", "joint"):
        model = regressor(training=training).fit(X, y)
        mean, std = model.transform(X[:1], return_std=True)
        predictor = model.net_.ready_module.predictor
        seen: list[torch.Tensor] = []
        with monkeypatch.context() as patched:
            patched.setattr(
                predictor, "forward", lambda x, m, c, s=seen, **_: s.append(m) or m[:, :1]
            )
            model.predict_samples(X[:1], 3_000, random_state=0)
        masks = torch.cat(seen).numpy()
        np.testing.assert_allclose(masks.mean(axis=0), mean[0], atol=0.05)
        np.testing.assert_allclose(masks.std(axis=0), std[0], atol=0.05)


def test_samples_of_several_outputs_and_of_none(data: Data) -> None:
    X, y = data
    model = regressor().fit(X, np.column_stack([y, -3.0 * y]))
    assert model.predict_samples(X, 4).shape == (N, 4, 2)
    state = torch.get_rng_state()
    model.predict_samples(X, 2, random_state=np.random.RandomState(0))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="n_samples"):
        model.predict_samples(X, 0)


# -- regions ---------------------------------------------------------------------------


def positions(windows: Windows) -> np.ndarray:
    """Genomic position of each column of each window, from the definition of `Windows`."""
    offset = np.arange(LENGTH) - LENGTH // 2
    tss, strand = windows.loci["tss"].to_numpy(), windows.loci["strand"].to_numpy()
    return tss[:, None] + np.where(strand == "-", -1, 1)[:, None] * offset


@pytest.fixture(scope="module")
def regions(windows: Windows) -> dict[str, pd.DataFrame]:
    """Closed upstream of every other gene, open downstream of every third, by the strand."""
    loci, tables = windows.loci, {}
    for name, step, first in (("closed_regions", 2, -20), ("open_regions", 3, 8)):
        rows = loci.iloc[::step]
        one = rows["tss"] + np.where(rows["strand"] == "-", -1, 1) * first
        other = rows["tss"] + np.where(rows["strand"] == "-", -1, 1) * (first + 4)
        start, end = np.minimum(one, other).clip(lower=0), np.maximum(one, other).clip(lower=1)
        tables[name] = pd.DataFrame({"chrom": rows["chrom"], "start": start, "end": end})
    return tables


def marked(table: pd.DataFrame, windows: Windows) -> np.ndarray:
    where = np.zeros((len(windows), LENGTH), bool)
    for chrom, start, end in table.itertuples(index=False):
        here = (windows.loci["chrom"] == chrom).to_numpy()[:, None]
        where |= here & (positions(windows) >= start) & (positions(windows) < end)
    return where


@pytest.mark.parametrize("training", ["decoupled", "joint"])
@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
def test_masks_close_and_open_regions_of_the_genome(
    windows: Windows, expression: np.ndarray, regions: Any, training: Any, kind: Any
) -> None:
    model = regressor(
        training=training, mask=kind, sparsity=0.4, validation_fraction=0.0, **regions
    )
    model.set_params(reverse_complement="augment").fit(windows, expression)
    mask = model.transform(windows)
    opened = marked(regions["open_regions"], windows)
    opened[:, model.promoter_columns_] = True
    closed = marked(regions["closed_regions"], windows) & ~opened
    assert closed.any()
    assert (mask[opened] == 1).all()
    assert (mask[closed] == 0).all()
    assert mask[~opened & ~closed].max() > 0
    _, std = model.transform(windows, return_std=True)
    assert (std[opened | closed] == 0).all()
    if training == "decoupled" and kind == "soft":
        assert mask.mean() == pytest.approx(0.4, abs=1e-3)
    if kind == "topk":
        assert np.abs(mask.mean(axis=1) - 0.4).max() <= 4 / LENGTH
    np.testing.assert_array_equal(model.transform(windows[5:8]), mask[5:8])
    np.testing.assert_allclose(model.predict_masked(windows, mask), model.predict(windows), 1e-4)
    assert np.isfinite(model.predict_samples(windows[:3], 2, random_state=0)).all()


@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
def test_masks_are_closed_where_the_chromosome_has_ended(
    windows: Windows, expression: np.ndarray, kind: Any
) -> None:
    sizes = windows.loci["chrom"].map(windows.chrom_sizes).to_numpy()[:, None]
    off = (positions(windows) < 0) | (positions(windows) >= sizes)
    at_end = off.any(axis=1)
    assert (positions(windows)[at_end] < 0).any()
    assert (positions(windows)[at_end] >= sizes[at_end]).any()
    moving = replace(windows, jitter=2)
    model = regressor(mask=kind, sparsity=0.4, validation_fraction=0.0).fit(moving, expression)
    mask = model.transform(windows)
    off[:, model.promoter_columns_] = False
    assert (mask[off] == 0).all()
    assert model.transform(windows, return_std=True)[1][off].max() == 0
    assert mask[at_end][~off[at_end]].max() > 0
    # The others are what they are without them.
    np.testing.assert_array_equal(model.transform(windows[~at_end]), mask[~at_end])
    if kind == "soft":
        assert mask.mean() == pytest.approx(0.4, abs=1e-3)


def test_exported_masks_have_the_regions_where_the_genome_has_them(
    windows: Windows, expression: np.ndarray, regions: Any, tmp_path: Path
) -> None:
    model = regressor(sparsity=0.4, **regions).fit(windows, expression)
    export_masks(model, windows, bigwig=tmp_path / "masks.bw")
    opened = marked(regions["open_regions"], windows)
    opened[:, model.promoter_columns_] = True
    places: dict[str, set[tuple[str, int]]] = {"open": set(), "closed": set()}
    for name, where in (
        ("open", opened), ("closed", marked(regions["closed_regions"], windows))
    ):  # fmt: skip
        for row, column in np.argwhere(where):
            places[name].add((windows.loci["chrom"].iloc[row], positions(windows)[row, column]))
    with pyBigWig.open(str(tmp_path / "masks.bw")) as file:
        sizes = file.chroms()

        def values(listed: set[tuple[str, int]]) -> list[float]:
            inside = [(chrom, p) for chrom, p in listed if 0 <= p < sizes[chrom]]
            return [file.values(chrom, int(p), int(p) + 1)[0] for chrom, p in inside]

        assert set(values(places["open"])) == {1.0}
        assert set(values(places["closed"] - places["open"])) == {0.0}


def test_regions_come_from_a_file_and_are_kept_without_it(
    windows: Windows, expression: np.ndarray, regions: Any, tmp_path: Path
) -> None:
    paths = {}
    for name, table in regions.items():
        paths[name] = tmp_path / f"{name}.bed"
        table.to_csv(paths[name], sep="\t", header=False, index=False)
    model = regressor(sparsity=0.4, **paths).fit(windows, expression)
    same = regressor(sparsity=0.4, **regions).fit(windows, expression)
    np.testing.assert_array_equal(model.predict(windows), same.predict(windows))
    none = regressor(sparsity=0.4).fit(windows, expression)
    assert not np.array_equal(model.predict(windows), none.predict(windows))
    assert none.closed_regions_ is None
    for number, fitted in enumerate((model, same)):
        save_model(fitted, tmp_path / f"model{number}")
    for path in paths.values():
        path.unlink()
    for number in range(2):
        copy = load_model(tmp_path / f"model{number}")
        np.testing.assert_array_equal(copy.predict(windows), model.predict(windows))
        np.testing.assert_array_equal(copy.transform(windows), model.transform(windows))
        assert sorted(copy.closed_regions_) == sorted(model.closed_regions_)


def test_partial_fit_knows_the_regions_too(
    windows: Windows, expression: np.ndarray, regions: Any
) -> None:
    model = regressor(sparsity=0.4, **regions)
    for _ in range(4):
        model.partial_fit(windows, expression)
    whole = regressor(sparsity=0.4, **regions).fit(windows, expression)
    np.testing.assert_array_equal(model.predict(windows), whole.predict(windows))


def test_regions_that_cannot_be_used_say_why(
    windows: Windows, expression: np.ndarray, regions: Any, data: Data
) -> None:
    with pytest.raises(ValueError, match=r"closed_regions and open_regions are given in coord"):
        regressor(**regions).fit(*data)
    model = regressor(closed_regions=regions["closed_regions"]).fit(windows, expression)
    with pytest.raises(ValueError, match=r"closed_regions is given .* but X is an array"):
        model.predict(windows.to_numpy())
    elsewhere = pd.DataFrame({"chrom": ["7"], "start": [1], "end": [5]})
    with pytest.raises(ValueError, match=r"open_regions shares no chromosome with X: it has \['7'"):
        regressor(open_regions=elsewhere).fit(windows, expression)
    whole = pd.DataFrame({"chrom": ["chr1", "chr2", "chr3"], "start": [0] * 3, "end": [3000] * 3})
    with pytest.raises(ValueError, match=r"open_regions and the promoter window are .*raise spars"):
        regressor(open_regions=whole).fit(windows, expression)
    with pytest.raises(TypeError, match=r"closed_regions is a int; expected the path"):
        regressor(closed_regions=3).fit(windows, expression)


# -- weights, covariates, warm starts --------------------------------------------------


def test_weights_matter(data: Data) -> None:
    X, y = data
    weight = np.where(np.arange(N) < 20, 1.0, 0.01)
    plain, weighted = regressor().fit(X, y), regressor().fit(X, y, sample_weight=weight)
    assert not np.allclose(plain.predict(X), weighted.predict(X))
    same = regressor().fit(X, y, sample_weight=np.full(N, 1.0))
    np.testing.assert_array_equal(plain.predict(X), same.predict(X))


def test_the_target_of_a_row_of_weight_zero_does_not_matter(data: Data) -> None:
    X, y = data
    weight = np.ones(N)
    weight[[3, 11]] = 0.0
    wrong = y.copy()
    wrong[[3, 11]] = 1e3
    models = [
        regressor(validation_fraction=0.0).fit(X, target, sample_weight=weight)
        for target in (y, wrong)
    ]
    np.testing.assert_array_equal(*(model.predict(X) for model in models))


def test_covariates_are_standardised_on_the_training_rows(
    windows: Windows, expression: np.ndarray, toy_genome: Any
) -> None:
    model = regressor(covariates=["gc"], validation_chroms=["chr2"]).fit(windows, expression)
    training = toy_genome.loci.query("chrom != 'chr2'")
    assert model.covariate_mean_ == pytest.approx([training["gc"].mean()])
    assert model.covariate_scale_ == pytest.approx([training["gc"].std(ddof=0)])
    assert model.target_mean_ == pytest.approx([training["expression"].mean()])
    assert model.target_scale_ == pytest.approx([training["expression"].std(ddof=0)])


def test_covariates_are_used(toy_genome: Any, expression: np.ndarray) -> None:
    def with_gc(gc: np.ndarray) -> Windows:
        X = TSSWindows(LENGTH).fit_transform(toy_genome.loci.assign(gc=gc))
        return SequenceChannels(toy_genome.fasta).fit_transform(X)

    gc = toy_genome.loci["gc"].to_numpy()
    model = regressor(covariates=["gc"], max_epochs=10).fit(with_gc(gc), 3.0 * gc)
    plain, changed = model.predict(with_gc(gc)), model.predict(with_gc(gc[::-1].copy()))
    assert not np.allclose(plain, changed)
    # Another unit of the covariate is the same covariate.
    other = regressor(covariates=["gc"], max_epochs=10).fit(with_gc(100 * gc), 3.0 * gc)
    np.testing.assert_allclose(other.predict(with_gc(100 * gc)), plain, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"covariates \['gc'\] hold missing"):
        model.predict(with_gc(np.full(len(gc), np.nan)))


def test_a_covariate_that_does_not_vary_in_training_is_left_as_it_is(
    toy_genome: Any, expression: np.ndarray
) -> None:
    """0.1 has a standard deviation of 1e-17, by which nothing must be divided."""

    def with_gc(gc: float) -> Windows:
        X = TSSWindows(LENGTH).fit_transform(toy_genome.loci.assign(gc=gc))
        return SequenceChannels(toy_genome.fasta).fit_transform(X)

    model = regressor(covariates=["gc"]).fit(with_gc(0.1), expression)
    assert model.covariate_scale_ == [1.0]
    assert np.abs(model.predict(with_gc(0.3))).max() < 100


def test_training_rows_that_all_have_weight_zero_are_refused(data: Data) -> None:
    X, y = data
    groups = np.repeat(["a", "b"], 20)
    weight = (groups == "b").astype(float)
    with pytest.raises(ValueError, match=r"sample_weight is 0 for all the training rows"):
        regressor(validation_chroms=["b"]).fit(X, y, sample_weight=weight, groups=groups)


def test_warm_start_goes_on(data: Data) -> None:
    X, y = data
    model = regressor(warm_start=True, finetune_epochs=0).fit(X, y)
    first = {k: v.clone() for k, v in model.net_.module_.state_dict().items()}
    before = model.predict(X)
    model.set_params(max_epochs=1, learning_rate=1e-8, weight_decay=0.0, ema_decay=0.0).fit(X, y)
    assert len(model.history_) == 3 + 2
    after = model.net_.module_.state_dict()
    weights = [k for k in first if k.startswith("predictor") and k.endswith("weight")]
    assert all(torch.allclose(first[k], after[k], atol=1e-3) for k in weights)
    assert not np.array_equal(model.predict(X), before)
    cold = regressor(finetune_epochs=0).fit(X, y)
    cold.fit(X, y)
    assert len(cold.history_) == 3
    np.testing.assert_array_equal(cold.predict(X), before)


def test_refitting_forgets(data: Data) -> None:
    X, y = data
    model = regressor().fit(X[:, :1, :30], y).fit(X, y)
    np.testing.assert_array_equal(model.predict(X), regressor().fit(X, y).predict(X))


def test_groups_hold_out_whole_groups(data: Data) -> None:
    X, y = data
    groups = np.repeat(["a", "b", "c", "d"], 10)
    model = regressor(validation_chroms=["b"]).fit(X, y, groups=groups)
    assert model.target_mean_ == pytest.approx([y[groups != "b"].mean()])


def test_joint_training_reads_the_bases_in_the_body_and_the_tracks_beside(
    windows: Windows, expression: np.ndarray
) -> None:
    model = regressor(training="joint").fit(windows, expression)
    generator = model.net_.module_.generator
    assert generator.body_index.tolist() == [0, 1, 2, 3]
    assert generator.signal_index.tolist() == [4]
    decoupled = regressor().fit(windows, expression).net_.module_.generator
    assert sorted(decoupled.body_index.tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("training", ["decoupled", "joint"])
@pytest.mark.parametrize("name", FAMILIES)
def test_gates_of_every_family_work_with_either_training(
    data: Data, training: Any, name: Any
) -> None:
    X, y = data
    model = regressor(training=training, gate_distribution=name, generator_epochs=2).fit(X, y)
    default = "beta" if training == "joint" else "relaxed_bernoulli"
    plain = regressor(training=training, generator_epochs=2).fit(X, y)
    assert np.array_equal(model.predict(X), plain.predict(X)) == (name == default)
    if training == "decoupled":  # the budget is met by every family
        assert model.transform(X).mean() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_continuity_and_correlation_change_what_is_learned(data: Data, training: Any) -> None:
    X, y = data
    predicted = [
        regressor(training=training, **changed).fit(X, y).predict(X)
        for changed in (
            {}, {"continuity_weight": 2.0}, {"continuity_weight": 2.0, "continuity": "transitions"},
            {"gate_correlation": 16.0},
        )
    ]  # fmt: skip
    assert len(np.unique(np.round(predicted, 6), axis=0)) == 4
    stated = 0.0 if training == "joint" else 0.1
    same = regressor(training=training, continuity_weight=stated).fit(X, y)
    np.testing.assert_array_equal(same.predict(X), predicted[0])


def test_the_codon_body_works_on_windows(windows: Windows, expression: np.ndarray) -> None:
    model = regressor(backbone="codon").fit(windows, expression)
    assert model.predict(windows).shape == (40,)


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_masks_may_be_base_by_base_from_bodies_on_few_tokens(
    windows: Windows, expression: np.ndarray, training: Any, tmp_path: Path
) -> None:
    model = regressor(mask_resolution=1, training=training, closed_regions=None)
    masks = model.fit(windows, expression).transform(windows)
    left = masks[:, : model.promoter_columns_.start]
    assert (np.diff(left, axis=1) != 0).mean() > 0.9
    coarse = regressor(training=training).fit(windows, expression).transform(windows)
    assert (np.diff(coarse, axis=1) != 0).mean() < 0.3
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(windows), masks)
    np.testing.assert_array_equal(loaded.predict(windows), model.predict(windows))


def test_progress_shows_only_under_verbose(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    regressor().fit(*data)
    assert capsys.readouterr() == ("", "")
    regressor(verbose=1).fit(*data)
    out, err = capsys.readouterr()
    assert out == ""
    assert "stage=finetune" in err


# -- parameters ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mask", "fuzzy"), ("training", "both"), ("gate_distribution", "normal"), ("loss", "mse"),
        ("sparsity", 0.0), ("sparsity", 1.0), ("dropout", 1.0), ("dropout", -0.1),
        ("prior_mean", 0.0), ("prior_mean", 1.0), ("prior_concentration", 0.0),
        ("kl_weight", -1.0), ("continuity_weight", -1.0), ("continuity", "smooth"),
        ("gate_correlation", -1.0), ("gate_correlation", 49.0),
        ("learning_rate", 0.0), ("weight_decay", -1.0),
        ("gradient_clip", 0.0), ("ema_decay", 1.0), ("validation_fraction", 1.0),
        ("resolution", 0), ("d_model", 0), ("n_layers", -1), ("max_epochs", 0),
        ("generator_epochs", -1), ("finetune_epochs", -1), ("patience", 0), ("batch_size", 0),
        ("batch_size", "32"), ("n_workers", -1), ("promoter_length", -1), ("backbone", "mamba9"),
        ("device", "gpu"), ("validation_chroms", ["chr1"]), ("covariates", ["gc"]),
        ("reverse_complement", True), ("reverse_complement", "augment"),
        ("reverse_complement", "ps"), ("checkpointing", 1),
        ("mask_resolution", 0), ("mask_resolution", 3), ("mask_resolution", 8),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_named(data: Data, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        regressor(**{name: value}).fit(*data)
    with pytest.raises(ValueError, match=name):
        regressor(**{name: value}).partial_fit(*data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sparsity", "0.1"), ("max_epochs", 2.5), ("n_layers", "4"), ("backbone", 3)],
)
def test_a_value_of_another_type_is_named(data: Data, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        regressor(**{name: value}).fit(*data)


def test_init_checks_nothing_and_keeps_what_it_is_given() -> None:
    covariates = ["gc"]
    model = RegMaskRegressor(mask="fuzzy", covariates=covariates)
    assert model.mask == "fuzzy"
    assert model.covariates is covariates


def test_a_promoter_beyond_the_budget_says_what_to_change(data: Data) -> None:
    with pytest.raises(
        ValueError, match=r"promoter_length=20 is 41\.7% of the window of 48 bp.*raise sparsity"
    ):
        regressor(promoter_length=20).fit(*data)
    with pytest.raises(ValueError, match=r"promoter_length=50 .*window of 48 bp.*Shorten"):
        regressor(promoter_length=50, training="joint").fit(*data)
    joint = regressor(promoter_length=20, training="joint").fit(*data)
    assert (joint.transform(data[0])[:, 14:34] == 1).all()


# -- scikit-learn's machinery ----------------------------------------------------------


def test_weights_and_groups_are_routed_through_a_pipeline(toy_genome: Any) -> None:
    loci, y = toy_genome.loci, toy_genome.loci["expression"].to_numpy()
    weight = np.linspace(0.1, 1.0, 40)
    with config_context(enable_metadata_routing=True):
        model = regressor().set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        pipeline = make_pipeline(TSSWindows(LENGTH), SequenceChannels(toy_genome.fasta), model)
        pipeline.fit(loci, y, sample_weight=weight)
        routed = pipeline.predict(loci)
        X = pipeline[:-1].transform(loci)
        direct = regressor().fit(X, y, sample_weight=weight).predict(X)
        np.testing.assert_array_equal(routed, direct)
        scores = cross_validate(pipeline, loci, y, cv=2, params={"sample_weight": weight})
        assert np.isfinite(scores["test_score"]).all()
        with pytest.raises(ValueError, match=r"groups"):
            pipeline.fit(loci, y, groups=loci["chrom"])  # not asked for


def test_tags_say_what_x_and_y_may_be() -> None:
    tags = RegMaskRegressor().__sklearn_tags__()
    assert tags.estimator_type == "regressor"
    assert tags.input_tags.two_d_array
    assert tags.input_tags.three_d_array
    assert tags.target_tags.multi_output
    assert tags.target_tags.single_output
    assert not tags.non_deterministic
