"""``regmask benchmark``: what it writes, that it goes on, and what it refuses."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from regmask_sk.cli import main
from regmask_sk.cli.benchmark import _track_of_elements
from regmask_sk.cli.rivals import RIVAL_OPTIONS, RIVALS, make_rivals

SMALL = ["--max-epochs", "1", "--device", "cpu", "--d-model", "8", "--n-layers", "1"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        assert captured.out == ""
        return code, captured.err

    return call


@pytest.fixture
def words(toy_genome: Any, tmp_path: Path) -> list[object]:
    return [
        "benchmark", "--loci", toy_genome.loci_path, "--target", "expression",
        "--fasta", toy_genome.fasta, "--track", f"ratio={toy_genome.tracks['ratio']}",
        "--tss-base", 0, "--length", 64, "--no-isolate", "--out", tmp_path / "out",
    ]  # fmt: skip


def summary(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "summary.tsv", sep="\t", index_col="estimator")


def test_it_writes_its_tables_and_goes_on(
    words: list[object], toy_genome: Any, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "out"
    more = ["--estimators", "ridge,mean", "--folds", 4]
    code, err = run(*words, *more)
    assert code == 0, err
    assert "[8/8] mean, split chr" in err
    assert err.splitlines()[-1] == f"regmask benchmark: wrote {out}: 8 cells, 0 of them failed"
    assert sorted(os.listdir(out)) == [
        "cells", "cells.tsv", "comparison.png", "predictions.tsv", "summary.md", "summary.tsv",
        "tests.tsv",
    ]  # fmt: skip
    cells = pd.read_csv(out / "cells.tsv", sep="\t", keep_default_na=False)
    assert set(cells["fold"]) == {"chr1", "chr2", "chr3", "chr4"}
    predictions = pd.read_csv(out / "predictions.tsv", sep="\t")
    held_out = predictions[predictions["estimator"] == "ridge"].set_index("gene")
    assert (toy_genome.loci["chrom"][held_out.index] == held_out["fold"]).all()
    np.testing.assert_array_equal(
        held_out["measured"], toy_genome.loci["expression"][held_out.index]
    )
    tests = pd.read_csv(out / "tests.tsv", sep="\t", index_col="estimator")
    assert tests["reference"].to_dict() == {"mean": "ridge"}

    files = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    code, err = run(*words, *more, "--seeds", 2)
    assert code == 0, err
    assert "8 of 16 cells need no run" in err
    now = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert now.items() >= files.items()
    assert len(now) == 16
    assert summary(out)["n_cells"].to_dict() == {"ridge": 8, "mean": 8}
    code, err = run(*words, *more, "--force")
    assert code == 0, err
    again = {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert set(again) == set(files)
    assert all(again[name] > files[name] for name in files)


def test_networks_and_the_two_controls(words: list[object], tmp_path: Path, run: Any) -> None:
    code, err = run(
        *words, "--estimators", "regmask-topk,conv", "--test-chroms", "chr2,chr4", *SMALL,
        "--validation-chroms", "chr3", "--sparsity", "0.3", "--resolution", 8, "--covariate", "gc",
        "--truncate", 32, "--ablate-signals",
    )  # fmt: skip
    assert code == 0, err
    table = summary(tmp_path / "out")
    assert set(table.index) == {
        f"{name}{variant}"
        for name in ("regmask-topk", "conv")
        for variant in ("", ", 32 bp", ", sequence only")
    }
    assert (table["n_failed"] == 0).all()
    cells = pd.read_csv(tmp_path / "out" / "cells.tsv", sep="\t", index_col="estimator")
    assert (cells["fold"] == "chr2+chr4").all()
    assert (cells[["n_train", "n_test"]] == 20).all(axis=None)
    assert 0.2 < cells["mask_fraction"]["regmask-topk"] <= 0.3
    assert np.isnan(cells["mask_fraction"]["conv"])
    assert cells["n_parameters"]["regmask-topk"] > cells["n_parameters"]["conv"]


def test_a_failure_is_told_and_leaves_the_rest(
    words: list[object], tmp_path: Path, run: Any
) -> None:
    more = ["--test-chroms", "chr4", "--estimators", "mean,regmask-soft", *SMALL]
    code, err = run(*words, *more, "--promoter-length", 63)
    assert code == 0, err
    assert "2 cells, 1 of them failed" in err.splitlines()[-1]
    assert "regmask-soft: 1 of 1: ValueError: " in (tmp_path / "out" / "summary.md").read_text()
    more[3] = "regmask-soft"
    code, err = run(*words, *more, "--promoter-length", 63, "--out", tmp_path / "other")
    assert code == 1
    last = err.splitlines()[-1]
    assert last.startswith("regmask benchmark: error: every fit failed, the first with ValueError")


def test_isolated_in_two_processes(words: list[object], tmp_path: Path, run: Any) -> None:
    more = ["--estimators", "mean", "--folds", 2, "--n-jobs", 2, "--n-threads", 1, "--isolate"]
    code, err = run(*words, *more)
    assert code == 0, err
    cells = pd.read_csv(tmp_path / "out" / "cells.tsv", sep="\t")
    assert (cells["peak_memory_mb"] > 30).all()


REFUSED: dict[str, tuple[list[object], str]] = {
    "no split": ([], "no split; give --test-chroms A,B or --folds N"),
    "preset and files": (
        ["--preset", "seq2exp", "--data", "x"],
        "--loci, --target, --fasta, --track: --preset decides this",
    ),
    "data without a preset": (["--data", "x"], "--data goes with --preset"),
    "both splits": (["--folds", 2, "--test-chroms", "chr4"], "not allowed with argument"),
    "unknown name": (["--folds", 2, "--estimators", "ridge,oracle"], "no oracle; known are mean"),
    "name twice": (["--folds", 2, "--estimators", "ridge,ridge"], "ridge is given twice"),
    "one fold": (["--folds", 1], "--folds: is 1, expected 2 to 4"),
    "many folds": (["--folds", 5], "--folds: is 5, expected 2 to 4, the number of chromosomes"),
    "no such chromosome": (["--test-chroms", "chr9"], "the loci have no chromosome ['chr9']"),
    "validation in test": (
        ["--test-chroms", "chr4", "--validation-chroms", "chr4"], "also in --test-chroms"
    ),
    "an option that none has": (
        ["--folds", 2, "--estimators", "ridge,mean", "--sparsity", "0.2"],
        "--sparsity: none of ridge, mean has this parameter",
    ),
    "a covariate that none has": (
        ["--folds", 2, "--estimators", "mean", "--covariate", "gc"],
        "--covariate: none of mean has this parameter",
    ),
    "no such target": (["--folds", 2, "--target", "level"], "the loci have no column 'level'"),
    "seeds": (["--folds", 2, "--seeds", 0], "argument --seeds"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses_in_one_line(case: str, words: list[object], tmp_path: Path, run: Any) -> None:
    more, message = REFUSED[case]
    code, err = run(*words, *more)
    assert code in (1, 2)
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_it_refuses_a_folder_of_something_else(
    words: list[object], tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.tsv").write_text("of a fit")
    code, err = run(*words, "--folds", 2, "--estimators", "mean")
    assert code == 1
    assert "holds predictions.tsv of something else; pass --force" in err
    assert (out / "predictions.tsv").read_text() == "of a fit"


def test_without_tracks_there_is_nothing_to_ablate(words: list[object], run: Any) -> None:
    at = words.index("--track")
    code, err = run(*words[:at], *words[at + 2 :], "--folds", 2, "--ablate-signals")
    assert code == 1
    assert "--ablate-signals: there is no --track to leave out" in err


def test_ctrl_c_keeps_what_is_finished(words: list[object], tmp_path: Path) -> None:
    words = [word for word in words if word != "--no-isolate"]
    more = ["--estimators", "mean,conv", "--test-chroms", "chr4", "--max-epochs", 100_000]
    with subprocess.Popen(
        [sys.executable, "-m", "regmask_sk.cli", *map(str, [*words, *more])],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as command:  # fmt: skip
        assert command.stderr is not None
        while "[1/2] mean" not in (line := command.stderr.readline()):
            assert command.poll() is None, line
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    assert err == "regmask benchmark: interrupted; nothing more is written\n"
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    assert json.loads(cell.read_text())["estimator"] == "mean"


@pytest.mark.parametrize("name", RIVALS)
def test_every_short_name_makes_an_estimator(name: str) -> None:
    rival = RIVALS[name]
    estimator = make_rivals([name], {})[name]
    assert type(estimator).__name__ == rival.path.rsplit(":", 1)[-1]
    params = estimator.get_params()
    for key, value in rival.own.items():
        if isinstance(value, str | int | float):
            assert params[key] == value
    assert rival.meaning
    names = {key.rsplit("__", 1)[-1] for key in params}
    assert set(rival.options(RIVAL_OPTIONS)) <= names - set(rival.own)


def test_a_rival_made_of_another_hands_its_options_on() -> None:
    made = make_rivals(["position-mask"], {"sparsity": 0.3, "max_epochs": 2})["position-mask"]
    assert (made.sparsity, made.estimator.sparsity, made.estimator.max_epochs) == (0.3, 0.3, 2)


def test_the_track_of_elements_is_named() -> None:
    made = make_rivals(["peak-mask", "epinformer"], {"track": "dnase"})
    assert [rival.track for rival in made.values()] == ["dnase", "dnase"]
    with pytest.raises(ValueError, match="--accessibility: none of conv"):
        make_rivals(["conv"], {"track": "dnase"})


@pytest.mark.parametrize(("tracks", "expected"), [(["dnase"], "dnase"), (["dnase@a"], "dnase")])
def test_the_only_track_is_the_one_that_elements_are_made_of(
    tracks: list[str], expected: str
) -> None:
    args = argparse.Namespace(
        estimators=["peak-mask"], track=[(name, "x.bw") for name in tracks], preset=None, peaks=None
    )
    assert _track_of_elements(args) == expected
    args.track.append(("h3k27ac", "y.bw"))
    with pytest.raises(ValueError, match="peak-mask: which of the tracks dnase, h3k27ac"):
        _track_of_elements(args)
    args.estimators = ["mean"]
    assert _track_of_elements(args) is None
