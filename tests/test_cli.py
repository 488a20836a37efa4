from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from Bio import bgzf

from regmask_sk._network import NetworkRegressor
from regmask_sk.cli import main
from regmask_sk.cli.commands import COMMANDS
from regmask_sk.cli.options import REGRESSOR_OPTIONS
from regmask_sk.regressor import RegMaskRegressor

SIZES = {"2L": 6_000, "2R": 5_000, "3L": 5_050, "X": 4_000}
PER_CHROM = 8
TINY = [
    "--length", "256", "--d-model", "8", "--n-layers", "1", "--resolution", "8",
    "--sparsity", "0.3", "--max-epochs", "1", "--device", "cpu",
]  # fmt: skip


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.rstrip("\n").rsplit("\n", 1)[-1]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> Result:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capsys.readouterr())

    return call


def write_bigwig(path: Path, sizes: dict[str, int], seed: int) -> None:
    """Signed log-ratios in bins of 100 bp."""
    rng = np.random.default_rng(seed)
    with pyBigWig.open(str(path), "w") as track:
        track.addHeader(list(sizes.items()))
        for chrom, size in sizes.items():
            values = rng.normal(scale=2.0, size=size // 100)
            track.addEntries(chrom, 0, values=values.tolist(), span=100, step=100)


def write_fasta(path: Path, sizes: dict[str, int]) -> None:
    rng = np.random.default_rng(7)
    with bgzf.BgzfWriter(str(path), "wb") as file:
        for chrom, size in sizes.items():
            file.write(f">{chrom} some fly\n".encode())
            bases = "".join(rng.choice(list("ACGTacgtN"), size))
            for start in range(0, size, 60):
                file.write(f"{bases[start : start + 60]}\n".encode())


def loci_table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for chrom, size in SIZES.items():
        for tss in np.linspace(20, size - 30, PER_CHROM).astype(int):
            name = f"FBgn{len(rows):03d}"
            rows.append((name, chrom, tss, "+-"[len(rows) % 2], rng.normal(), rng.normal()))
    return pd.DataFrame(rows, columns=["gene", "chrom", "tss", "strand", "level", "gc"])


@pytest.fixture(scope="module")
def fly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fly")
    write_fasta(folder / "genome.fa.gz", SIZES)
    write_bigwig(folder / "h3k4.bw", SIZES, 1)
    write_bigwig(folder / "h3k27.bw", SIZES, 2)
    loci_table().to_csv(folder / "genes.tsv", sep="\t", index=False)
    return folder


def fit_words(fly: Path, out: Path) -> list[object]:
    return [
        "fit", "--loci", fly / "genes.tsv", "--target", "level", "--fasta", fly / "genome.fa.gz",
        "--track", f"H3K4me3={fly}/h3k4.bw", f"H3K27me3={fly}/h3k27.bw", *TINY,
        "--test-chroms", "3L,X", "--validation-chroms", "2R", "--out", out,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(fly: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "deep" / "run"
    assert main([str(word) for word in fit_words(fly, out)]) == 0
    return out


@pytest.fixture(scope="module")
def measured() -> pd.Series:
    return loci_table().set_index("gene")["level"]


# --- what the commands write -------------------------------------------------------------------


def test_fit_writes_what_it_promises(trained: Path, measured: pd.Series) -> None:
    assert sorted(os.listdir(trained)) == [
        "history.tsv",
        "metrics.json",
        "model",
        "predictions.tsv",
    ]
    table = pd.read_csv(trained / "predictions.tsv", sep="\t")
    assert [*table.columns] == ["gene", "predicted", "measured"]
    # Some releases of pandas read the last digit of a number otherwise.
    np.testing.assert_allclose(table["measured"], measured[table["gene"]], rtol=1e-14)
    assert len(table) == 2 * PER_CHROM
    metrics = json.loads((trained / "metrics.json").read_text())
    assert set(metrics) == {
        "mse", "mae", "pearson", "spearman", "r2", "mask_fraction", "n_train", "n_test", "seconds",
    }  # fmt: skip
    assert metrics["mse"] == pytest.approx(np.mean((table["predicted"] - table["measured"]) ** 2))
    assert (metrics["n_train"], metrics["n_test"]) == (2 * PER_CHROM, 2 * PER_CHROM)
    assert 0 < metrics["mask_fraction"] < 1
    assert len(pd.read_csv(trained / "history.tsv", sep="\t")) >= 1


def test_predict_agrees_with_fit_from_either_folder(
    trained: Path, fly: Path, tmp_path: Path, run: Any
) -> None:
    expected = pd.read_csv(trained / "predictions.tsv", sep="\t")
    for number, model in enumerate((trained, trained / "model")):
        out = tmp_path / f"{number}.tsv"
        result = run("predict", "--model", model, "--loci", fly / "genes.tsv", "--out", out)
        assert result.code == 0, result.err
        table = pd.read_csv(out, sep="\t").set_index("gene").loc[expected["gene"]].reset_index()
        pd.testing.assert_frame_equal(table, expected)


def test_predict_without_measured_values(
    trained: Path, fly: Path, tmp_path: Path, run: Any
) -> None:
    genes = loci_table().drop(columns=["level", "gc"]).iloc[::5]
    genes.to_csv(tmp_path / "some.csv", index=False)
    out = tmp_path / "new" / "predictions.tsv"
    result = run("predict", "--model", trained, "--loci", tmp_path / "some.csv", "--out", out)
    assert result.code == 0, result.err
    table = pd.read_csv(out, sep="\t")
    assert [*table.columns] == ["gene", "predicted"]
    assert table["gene"].tolist() == genes["gene"].tolist()
    result = run(
        "predict", "--model", trained, "--loci", tmp_path / "some.csv", "--target", "level",
        "--out", tmp_path / "other.tsv",
    )  # fmt: skip
    assert "--target: the loci have no column 'level'" in result.last


def test_predict_reads_genes_of_another_format(
    trained: Path, fly: Path, tmp_path: Path, run: Any
) -> None:
    table = loci_table()
    lines = [
        f"{r.chrom}\tx\tgene\t{r.tss + 1 if r.strand == '+' else 1}\t"
        f'{r.tss + 1 if r.strand == "-" else SIZES[r.chrom]}\t.\t{r.strand}\t.\tgene_id "{r.gene}";'
        for r in table.itertuples()
    ]
    (tmp_path / "genes.gtf").write_text("\n".join(lines) + "\n")
    table[["gene", "level"]].iloc[:-1].to_csv(tmp_path / "levels.tsv", sep="\t", index=False)
    words = ["predict", "--model", trained, "--loci", tmp_path / "genes.gtf"]
    assert run(*words, "--out", tmp_path / "a.tsv").code == 0
    result = run(
        *words, "--values", tmp_path / "levels.tsv", "--drop-missing", "--out", tmp_path / "b.tsv"
    )
    assert result.code == 0
    assert "left out 1 of 32 genes with missing values" in result.err
    plain = pd.read_csv(tmp_path / "a.tsv", sep="\t")
    joined = pd.read_csv(tmp_path / "b.tsv", sep="\t")
    expected = pd.read_csv(trained / "predictions.tsv", sep="\t").set_index("gene")
    assert plain.set_index("gene")["predicted"][expected.index].equals(expected["predicted"])
    np.testing.assert_allclose(joined["measured"], table["level"][:-1], rtol=1e-14)


def test_mask_writes_its_files(trained: Path, fly: Path, tmp_path: Path, run: Any) -> None:
    files = {kind: tmp_path / "new" / f"masks.{kind}" for kind in ("bigwig", "bed", "npz")}
    words = ["mask", "--model", trained, "--loci", fly / "genes.tsv", "--threshold", "0.2"]
    for kind, path in files.items():
        words += [f"--{kind}", path]
    result = run(*words)
    assert result.code == 0, result.err
    with pyBigWig.open(str(files["bigwig"])) as track:
        assert track.chroms() == SIZES
        assert 0 <= track.stats("2L", type="max")[0] <= 1
    with np.load(files["npz"], allow_pickle=False) as arrays:
        assert any(arrays[name].shape == (4 * PER_CHROM, 256) for name in arrays.files)
    assert files["bed"].exists()
    again = run(*words)
    assert again.code == 1
    assert "pass --force" in again.last
    assert run(*words, "--force").code == 0


def test_mask_writes_for_genome_browsers(
    trained: Path, fly: Path, tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "out"
    words = ["mask", "--model", trained, "--loci", fly / "genes.tsv", "--threshold", "0.2"]
    shown = ["--igv", out / "igv.xml", "--hub", out / "hub"]
    ucsc = ["--genome", "dm6", "--email", "a@b.org"]
    files = ["--bigwig", out / "m.bw", "--bed", out / "e.bed"]
    assert (
        "--igv shows the files of --bigwig and --bed"
        in run(*words, "--npz", out / "m.npz", *shown).last
    )
    assert "--hub needs --genome and --email too" in run(*words, *files, *shown).last
    assert "does not end in .xml" in run(*words, *files, "--igv", out / "igv").last
    assert not out.exists()

    result = run(*words, *files, *shown, *ucsc)
    assert result.code == 0, result.err
    session = ET.parse(out / "igv.xml").getroot()
    assert session.get("genome") == "dm6"
    assert session.get("locus") == "2L:1-148"  # the first gene's window, of which 108 bp are off
    names = [resource.get("path") for resource in session.findall("Resources/Resource")]
    assert names[:2] == ["m.bw", "e.bed"]
    assert [Path(name).name for name in names[2:]] == ["h3k4.bw", "h3k27.bw"]
    assert all((out / name).is_file() for name in names)
    text = (out / "hub" / "dm6" / "trackDb.txt").read_text()
    assert [line for line in text.splitlines() if line.startswith("track ")] == [
        "track mask", "track elements", "track H3K4me3", "track H3K27me3",
    ]  # fmt: skip
    assert (out / "hub" / "dm6" / "H3K4me3.bw").read_bytes() == (fly / "h3k4.bw").read_bytes()

    assert (
        "igv.xml exists; pass --force"
        in run(*words, "--bigwig", out / "n.bw", "--igv", out / "igv.xml").last
    )
    result = run(*words, "--bigwig", out / "n.bw", "--igv", out / "igv.xml", "--force")
    assert result.code == 0, result.err
    genome = ET.parse(out / "igv.xml").getroot().get("genome")
    assert (out / genome).resolve() == (fly / "genome.fa.gz").resolve()


def test_info_says_what_the_model_is(trained: Path, fly: Path, run: Any) -> None:
    result = run("info", "--model", trained)
    assert result.code == 0
    assert result.err == ""
    for part in ("length: 256", "target: level", str(fly / "h3k4.bw"), "sparsity: 0.3", "pearson"):
        assert part in result.out
    assert "epochs: " in result.out
    assert "train_loss" not in result.out
    assert max(map(len, result.out.splitlines())) < 1000


def test_the_same_seed_writes_the_same_predictions(
    trained: Path, fly: Path, tmp_path: Path, run: Any
) -> None:
    assert run(*fit_words(fly, tmp_path / "again")).code == 0
    one, other = ((p / "predictions.tsv").read_bytes() for p in (trained, tmp_path / "again"))
    assert one == other
    assert run(*fit_words(fly, tmp_path / "third"), "--seed", 5).code == 0
    assert (tmp_path / "third" / "predictions.tsv").read_bytes() != one


def test_an_interrupted_training_goes_on(
    fly: Path, trained: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "fit.ckpt", tmp_path / "out"
    words = [*fit_words(fly, out), "--checkpoint", file]
    calls = iter(range(100))
    train_epoch: Any = NetworkRegressor._train_epoch

    def dying(self: Any, *given: Any) -> None:
        if next(calls) == 1:
            raise RuntimeError("no luck")
        train_epoch(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(NetworkRegressor, "_train_epoch", dying)
        assert run(*words).code == 1
    assert not out.exists()
    assert "holds a fit that stopped after epoch 1. Pass --resume to" in run(*words).last
    result = run(*words, "--resume")
    assert result.code == 0, result.err
    predictions = "predictions.tsv"
    assert (out / predictions).read_bytes() == (trained / predictions).read_bytes()
    other = fit_words(fly, tmp_path / "other")
    assert "--resume needs --checkpoint" in run(*other, "--resume").last


def test_without_test_chromosomes_scores_are_null(fly: Path, tmp_path: Path, run: Any) -> None:
    words = fit_words(fly, tmp_path / "all")
    del words[words.index("--test-chroms") :][:2]
    result = run(
        *[w for i, w in enumerate(words) if "--test-chroms" not in words[max(0, i - 1) : i + 1]]
    )
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "all" / "metrics.json").read_text())
    assert metrics["n_test"] == 0
    assert metrics["n_train"] == 4 * PER_CHROM
    assert metrics["pearson"] is None
    assert metrics["mask_fraction"] > 0
    assert (tmp_path / "all" / "predictions.tsv").read_text() == "gene\tpredicted\tmeasured\n"


def test_every_option_of_fit_reaches_the_model(fly: Path, tmp_path: Path, run: Any) -> None:
    table = loci_table().rename(columns={"gene": "id", "chrom": "seqname"})
    table["tss"] += 1
    table["seqname"] = "chr" + table["seqname"]
    table.to_csv(tmp_path / "genes.csv", index=False)
    (tmp_path / "alias.tsv").write_text("# loci\tfile\nchr2R\t2R\nchr3L\t3L\nchrX\tX\n")
    (tmp_path / "black.bed").write_text("chr2L\t1000\t1100\n")
    (tmp_path / "open.bed").write_text("chr2L\t900\t905\nchr2R\t900\t905\n")
    words = [
        "fit", "--loci", tmp_path / "genes.csv", "--name-column", "id", "--chrom-column", "seqname",
        "--tss-base", 1, "--target", "level", "--covariate", "gc", "--fasta", fly / "genome.fa.gz",
        "--track", f"H3K4me3={fly}/h3k4.bw", "--track", f"H3K27me3={fly}/h3k27.bw",
        "--chrom-alias", "chr2L=2L", tmp_path / "alias.tsv", "--blacklist", tmp_path / "black.bed",
        "--scaling", "none", "--missing", "mask", "--cache", tmp_path / "cache", *TINY,
        "--cache-dtype", "float32", "--cache-max-bytes", 10**7,
        "--jitter", 4, "--unstranded", "--mask", "hard", "--training", "joint",
        "--backbone", "conv", "--promoter-length", 16, "--dropout", 0, "--batch-size", 8,
        "--reverse-complement", "none", "--no-checkpointing", "--mask-resolution", 2,
        "--gate-distribution", "kumaraswamy", "--gate-correlation", 8,
        "--continuity", "transitions", "--continuity-weight", 0.2, "--prior-concentration", 20,
        "--closed-regions", tmp_path / "black.bed", "--open-regions", tmp_path / "open.bed",
        "--learning-rate", 0.01, "--patience", 2, "--validation-fraction", 0.4, "--seed", 3,
        "--n-threads", 1, "--test-chroms", "chrX", "--out", tmp_path / "run",
    ]  # fmt: skip
    result = run(*words)
    assert result.code == 0, result.err
    shown = run("info", "--model", tmp_path / "run").out
    kept = list((tmp_path / "cache").glob("h3k4.bw-*/part-*/values.npy"))
    assert np.load(kept[0]).dtype == np.float32
    for part in (
        "jitter: 4", "stranded: False", "mask: hard", "training: joint", "promoter_length: 16",
        "covariates: ('gc',)", "missing: mask", "scaling: none", "random_state: 3",
        "learning_rate: 0.01", "reverse_complement: none", "'chrX': 'X'",
        "gate_distribution: kumaraswamy", "gate_correlation: 8", "continuity: transitions",
        "prior_concentration: 20", "closed_regions_: 1\n", "open_regions_: 2\n",
    ):  # fmt: skip
        assert part in shown
    # The columns and the base are remembered.
    result = run(
        "predict", "--model", tmp_path / "run", "--loci", tmp_path / "genes.csv",
        "--out", tmp_path / "p.tsv",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "read as 1-based" in result.err
    expected = pd.read_csv(tmp_path / "run" / "predictions.tsv", sep="\t").set_index("gene")
    table = pd.read_csv(tmp_path / "p.tsv", sep="\t").set_index("gene")
    pd.testing.assert_frame_equal(table.loc[expected.index], expected)


def test_options_are_parameters_of_the_estimator() -> None:
    assert set(REGRESSOR_OPTIONS) <= set(RegMaskRegressor().get_params())


# --- what is refused ---------------------------------------------------------------------------


def changed(fly: Path, folder: Path, **columns: Any) -> Path:
    path = folder / "changed.tsv"
    table = loci_table()
    for name, change in columns.items():
        table[name] = change(table[name])
    table.to_csv(path, sep="\t", index=False)
    return path


def spoiled(value: object) -> Any:
    def change(column: pd.Series) -> pd.Series:
        return column.astype(object).where(column.index != 3, value)

    return change


CASES: dict[str, tuple[list[str], str]] = {
    "missing loci": (["--loci", "{tmp}/none.tsv"], "none.tsv does not exist; check the path"),
    "missing fasta": (["--fasta", "{tmp}/none.fa"], "--fasta: {tmp}/none.fa does not exist"),
    "missing track": (["--track", "H3K4me3={tmp}/none.bw"], "none.bw does not exist"),
    "loci is a folder": (["--loci", "{tmp}"], "is a folder, expected a file"),
    "wrong target": (["--target", "nothing"], "their numeric columns are ['level', 'gc']"),
    "text target": (["--target", "strand"], "'strand' is not a number for FBgn000"),
    "text in target": (["--loci", "{text}"], "not a number for FBgn003 (such as 'high')"),
    "hole in target": (["--loci", "{hole}"], "no finite value for FBgn003; fill these in"),
    "infinite target": (["--loci", "{infinite}"], "no finite value for FBgn003"),
    "bad strand": (["--loci", "{strand}"], "strand"),
    "unstranded": (["--loci", "{dot}"], "'.' with --allow-unstranded."),
    "negative tss": (["--loci", "{negative}"], "tss"),
    "chromosome names": (
        ["--loci", "{names}", "--test-chroms", "chrX", "--validation-chroms", "chr2R"],
        "give --chrom-alias NAME_IN_LOCI=NAME_IN_FILE",
    ),
    "names of the test chromosome alone": (["--loci", "{one}", "--test-chroms", "Y"], "'Y'"),
    "a cell type without a file": (["--track", "dnase@a={fly}/h3k4.bw"], "dnase@CELL=FILE"),
    "text as covariate": (["--covariate", "strand"], "'strand' is missing or not a number"),
    "other assembly": (["--track", "dnase={assembly}"], "assembly.bw: two assemblies"),
    "not a bigWig": (["--track", "dnase={fly}/genes.tsv"], "genes.tsv"),
    "not a FASTA": (["--fasta", "{fly}/genes.tsv"], "genes.tsv"),
    "cut bigWig": (["--track", "dnase={cut}"], "cut.bw"),
    "unknown test chromosome": (["--test-chroms", "4"], "['4']; they have 2L, 2R, 3L, X"),
    "unknown validation chromosome": (["--validation-chroms", "4"], "the loci have no chromosome"),
    "overlapping splits": (["--validation-chroms", "2R,X"], "X also in --test-chroms"),
    "nothing left": (["--test-chroms", "2L,3L,X"], "no gene is left to train on"),
    "empty name": (["--test-chroms", "X,"], "expected names parted by commas"),
    "sparsity 0": (["--sparsity", "0"], "--sparsity: is '0', expected a share between 0 and 1"),
    "sparsity 1.5": (["--sparsity", "1.5"], "argument --sparsity"),
    "sparsity text": (["--sparsity", "few"], "argument --sparsity: is 'few'"),
    "length 0": (["--length", "0"], "argument --length"),
    "mask": (["--mask", "fuzzy"], "invalid choice: 'fuzzy'"),
    "backbone": (["--backbone", "lstm"], "lstm"),
    "promoter beyond the budget": (["--promoter-length", "200"], "--promoter-length"),
    "covariate": (["--covariate", "nothing"], "--covariate: the loci have no column 'nothing'"),
    "track twice": (["--track", "H3K4me3={fly}/h3k4.bw"], "--track: 'H3K4me3' is given twice"),
    "track without a name": (["--track", "{fly}/h3k4.bw"], "expected NAME=VALUE"),
    "track name taken": (["--track", "A={fly}/h3k4.bw"], "'A'"),
    "alias": (["--chrom-alias", "2L"], "--chrom-alias: '2L' is neither A=B nor a file"),
    "alias that is no text": (
        ["--chrom-alias", "{fly}/h3k4.bw"], "h3k4.bw cannot be read as text"
    ),
    "alias twice": (["--chrom-alias", "a=b", "a=c"], "'a' is given both 'b' and 'c'"),
    "device": (["--device", "abacus"], "abacus"),
    "no cuda": (["--device", "cuda"], "cuda"),
    "cache of no folder": (
        ["--cache", "memory", "--cache-dtype", "float16"],
        "--cache-dtype: is float16, but --cache is memory; give the folder",
    ),
    "limit of no cache": (
        ["--cache", "none", "--cache-max-bytes", "9"],
        "--cache-max-bytes: is 9, but --cache is none; give the folder",
    ),
    "cache too small": (
        ["--cache", "{tmp}/c", "--cache-max-bytes", "9"], "Raise --cache-max-bytes",
    ),
    "unknown option": (["--sparsty", "0.1"], "unrecognized arguments: --sparsty"),
    "abbreviated option": (["--spars", "0.1"], "unrecognized arguments: --spars"),
    "values without the genes": (["--values", "{values}"], "no gene of the loci (FBgn000"),
    "values with a known column": (["--values", "{again}"], "both have ['gc', 'level']"),
}  # fmt: skip


# Only the estimator knows.
LATE = {
    "cache too small",
    "backbone",
    "promoter beyond the budget",
    "track name taken",
    "device",
    "no cuda",
}


@pytest.fixture(scope="module")
def bad(fly: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Bad files, by the names that CASES give them."""
    folder = tmp_path_factory.mktemp("bad")
    paths: dict[str, Any] = {"fly": fly, "tmp": folder}
    for name, column, change in (
        ("text", "level", spoiled("high")),
        ("hole", "level", spoiled(np.nan)),
        ("infinite", "level", spoiled(np.inf)),
        ("strand", "strand", spoiled("x")),
        ("dot", "strand", spoiled(".")),
        ("negative", "tss", spoiled(-4)),
        ("names", "chrom", lambda column: "chr" + column),
        ("one", "chrom", lambda column: column.replace("X", "Y")),
    ):
        (folder / name).mkdir()
        paths[name] = changed(fly, folder / name, **{column: change})
    write_bigwig(folder / "assembly.bw", {**SIZES, "2L": 7_000}, 4)
    content = (fly / "h3k4.bw").read_bytes()
    (folder / "cut.bw").write_bytes(content[: len(content) // 2])
    (folder / "values.tsv").write_text("gene\tx\nother\t1\n")
    loci_table()[["gene", "level", "gc"]].to_csv(folder / "again.tsv", sep="\t", index=False)
    paths |= {
        "assembly": folder / "assembly.bw",
        "cut": folder / "cut.bw",
        "values": folder / "values.tsv",
        "again": folder / "again.tsv",
    }
    return {name: str(path) for name, path in paths.items()}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_with_a_remedy(
    case: str, fly: Path, bad: dict[str, str], tmp_path: Path, run: Any
) -> None:
    if case == "no cuda" and torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    words, message = CASES[case]
    out = tmp_path / "run"
    result = run(*fit_words(fly, out), *[word.format(**bad) for word in words])
    assert result.code in (1, 2)
    assert result.last.startswith("regmask fit: error: ")
    assert message.format(**bad) in result.last
    assert result.err.count("error") == result.last.count("error")
    assert "Traceback" not in result.err
    assert result.out == ""
    assert "training on" not in result.err or case in LATE
    assert not out.exists()


@pytest.fixture
def untrainable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that what is refused is refused before the training."""

    def fit(self: Any, *_: Any, **__: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(RegMaskRegressor, "fit", fit)


@pytest.mark.usefixtures("untrainable")
def test_results_are_replaced_only_by_force(fly: Path, tmp_path: Path, run: Any) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.json").write_text("{}")
    result = run(*fit_words(fly, out))
    assert f"{out}/metrics.json exists; pass --force" in result.last
    assert (out / "metrics.json").read_text() == "{}"
    (out / "metrics.json").unlink()
    (out / "model").mkdir()
    (out / "model" / "thesis.txt").write_text("precious")
    assert "is not a saved model" in run(*fit_words(fly, out), "--force").last
    assert os.listdir(out / "model") == ["thesis.txt"]


@pytest.mark.usefixtures("untrainable")
def test_a_place_that_cannot_be_written(
    fly: Path, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file, expected a folder" in run(*fit_words(fly, tmp_path / "file")).last

    def touch(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    result = run(*fit_words(fly, tmp_path / "run"))
    assert "cannot write to" in result.last
    assert "Permission denied" in result.last


@pytest.mark.skipif(os.name != "posix", reason="/dev/null is of POSIX")
def test_force_does_not_replace_a_device(trained: Path, fly: Path, run: Any) -> None:
    words = ["predict", "--model", trained, "--loci", fly / "genes.tsv", "--out", "/dev/null"]
    result = run(*words)
    assert result.code == 1
    assert "/dev/null is a device, expected the name of a file" in result.last


def test_force_replaces_everything(fly: Path, tmp_path: Path, run: Any) -> None:
    assert run(*fit_words(fly, tmp_path / "run")).code == 0
    before = (tmp_path / "run" / "predictions.tsv").read_bytes()
    assert run(*fit_words(fly, tmp_path / "run"), "--seed", 1).code == 1
    assert run(*fit_words(fly, tmp_path / "run"), "--seed", 1, "--force").code == 0
    assert (tmp_path / "run" / "predictions.tsv").read_bytes() != before


def test_genes_without_a_target_can_be_left_out(
    fly: Path, bad: dict[str, str], tmp_path: Path, run: Any
) -> None:
    words = fit_words(fly, tmp_path / "run")
    result = run(*words, "--loci", bad["hole"], "--drop-missing")
    assert result.code == 0, result.err
    assert "left out 1 of 32 genes" in result.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["n_train"] == 15


@pytest.mark.parametrize("corner", ["", '""', "id"])
def test_values_whose_first_column_has_no_name(
    corner: str, trained: Path, fly: Path, tmp_path: Path, run: Any
) -> None:
    table, values = tmp_path / "bare.tsv", tmp_path / "values.csv"
    loci_table().drop(columns=["level", "gc"]).to_csv(table, sep="\t", index=False)
    rows = loci_table()[["gene", "level"]].to_csv(header=False, index=False)
    values.write_text(f"{corner},level\n{rows}")
    result = run(
        "predict", "--model", trained, "--loci", table, "--values", values, "--out", tmp_path / "p"
    )
    assert result.code == 0, result.err
    measured = pd.read_csv(tmp_path / "p", sep="\t")["measured"]
    np.testing.assert_allclose(measured, loci_table()["level"])


def test_cell_types_may_be_numbers_and_stand_in_what_is_written(
    fly: Path, tmp_path: Path, run: Any
) -> None:
    one, two = (loci_table().assign(cell_type=number) for number in (1, 2))
    pd.concat([one, two]).to_csv(tmp_path / "cells.tsv", sep="\t", index=False)
    words = fit_words(fly, tmp_path / "run")
    words[words.index("--loci") + 1] = tmp_path / "cells.tsv"
    start = words.index("--track") + 1
    words[start : start + 2] = [f"H3K4me3@1={fly}/h3k4.bw", f"H3K4me3@2={fly}/h3k27.bw"]
    result = run(*words)
    assert result.code == 0, result.err
    table = pd.read_csv(tmp_path / "run" / "predictions.tsv", sep="\t")
    assert [*table.columns] == ["gene", "cell_type", "predicted", "measured"]
    assert not table.duplicated(["gene", "cell_type"]).any()
    words = ["mask", "--model", tmp_path / "run", "--loci", tmp_path / "cells.tsv"]
    assert run(*words, "--npz", tmp_path / "m.npz").code == 0
    with np.load(tmp_path / "m.npz") as file:
        assert file["cell_type"].tolist() == ["1"] * len(one) + ["2"] * len(two)
    words[-1] = tmp_path / "one.tsv"
    one.to_csv(words[-1], sep="\t", index=False)
    assert run(*words, "--bigwig", tmp_path / "m.bw", "--igv", tmp_path / "igv.xml").code == 0
    shown = ET.parse(tmp_path / "igv.xml").getroot().findall("Resources/Resource")
    assert [Path(resource.get("path")).name for resource in shown] == ["m.bw", "h3k4.bw"]


def test_chromosomes_can_be_left_out(trained: Path, fly: Path, tmp_path: Path, run: Any) -> None:
    words = ["predict", "--model", trained, "--loci", fly / "genes.tsv", "--out", tmp_path / "p"]
    result = run(*words, "--exclude-chroms", "2L,X")
    assert result.code == 0, result.err
    assert "left out 16 of 32 genes by --exclude-chroms" in result.err
    assert len(pd.read_csv(tmp_path / "p", sep="\t")) == 2 * PER_CHROM
    assert "no chromosome ['Y']" in run(*words, "--force", "--exclude-chroms", "Y").last


def test_bad_models(trained: Path, fly: Path, tmp_path: Path, run: Any) -> None:
    words = ["--loci", fly / "genes.tsv", "--out", tmp_path / "p.tsv"]
    result = run("predict", "--model", tmp_path, *words)
    assert "there is no saved model there" in result.last
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (trained / "model").iterdir():
        content = file.read_bytes()
        cut = len(content) // 2 if file.suffix == ".safetensors" else len(content)
        (copy / file.name).write_bytes(content[:cut])
    result = run("predict", "--model", copy, *words)
    assert result.code == 1
    assert "cannot be read as part of a saved model" in result.last
    (copy / "model.json").write_text("{")
    assert "model.json cannot be read" in run("info", "--model", copy).last
    assert not (tmp_path / "p.tsv").exists()


def test_files_that_have_moved_can_be_named(
    fly: Path, tmp_path: Path, run: Any, trained: Path
) -> None:
    old = tmp_path / "old"
    old.mkdir()
    for name in ("genome.fa.gz", "h3k4.bw", "h3k27.bw", "genes.tsv"):
        (old / name).write_bytes((fly / name).read_bytes())
    assert run(*fit_words(old, tmp_path / "run")).code == 0
    old.rename(tmp_path / "new")
    words = ["predict", "--model", tmp_path / "run", "--loci", fly / "genes.tsv"]
    words += ["--out", tmp_path / "p.tsv"]
    result = run(*words)
    assert (
        f"reads {old}/genome.fa.gz, which is not there any more; give it as --fasta FILE"
        in result.last
    )
    words += ["--fasta", tmp_path / "new" / "genome.fa.gz"]
    assert "give it as --track H3K4me3=FILE" in run(*words).last
    words += ["--track", f"H3K4me3={tmp_path}/new/h3k4.bw", f"H3K27me3={tmp_path}/new/h3k27.bw"]
    result = run(*words)
    assert result.code == 0, result.err
    expected = pd.read_csv(trained / "predictions.tsv", sep="\t").set_index("gene")
    table = pd.read_csv(tmp_path / "p.tsv", sep="\t").set_index("gene")
    pd.testing.assert_frame_equal(table.loc[expected.index], expected)
    assert "has no ['dnase']" in run(*words, "--force", "--track", f"dnase={fly}/h3k4.bw").last


def test_mask_needs_a_file_to_write(trained: Path, fly: Path, run: Any) -> None:
    result = run("mask", "--model", trained, "--loci", fly / "genes.tsv")
    assert "nothing to write; give --bigwig FILE" in result.last


# --- how errors, warnings and interrupts show --------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ValueError("two\nlines"), 1, "error: two lines"),
        (KeyError("chrom"), 1, "error: KeyError chrom; --debug shows where"),
        (MemoryError(), 1, "out of memory"),
        (ValueError("chrom_alias, overwrite=True"), 1, "error: --chrom-alias, --force"),
        (
            ValueError("give file_format='table', one of (file_format), or missing='zero'"),
            1,
            "give --loci-format table, one of (--loci-format), or --missing zero",
        ),
        (
            ValueError("Raise max_bytes, or use dtype='float16'"),
            1,
            "Raise --cache-max-bytes, or use --cache-dtype float16",
        ),
        (ZeroDivisionError("x"), 1, "error: ZeroDivisionError x"),
    ],
)
def test_every_error_is_one_line(
    error: Exception, code: int, shown: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_args: Any) -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "info", fail)
    result = run("info", "--model", "x")
    assert result.code == code
    assert result.err.count("\n") == 1
    assert shown in result.err
    with pytest.raises(type(error)):
        main(["info", "--model", "x", "--debug"])


def test_warnings_are_one_line(fly: Path, trained: Path, tmp_path: Path, run: Any) -> None:
    twice = pd.concat([loci_table(), loci_table().iloc[:1]])
    twice.to_csv(tmp_path / "twice.tsv", sep="\t", index=False)
    result = run(
        "predict", "--model", trained, "--loci", tmp_path / "twice.tsv", "--out", tmp_path / "p.tsv"
    )
    assert result.code == 0, result.err
    assert all(line.startswith("regmask predict: ") for line in result.err.splitlines())
    assert "regmask predict: warning: " in result.err


def test_warnings_speak_of_options(fly: Path, trained: Path, tmp_path: Path, run: Any) -> None:
    write_bigwig(tmp_path / "few.bw", {"2L": SIZES["2L"]}, 1)
    words = ["predict", "--model", trained, "--loci", fly / "genes.tsv", "--out", tmp_path / "p"]
    result = run(*words, "--track", f"H3K4me3={tmp_path}/few.bw")
    assert "give --chrom-alias NAME_IN_LOCI=NAME_IN_FILE" in result.err


def test_demo_is_called_with_folder_and_seed(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []
    fake = types.SimpleNamespace(run_demo=lambda *args: calls.append(args))
    monkeypatch.setitem(sys.modules, "regmask_sk.demo", fake)
    assert run("demo", "--out", tmp_path / "demo", "--seed", 4).code == 0
    assert calls == [(tmp_path / "demo", 4)]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    assert "is not empty; pass --force" in run("demo", "--out", tmp_path / "full").last
    assert run("demo", "--out", tmp_path / "full", "--force").code == 0


@pytest.mark.parametrize("words", [[], ["nonsense"], ["predict"], ["fit", "--loci"]])
def test_wrong_commands(words: list[str], run: Any) -> None:
    result = run(*words)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "error: " in result.err


def test_options_that_may_be_left_to_the_program_say_so(run: Any) -> None:
    result = run("fit", "--batch-size", "many")
    assert "is 'many', expected a whole number, 1 or more, or auto" in result.err


@pytest.mark.parametrize(
    "command",
    ["", "demo", "fit", "predict", "mask", "cv", "tune", "report", "benchmark", "motifs", "info"],
)
def test_help(command: str, run: Any) -> None:
    result = run(*[command] * bool(command), "--help")
    assert result.code == 0
    assert "--debug" not in result.out
    assert result.err == ""


def process(*words: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "regmask_sk.cli", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_the_command_as_a_process(fly: Path, tmp_path: Path) -> None:
    with process(*fit_words(fly, tmp_path / "run")) as fit:
        out, err = fit.communicate(timeout=120)
    assert fit.returncode == 0, err
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("regmask fit: ")] == []
    with process("info", "--model", tmp_path / "nowhere") as info:
        out, err = info.communicate(timeout=120)
    assert info.returncode == 1
    assert err.count("\n") == 1


_INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, *rest):
        if name == "pandas":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from regmask_sk.cli import main
sys.exit(main(["info", "--model", "x"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_while_libraries_load_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 130
    assert done.stderr == "regmask info: interrupted; nothing more is written\n"


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_is_one_line_and_leaves_nothing(fly: Path, tmp_path: Path) -> None:
    words = [*fit_words(fly, tmp_path / "run"), "--max-epochs", 100_000, "--patience", 100_000]
    with process(*words) as fit:
        assert isinstance(fit.stderr, io.TextIOBase)
        while "training on" not in fit.stderr.readline():
            assert fit.poll() is None
        time.sleep(1.5)
        fit.send_signal(signal.SIGINT)
        _, err = fit.communicate(timeout=60)
    assert fit.returncode == 130
    assert err == "regmask fit: interrupted; nothing more is written\n"
    assert not (tmp_path / "run").exists()
