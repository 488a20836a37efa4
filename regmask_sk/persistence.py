"""Keep a fitted model in a folder of JSON and safetensors, without pickle.

A saved model is a folder with two files. ``model.json`` holds the format's version, and for each
step its class (a name from a fixed list), its parameters and its fitted attributes;
``weights-<hash>.safetensors`` holds the tensors of the networks. Loading reads numbers and text:
no file names code to import or run.

An estimator may say what of it is to be kept, with ``_get_state() -> (state, tensors)`` and
``_set_state(state, tensors)``, ``state`` a dict of values that `regmask_sk._encoding` knows and
``tensors`` a dict of torch tensors. Of any other, the public fitted attributes (``name_``) are.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from regmask_sk._base import resolve_device
from regmask_sk._encoding import decode, encode
from regmask_sk._model_folder import (
    MODEL_JSON,
    check_target,
    naming,
    read_document,
    read_folder,
    write_folder,
)
from regmask_sk.regressor import RegMaskRegressor

# class name -> the module that defines it: the only classes that a model file can name.
_CLASSES = {
    "TSSWindows": "regmask_sk.features",
    "SequenceChannels": "regmask_sk.features",
    "SignalChannels": "regmask_sk.features",
    "ContactChannel": "regmask_sk.contacts",
    "WindowCache": "regmask_sk.window_cache",
    "RegMaskRegressor": "regmask_sk.regressor",
    "BackboneRegressor": "regmask_sk.baselines.backbone",
    "EPInformerRegressor": "regmask_sk.baselines.epinformer",
    "PeakMaskRegressor": "regmask_sk.baselines.peak_mask",
    "PositionMaskRegressor": "regmask_sk.baselines.position_mask",
    "GraphRegRegressor": "regmask_sk.baselines.graphreg",
    "EnformerRegressor": "regmask_sk.baselines.enformer",
    "PrismRegressor": "regmask_sk.baselines.prism",
}
_REGRESSORS = [name for name in _CLASSES if name.endswith("Regressor")]
_REBUILT = {"store_", "source_"}  # open files and what is cached: made anew when used
_FITTED_NAME = re.compile(r"[a-z][a-z0-9_]*_")
_STEP_KEYS = {"name", "class", "params", "fitted", "set_output"}
_PATHS = {
    "fasta", "tracks", "blacklist", "path", "closed_regions", "open_regions", "peaks", "contacts",
    "loops",
}  # fmt: skip


class ModelDescription(NamedTuple):
    """What ``model.json`` says, read without building the model.

    Attributes
    ----------
    path : Path
        Folder of the model.
    package_version : str
        Version of regmask_sk that wrote it.
    notes : dict of str to object
        What the writer left there, see `save_model`.
    steps : list of dict
        For each step: ``name``, ``class``, ``params`` and ``fitted``.
    """

    path: Path
    package_version: str
    notes: dict[str, Any]
    steps: list[dict[str, Any]]


def save_model(
    model: Any,
    path: str | os.PathLike[str],
    overwrite: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a fitted model to a folder, whole or not at all.

    The paths of FASTA and track files are kept as absolute paths; the files are not copied.

    Parameters
    ----------
    model : regressor or Pipeline
        Fitted: a `RegMaskRegressor`, or a rival that is a network. The steps of a pipeline are
        transformers of this package and, last, such a regressor.
    path : path-like
        Folder to write. Its parent is made if need be.
    overwrite : bool, default=False
        Replace a saved model that is there. Anything else that is there is never replaced.
    notes : mapping of str to object, optional
        Facts to keep beside the model, such as the name of the target.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If `path` exists and `overwrite` is False, or it is not a saved model.
    TypeError
        If a step, a parameter or a fitted attribute is of a kind that the format cannot hold.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.

    See Also
    --------
    load_model : Read it back.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> save_model(make_pipeline("passthrough"), "model")
    Traceback (most recent call last):
    ...
    TypeError: model: its last step is 'passthrough'; a saved model is one of ...
    """
    folder = Path(path)
    check_target(folder, overwrite)
    tensors: dict[str, Tensor] = {}
    content = {
        "notes": encode(dict(notes or {}), "notes"),
        "pipeline": _encode_pipeline(model),
        "steps": [_encode_step(name, step, tensors) for name, step in _steps_of(model)],
    }
    write_folder(folder, content, tensors, overwrite)
    return folder


def load_model(
    path: str | os.PathLike[str],
    fasta: str | os.PathLike[str] | None = None,
    tracks: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> Any:
    """Read a model that `save_model` wrote; its predictions are the same to the bit.

    Parameters
    ----------
    path : path-like
        Folder of the model.
    fasta : path-like, optional
        FASTA file to read instead of the one that the model names.
    tracks : mapping of str to path-like, optional
        Track files to read instead of those that the model names, for some or all of its tracks.
        A track with one file a cell type takes a mapping of cell type to path.
    device : str, optional
        Device to put the networks on instead of the one that the model names.

    Returns
    -------
    RegMaskRegressor or Pipeline
        As saved, fitted.

    Raises
    ------
    FileNotFoundError
        If there is no model at `path`.
    ValueError
        If a file is truncated, damaged, or of a format that this version does not know, or if
        `fasta` or `tracks` name what the model does not have.

    See Also
    --------
    save_model : Write it.

    Examples
    --------
    >>> load_model("no-such-folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: no-such-folder: there is no saved model there (no model.json). ...
    """
    folder = Path(path)
    document, tensors = read_folder(folder)
    with naming(folder / MODEL_JSON):
        parsed = [_parse_step(entry) for entry in document["steps"]]
    for step in parsed:
        _put_on(step.params, device)  # its error is about the machine, not the file
    with naming(folder / MODEL_JSON):
        steps = [(step.name, _build_step(step, tensors)) for step in parsed]
        model: Any = steps[0][1]
        if document["pipeline"] is not None:
            model = Pipeline(steps, **decode(document["pipeline"]))
    _override_paths([step for _, step in steps], fasta, tracks)
    return model


def describe_model(path: str | os.PathLike[str]) -> ModelDescription:
    """Read what a saved model is, without building it.

    Parameters
    ----------
    path : path-like
        Folder of the model.

    Returns
    -------
    ModelDescription
        Version, notes and steps.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_model`.

    Examples
    --------
    >>> describe_model("no-such-folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: no-such-folder: there is no saved model there (no model.json). ...
    """
    folder = Path(path)
    document = read_document(folder)
    with naming(folder / MODEL_JSON):
        steps = [
            {
                "name": entry["name"],
                "class": entry["class"],
                "params": _decode_params(entry.get("params", {})),
                "fitted": decode(entry.get("fitted", {})),
            }
            for entry in document["steps"]
        ]
        return ModelDescription(
            folder, document["package_version"], decode(document["notes"]), steps
        )


# --- estimators ------------------------------------------------------------------------------


def _steps_of(model: Any) -> list[tuple[str, Any]]:
    steps = list(model.steps) if isinstance(model, Pipeline) else [("model", model)]
    last = steps[-1][1]
    if type(last).__name__ not in _REGRESSORS:
        found = repr(last) if isinstance(last, str) else type(last).__name__
        what = f"its last step is {found}" if isinstance(model, Pipeline) else f"it is a {found}"
        raise TypeError(
            f"model: {what}; a saved model is one of {', '.join(_REGRESSORS)}, alone or as the "
            "last step of a Pipeline of this package's transformers. Keep other estimators with "
            "joblib.dump."
        )
    return steps


def _class_named(name: str) -> type:
    return getattr(import_module(_CLASSES[name]), name)


def _is_known(estimator: Any) -> bool:
    cls = type(estimator)
    return cls.__name__ in _CLASSES and _class_named(cls.__name__) is cls


def _encode_pipeline(model: Any) -> Any:
    if not isinstance(model, Pipeline):
        return None
    params = model.get_params(deep=False)
    # Where fitted steps were cached while fitting says nothing about the fitted model.
    kept = {k: v for k, v in params.items() if k not in ("steps", "memory")}
    return encode(kept, "the pipeline's parameters")


def _encode_step(name: str, step: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if step is None or isinstance(step, str):
        return {"name": name, "class": "passthrough"}
    cls = type(step)
    if not _is_known(step):
        raise TypeError(
            f"step {name!r} is a {cls.__module__}.{cls.__qualname__}; a saved model has only "
            f"{', '.join(_CLASSES)}. Keep this pipeline with joblib.dump instead."
        )
    if hasattr(step, "_get_state"):
        check_is_fitted(step)
        state, step_tensors = step._get_state()
    else:
        state, step_tensors = _fitted_attributes(step), {}
    for key, tensor in step_tensors.items():
        # A copy of its own for each: safetensors refuses tensors that share memory.
        tensors[f"{name}/{key}"] = tensor.detach().cpu().contiguous().clone()
    entry = {
        "name": name,
        "class": cls.__name__,
        "params": _encode_params(step),
        "fitted": {key: encode(value, f"{cls.__name__}.{key}") for key, value in state.items()},
    }
    output = getattr(step, "_sklearn_output_config", None)
    if output:
        entry["set_output"] = dict(output)
    return entry


def _encode_params(step: Any) -> dict[str, Any]:
    name = type(step).__name__
    return {
        key: {"$": "estimator", "class": type(value).__name__, "params": _encode_params(value)}
        if _is_known(value)
        else encode(_absolute(key, value), f"{name}({key}=...)")
        for key, value in step.get_params(deep=False).items()
    }


def _decode_params(params: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _class_for(value["class"], inner := _decode_params(value["params"]))(**inner)
        if isinstance(value, dict) and value.get("$") == "estimator"
        else decode(value)
        for key, value in params.items()
    }


def _fitted_attributes(step: Any) -> dict[str, Any]:
    return {
        key: value
        for key, value in vars(step).items()
        if _FITTED_NAME.fullmatch(key) and key not in _REBUILT
    }


def _absolute(key: str, value: Any) -> Any:
    """Path parameters, so that the model can be loaded from any working directory."""
    if key not in _PATHS:
        return value
    if isinstance(value, Mapping):
        return {name: _absolute(key, item) for name, item in value.items()}
    return os.path.abspath(value) if isinstance(value, (str, os.PathLike)) else value


class _Step(NamedTuple):
    name: str
    cls: Any
    params: dict[str, Any]
    fitted: dict[str, Any]
    set_output: dict[str, str] | None


def _parse_step(entry: dict[str, Any]) -> _Step:
    unknown = set(entry) - _STEP_KEYS
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)} in step {entry.get('name')!r}")
    name, class_name = entry["name"], entry["class"]
    if class_name == "passthrough":
        return _Step(name, None, {}, {}, None)
    params = _decode_params(entry["params"])
    cls = _class_for(class_name, params, f"step {name!r}")
    return _Step(name, cls, params, decode(entry["fitted"]), entry.get("set_output"))


def _class_for(class_name: str, params: dict[str, Any], where: str = "a parameter") -> Any:
    if class_name not in _CLASSES:
        raise ValueError(f"{where} has the class {class_name!r}, not one of {[*_CLASSES]}")
    cls: Any = _class_named(class_name)
    unknown = set(params) - set(cls._get_param_names())
    if unknown:
        raise ValueError(
            f"{class_name} of this version has no parameters {sorted(unknown)}; update regmask_sk"
        )
    return cls


def _put_on(params: dict[str, Any], device: str | None) -> None:
    """Set the device of a step's networks, or check the one that it has."""
    if "device" in params:
        params["device"] = params["device"] if device is None else device
        resolve_device(params["device"])
    if "estimator" in params:
        inner = params["estimator"] or RegMaskRegressor()
        learner = {"device": inner.get_params(deep=False).get("device", "auto")}
        _put_on(learner, device)
        if device is not None:
            params["estimator"] = inner.set_params(**learner)


def _build_step(parsed: _Step, tensors: dict[str, Tensor]) -> Any:
    if parsed.cls is None:
        return "passthrough"
    step = parsed.cls(**parsed.params)
    prefix = f"{parsed.name}/"
    if hasattr(step, "_set_state"):
        own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        step._set_state(parsed.fitted, own)
    else:
        for key, value in parsed.fitted.items():
            if not _FITTED_NAME.fullmatch(key):
                raise ValueError(f"{type(step).__name__} has no fitted attribute {key!r}")
            setattr(step, key, value)
    if parsed.set_output:
        step.set_output(**parsed.set_output)
    return step


def _override_paths(
    steps: list[Any],
    fasta: str | os.PathLike[str] | None,
    tracks: Mapping[str, Any] | None,
) -> None:
    having = {
        key: [s for s in steps if hasattr(s, "get_params") and key in s.get_params(deep=False)]
        for key in ("fasta", "tracks")
    }
    if fasta is not None:
        if not having["fasta"]:
            raise ValueError("fasta: the model reads no FASTA; leave the argument out")
        for step in having["fasta"]:
            step.set_params(fasta=os.fspath(fasta))
    if tracks:
        known = [name for step in having["tracks"] for name in step.tracks]
        unknown = sorted(set(tracks) - set(known))
        if unknown:
            raise ValueError(
                f"tracks: the model has no {unknown}, it has {known}; give the files under these"
            )
        for step in having["tracks"]:
            merged = {name: copy.copy(files) for name, files in step.tracks.items()}
            for name in merged:
                merged[name] = _one_track(name, merged[name], tracks.get(name))
            step.set_params(tracks=merged)


def _one_track(name: str, old: Any, new: Any) -> Any:
    if new is None:
        return old
    if isinstance(old, Mapping) != isinstance(new, Mapping):
        expected = f"a file for each of {sorted(old)}" if isinstance(old, Mapping) else "one file"
        raise ValueError(f"tracks: {name!r} takes {expected} in this model, not {new!r}")
    if not isinstance(new, Mapping):
        return os.fspath(new)
    if set(new) - set(old):
        raise ValueError(
            f"tracks: {name!r} has the cell types {sorted(old)} in this model, not "
            f"{sorted(set(new) - set(old))}"
        )
    return {**old, **{cell: os.fspath(file) for cell, file in new.items()}}
