"""The planted genome: files that read back, and a truth that sequence and tracks agree with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from regmask_sk.datasets import KINDS, TRACKS, SimulatedGenome, simulate_genome

LENGTH = 1024
PROMOTER = 96


def read_fasta(path: Path) -> dict[str, str]:
    """Read a FASTA without the package's reader, as an independent check."""
    chroms: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith(">"):
            chroms[line[1:]] = []
            current = chroms[line[1:]]
        else:
            current.append(line)
    return {name: "".join(lines) for name, lines in chroms.items()}


def reverse_complement(sequence: str) -> str:
    return sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


@pytest.fixture(scope="module")
def genome(tmp_path_factory: pytest.TempPathFactory) -> SimulatedGenome:
    return simulate_genome(
        tmp_path_factory.mktemp("genome"),
        n_chroms=3,
        n_genes=200,
        length=LENGTH,
        promoter_length=PROMOTER,
        motif_fidelity=1.0,
        random_state=3,
    )


@pytest.fixture(scope="module")
def sequence(genome: SimulatedGenome) -> dict[str, str]:
    return read_fasta(genome.fasta)


def has_site(text: str, consensus: str) -> bool:
    return consensus in text or reverse_complement(consensus) in text


def test_files_agree_on_chromosomes_and_sizes(genome, sequence):
    sizes = {name: len(text) for name, text in sequence.items()}
    assert list(sizes) == ["chr1", "chr2", "chr3"]
    assert set("".join(sequence.values())) == set("ACGT")
    for track in TRACKS:
        with pyBigWig.open(str(genome.tracks[track])) as handle:
            assert handle.chroms() == sizes
            values = handle.values("chr1", 0, sizes["chr1"], numpy=True)
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert genome.loci["tss"].between(0, genome.loci["chrom"].map(sizes) - 1).all()


def test_tables_read_back(genome):
    loci = pd.read_csv(genome.loci_path, sep="\t", index_col="gene")
    pd.testing.assert_frame_equal(loci, genome.loci)
    elements = pd.read_csv(genome.elements_path, sep="\t", keep_default_na=False)
    pd.testing.assert_frame_equal(elements, genome.elements)
    bed = pd.read_csv(genome.acting_path, sep="\t", header=None)
    acting = elements.loc[elements["kind"] == "acting", ["chrom", "start", "end", "gene"]]
    assert bed.to_numpy().tolist() == acting.to_numpy().tolist()


def test_windows_do_not_overlap_and_hold_their_elements(genome):
    for _, loci in genome.loci.groupby("chrom"):
        assert (np.diff(loci["tss"]) >= LENGTH).all()
    elements = genome.elements.join(genome.loci["tss"], on="gene")
    assert (elements["start"] >= elements["tss"] - LENGTH // 2).all()
    assert (elements["end"] <= elements["tss"] + LENGTH // 2).all()
    clear = (elements["end"] <= elements["tss"] - PROMOTER // 2) | (
        elements["start"] >= elements["tss"] + PROMOTER // 2
    )
    assert clear.all()
    ordered = elements.sort_values(["chrom", "start"])
    same = ordered["chrom"].to_numpy()[1:] == ordered["chrom"].to_numpy()[:-1]
    assert (ordered["start"].to_numpy()[1:] >= ordered["end"].to_numpy()[:-1])[same].all()
    assert set(elements["kind"]) == set(KINDS)
    per_gene = elements["kind"].value_counts() / len(genome.loci)
    assert per_gene.to_numpy() == pytest.approx(1.5, rel=0.2)


def test_motifs_are_where_the_truth_says_and_nowhere_else(genome, sequence):
    consensus = genome.motifs["consensus"]
    for row in genome.elements.itertuples():
        text = sequence[row.chrom][row.start : row.end]
        found = {name for name, motif in consensus.items() if has_site(text, motif)}
        if row.kind == "decoy_open":
            assert row.motif == ""
            assert found == set()
        else:
            assert row.motif in found
    masked = {chrom: list(text) for chrom, text in sequence.items()}
    for row in genome.elements[genome.elements["motif"] != ""].itertuples():
        masked[row.chrom][row.start : row.end] = "N" * (row.end - row.start)
    outside = ["".join(letters) for letters in masked.values()]
    assert not any(has_site(text, motif) for text in outside for motif in consensus)


def test_open_decoys_are_as_open_as_acting_elements_and_motif_decoys_are_closed(genome):
    with pyBigWig.open(str(genome.tracks["atac"])) as handle:
        mean = np.array(
            [
                np.mean(handle.values(row.chrom, row.start, row.end, numpy=True))
                for row in genome.elements.itertuples()
            ]
        )
    level = pd.Series(mean).groupby(genome.elements["kind"].to_numpy()).mean()
    assert level["decoy_open"] == pytest.approx(level["acting"], rel=0.1)
    assert level["decoy_motif"] < 0.3 * level["acting"]
    widths = genome.elements["end"] - genome.elements["start"]
    assert widths.nunique() == 1
    is_open = genome.elements["height"] > 0
    assert (is_open == (genome.elements["kind"] != "decoy_motif")).all()


def test_expression_is_the_sum_of_the_acting_elements(tmp_path):
    genome = simulate_genome(tmp_path, n_chroms=2, n_genes=60, noise=0.0, random_state=1)
    elements = genome.elements
    assert (elements.loc[elements["kind"] != "acting", "effect"] == 0).all()
    acting = elements[elements["kind"] == "acting"]
    expected = acting["motif"].map(genome.motifs["effect"]) * acting["height"]
    np.testing.assert_allclose(acting["effect"], expected)
    assert (expected < 0).any()
    total = elements.groupby("gene")["effect"].sum().reindex(genome.loci.index, fill_value=0.0)
    np.testing.assert_allclose(genome.loci["expression"], total)


def test_noise_has_the_stated_size(tmp_path):
    genome = simulate_genome(tmp_path, n_genes=2000, length=512, acting_per_gene=1,
                             decoy_open_per_gene=0.5, decoy_motif_per_gene=0.5, noise=0.5,
                             random_state=2)  # fmt: skip
    total = genome.elements.groupby("gene")["effect"].sum()
    total = total.reindex(genome.loci.index, fill_value=0.0)
    noise = genome.loci["expression"] - total
    assert noise.std() == pytest.approx(0.5 * total.std(), rel=0.1)


def test_the_same_seed_writes_the_same_files_and_another_does_not(tmp_path):
    runs = [
        simulate_genome(tmp_path / name, n_chroms=2, n_genes=20, random_state=seed)
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    ]
    for name in ("genome.fa", "loci.tsv", "elements.tsv", "elements.bed"):
        one, two, other = (run.fasta.with_name(name).read_bytes() for run in runs)
        assert one == two
        assert one != other
    for track in TRACKS:
        values = []
        for run in runs[:2]:
            with pyBigWig.open(str(run.tracks[track])) as handle:
                values.append(handle.values("chr2", 0, handle.chroms("chr2"), numpy=True))
        np.testing.assert_array_equal(*values)


def test_existing_files_are_kept_unless_told(tmp_path):
    simulate_genome(tmp_path, n_chroms=1, n_genes=4)
    before = (tmp_path / "genome.fa").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        simulate_genome(tmp_path, n_chroms=1, n_genes=4, random_state=1)
    assert (tmp_path / "genome.fa").read_bytes() == before
    simulate_genome(tmp_path, n_chroms=1, n_genes=4, random_state=1, overwrite=True)
    assert (tmp_path / "genome.fa").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_chroms": 0}, "n_chroms is 0"),
        ({"n_genes": 2.5}, "n_genes is 2.5"),
        ({"n_genes": 3}, "fewer than n_chroms"),
        ({"length": 100}, "has room for 0 elements"),
        ({"acting_per_gene": 50}, "Raise length"),
        ({"acting_per_gene": -1}, "acting_per_gene is -1"),
        ({"motif_effects": ()}, "motif_effects is"),
        ({"motif_effects": (1.0, float("nan"))}, "motif_effects is"),
        ({"motif_fidelity": 1.5}, "between 0 and 1"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"noise": float("inf")}, "finite"),
        ({"depth": 0}, "above 0"),
        ({"sites_per_element": 9}, "do not fit"),
        ({"bin_size": 64}, "at most half of element_width"),
        ({"motif_effects": (1.0,) * 500, "motif_width": 6}, "distinct ones were found"),
        ({"random_state": -1}, "random_state is -1"),
    ],
)
def test_bad_arguments_say_what_was_found_and_write_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_genome(tmp_path / "genome", **arguments)
    assert not (tmp_path / "genome").exists()
