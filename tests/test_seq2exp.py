"""The published layout: a small tree of it is read, and a wrong one is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import write_bigwig, write_fasta

from regmask_sk.cli import main
from regmask_sk.metrics import regression_metrics
from regmask_sk.seq2exp import (
    CELL_TYPES,
    EXPRESSION,
    FASTA,
    FOLDER,
    FOLDS,
    PROMOTER_SIGNALS,
    RNA_FEATURES,
    load_seq2exp,
)

SIZES = {"chr2": 12_000, "chr3": 3_000, "chr21": 2_500, "chr22": 2_000, "chrX": 3_000}
PER_CHROM = 4
PART = {"chr2": "train", "chr3": "valid", "chr21": "valid", "chr22": "test", "chrX": "test"}


def write_tree(root: Path, cell_type: str = "K562") -> pd.DataFrame:
    """Write the files of one cell type as they are published; give the genes."""
    rng = np.random.default_rng(3)
    cell, tables = CELL_TYPES[cell_type], root / FOLDER
    for name in (FASTA, *(f"{FOLDER}/{path}" for path in cell[:3])):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    bases = {chrom: "".join(rng.choice(list("ACGT"), size)) for chrom, size in SIZES.items()}
    write_fasta(root / FASTA, bases)
    for path in (cell.h3k27ac, cell.dnase):
        values = {c: rng.poisson(2.0, size).astype(np.float32) for c, size in SIZES.items()}
        write_bigwig(tables / path, values)
    chroms = [chrom for chrom in SIZES for _ in range(PER_CHROM)]
    n = len(chroms)
    genes = pd.DataFrame(
        {
            "ENSID": [f"ENSG{number:011d}" for number in range(n)],
            "chrom": [chrom.removeprefix("chr") for chrom in chroms],
            **{
                f"fold_{k}": [PART[c] if k == 11 else "train" for c in chroms]
                for k in [*range(1, 13), "enformer"]
            },
            "Gene name": [f"GENE{number}" for number in range(n)],
        }
    )
    genes.to_csv(tables / FOLDS, index=False)
    expression = pd.DataFrame(
        {
            "Gene stable ID": genes["ENSID"],
            "ENSID": genes["ENSID"],
            **{name: rng.normal(size=n) for name in RNA_FEATURES},
            "K562_CAGE_128*3_sum": rng.gamma(1.0, 100.0, size=n),
            "GM12878_CAGE_128*3_sum": rng.gamma(1.0, 100.0, size=n),
            "Actual_K562": rng.normal(size=n),
        }
    )
    # Rows in another order than those of the folds.
    expression.iloc[::-1].to_csv(tables / EXPRESSION, index=False)
    places = pd.DataFrame(
        {
            "chr": chroms,
            "name": genes[cell.gene_names],
            "strand": rng.choice(["+", "-"], n),
            "symbol": genes[cell.gene_names],
            "tss": [int(rng.integers(300, SIZES[chrom] - 300)) for chrom in chroms],
            **{name: rng.gamma(1.0, 2.0, size=n) for name in PROMOTER_SIGNALS},
        }
    )
    places.sample(frac=1, random_state=0).to_csv(tables / cell.genes, sep="\t", index=False)
    contacts = tables / "HiC" / cell_type
    contacts.mkdir(parents=True)
    for chrom in list(SIZES)[:2]:
        pd.DataFrame({"bin1": [0], "bin2": [0], "hic_contact": [9.0]}).to_csv(
            contacts / f"hic_contacts_{chrom}.csv", index=False
        )
    return genes.merge(expression, on="ENSID").merge(
        places.rename(columns={"name": cell.gene_names}), on=cell.gene_names
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path)
    return tmp_path


def test_what_is_read(tmp_path: Path) -> None:
    genes = write_tree(tmp_path).set_index("ENSID")
    data = load_seq2exp(tmp_path, length=256)
    assert list(data.loci.index) == list(genes.index)
    np.testing.assert_array_equal(data.loci["chrom"], "chr" + genes["chrom"])
    np.testing.assert_array_equal(data.loci["tss"], genes["tss"])
    np.testing.assert_array_equal(data.loci["strand"], genes["strand"])
    np.testing.assert_array_equal(data.loci["gene_name"], genes["Gene name"])
    np.testing.assert_allclose(data.y, np.log10(genes["K562_CAGE_128*3_sum"] + 1))
    assert data.covariates == (*RNA_FEATURES, "PromoterActivity")
    for name in RNA_FEATURES:
        np.testing.assert_allclose(data.loci[name], genes[name])
    activity = np.sqrt(genes["H3K27ac.RPM.TSS1Kb"] * genes["DHS.RPM.TSS1Kb"])
    np.testing.assert_allclose(data.loci["PromoterActivity"], activity)
    assert set(data.contacts) == {"chr2", "chr3"}
    ((name, (train, test)),) = data.split().items()
    assert name == "fold_11"
    assert set(data.loci["chrom"].iloc[test]) == {"chr22", "chrX"}
    assert set(data.loci["chrom"].iloc[train]) == {"chr2", "chr3", "chr21"}
    assert data.pipeline["model"].validation_chroms == ["chr21", "chr3"]
    windows = data.pipeline[:-1].fit_transform(data.loci)
    assert windows.shape == (20, 6, 256)
    assert windows.channel_names == ("A", "C", "G", "T", "H3K27ac", "DNase")
    assert not windows.reversed.any()


def test_contacts_are_the_third_signal(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("cooler", reason="cooler is not installed")
    path = tmp_path / "k562.cool"
    load_seq2exp(root).write_contacts(path)
    data = load_seq2exp(root, length=256, contacts=path)
    windows = data.pipeline[:-1].fit_transform(data.loci)
    assert windows.channel_names[4:] == ("H3K27ac", "DNase", "Hi-C")
    # The tables hold one contact each, 9, of the first bin of 5 kb with itself.
    for row, (chrom, tss) in enumerate(zip(data.loci["chrom"], data.loci["tss"], strict=True)):
        first = np.arange(tss - 128, tss + 128) < 5_000
        expected = first * (tss < 5_000) * (chrom in ("chr2", "chr3"))
        np.testing.assert_allclose(np.asarray(windows[row])[6], expected, atol=1e-6)


def test_no_tables_of_contacts_no_map(root: Path, tmp_path: Path) -> None:
    for path in (root / FOLDER / "HiC" / "K562").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="no tables of contacts"):
        load_seq2exp(root).write_contacts(tmp_path / "k562.cool")


def test_the_pipeline_is_ready(root: Path) -> None:
    data = load_seq2exp(root, length=128)
    small = {"d_model": 8, "n_layers": 1, "resolution": 8, "max_epochs": 1, "device": "cpu"}
    data.pipeline["model"].set_params(**small, random_state=0, sparsity=0.3)
    ((train, test),) = data.split().values()
    data.pipeline.fit(data.loci.iloc[train], data.y.iloc[train])
    predicted = data.pipeline.predict(data.loci.iloc[test])
    assert np.isfinite(regression_metrics(data.y.iloc[test], predicted)["mse"])


def test_the_third_cell_type_has_its_own_files(tmp_path: Path) -> None:
    genes = write_tree(tmp_path, "H1")
    path = tmp_path / FOLDER / str(CELL_TYPES["H1"].cage)
    path.parent.mkdir(parents=True)
    signal = {c: np.full(size, np.nan, dtype=np.float32) for c, size in SIZES.items()}
    tss = dict(zip(genes["ENSID"], zip(genes["chr"], genes["tss"], strict=True), strict=True))
    chrom, place = tss["ENSG00000000002"]
    signal[chrom][place - 192 : place + 192] = 0.25
    write_bigwig(path, signal | {c: v for c, v in signal.items() if np.isfinite(v).any()})
    data = load_seq2exp(tmp_path, "H1", length=128)
    assert data.y["ENSG00000000002"] == pytest.approx(np.log10(0.25 * 384 + 1))
    apart = [g for g, (c, p) in tss.items() if c != chrom]
    assert (data.y[apart] == 0).all()


def changed(path: Path, change: Any, separator: str = ",") -> None:
    table = pd.read_csv(path, sep=separator)
    change(table).to_csv(path, sep=separator, index=False)


GENES = CELL_TYPES["K562"].genes


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (FOLDS, lambda t: t.drop(columns="chrom"), r"lacks the columns \['chrom'\]"),
        (FOLDS, lambda t: t.replace("valid", "dev"), "holds ['dev', 'test', 'train']"),
        (FOLDS, lambda t: pd.concat([t, t.iloc[:1]]), "1 genes more than once, such as ENSG"),
        (FOLDS, lambda t: t.drop(columns="fold_11"), "fold is '11'; expected one of ['1', '2'"),
        (
            FOLDS,
            lambda t: t.assign(fold_11=["valid", *t["fold_11"].iloc[1:]]),
            "has genes of chr2 in several parts",
        ),
        (FOLDS, lambda t: t.assign(chrom="7"), "20 genes lie on another chromosome"),
        (
            EXPRESSION,
            lambda t: t.drop(columns="K562_CAGE_128*3_sum"),
            "lacks the columns ['K562_CAGE_128*3_sum']",
        ),
        (
            EXPRESSION,
            lambda t: t.assign(**{"K562_CAGE_128*3_sum": -1.0}),
            "CAGE of K562 is missing or negative for 20 genes",
        ),
        (
            EXPRESSION,
            lambda t: t.assign(UTR3GC=np.where(t.index == 3, np.nan, t["UTR3GC"])),
            "covariates are missing for 1 genes, the first UTR3GC of ENSG00000000016",
        ),
        (EXPRESSION, lambda t: t.assign(ENSID="E" + t["ENSID"]), "no gene of"),
        (GENES, lambda t: t.drop(columns="tss"), "lacks the columns ['tss']"),
        (GENES, lambda t: t.assign(strand="x"), "strand"),
        (
            "HiC/K562/hic_contacts_chr3.csv",
            lambda t: t.rename(columns={"bin2": "bin"}),
            "lacks the columns ['bin2']",
        ),
    ],
)
def test_what_is_wrong_is_named(file: str, change: Any, message: str, root: Path) -> None:
    path = root / FOLDER / file
    changed(path, change, "\t" if file == GENES else ",")
    expected = message if "\\" in message else re.escape(message)
    with pytest.raises(ValueError, match=expected):
        load_seq2exp(root)


def test_missing_files_are_all_named(root: Path) -> None:
    (root / FASTA).unlink()
    (root / FOLDER / CELL_TYPES["K562"].dnase).unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 2 files .*hg38\.ml\.fa.*ENCFF414OGC"):
        load_seq2exp(root)
    with pytest.raises(ValueError, match="cell_type is 'HepG2'; expected one of"):
        load_seq2exp(root, "HepG2")


def test_genes_without_a_place_are_left_out_with_a_warning(root: Path) -> None:
    changed(root / FOLDER / EXPRESSION, lambda t: t.iloc[2:])
    with pytest.warns(UserWarning, match="2 of 20 genes .* are left out"):
        data = load_seq2exp(root)
    assert len(data.loci) == len(data.y) == 18


def test_what_is_not_there_is_no_covariate(root: Path) -> None:
    changed(root / FOLDER / EXPRESSION, lambda t: t.drop(columns=["CDSGC"]))
    changed(root / FOLDER / GENES, lambda t: t.drop(columns=list(PROMOTER_SIGNALS[:1])), "\t")
    data = load_seq2exp(root)
    assert data.covariates == tuple(name for name in RNA_FEATURES if name != "CDSGC")


@pytest.mark.parametrize("contacts", [[], ["--contacts"]])
def test_the_command(
    contacts: list[str], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if contacts:
        pytest.importorskip("cooler", reason="cooler is not installed")
    out = tmp_path / "out"
    words = [
        "benchmark", "--preset", "seq2exp", "--data", root, "--length", 128, "--seeds", 2,
        "--estimators", "ridge,regmask-soft", "--d-model", 8, "--n-layers", 1, "--resolution", 8,
        "--max-epochs", 1, "--device", "cpu", "--no-isolate", "--out", out, *contacts,
    ]  # fmt: skip
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    assert (out / "contacts_K562.cool").exists() == bool(contacts)
    cells = pd.read_csv(out / "cells.tsv", sep="\t", keep_default_na=False)
    assert (cells["error"] == "").all()
    assert list(cells["fold"]) == ["fold_11"] * 4
    assert list(cells["n_test"]) == [2 * PER_CHROM] * 4
    predictions = pd.read_csv(out / "predictions.tsv", sep="\t")
    y = load_seq2exp(root).y
    np.testing.assert_allclose(predictions["measured"], y[predictions["gene"]])
