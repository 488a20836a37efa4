"""``regmask cv`` and ``regmask tune``: what they write, that they go on, what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from conftest import ToyGenome
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from regmask_sk import load_model
from regmask_sk.cli import main
from regmask_sk.cli.values import searched
from regmask_sk.metrics import regression_metrics

TINY = [
    "--length", 64, "--resolution", 8, "--d-model", 8, "--n-layers", 1, "--max-epochs", 1,
    "--promoter-length", 8, "--device", "cpu", "--target", "expression",
]  # fmt: skip


@pytest.fixture
def call(toy_genome: ToyGenome, capfd: pytest.CaptureFixture[str]) -> Any:
    def run(command: str, *words: object) -> tuple[int, str]:
        files = [
            "--loci", toy_genome.loci_path, "--fasta", toy_genome.fasta,
            "--track", f"counts={toy_genome.tracks['counts']}",
        ]  # fmt: skip
        capfd.readouterr()
        try:
            code = main([str(word) for word in [command, *files, *TINY, *words]])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capfd.readouterr().err

    return run


def test_every_gene_is_predicted_once(toy_genome: ToyGenome, tmp_path: Path, call: Any) -> None:
    out = tmp_path / "cv"
    words = ["--folds", 2, "--sparsity", 0.3, "--out", out]
    code, said = call("cv", *words)
    assert code == 0, said
    predictions = pd.read_csv(out / "predictions.tsv", sep="\t", index_col="gene")
    assert list(predictions.index) == list(toy_genome.loci.index)
    np.testing.assert_allclose(predictions["measured"], toy_genome.loci["expression"])
    chroms = toy_genome.loci["chrom"].groupby(predictions["fold"]).unique()
    assert not set(chroms.iloc[0]) & set(chroms.iloc[1])
    metrics = json.loads((out / "metrics.json").read_text())
    scores = regression_metrics(predictions["measured"], predictions["predicted"])
    assert metrics["mse"] == pytest.approx(scores["mse"])
    assert metrics["n_genes"] == 40
    assert 0.1 < metrics["mask_fraction"] < 0.6
    assert len(pd.read_csv(out / "folds.tsv", sep="\t")) == 2

    code, said = call("cv", *words)
    assert code == 0
    assert "2 of 2 cells need no run" in said


def test_tune_chooses_trains_and_goes_on(toy_genome: ToyGenome, tmp_path: Path, call: Any) -> None:
    out = tmp_path / "tuned"
    words = [
        "--folds", 2, "--sparsity-range", "0.3:0.5", "--search", "n-layers=1:2",
        "learning-rate=0.001,0.01", "--test-chroms", "chr4", "--out", out,
    ]  # fmt: skip
    code, said = call("tune", "--trials", 2, *words)
    assert code == 0, said
    assert "[1/2] sparsity 0." in said
    assert "about 0 min left" in said
    trials = pd.read_csv(out / "trials.tsv", sep="\t", index_col="number")
    assert (trials["state"] == "COMPLETE").all()
    best = json.loads((out / "best.json").read_text())
    assert best["sparsity"] == pytest.approx(trials.loc[best["trial"], "model__sparsity"])
    assert 0.3 <= best["sparsity"] <= 0.5
    assert best["learning_rate"] in (0.001, 0.01)
    model = load_model(out / "model")
    assert model[-1].sparsity == best["sparsity"]
    assert model[-1].n_layers == best["n_layers"]
    predictions = pd.read_csv(out / "predictions.tsv", sep="\t", index_col="gene")
    held_out = toy_genome.loci[toy_genome.loci["chrom"] == "chr4"]
    assert list(predictions.index) == list(held_out.index)
    np.testing.assert_allclose(model.predict(held_out), predictions["predicted"], rtol=1e-6)
    assert (out / "tuning.png").stat().st_size > 1_000
    matter = pd.read_csv(out / "importances.tsv", sep="\t", index_col="parameter")
    assert set(matter.index) == {"sparsity", "n_layers", "learning_rate"}
    np.testing.assert_allclose(matter[["error", "kept"]].sum(), 1.0)

    code, said = call("tune", "--trials", 3, *words)
    assert code == 0, said
    again = pd.read_csv(out / "trials.tsv", sep="\t", index_col="number")
    assert len(again) == 3
    pd.testing.assert_series_equal(again["error"].iloc[:2], trials["error"])
    (out / "study.log").unlink()
    code, said = call("tune", "--trials", 1, *words)
    assert code == 1
    assert "pass --force" in said


def test_tune_runs_trials_side_by_side(toy_genome: ToyGenome, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    words = [
        "tune", "--loci", toy_genome.loci_path, "--fasta", toy_genome.fasta, *TINY,
        "--folds", 2, "--trials", 2, "--n-jobs", 2, "--sparsity-range", "0.3:0.5", "--out", out,
    ]  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-m", "regmask_sk.cli", *map(str, words)],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    # What the processes of the trials say is said, and nothing else by them.
    assert "regmask tune: [2/2] sparsity 0." in run.stderr
    assert "study" not in run.stderr
    trials = pd.read_csv(out / "trials.tsv", sep="\t")
    assert set(trials["state"]) == {"COMPLETE"}
    assert (out / "best.json").is_file()


def test_a_worker_writes_trials_alone(tmp_path: Path, call: Any) -> None:
    study, out = tmp_path / "study.log", tmp_path / "worker"
    words = ["--folds", 3, "--trials", 1, "--sparsity-range", "0.3:0.5", "--out", out]
    code, said = call("tune", *words, "--prune", "epoch", "--worker", "--storage", study)
    assert code == 0, said
    assert list(out.iterdir()) == []
    storage = JournalStorage(JournalFileBackend(str(study)))
    (trial,) = optuna.load_study(study_name="regmask", storage=storage).trials
    assert [len(losses) for losses in trial.user_attrs["losses"]] == [1, 1, 1]
    code, said = call("tune", *words, "--worker")
    assert code == 1
    assert "--worker needs --storage" in said


@pytest.mark.parametrize(
    ("command", "words", "code", "message"),
    [
        ("cv", ["--folds", 1], 1, "--folds: is 1, expected 2 to 4"),
        ("cv", ["--folds", 9], 1, "--folds: is 9, expected 2 to 4"),
        ("cv", ["--test-chroms", "chr1"], 2, "unrecognized arguments: --test-chroms chr1"),
        ("tune", ["--sparsity", 0.2], 2, "unrecognized arguments: --sparsity 0.2"),
        ("tune", ["--sparsity-range", "0.5:0.1"], 2, "expected LOW:HIGH, such as 0.05:0.3"),
        ("tune", ["--search", "depth=1:2"], 1, "--search: no option depth of the model; known"),
        ("tune", ["--search", "n-layers=2"], 2, "expected NAME=LOW:HIGH with two numbers"),
        ("tune", ["--search", "n-layers=3:1"], 2, "expected LOW to be less than HIGH"),
        ("tune", ["--folds", 4, "--test-chroms", "chr4"], 1, "expected 2 to 3"),
    ],
)
def test_what_is_refused(
    command: str, words: list[object], code: int, message: str, tmp_path: Path, call: Any
) -> None:
    found, said = call(command, *words, "--out", tmp_path / "out")
    assert found == code
    assert message in said
    assert "Traceback" not in said


def test_what_is_searched() -> None:
    assert searched("n-layers=2:6") == ("n_layers", [2, 6], True)
    assert searched("learning-rate=1e-4:1e-2") == ("learning_rate", [1e-4, 1e-2], True)
    assert searched("backbone=conv,codon") == ("backbone", ["conv", "codon"], False)
