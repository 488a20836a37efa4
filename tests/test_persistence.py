from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import regmask_sk._model_folder as model_folder
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.persistence import describe_model, load_model, save_model
from regmask_sk.regressor import RegMaskRegressor

TINY: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 8, "sparsity": 0.3, "max_epochs": 1,
    "random_state": 0, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, 3, 64)).astype(np.float32)
    return X, X[:, 0, :8].sum(axis=1)


@pytest.fixture(scope="module")
def fitted(arrays: tuple[np.ndarray, np.ndarray]) -> RegMaskRegressor:
    return RegMaskRegressor(**TINY).fit(*arrays)


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a FASTA, two tracks for each of two cell types, and one for both."""
    folder = tmp_path_factory.mktemp("genome")
    rng = np.random.default_rng(1)
    lines = [f">{c}\n{''.join(rng.choice(list('ACGT'), 4_000))}\n" for c in ("I", "II", "III")]
    (folder / "genome.fa").write_text("".join(lines))
    for name in ("atac", "k27_a", "k27_b"):
        with pyBigWig.open(str(folder / f"{name}.bw"), "w") as track:
            track.addHeader([(c, 4_000) for c in ("I", "II", "III")])
            for chrom in ("I", "II", "III"):
                track.addEntries(chrom, 0, values=rng.normal(size=80).tolist(), span=50, step=50)
    return folder


@pytest.fixture(scope="module")
def loci() -> pd.DataFrame:
    n = 24
    return pd.DataFrame(
        {
            "chrom": np.repeat(["I", "II", "III"], n // 3),
            "tss": np.tile(np.arange(n // 3) * 450 + 30, 3),
            "strand": np.tile(["+", "-"], n // 2),
            "gc": np.linspace(0, 1, n),
            "cell_type": np.tile(["a", "b", "b", "a"], n // 4),
        },
        index=pd.Index([f"g{i}" for i in range(n)], name="gene"),
    )


@pytest.fixture(scope="module")
def pipeline(genome: Path, loci: pd.DataFrame) -> Pipeline:
    tracks = {
        "atac": str(genome / "atac.bw"),
        "k27": {"a": str(genome / "k27_a.bw"), "b": str(genome / "k27_b.bw")},
    }
    steps = [
        ("windows", TSSWindows(256)),
        ("sequence", SequenceChannels(str(genome / "genome.fa"))),
        ("off", "passthrough"),
        ("signal", SignalChannels(tracks, missing="mask")),
        ("model", RegMaskRegressor(**TINY, covariates=("gc",), validation_chroms=["III"])),
    ]
    return Pipeline(steps).fit(loci, np.linspace(-1, 1, len(loci)))


def test_a_regressor_alone_predicts_the_same_bits(
    fitted: RegMaskRegressor, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    folder = save_model(fitted, tmp_path / "deep" / "model")
    back = load_model(folder)
    X, _ = arrays
    assert back.predict(X).tobytes() == fitted.predict(X).tobytes()
    assert back.transform(X).tobytes() == fitted.transform(X).tobytes()
    masks = np.linspace(0, 1, 64, dtype=np.float32)
    assert back.predict_masked(X, masks).tobytes() == fitted.predict_masked(X, masks).tobytes()
    assert back.get_params() == fitted.get_params()
    assert back.promoter_columns_ == fitted.promoter_columns_
    pd.testing.assert_frame_equal(back.history_, fitted.history_)


@pytest.mark.parametrize("options", [{"training": "joint"}, {"mask": "topk"}, {"mask": "hard"}])
def test_every_kind_of_model(
    options: dict[str, str], arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X, y = arrays
    model = RegMaskRegressor(**TINY, **options).fit(X, np.c_[y, -y])
    back = load_model(save_model(model, tmp_path / "model"))
    assert back.predict(X).shape == (24, 2)
    assert back.predict(X).tobytes() == model.predict(X).tobytes()
    assert back.transform(X).tobytes() == model.transform(X).tobytes()


def test_a_pipeline_predicts_the_same_bits_from_any_folder(
    pipeline: Pipeline, loci: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline.predict(loci)
    folder = save_model(pipeline, tmp_path / "model").resolve()
    monkeypatch.chdir(tmp_path)
    back = load_model(folder)
    assert [name for name, _ in back.steps] == ["windows", "sequence", "off", "signal", "model"]
    assert back.predict(loci).tobytes() == expected.tobytes()
    assert back[:-1].transform(loci).channel_names == pipeline[:-1].transform(loci).channel_names


def test_relative_paths_are_kept_as_absolute_ones(
    pipeline: Pipeline,
    genome: Path,
    loci: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = pipeline.predict(loci)
    monkeypatch.chdir(genome)
    relative = clone(pipeline).set_params(sequence__fasta="genome.fa")
    relative.fit(loci, np.linspace(-1, 1, len(loci)))
    folder = save_model(relative, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    back = load_model(folder)
    assert back["sequence"].fasta == str(genome / "genome.fa")
    assert back.predict(loci).tobytes() == expected.tobytes()


def test_a_loaded_model_can_be_saved_cloned_and_fitted_again(
    pipeline: Pipeline, loci: pd.DataFrame, tmp_path: Path
) -> None:
    expected = pipeline.predict(loci)
    once = load_model(save_model(pipeline, tmp_path / "once"))
    twice = load_model(save_model(once, tmp_path / "twice"))
    assert twice.predict(loci).tobytes() == expected.tobytes()
    again = clone(twice).fit(loci, np.linspace(-1, 1, len(loci)))
    assert again.predict(loci).tobytes() == expected.tobytes()


def test_a_model_saved_within_the_plan_goes_on_with_the_last_stage(
    arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = arrays
    model = RegMaskRegressor(**TINY)
    for _ in range(2):
        model.partial_fit(X, y)
    back = load_model(save_model(model, tmp_path / "model"))
    assert back.predict(X).tobytes() == model.predict(X).tobytes()
    seeds: list[int] = []
    draw = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: [seeds.append(seed), draw(seed)])
    back.partial_fit(X, y)
    assert back.history_["stage"].tolist() == [*model.history_["stage"], "finetune"]
    assert seeds[0] == model._seed + 2  # no epoch's random numbers are drawn twice
    assert np.isfinite(back.predict(X)).all()


def test_paths_can_be_overridden(
    pipeline: Pipeline, genome: Path, loci: pd.DataFrame, tmp_path: Path
) -> None:
    folder = save_model(pipeline, tmp_path / "model")
    new = tmp_path / "new.fa"
    new.write_bytes((genome / "genome.fa").read_bytes())
    back = load_model(
        folder, fasta=new, tracks={"k27": {"b": genome / "k27_a.bw"}, "atac": genome / "atac.bw"}
    )
    assert back["sequence"].fasta == str(new)
    assert back["signal"].tracks["k27"] == {
        "a": str(genome / "k27_a.bw"),
        "b": str(genome / "k27_a.bw"),
    }
    assert not np.array_equal(back.predict(loci), pipeline.predict(loci))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"tracks": {"dnase": "x.bw"}}, r"the model has no \['dnase'\], it has \['atac', 'k27'\]"),
        ({"tracks": {"k27": "x.bw"}}, r"'k27' takes a file for each of \['a', 'b'\]"),
        ({"tracks": {"atac": {"a": "x.bw"}}}, "'atac' takes one file"),
        ({"tracks": {"k27": {"c": "x.bw"}}}, r"cell types \['a', 'b'\].*not \['c'\]"),
    ],
)
def test_wrong_overrides(
    pipeline: Pipeline, tmp_path: Path, override: dict[str, Any], message: str
) -> None:
    folder = save_model(pipeline, tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        load_model(folder, **override)


def test_overrides_need_a_step_that_reads(fitted: RegMaskRegressor, tmp_path: Path) -> None:
    folder = save_model(fitted, tmp_path / "model")
    with pytest.raises(ValueError, match="reads no FASTA"):
        load_model(folder, fasta="genome.fa")
    with pytest.raises(ValueError, match="the model has no"):
        load_model(folder, tracks={"atac": "x.bw"})
    assert load_model(folder, device="cpu").device == "cpu"


def test_set_output_is_kept(
    fitted: RegMaskRegressor, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model = RegMaskRegressor(**TINY).fit(*arrays).set_output(transform="pandas")
    back = load_model(save_model(model, tmp_path / "model"))
    assert isinstance(back.transform(arrays[0]), pd.DataFrame)
    assert isinstance(
        load_model(save_model(fitted, tmp_path / "plain")).transform(arrays[0]), np.ndarray
    )


def test_description(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = save_model(pipeline, tmp_path / "model", notes={"target": "level"})
    found = describe_model(folder)
    assert found.notes == {"target": "level"}
    assert [step["class"] for step in found.steps] == [
        "TSSWindows", "SequenceChannels", "passthrough", "SignalChannels", "RegMaskRegressor",
    ]  # fmt: skip
    assert found.steps[-1]["params"]["covariates"] == ("gc",)


# --- what cannot be saved ----------------------------------------------------------------------


class OwnBody(nn.Module):
    """A backbone from elsewhere."""

    def __init__(self, in_channels: int, **_: Any) -> None:
        super().__init__()
        self.out_channels = 4
        self.layer = nn.Conv1d(in_channels, 4, 1)

    def forward(self, x: Any) -> Any:
        return self.layer(x)


class OwnRegressor(RegMaskRegressor):
    """A subclass, which the format knows nothing of."""


def test_other_kinds_of_model_are_refused(
    fitted: RegMaskRegressor, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"it is a Ridge; .*joblib"):
        save_model(Ridge().fit([[0.0]], [0.0]), tmp_path / "model")
    with pytest.raises(TypeError, match="its last step is Ridge"):
        save_model(make_pipeline(Ridge()), tmp_path / "model")
    with pytest.raises(TypeError, match=r"'standardscaler' is a sklearn.*StandardScaler"):
        save_model(make_pipeline(StandardScaler(), fitted), tmp_path / "model")
    with pytest.raises(TypeError, match="OwnRegressor"):
        save_model(OwnRegressor(**TINY).fit(*arrays), tmp_path / "model")
    with pytest.raises(NotFittedError):
        save_model(RegMaskRegressor(), tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_foreign_backbone_is_refused_with_a_remedy(
    fitted: RegMaskRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted, "backbone", OwnBody)
    with pytest.raises(TypeError, match=r"RegMaskRegressor\(backbone=\.\.\.\).*joblib\.dump"):
        save_model(fitted, tmp_path / "model")


# --- whole or not at all -----------------------------------------------------------------------


def test_nothing_is_replaced_unless_asked(fitted: RegMaskRegressor, tmp_path: Path) -> None:
    folder = save_model(fitted, tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_model(fitted, folder)
    other = tmp_path / "other"
    other.mkdir()
    for path in (other, tmp_path / "file"):
        (tmp_path / "file").write_text("precious")
        with pytest.raises(FileExistsError, match="is not a saved model"):
            save_model(fitted, path, overwrite=True)
    assert (tmp_path / "file").read_text() == "precious"


def test_overwriting_leaves_only_the_new_model(
    fitted: RegMaskRegressor, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    folder = save_model(fitted, tmp_path / "model")
    other = RegMaskRegressor(**{**TINY, "random_state": 1}).fit(*arrays)
    save_model(other, folder, overwrite=True)
    save_model(other, folder, overwrite=True)
    assert len(os.listdir(folder)) == 2
    assert load_model(folder).predict(arrays[0]).tobytes() == other.predict(arrays[0]).tobytes()
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("n_written", [0, 1])
def test_a_save_that_fails_changes_nothing(
    fitted: RegMaskRegressor,
    arrays: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_written: int,
) -> None:
    folder = save_model(fitted, tmp_path / "model")
    other = RegMaskRegressor(**{**TINY, "random_state": 1}).fit(*arrays)
    write, done = model_folder.write_whole, []

    def failing(path: Path, content: str | bytes) -> None:
        if len(done) == n_written:
            raise OSError(28, "No space left on device")
        done.append(path)
        write(path, content)

    monkeypatch.setattr(model_folder, "write_whole", failing)
    with pytest.raises(OSError, match="No space left"):
        save_model(other, folder, overwrite=True)
    done.clear()
    with pytest.raises(OSError, match="No space left"):
        save_model(other, tmp_path / "new")
    assert os.listdir(tmp_path) == ["model"]
    assert load_model(folder).predict(arrays[0]).tobytes() == fitted.predict(arrays[0]).tobytes()


def test_readers_never_see_half_a_model_while_it_is_replaced(
    fitted: RegMaskRegressor, arrays: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    models = [fitted, RegMaskRegressor(**{**TINY, "random_state": 1}).fit(*arrays)]
    known = {model.predict(arrays[0]).tobytes() for model in models}
    folder = save_model(fitted, tmp_path / "model")
    stop = threading.Event()

    def replace() -> None:
        for i in range(1, 40):
            save_model(models[i % 2], folder, overwrite=True)
        stop.set()

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        while not stop.is_set():
            assert load_model(folder).predict(arrays[0]).tobytes() in known
    finally:
        writer.join()


# --- damaged and hostile files -----------------------------------------------------------------


@pytest.fixture
def saved(fitted: RegMaskRegressor, tmp_path: Path) -> Path:
    return save_model(fitted, tmp_path / "model")


def edit(folder: Path, change: Any) -> None:
    document = json.loads((folder / "model.json").read_text())
    change(document)
    (folder / "model.json").write_text(json.dumps(document))


def test_no_model_there(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no saved model"):
        load_model(tmp_path / "nowhere")
    (weights,) = saved.glob("weights-*")
    weights.unlink()
    with pytest.raises(ValueError, match=rf"{weights.name} cannot be read .*FileNotFoundError"):
        load_model(saved)


@pytest.mark.parametrize("name", ["model.json", "weights-*"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_named_with_the_cause(saved: Path, name: str, damage: str) -> None:
    (file,) = saved.glob(name)
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = bytearray()
    else:
        content[len(content) // 3] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file.name} cannot be read as part of a saved model"):
        load_model(saved)


def test_a_damaged_model_can_be_replaced(
    fitted: RegMaskRegressor, arrays: tuple[np.ndarray, np.ndarray], saved: Path
) -> None:
    (saved / "model.json").write_text("{")
    save_model(fitted, saved, overwrite=True)
    assert load_model(saved).predict(arrays[0]).tobytes() == fitted.predict(arrays[0]).tobytes()


def test_a_device_that_is_not_there_is_no_damage(saved: Path) -> None:
    edit(saved, lambda d: d["steps"][0]["params"].update(device="abacus"))
    with pytest.raises(ValueError, match=r"^device='abacus' is no torch device"):
        load_model(saved)
    assert load_model(saved, device="cpu").device == "cpu"


def _drop_target_mean(document: dict[str, Any]) -> None:
    fitted = document["steps"][0]["fitted"]
    del fitted[next(key for key in fitted if "mean" in key)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "its 'format' is not"),
        (lambda d: d.update(format_version=99), r"format_version 99 .*this version reads 1"),
        (lambda d: d.update(surprise=1), r"unknown or missing keys \['surprise'\]"),
        (lambda d: d.pop("notes"), r"unknown or missing keys \['notes'\]"),
        (lambda d: d["weights"].update(file="../w.safetensors"), "not in the model's folder"),
        (lambda d: d["steps"][0].update({"class": "os.system"}), "has the class 'os.system'"),
        (lambda d: d["steps"][0].update({"class": "Pipeline"}), "has the class 'Pipeline'"),
        (lambda d: d["steps"][0].update(extra=1), r"unknown keys \['extra'\]"),
        (lambda d: d["steps"][0]["params"].update(novel=1), r"no parameters \['novel'\]"),
        (lambda d: d["steps"][0]["fitted"].update(a={"$": "pickle"}), "unknown kind of value"),
        (lambda d: d["steps"][0]["params"].update(d_model=16), "size mismatch"),
        (lambda d: d.update(steps=[]), "IndexError"),
        (lambda d: d.update(steps=7), "TypeError"),
        (_drop_target_mean, "mean"),
    ],
)
def test_a_changed_document_is_refused(saved: Path, change: Any, message: str) -> None:
    edit(saved, change)
    with pytest.raises(ValueError, match=rf"(?s)model\.json cannot be read .*{message}"):
        load_model(saved)


@pytest.mark.parametrize("key", ["__class__", "__dict__", "transform", "_readers"])
def test_only_fitted_attributes_are_set(pipeline: Pipeline, tmp_path: Path, key: str) -> None:
    folder = save_model(pipeline, tmp_path / "model")
    edit(folder, lambda d: d["steps"][0]["fitted"].update({key: 1}))
    with pytest.raises(ValueError, match=f"TSSWindows has no fitted attribute '{key}'"):
        load_model(folder)


def test_the_document_is_strict_json(saved: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((saved / "model.json").read_text(), parse_constant=refuse)
