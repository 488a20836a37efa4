"""``regmask motifs`` from files to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import write_fasta

from regmask_sk import motif_enrichment, read_motifs, read_regions, scan_motifs
from regmask_sk.cli import main

SITE = "ACGGTACA"


class Result(NamedTuple):
    code: int
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: object) -> Result:
        capsys.readouterr()
        try:
            code = main(["motifs", *map(str, words)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, capsys.readouterr().err)

    return call


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A genome with a gene each 300 bp and a site upstream of every third one."""
    rng = np.random.default_rng(0)
    bases = rng.choice(list("ACGT"), 18_000, p=[0.3, 0.2, 0.2, 0.3])
    tss = np.arange(150, len(bases), 300)
    starts = tss[::3] - 120
    for start in starts:
        bases[start + 40 : start + 48] = list(SITE)
    paths = {name: tmp_path / name for name in ("genome.fa", "e.bed", "genes.tsv", "m.jaspar")}
    write_fasta(paths["genome.fa"], {"1": "".join(bases)})
    rows = [f"chr1\t{start}\t{start + 100}\tg{k}\t900\t+\n" for k, start in enumerate(starts)]
    paths["e.bed"].write_text("".join(rows))
    genes = pd.DataFrame({"chrom": "chr1", "tss": tss, "strand": "+"})
    genes.index = pd.Index([f"g{k}" for k in range(len(tss))], name="gene")
    genes.to_csv(paths["genes.tsv"], sep="\t")
    planted = "".join(
        " ".join("1" if base == letter else "0" for base in SITE) + "\n" for letter in "ACGT"
    )
    other = planted.split("\n")
    absent = "\n".join([other[1], other[0], other[3], other[2]])
    paths["m.jaspar"].write_text(f">M1 planted\n{planted}>M2 absent\n{absent}\n")
    return paths


def words_of(files: dict[str, Path], out: Path, *more: object) -> list[object]:
    return [
        "--elements", files["e.bed"], "--fasta", files["genome.fa"], "--motifs", files["m.jaspar"],
        "--chrom-alias", "chr1=1", "--out", out, *more,
    ]  # fmt: skip


def test_tables_are_those_of_the_functions(
    files: dict[str, Path], tmp_path: Path, run: Any
) -> None:
    out, sites = tmp_path / "new" / "table.tsv", tmp_path / "sites.tsv"
    result = run(
        *words_of(files, out, "--sites", sites, "--loci", files["genes.tsv"]),
        "--n-shuffled", 3, "--n-matched", 1, "--position-tolerance", 40, "--gc-tolerance", 0.2,
        "--p-value", 1e-4, "--seed", 5,
    )  # fmt: skip
    assert result.code == 0, result.err
    found = pd.read_csv(out, sep="\t")
    motifs, alias = read_motifs(files["m.jaspar"]), {"chr1": "1"}
    genes = pd.read_csv(files["genes.tsv"], sep="\t", index_col="gene")
    expected = motif_enrichment(
        read_regions(files["e.bed"]), files["genome.fa"], motifs, loci=genes, chrom_alias=alias,
        n_shuffled=3, position_tolerance=40, gc_tolerance=0.2, random_state=5,
    )  # fmt: skip
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert (found.loc[found["motif"] == "M1", "q_value"] < 1e-3).all()
    written = pd.read_csv(sites, sep="\t")
    whole = scan_motifs(files["e.bed"], files["genome.fa"], motifs, chrom_alias=alias)
    pd.testing.assert_frame_equal(written, whole, check_dtype=False)
    assert (written["motif"] == "M1").sum() >= 20
    assert "regmask motifs: shuffled: 1 of 2 motifs at 5 % false discoveries: M1" in result.err
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_without_genes_elements_are_compared_with_shuffled_sequences(
    files: dict[str, Path], tmp_path: Path, run: Any
) -> None:
    out = tmp_path / "table.tsv"
    assert run(*words_of(files, out)).code == 0
    assert pd.read_csv(out, sep="\t")["background"].tolist() == ["shuffled"] * 2
    again = run(*words_of(files, out))
    assert again.code == 1
    assert "table.tsv exists; pass --force to replace it" in again.err
    assert run(*words_of(files, out), "--force", "--motif-format", "jaspar").code == 0


WRONG = [
    (["--background", "matched"], 1, "--background matched needs --loci FILE"),
    (["--background", "random"], 2, "invalid choice: 'random'"),
    (["--p-value", "2"], 2, "expected a share between 0 and 1"),
    (["--motif-format", "meme"], 1, "no line begins with 'MOTIF' and a name. Give --motif-format"),
    (["--sites", "OUT"], 1, "--out and --sites name one file"),
    (["--chrom-alias", "chr1=2"], 1, "given both '1' and '2'"),
]


@pytest.mark.parametrize(("more", "code", "message"), WRONG)
def test_errors_are_one_line_in_the_words_of_options(
    files: dict[str, Path], tmp_path: Path, run: Any, more: list[str], code: int, message: str
) -> None:
    out = tmp_path / "table.tsv"
    result = run(*words_of(files, out), *[str(out) if word == "OUT" else word for word in more])
    assert result.code == code
    assert message in result.err
    last = result.err.splitlines()[-1]
    assert last.startswith("regmask motifs: error: ")
    assert not out.exists()


def test_elements_without_controls_are_told_as_options(
    files: dict[str, Path], tmp_path: Path, run: Any
) -> None:
    words = ["--loci", files["genes.tsv"], "--background", "matched", "--gc-tolerance", 0]
    result = run(*words_of(files, tmp_path / "t.tsv"), *words, "--position-tolerance", 0)
    assert result.code in (0, 1)
    assert "aise --position-tolerance or --gc-tolerance" in result.err
