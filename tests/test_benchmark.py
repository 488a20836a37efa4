"""The harness: the same splits for all, failures as rows, resuming, spread and tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dask_cluster import on_dask
from matplotlib.figure import Figure
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import Pipeline

from regmask_sk import _benchmark_tables, compare
from regmask_sk._benchmark_cells import COSTS, SCORES
from regmask_sk.baselines import BackboneRegressor, BinnedSignalRegressor
from regmask_sk.benchmark import Comparison
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.metrics import regression_metrics
from regmask_sk.regressor import RegMaskRegressor

SMALL: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 8, "max_epochs": 1, "device": "cpu",
}  # fmt: skip


#: (name, seed, genes of the training), one for each fit in this process.
RUNS: list[tuple[str, int, tuple[str, ...]]] = []
BROKEN: set[str] = set()


class Recorder(RegressorMixin, BaseEstimator):
    """Notes its rows and seed, predicts a constant; may fail or be interrupted."""

    def __init__(
        self, name: str = "", does: str = "", value: float = 0.0, random_state: Any = None
    ) -> None:
        self.name = name
        self.does = does
        self.value = value
        self.random_state = random_state

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> Recorder:
        RUNS.append((self.name, self.random_state, tuple(X.index)))
        if self.does == "fail" or self.name in BROKEN:
            raise RuntimeError("no\n  luck")
        if self.does == "interrupt" and self.random_state == 1:
            raise KeyboardInterrupt
        self.mean_ = float(np.mean(y)) + self.value
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        if self.does == "nan":
            return np.full(len(X), np.nan)
        if self.does == "few":
            return np.zeros(1)
        return np.full(len(X), self.mean_)


@pytest.fixture(autouse=True)
def forget() -> None:
    RUNS.clear()
    BROKEN.clear()


@pytest.fixture
def loci(toy_genome: Any) -> pd.DataFrame:
    return toy_genome.loci.drop(columns="expression")


@pytest.fixture
def y(toy_genome: Any) -> pd.Series:
    return toy_genome.loci["expression"]


def pipeline(genome: Any, last: Any, length: int = 64) -> Pipeline:
    return Pipeline(
        [
            ("windows", TSSWindows(length)),
            ("sequence", SequenceChannels(genome.fasta)),
            ("signal", SignalChannels({"ratio": genome.tracks["ratio"]})),
            ("last", last),
        ]
    )


# --- what is run ---------------------------------------------------------------------------------


def test_all_see_the_same_splits_and_seeds(loci: pd.DataFrame, y: pd.Series) -> None:
    models = {name: Recorder(name) for name in ("a", "b")}
    result = compare(models, loci, y, cv=GroupKFold(4), seeds=(3, 5))
    one, other = ([run[1:] for run in RUNS if run[0] == name] for name in models)
    assert one == other
    assert [seed for seed, _ in one] == [3] * 4 + [5] * 4
    assert [genes for _, genes in one[:4]] == [genes for _, genes in one[4:]]
    for _, genes in one:
        assert loci.loc[list(genes), "chrom"].nunique() == 3
    cells = result.cells
    assert list(cells["estimator"]) == ["a"] * 8 + ["b"] * 8
    assert list(cells["seed"].iloc[:8]) == [3] * 4 + [5] * 4
    assert list(cells["fold"].iloc[:4]) == ["0", "1", "2", "3"]
    assert (cells[["n_train", "n_test"]] == [30, 10]).all(axis=None)
    key = ["estimator", "fold", "seed"]
    by_cell = cells.set_index(key)
    for place, own in result.predictions.groupby(key):
        np.testing.assert_array_equal(own["gene"], loci.index[own["row"]])
        np.testing.assert_array_equal(own["measured"], y.iloc[own["row"]])
        mse = np.mean((own["predicted"] - own["measured"]) ** 2)
        assert by_cell.loc[place, "mse"] == pytest.approx(mse, rel=1e-12)
        assert np.isnan(by_cell.loc[place, "pearson"])  # a constant
    tested = result.predictions.groupby(["estimator", "seed"])["row"].apply(sorted)
    assert all(rows == list(range(40)) for rows in tested)


def test_splits_by_name_by_mask_and_of_other_tables() -> None:
    X = np.arange(12.0).reshape(6, 2)
    mask = np.array([True, True, True, True, False, False])
    result = compare({"ridge": Ridge()}, X, X[:, 0], cv={"end": (mask, ~mask)})
    assert list(result.predictions["gene"]) == [4, 5]
    assert result.cells["fold"].tolist() == ["end"]
    again = compare({"ridge": Ridge()}, X, X[:, 0], cv=[(range(4), [4, 5])])
    np.testing.assert_array_equal(again.predictions["predicted"], result.predictions["predicted"])


def test_scores_masks_parameters_and_seconds(
    toy_genome: Any, loci: pd.DataFrame, y: pd.Series
) -> None:
    last_chrom = (loci["chrom"] == "chr4").to_numpy()
    models = {
        "regmask": pipeline(toy_genome, RegMaskRegressor(sparsity=0.3, mask="topk", **SMALL)),
        "body": pipeline(toy_genome, BackboneRegressor(**SMALL)),
        "ridge": pipeline(toy_genome, BinnedSignalRegressor(bin_size=8)),
    }
    result = compare(models, loci, y, cv={"chr4": (~last_chrom, last_chrom)})
    cells = result.cells.set_index("estimator")
    assert (cells["error"] == "").all()
    fitted = models["regmask"].set_params(last__random_state=0, signal__random_state=0)
    fitted.fit(loci[~last_chrom], y[~last_chrom].to_numpy())
    predicted = fitted.predict(loci[last_chrom])
    masks = fitted.transform(loci[last_chrom])
    scores = regression_metrics(y[last_chrom], predicted)
    assert {name: cells.loc["regmask", name] for name in SCORES} == scores
    assert cells.loc["regmask", "mask_fraction"] == pytest.approx(masks.mean())
    assert np.isnan(cells.loc[["body", "ridge"], "mask_fraction"]).all()
    module = fitted[-1].net_.module_
    assert cells.loc["regmask", "n_parameters"] == sum(p.numel() for p in module.parameters())
    assert 0 < cells.loc["body", "n_parameters"] < cells.loc["regmask", "n_parameters"]
    assert np.isnan(cells.loc["ridge", "n_parameters"])
    assert (cells[["fit_seconds", "predict_seconds"]] > 0).all(axis=None)
    assert np.isnan(cells["peak_memory_mb"]).all()  # other cells' too, in one process


class Narrow(RegressorMixin, BaseEstimator):
    """Its ``transform`` gives no masks."""

    def __init__(self, kind: str = "scores") -> None:
        self.kind = kind

    def fit(self, X: Any, y: Any) -> Narrow:
        self.fitted_ = True
        return self

    def predict(self, X: Any) -> np.ndarray:
        return np.zeros(len(X))

    def transform(self, X: Any) -> np.ndarray:
        if self.kind == "fails":
            raise ValueError("no regions")
        return np.zeros((len(X), 3)) if self.kind == "scores" else np.full((len(X), X.shape[1]), 9)


@pytest.mark.parametrize("kind", ["scores", "large", "fails"])
def test_what_is_no_mask_is_not_counted_as_one(kind: str) -> None:
    X = np.zeros((6, 4))
    cells = compare({"narrow": Narrow(kind)}, X, np.arange(6.0), cv=KFold(2)).cells
    assert np.isnan(cells["mask_fraction"]).all()
    assert (cells["error"] == "").all()
    told = "no masks: ValueError: no regions" if kind == "fails" else ""
    assert (cells["warnings"] == told).all()


def test_failures_are_rows(loci: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    models = {
        "fails": Recorder(does="fail"),
        "nan": Recorder(does="nan"),
        "few": Recorder(does="few"),
        "mean": DummyRegressor(),
    }
    result = compare(models, loci, y, cv=GroupKFold(4), out=tmp_path)
    errors = result.cells.groupby("estimator", sort=False)["error"].unique()
    assert errors["fails"].tolist() == ["RuntimeError: no luck"]
    assert "predicted holds 10 values that are NaN" in errors["nan"][0]
    assert "shape (1,); expected (10,)" in errors["few"][0]
    assert errors["mean"].tolist() == [""]
    assert set(result.predictions["estimator"]) == {"mean"}
    summary = result.summary()
    assert summary.index[0] == "mean"
    assert summary["n_failed"].to_dict() == {"mean": 0, "fails": 4, "nan": 4, "few": 4}
    text = result.to_markdown(reference="mean")
    assert "- fails: 4 of 4: RuntimeError: no luck" in text
    assert "fails (4 of 4 failed)" in text
    assert len(list((tmp_path / "cells").iterdir())) == 4  # failures are tried again
    assert result.paired_tests("mean")["n_cells"].tolist() == [0, 0, 0]


def test_variants(toy_genome: Any, loci: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    plain = pipeline(toy_genome, BinnedSignalRegressor(bin_size=8, kmer_size=2))
    models = {"ridge": plain, "mean": DummyRegressor()}
    result = compare(models, loci, y, cv=GroupKFold(4), truncate=32, ablate_signals=True)
    cells = result.cells
    assert list(cells["estimator"].unique()) == [
        "ridge", "ridge, 32 bp", "ridge, sequence only", "mean", "mean, 32 bp",
        "mean, sequence only",
    ]  # fmt: skip
    short = compare(
        {"x": pipeline(toy_genome, plain[-1], length=32)}, loci, y, cv=GroupKFold(4)
    ).cells
    own = cells[cells["estimator"] == "ridge, 32 bp"]
    np.testing.assert_array_equal(own["mse"], short["mse"])
    bare = plain.set_params(signal="passthrough")
    alone = compare({"x": bare}, loci, y, cv=GroupKFold(4)).cells
    own = cells[cells["estimator"] == "ridge, sequence only"]
    np.testing.assert_array_equal(own["mse"], alone["mse"])
    errors = cells.groupby("estimator", sort=False)["error"].unique()
    assert "no step of it is a TSSWindows" in errors["mean, 32 bp"][0]
    assert "no step of it is a SignalChannels" in errors["mean, sequence only"][0]
    longer = compare({"x": bare}, loci, y, cv=GroupKFold(4), truncate=64).cells
    assert "no longer than 64 bp already" in longer["error"].iloc[-1]


# --- resuming ------------------------------------------------------------------------------------


def run_again(
    models: dict[str, Any], loci: pd.DataFrame, y: Any, out: Path, **changes: Any
) -> Comparison:
    options = {"cv": GroupKFold(4), "seeds": (0, 1), "out": out, **changes}
    return compare(models, loci, y, **options)


def test_what_is_finished_is_not_run_again(
    loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    models = {"a": Recorder("a"), "fails": Recorder("fails", does="fail")}
    first = run_again(models, loci, y, tmp_path)
    assert len(RUNS) == 16
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(files) == 8
    RUNS.clear()
    again = run_again(models, loci, y, tmp_path)
    assert [name for name, *_ in RUNS] == ["fails"] * 8
    assert files == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    pd.testing.assert_frame_equal(again.cells, first.cells)
    pd.testing.assert_frame_equal(again.predictions, first.predictions)


@pytest.mark.parametrize(
    ("change", "n_new"),
    [
        ({"models": {"a": Recorder(value=2.0)}}, 8),
        ({"models": {"a": DummyRegressor()}}, 8),
        ({"seeds": (1, 2)}, 4),
        ({"cv": GroupKFold(2)}, 4),
        ({"y": np.arange(40.0)}, 8),
        ({"models": {"b": Recorder(value=1.0)}}, 0),
    ],
    ids=["parameter", "class", "seed", "split", "y", "name"],
)
def test_a_change_is_another_cell(
    change: dict[str, Any], n_new: int, loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    run_again({"a": Recorder(value=1.0)}, loci, y, tmp_path)
    before = set(os.listdir(tmp_path / "cells"))
    assert len(before) == 8
    change = {"models": {"a": Recorder(value=1.0)}, "loci": loci, "y": y, **change}
    run_again(out=tmp_path, **change)
    assert len(set(os.listdir(tmp_path / "cells")) - before) == n_new


def test_changed_loci_and_files_are_other_cells(
    loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    table = tmp_path / "table.txt"
    table.write_text("one")
    model = {"a": Recorder(does=str(table))}
    run_again(model, loci, y, tmp_path)
    moved = loci.assign(tss=loci["tss"] + (loci.index == "gene05"))
    run_again(model, moved, y, tmp_path)
    # gene05 is on one side of each split.
    assert len(os.listdir(tmp_path / "cells")) == 16
    table.write_text("three")
    run_again(model, loci, y, tmp_path)
    assert len(os.listdir(tmp_path / "cells")) == 24


def test_a_failed_cell_is_tried_again(loci: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    BROKEN.add("a")
    failed = run_again({"a": Recorder("a")}, loci, y, tmp_path)
    assert (failed.cells["error"] == "RuntimeError: no luck").all()
    BROKEN.clear()
    assert (run_again({"a": Recorder("a")}, loci, y, tmp_path).cells["error"] == "").all()


def test_an_interrupt_stops_and_keeps_what_is_done(
    loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    models = {"a": Recorder(value=1.0), "b": Recorder(does="interrupt")}
    with pytest.raises(KeyboardInterrupt):
        run_again(models, loci, y, tmp_path)
    assert len(os.listdir(tmp_path / "cells")) == 4 + 4 + 1  # seed 0 of both, then a's first


_KILLED = """
import sys, time
import pandas as pd
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import GroupKFold
from regmask_sk.benchmark import compare
class Waits(DummyRegressor):
    def fit(self, X, y):
        time.sleep(60 if self.constant else 0)
        return super().fit(X, y)
loci = pd.read_csv(sys.argv[1], sep="\\t", index_col="gene")
y = loci.pop("expression")
models = {"a": DummyRegressor(), "b": Waits(constant=1.0)}
compare(models, loci, y, cv=GroupKFold(4), out=sys.argv[2], verbose=1)
"""


def test_a_killed_run_goes_on_where_it_was(
    toy_genome: Any, loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(_KILLED)
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, script, toy_genome.loci_path, out],
        stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stderr is not None
        line = run.stderr.readline()
        time.sleep(0.1)
        run.kill()
    assert line.startswith("[1/8] a, split 0, seed 0: mse "), line
    done = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
    assert len(done) == 1
    assert all(name.endswith(".json") for name in done)
    table = pd.read_csv(toy_genome.loci_path, sep="\t", index_col="gene")
    models = {"a": DummyRegressor(), "c": Recorder()}
    result = run_again(models, table.drop(columns="expression"), table["expression"], out)
    now = {path.name: path.read_bytes() for path in (out / "cells").iterdir()}
    assert now.items() >= done.items()
    assert len(now) == 16
    assert (result.cells["error"] == "").all()


def test_a_spoiled_file_is_named(loci: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    run_again({"a": Recorder()}, loci, y, tmp_path)
    path = next((tmp_path / "cells").iterdir())
    content = json.loads(path.read_text())
    for spoiled in ("{", "[]", json.dumps(content | {"predicted": [1.0]})):
        path.write_text(spoiled)
        with pytest.raises(ValueError, match=rf"{path.name} is not a finished cell .* Delete it"):
            run_again({"a": Recorder()}, loci, y, tmp_path)


# --- processes -----------------------------------------------------------------------------------


def test_on_a_cluster(toy_genome: Any, loci: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    """Two worker processes of dask run the cells; this one keeps them."""
    models = {"ridge": pipeline(toy_genome, BinnedSignalRegressor()), "mean": DummyRegressor()}
    here = compare(models, loci, y, cv=GroupKFold(4))
    with on_dask(processes=True):
        there = compare(models, loci, y, cv=GroupKFold(4), n_jobs=-1, out=tmp_path)
    columns = ["estimator", "fold", "mse", "error"]
    pd.testing.assert_frame_equal(there.cells[columns], here.cells[columns])
    assert len(list((tmp_path / "cells").iterdir())) == 8


def test_in_processes_of_their_own(loci: pd.DataFrame, y: pd.Series) -> None:
    hold = np.zeros(40, bool)
    hold[30:] = True

    class Dies(DummyRegressor):
        def fit(self, X: Any, y: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    class Leaves(DummyRegressor):
        def fit(self, X: Any, y: Any) -> None:
            print("no room", file=sys.stderr, flush=True)
            os._exit(7)

    models = {"mean": DummyRegressor(), "dies": Dies(), "leaves": Leaves()}
    result = compare(models, loci, y, cv=[(~hold, hold)], isolate=True)
    cells = result.cells.set_index("estimator")
    assert "killed by signal 9 (SIGKILL), as it is where memory runs out" in cells["error"]["dies"]
    assert cells["error"]["leaves"].endswith("ended with status 7; its last words: no room")
    assert cells["error"]["mean"] == ""
    assert 30 < cells["peak_memory_mb"]["mean"] < 2_000
    here = compare({"mean": models["mean"]}, loci, y, cv=[(~hold, hold)])
    own = result.predictions[result.predictions["estimator"] == "mean"]
    np.testing.assert_array_equal(own["predicted"], here.predictions["predicted"])


def test_several_at_a_time_give_the_same(
    loci: pd.DataFrame, y: pd.Series, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = loci[["gc"]]

    def refuse(*_: Any) -> Any:
        raise TypeError("stays here")

    stays = type("Stays", (), {"__reduce_ex__": refuse, "__deepcopy__": lambda self, memo: self})

    class Fails(DummyRegressor):  # pickled whole: no process need import this file
        def fit(self, X: Any, y: Any) -> None:
            raise RuntimeError("no luck")

    class Constant(RegressorMixin, BaseEstimator):
        def __init__(self, value: Any = None) -> None:
            self.value = value

        def fit(self, X: Any, y: Any) -> Any:
            raise AssertionError("never runs")

        predict = fit

    models: dict[str, Any] = {"ridge": Ridge(), "fails": Fails()}
    one = compare(models, table, y, cv=KFold(4), seeds=(0, 1))
    models |= {"bad": Constant(stays()), "uncopied": Constant(n for n in ())}
    two = compare(
        models, table, y, cv=KFold(4), seeds=(0, 1), n_jobs=2, out=tmp_path,
        verbose=1,
    )  # fmt: skip
    two_cells = two.cells[~two.cells["estimator"].isin(["bad", "uncopied"])]
    steady = [c for c in one.cells.columns if not c.endswith("_seconds")]
    pd.testing.assert_frame_equal(two_cells[steady], one.cells[steady])
    pd.testing.assert_frame_equal(two.predictions, one.predictions)
    errors = two.cells.groupby("estimator")["error"].unique()
    assert errors["bad"].tolist() == ["TypeError: stays here"]
    assert errors["uncopied"][0].startswith("TypeError: cannot pickle 'generator' object")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "8 of 32 cells need no run"
    assert len(lines) == 25
    assert lines[-1].startswith("[32/32] ")
    assert len(list((tmp_path / "cells").iterdir())) == 8


# --- tables --------------------------------------------------------------------------------------


def made(scores: dict[str, list[list[float]]], n_train: int = 30, n_test: int = 10) -> Comparison:
    """Comparison with given MSE, ``scores[name][fold][seed]``, and an error of its root."""
    cells, predictions = [], []
    for name, by_fold in scores.items():
        for fold, by_seed in enumerate(by_fold):
            for seed, mse in enumerate(by_seed):
                values = dict.fromkeys((*SCORES, *COSTS), np.nan) | {"mse": mse}
                cells.append(
                    {
                        "estimator": name, "fold": str(fold), "seed": seed, **values,
                        "n_train": n_train, "n_test": n_test, "error": "", "warnings": "",
                    }
                )  # fmt: skip
                rows = np.arange(fold * n_test, (fold + 1) * n_test)
                rng = np.random.default_rng(len(name) + 7 * fold + seed)
                predictions.append(
                    pd.DataFrame(
                        {
                            "estimator": name, "fold": str(fold), "seed": seed, "row": rows,
                            "gene": rows, "measured": 0.0,
                            "predicted": np.sqrt(mse) * rng.normal(size=n_test),
                        }
                    )
                )  # fmt: skip
    return Comparison(pd.DataFrame(cells), pd.concat(predictions, ignore_index=True))


FIXED = {
    "first": [[1.0, 1.2], [2.0, 2.4], [0.9, 1.0]],
    "second": [[0.8, 1.1], [1.7, 1.9], [0.9, 0.7]],
    "third one": [[1.5, 1.4], [2.6, 2.2], [1.2, 1.6]],
}


def test_means_and_spread() -> None:
    summary = made(FIXED).summary()
    assert list(summary.index) == ["second", "first", "third one"]
    first = summary.loc["first"]
    table = np.array(FIXED["first"])
    assert first["mse"] == pytest.approx(table.mean())
    assert first["mse_sd_folds"] == pytest.approx(table.mean(axis=1).std(ddof=1))
    assert first["mse_sd_seeds"] == pytest.approx(np.sqrt(table.var(axis=1, ddof=1).mean()))
    single = made({"a": [[1.0]]}).summary().loc["a"]
    assert single["mse"] == 1.0
    assert np.isnan(single[["mse_sd_folds", "mse_sd_seeds"]]).all()


def test_paired_tests_are_those_of_scipy() -> None:
    result = made(FIXED)
    tests = result.paired_tests()
    assert list(tests.index) == ["second", "third one"]
    assert (tests["reference"] == "first").all()
    raw = []
    for name, row in tests.iterrows():
        d = np.ravel(FIXED[str(name)]) - np.ravel(FIXED["first"])
        assert row["difference"] == pytest.approx(d.mean())
        plain = stats.ttest_1samp(d, 0.0)
        shrunk = plain.statistic * np.sqrt((1 / 6) / (1 / 6 + 10 / 30))
        assert row["t"] == pytest.approx(shrunk)
        assert row["p_t"] == pytest.approx(2 * stats.t.sf(abs(shrunk), 5))
        p = result.predictions
        by_gene = p.assign(e=(p["predicted"] - p["measured"]).abs()).pivot_table(
            index="row", columns="estimator", values="e"
        )
        gap = by_gene[name] - by_gene["first"]
        assert row["n_genes"] == len(gap) == 30
        assert row["error_difference"] == pytest.approx(gap.mean())
        assert row["share_better"] == pytest.approx((gap < 0).mean())
        expected = stats.wilcoxon(by_gene[name], by_gene["first"]).pvalue
        assert row["p_wilcoxon"] == pytest.approx(expected)
        raw.append(row["p_t"])
    low, high = sorted(raw)
    adjusted = sorted(tests["p_t_holm"])
    assert adjusted == pytest.approx([min(2 * low, 1), max(min(2 * low, 1), high)])


def test_tests_that_cannot_be_made_are_nan() -> None:
    same = made({"a": [[1.0, 2.0]], "b": [[1.0, 2.0]], "c": [[1.5, 2.5]], "d": [[1.0, 1.0]]})
    tests = same.paired_tests()
    assert (tests.loc["b", "t"], tests.loc["b", "p_t"]) == (0.0, 1.0)
    assert np.isnan(tests.loc["c", ["t", "p_t"]].astype(float)).all()  # no spread to judge by
    assert np.isfinite(tests.loc["d", "t"])
    assert np.isnan(tests["p_t_holm"]["c"])
    one = made({"a": [[1.0]], "b": [[2.0]]}).paired_tests()
    assert np.isnan(one["p_t"]["b"])
    assert np.isfinite(one["p_wilcoxon"]["b"])
    with pytest.raises(ValueError, match=r"reference is 'z'; expected one of \['a', 'b'"):
        same.paired_tests("z")
    with pytest.raises(ValueError, match="metric is 'rmse'"):
        same.paired_tests(metric="rmse")


def test_holm_against_its_definition() -> None:
    p = np.array([0.04, np.nan, 0.001, 0.5, 0.012])
    expected = [0.08, np.nan, 0.004, 0.5, 0.036]
    np.testing.assert_allclose(_benchmark_tables.holm(p), expected)


def test_only_cells_that_both_have_are_compared() -> None:
    result = made(FIXED)
    cells = result.cells.copy()
    lost = (cells["estimator"] == "second") & (cells["fold"] == "1")
    cells.loc[lost, "error"] = "RuntimeError: x"
    cells.loc[lost, list(SCORES)] = np.nan
    p = result.predictions
    p = p[~((p["estimator"] == "second") & (p["fold"] == "1"))]
    partial = Comparison(cells, p)
    tests = partial.paired_tests()
    assert tests["n_cells"].tolist() == [4, 6]
    assert tests["n_genes"].tolist() == [20, 30]
    assert list(partial.summary().index) == ["first", "third one", "second"]
    assert "second (2 of 6 failed)" in partial.to_markdown()


def test_what_save_writes(loci: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    table = loci[["gc"]]
    models = {"ridge | gc": Ridge(), "mean": DummyRegressor()}
    result = compare(models, table, y, cv=KFold(4), seeds=(0, 1))
    result.save(tmp_path / "new" / "out", reference="mean")
    files = tmp_path / "new" / "out"
    assert sorted(os.listdir(files)) == [
        "cells.tsv", "comparison.png", "predictions.tsv", "summary.md", "summary.tsv", "tests.tsv",
    ]  # fmt: skip
    cells = pd.read_csv(files / "cells.tsv", sep="\t", keep_default_na=False)
    assert cells["estimator"].tolist() == result.cells["estimator"].tolist()
    summary = pd.read_csv(files / "summary.tsv", sep="\t", index_col="estimator")
    assert (files / "summary.tsv").read_text() == result.to_tsv()
    assert summary.loc["mean", "mse"] == pytest.approx(result.summary().loc["mean", "mse"])
    predictions = pd.read_csv(files / "predictions.tsv", sep="\t")
    assert len(predictions) == 2 * 2 * 40
    text = (files / "summary.md").read_text()
    assert "ridge \\| gc" in text
    assert "Means over 4 splits and 2 seeds; ± is the standard deviation of the splits' means" in (
        text
    )
    assert "Against mean, on the cells" in text
    assert (files / "comparison.png").read_bytes().startswith(b"\x89PNG")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows[:4]}) == 1


def test_the_figure_shows_cells_means_and_spread() -> None:
    result = made(FIXED)
    figure = result.plot(["mse"])
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    summary = result.summary()
    assert [label.get_text() for label in axis.get_yticklabels()] == list(summary.index)
    assert axis.get_ylim() == (2.5, -0.5)
    dots = {
        int(line.get_ydata()[0]): sorted(line.get_xdata())
        for line in axis.lines
        if line.get_marker() == "o"
    }
    assert dots[1] == sorted(np.ravel(FIXED["first"]))
    means = [c.lines[0].get_xdata()[0] for c in axis.containers]
    assert means == pytest.approx(summary["mse"].tolist())
    bars = [np.ptp(c.lines[2][0].get_segments()[0][:, 0]) / 2 for c in axis.containers]
    assert bars == pytest.approx(summary["mse_sd_folds"].tolist())
    with pytest.raises(ValueError, match="metrics is"):
        result.plot(["loss"])


def test_without_matplotlib_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"regmask_sk\[plot\]"):
        made(FIXED).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made(FIXED).save(tmp_path / "out", plot=False)
    assert "comparison.png" not in os.listdir(tmp_path / "out")


# --- what is refused -----------------------------------------------------------------------------

MEAN = DummyRegressor()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimators": {}}, "expected a dict of at least one name"),
        ({"estimators": {"a": DummyRegressor}}, "expected an instance with fit"),
        ({"estimators": {"a": 3}}, r"estimators\['a'\] is 3"),
        ({"estimators": {"": MEAN}}, "expected a name"),
        (
            {"estimators": {"a": MEAN, "a, 9 bp": MEAN}, "truncate": 9},
            "'a, 9 bp', which is the name of a variant",
        ),
        ({"truncate": 0}, "truncate is 0"),
        ({"y": np.zeros(3)}, r"y has shape \(3,\); expected \(6,\)"),
        ({"y": np.zeros((6, 2))}, "one value for each row"),
        ({"y": [0, 1, 2, 3, 4, np.nan]}, "y holds 1 values that are NaN"),
        ({"seeds": ()}, "expected distinct integers"),
        ({"seeds": (1, 1)}, "expected distinct integers"),
        ({"seeds": (-1,)}, "expected distinct integers"),
        ({"seeds": 3}, "expected distinct integers"),
        ({"cv": 5}, "cv is 5; expected a splitter"),
        ({"cv": []}, "cv gave the splits"),
        ({"cv": [([0, 1], [1, 2])]}, "1 rows in both train and test, the first 1"),
        ({"cv": [([0, 1], [])]}, "expected at least one position"),
        ({"cv": [([0, 1], [6])]}, "positions from 6 to 6"),
        ({"cv": [([0, 0], [1])]}, "1 of them repeated"),
        ({"cv": [([0.5], [1])]}, "expected at least one position"),
        ({"cv": [[0, 1, 2]]}, r"expected a pair \(train, test\)"),
    ],
)
def test_malformed_arguments_are_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "estimators": {"a": MEAN}, "loci": np.zeros((6, 2)), "y": np.arange(6.0), "cv": KFold(2),
        "out": tmp_path / "out",
    }  # fmt: skip
    given |= change
    with pytest.raises((TypeError, ValueError), match=message):
        compare(**given)
