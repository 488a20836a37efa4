"""The examples that are cheap enough run from end to end on small files of the same layout."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pyBigWig
import pytest
from conftest import write_bigwig, write_fasta

from regmask_sk import TSSWindows, read_regions, simulate_genome

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LENGTH = 2_048  # of a contig; the middle half has signal
TRACKS = {
    "DNASE:first cell (40 years)": "tracks/0.bw",
    "CAGE:second cell": "tracks/1.bw",
    "DNASE:third cell": "tracks/2.bw",
    "RNA:fourth cell": "tracks/3.bw",
}


@pytest.fixture(scope="module")
def human(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder laid out as the human files are: 6 contigs, 4 tracks, 12 genes."""
    folder = tmp_path_factory.mktemp("human")
    (folder / "tracks").mkdir()
    rng = np.random.default_rng(0)
    contigs = [f"chr{i}_{i}000_{i}000" for i in range(6)]
    bases = {name: "".join(rng.choice(list("ACGT"), LENGTH)) for name in contigs}
    write_fasta(folder / "hg38_regions.fa.gz", bases)
    inside = np.arange(LENGTH // 4, 3 * LENGTH // 4)
    for file in TRACKS.values():
        values = {name: np.full(LENGTH, np.nan, np.float32) for name in contigs}
        for array in values.values():
            array[inside] = np.repeat(rng.gamma(1.0, 1.0, len(inside) // 32), 32)
        write_bigwig(folder / file, values)
    pd.DataFrame({"description": list(TRACKS), "file": TRACKS.values()}).to_csv(
        folder / "tracks.tsv", sep="\t", index=False
    )
    pd.DataFrame(
        {
            "gene": [f"gene{i}" for i in range(12)],
            "contig": np.repeat(contigs, 2),
            "tss": rng.choice(inside, 12),
            "strand": rng.choice(["+", "-"], 12),
            "split": np.repeat(["train", "valid"], [8, 4]),
            "cage_mean12": rng.gamma(1.0, 5.0, 12),
        }
    ).to_csv(folder / "genes.tsv", sep="\t", index=False)
    return folder


def test_the_human_example_runs_from_files_to_a_picture(
    human: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "human_long_windows.py"))
    pipeline = example["make_pipeline"](human, "caduceus", LENGTH, 1)
    signals = [pipeline["signal"], pipeline["signals"]]
    # What is to be predicted is never an input.
    names = [list(step.tracks) for step in signals]
    assert names == [["first cell"], ["third cell"]]

    out = tmp_path / "out"
    words = [str(human), "--length", str(LENGTH), "--epochs", "1", "--out", str(out)]
    example["main"](words)
    printed = capsys.readouterr().out
    assert "caduceus" in printed
    assert "far too few" in printed

    genes = pd.read_csv(human / "genes.tsv", sep="\t", index_col="gene")
    held_out = genes[genes["split"] == "valid"]
    predictions = pd.read_csv(out / "predictions.tsv", sep="\t", index_col="gene")
    assert list(predictions.index) == list(held_out.index)
    np.testing.assert_allclose(predictions["measured"], np.log1p(held_out["cage_mean12"]))
    assert predictions["predicted"].notna().all()
    with pyBigWig.open(str(out / "masks.bw")) as masks:
        for contig, tss in zip(held_out["contig"], held_out["tss"], strict=True):
            assert masks.values(contig, tss, tss + 1) == [1.0]  # the promoter is always kept
    assert set(read_regions(out / "elements.bed")["chrom"]) <= set(held_out["contig"])
    picture = matplotlib.image.imread(out / "locus.png")
    assert picture.std() > 0.05


def test_the_human_example_says_which_folder_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "human_long_windows.py"))
    with pytest.raises(SystemExit):
        example["main"]([str(tmp_path)])
    assert "has no tracks.tsv; name the folder" in capsys.readouterr().err


def test_the_rivals_on_human_windows_are_timed(
    human: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))  # it reads with the functions of its sibling
    example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "human_rivals.py"))
    words = [str(human), "--length", str(LENGTH), "--out", str(tmp_path / "out")]
    example["main"]([*words, "--estimators", "HyenaDNA", "ridge"])
    printed = capsys.readouterr().out
    assert "failed" not in printed
    for name in ("HyenaDNA", "ridge"):
        (line,) = [line for line in printed.splitlines() if line.startswith(name)]
        trained, predicted, peak = (float(word.replace(",", "")) for word in line.split()[-3:])
        assert trained >= 0.1 or name == "ridge"
        assert predicted > 0
        assert peak > 100
    with pytest.raises(SystemExit):
        example["main"]([*words, "--estimators", "Hyena"])
    assert "no estimator Hyena; known are RegMask, caduceus" in capsys.readouterr().err


def test_the_planted_example_scores_every_way_of_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "planted_masks.py"))
    out = tmp_path / "seeds.tsv"
    example["main"](["--genes", "96", "--epochs", "1", "--out", str(out)])
    assert "mean of 1 genomes, 1 sites an element" in capsys.readouterr().out
    table = pd.read_csv(out, sep="\t", index_col=["seed", "row"])
    for way in ("decoupled", "decoupled, no last stage", "joint"):
        row = table.loc[(0, way)]
        assert 0.0 < row["kept"] < 0.5
        assert 0.0 < row["AP"] < 1.0
        assert np.isfinite(row["EVAL-X"])
    # Under its own masks a predictor that has seen random ones alone judges itself.
    own = table.loc[(0, "decoupled, no last stage")]
    assert own["EVAL-X"] == pytest.approx(own["r hard"])
    precision = table.loc[0]["AP"]
    assert precision["smoothed accessibility track"] > 2 * precision["base rate"]


def test_the_promoter_example_keeps_related_sequences_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "yeast_promoters.py"))
    rng = np.random.default_rng(0)
    flank = "".join(rng.choice(list("ACGT"), 30))
    parts = ["".join(rng.choice(list("ACGT"), 60)) for _ in range(40)]
    sequences = [flank + part for part in parts]
    sequences.append(flank + parts[3][10:40] + parts[7][10:40])  # ties two of them together
    groups = example["related"](sequences)
    assert groups[3] == groups[7] == groups[40]
    assert len(set(groups)) == 39  # the flank, which all have, ties nothing

    table = pd.DataFrame(
        {
            "sequence": [*sequences, "ACGT"],
            "measured_expression": [s.count("G") for s in sequences] + [1],
            "published_model_prediction": [s.count("G") + 0.5 for s in sequences] + [1],
        }
    )
    path = tmp_path / "table.tsv"
    table.to_csv(path, sep="\t", index=False)
    words = [str(path), "--estimators", "mean", "ridge, 5-mers", "--out", str(tmp_path / "out")]
    example["main"](words)
    printed = capsys.readouterr().out
    assert "41 of 42 sequences, those of 90 bp, in 39 groups, the largest of 3" in printed
    assert "the published model on all rows: pearson 1.000" in printed
    cells = pd.read_csv(tmp_path / "out" / "cells.tsv", sep="\t")
    assert set(cells["estimator"]) == {"mean", "ridge, 5-mers"}
    assert len(cells) == 10


def write_yeast(folder: Path, target: str, tracks: tuple[str, ...]) -> None:
    """Write five chromosomes of five genes, laid out as the yeast files are."""
    rng = np.random.default_rng(0)
    chroms = ["chrI", "chrXI", "chrXII", "chrXIII", "chrXIV"]
    size = 6_000
    write_fasta(
        folder / "sacCer3.dev14.fa.gz",
        {name: "".join(rng.choice(list("ACGT"), size)) for name in chroms},
    )
    for track in tracks:
        values = {name: rng.poisson(2.0, size).astype(np.float32) for name in chroms}
        write_bigwig(folder / f"{track}.bw", values)
    genes = [(f"{name}-{i}", name, 1_500 + 600 * i) for name in chroms for i in range(5)]
    loci = pd.DataFrame(genes, columns=["gene", "chrom", "tss"])
    loci["strand"] = "+"
    loci[target] = rng.normal(size=len(loci))
    loci.to_csv(folder / "genes.tsv", sep="\t", index=False)


def test_the_yeast_benchmark_runs_on_files_of_that_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "yeast_benchmark.py"))
    write_yeast(tmp_path, example["TARGET"], example["TRACKS"])
    words = [str(tmp_path), "--estimators", "mean", "ridge", "--out", str(tmp_path / "out")]
    example["main"](words)
    assert "| mean |" in capsys.readouterr().out
    cells = pd.read_csv(tmp_path / "out" / "cells.tsv", sep="\t", keep_default_na=False)
    assert (cells["error"] == "").all()
    assert cells["n_train"].tolist() == [10, 10]  # chrXII is left out
    assert cells["n_test"].tolist() == [10, 10]
    words = [str(tmp_path), "--estimators", "mean", "--out", str(tmp_path / "each")]
    example["main"]([*words, "--leave-chromosome-out"])
    each = pd.read_csv(tmp_path / "each" / "cells.tsv", sep="\t")
    assert sorted(set(each["fold"])) == ["chrI", "chrXI", "chrXIII", "chrXIV"]

    with pytest.raises(SystemExit):
        example["main"]([str(tmp_path), "--estimators", "oracle"])
    assert "no estimator oracle; known are RegMask, soft" in capsys.readouterr().err


def test_the_attribution_benchmark_scores_masks_and_attributions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "attribution_benchmark.py"))
    # Windows as small as the elements allow.
    example["main"].__globals__.update(LENGTH=384, PROMOTER=32, ELEMENT=24)
    out = tmp_path / "out"
    words = ["--genes", "64", "--epochs", "1", "--mutated", "1", "--scored", "12"]
    words += ["--out", str(out)]
    example["main"](words)
    printed = capsys.readouterr().out
    table = pd.read_csv(out / "results.tsv", sep="\t")
    cell = out / "cells" / "seed0_noise0.3.tsv"
    assert "seed0_noise0.3.tsv" in printed
    assert (out / "results.md").read_text() in printed
    assert set(table["model"]) == {"RegMask", "twin", "control"}
    assert set(table.loc[table["method"] == "mutagenesis", "genes"]) == {1}
    methods = table[(table["genes"] == 12) & (table["model"] == "twin")]["method"]
    assert set(methods) == set(example["METHODS"])
    whole = table[(table["genes"] == 12) & (table["kind"] == "all")]
    whole = whole.set_index(["target", "method", "model"])
    assert whole["average_precision"].between(0, 1).all()
    bases = whole.loc["bases"]
    track = bases.loc[("accessibility track", "control")]
    assert track["average_precision"] > 1.3 * track["base_rate"]
    # What has been computed is not computed again, and other settings have another folder.
    before = cell.stat().st_mtime_ns
    example["main"](words)
    assert cell.stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        example["main"]([*words, "--epochs", "2"])
    assert "Name another folder with --out" in capsys.readouterr().err


def test_the_attribution_benchmark_judges_by_the_truth(tmp_path: Path) -> None:
    example = runpy.run_path(str(EXAMPLES / "attribution_benchmark.py"))
    length, width = example["LENGTH"], example["ELEMENT"]
    genome = simulate_genome(
        tmp_path, n_chroms=2, n_genes=40, length=length, promoter_length=example["PROMOTER"],
        element_width=width, random_state=1, **example["RATES"],
    )  # fmt: skip
    windows = TSSWindows(length).fit_transform(genome.loci)
    truth = example["Truth"](genome, windows[:30])
    elements = genome.elements[genome.elements["gene"].isin(genome.loci.index[:30])]
    oracle = np.zeros((30, length))
    for row in elements.itertuples():
        gene = genome.loci.index.get_loc(row.gene)
        if row.kind.startswith("acting"):
            mid, tss = row.start + width // 2, genome.loci["tss"].iloc[gene]
            sign = 1 if genome.loci["strand"].iloc[gene] == "+" else -1
            columns = length // 2 + sign * (np.arange(row.start, row.end) - tss)
            oracle[gene, columns] = 1.0
            assert abs(mid - tss) < length // 2
    for target in ("bases", "elements"):
        for kind in ("all", *example["KINDS"]):
            precision, rate = truth.judge(oracle, target, kind)
            assert precision == pytest.approx(1.0)
            assert 0.0 < rate < 0.8
    # The sites are a part of the elements: an oracle of elements finds them among other bases.
    precision, rate = truth.judge(oracle, "sites", "acting")
    assert precision == pytest.approx(1.0)
    assert rate < truth.judge(oracle, "bases", "acting")[1]
    assert truth.judge(1.0 - oracle, "bases", "all")[0] < 0.2


def test_the_yeast_search_writes_its_tables_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(EXAMPLES / "yeast_tuning.py"))
    write_yeast(tmp_path, example["TARGET"], example["TRACKS"])
    out = tmp_path / "out"
    words = [str(tmp_path), "--trials", "2", "--folds", "2", "--epochs", "1", "--out", str(out)]
    example["main"]([*words, "--grid"])
    printed = capsys.readouterr().out
    assert "2 trials, 2 folds of 10 genes" in printed
    assert printed.count("trial 2: ") == 2
    assert "nan" not in printed
    trials = pd.read_csv(out / "trials.tsv", sep="\t", index_col="number")
    assert trials["model__sparsity"].between(*example["SPARSITY"]).all()
    grid = pd.read_csv(out / "grid.tsv", sep="\t", index_col="number")
    np.testing.assert_allclose(grid["model__sparsity"], example["SPARSITY"])
    assert (grid["state"] == "COMPLETE").all()
    last = printed.splitlines()[-2:]
    for line, name, table in zip(last, ("search", "grid"), (trials, grid), strict=True):
        words_of_line = line.split()
        assert words_of_line[0] == name
        assert float(words_of_line[1]) in table["model__sparsity"].round(3).tolist()
    importances = pd.read_csv(out / "importances.tsv", sep="\t", index_col="parameter")
    assert len(importances) == 3
    for name in ("pareto.png", "importances.png"):
        assert matplotlib.image.imread(out / name).std() > 0.05


def test_the_benchmark_of_the_loader_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLES / "benchmark_loader.py"))
    words = ["--bases", "60000", "--lengths", "100", "2000", "--workers", "0", "--seconds", "0.05"]
    example["main"](words)
    printed = capsys.readouterr().out
    assert "16 genes, 60,000 bp, 6 channels" in printed
    rates, disk = printed.split("samples a second")[1].split("first epoch")
    for line in rates.strip().splitlines()[1:]:
        assert all(float(number.replace(",", "")) > 0 for number in line.split()[1:])
    assert disk.count("cache") == 5
    # 18,377 windows of 2 kb on 3.1 Gb hardly overlap: 9 bytes a base
    assert float(disk.split()[-1]) == pytest.approx(18_377 * 2_000 * 9 / 1e9, abs=0.05)


def test_the_motif_example_prints_planted_motifs_beside_the_controls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small genome laid out as the yeast files are: cuts, and a site, in a third of promoters."""
    rng = np.random.default_rng(0)
    size, step, site = 24_000, 400, "ACGGTACA"
    sequences, cuts, genes, regions = {}, {}, [], []
    for chrom in ("chrI", "chrII"):
        bases = rng.choice(list("ACGT"), size, p=[0.3, 0.2, 0.2, 0.3])
        counts = rng.poisson(0.01, size).astype(np.float32)
        for number, tss in enumerate(range(300, size - 300, step)):
            genes.append((f"{chrom}_{number}", chrom, tss, "+"))
            if number % 3 == 0:
                bases[tss - 100 : tss - 92] = list(site)
                counts[tss - 200 : tss - 40] += rng.poisson(0.6, 160)
                regions.append((chrom, tss - 200, tss - 40, "NFR"))
        regions.append((chrom, size - 50, size + 10, "NFR"))  # runs off its chromosome
        counts[counts == 0] = np.nan
        sequences[chrom], cuts[chrom] = "".join(bases), counts
    cuts["chrXVI"] = cuts["chrII"]  # of the track, and not of the FASTA file
    write_fasta(tmp_path / "sacCer3.dev14.fa.gz", sequences)
    write_bigwig(tmp_path / "atac_cuts.bw", cuts)
    pd.DataFrame(genes, columns=["gene", "chrom", "tss", "strand"]).to_csv(
        tmp_path / "genes.tsv", sep="\t", index=False
    )
    pd.DataFrame(regions, columns=["chrom", "start", "end", "type"]).to_csv(
        tmp_path / "regulatory_elements.tsv", sep="\t", index=False
    )
    planted = "".join(f"{' '.join('01'[base == b] for b in 'ACGT')}\n" for base in site)
    absent = "".join(f"{' '.join('01'[base == b] for b in 'ACGT')}\n" for base in "GGCCCATG")
    matrix = "letter-probability matrix: alength= 4 w= 8\n"
    (tmp_path / "macisaac_yeast.v1.meme").write_text(
        "MEME version 4\nALPHABET= ACGT\nBackground letter frequencies\nA .3 C .2 G .2 T .3\n\n"
        f"MOTIF ABSENT\n{matrix}{absent}\nMOTIF PLANTED\n{matrix}{planted}\n"
    )
    example = runpy.run_path(str(EXAMPLES / "yeast_motifs.py"))
    table = tmp_path / "table.tsv"
    monkeypatch.setattr("sys.argv", ["yeast_motifs.py", str(tmp_path), "--out", str(table)])
    example["main"]()
    text = capsys.readouterr().out
    assert "40 elements" in text
    assert "positive control: 42 nucleosome-free regions" in text
    assert text.index("| PLANTED |") < text.index("| ABSENT |")
    found = pd.read_csv(table, sep="\t")
    assert set(found["background"]) == {"shuffled", "matched"}
    assert (found.loc[found["motif"] == "PLANTED", "q_value"] < 1e-3).all()
    assert (found.loc[found["motif"] == "ABSENT", "q_value"] > 0.05).all()

    bed = tmp_path / "elements.bed"
    bed.write_text("".join(f"{c}\t{a}\t{b}\n" for c, a, b, _ in regions if b <= size))
    monkeypatch.setattr("sys.argv", ["yeast_motifs.py", str(tmp_path), "--elements", str(bed)])
    example["main"]()
    assert "40 elements, median 160 bp" in capsys.readouterr().out
