"""Motifs in elements: sites in genomic coordinates, and enrichment that is there or is not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control

from regmask_sk import Motif, iter_motif_sites, motif_enrichment, read_motifs, scan_motifs
from regmask_sk.genome import FastaReader

SITE = "ACGGTACA"
OTHER = "TGTACCGT"  # its reverse complement
COLUMNS = ["chrom", "start", "end", "motif", "score", "strand", "p_value", "element"]


def motif_of(word: str, name: str = "planted") -> Motif:
    return Motif(name, "", np.eye(4)[["ACGT".index(base) for base in word]])


def elements_of(rows: list[tuple[str, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])


# --- sites -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 250), st.integers(0, 60)),
             min_size=1, max_size=8),
    st.integers(1, 200),
)  # fmt: skip
def test_sites_are_where_the_word_is(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    drawn: list[tuple[str, int, int]],
    batch_size: int,
) -> None:
    rng = np.random.default_rng(seed)
    sequences = {}
    for chrom, size in (("a", 260), ("b", 300)):
        bases = rng.choice(list("ACGTacgtN"), size)
        for start in rng.integers(0, size - 8, 12):
            bases[start : start + 8] = list(rng.choice([SITE, OTHER, OTHER.lower()]))
        sequences[chrom] = "".join(bases)
    fasta = write_fasta(tmp_path_factory.mktemp("sites") / "g.fa", sequences)
    ends = {chrom: len(bases) for chrom, bases in sequences.items()}
    rows = [(c, start, min(start + width, ends[c])) for c, start, width in drawn]
    table = elements_of(rows)
    found = scan_motifs(table, fasta, [motif_of(SITE)], batch_size=batch_size)
    assert list(found.columns) == COLUMNS
    expected = [
        (chrom, place, place + 8, strand, number)
        for number, (chrom, start, end) in enumerate(rows)
        for place in range(start, end - 7)
        for strand, word in (("+", SITE), ("-", OTHER))
        if sequences[chrom][place : place + 8].upper() == word
    ]
    assert [tuple(row) for row in found[["chrom", "start", "end", "strand", "element"]].values] == (
        expected
    )


def test_batches_together_are_the_whole_table(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "g.fa", {"a": SITE * 40})
    table = elements_of([("a", 8 * k, 8 * k + 24) for k in range(30)])
    motifs = [motif_of(SITE), motif_of(OTHER, "turned")]
    parts = list(iter_motif_sites(table, FastaReader(fasta), motifs, batch_size=100))
    assert len(parts) > 3
    whole = scan_motifs(table, fasta, motifs)
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    assert set(whole.loc[whole["motif"] == "turned", "strand"]) == {"-"}
    assert whole["element"].value_counts().to_dict() == dict.fromkeys(range(30), 6)


def test_elements_come_from_a_bed_file_with_other_chromosome_names(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "g.fa", {"1": "T" * 10 + SITE + "T" * 10})
    bed = tmp_path / "e.bed"
    bed.write_text("chr1\t9\t20\tgene\t900\t-\n")
    found = scan_motifs(bed, fasta, [motif_of(SITE)], chrom_alias={"chr1": "1"})
    assert found[["chrom", "start", "end", "strand"]].values.tolist() == [["chr1", 10, 18, "+"]]
    with pytest.raises(ValueError, match=r"chromosomes of the elements are not in FASTA.*'chr1'"):
        scan_motifs(bed, fasta, [motif_of(SITE)])
    with pytest.raises(ValueError, match="chrom_alias is given beside a FastaReader"):
        scan_motifs(bed, FastaReader(fasta), [motif_of(SITE)], chrom_alias={"chr1": "1"})


# --- motifs ------------------------------------------------------------------------------------


def test_read_motifs_tells_the_formats_apart(tmp_path: Path) -> None:
    jaspar = tmp_path / "a.txt"
    jaspar.write_text("\n>MA1 ABC\n8 0 0\n0 8 0\n0 0 6\n0 0 2\n")
    (motif,) = read_motifs(jaspar)
    assert (motif.name, motif.description, motif.width, motif.consensus) == ("MA1", "ABC", 3, "ACG")
    meme = tmp_path / "b.txt"
    meme.write_text(
        "MEME version 4\nALPHABET= ACGT\nBackground letter frequencies\nA .3 C .2 G .2 T .3\n\n"
        "MOTIF x\nletter-probability matrix: alength= 4 w= 1\n0 0 0 1\n"
    )
    assert read_motifs(meme)[0].consensus == "T"
    with pytest.raises(ValueError, match="no line begins with '>'"):
        read_motifs(meme, file_format="jaspar")
    with pytest.raises(ValueError, match="file_format is 'transfac'"):
        read_motifs(meme, file_format="transfac")
    jaspar.write_text(">MA1 x\n1\n0\n0\n0\n>MA1 y\n0\n1\n0\n0\n")
    with pytest.raises(ValueError, match="several motifs named 'MA1'"):
        read_motifs(jaspar)


# --- enrichment --------------------------------------------------------------------------------


def random_genome(rng: np.random.Generator, size: int = 60_000) -> np.ndarray:
    return rng.choice(list("ACGT"), size, p=[0.3, 0.2, 0.2, 0.3])


def promoters(size: int = 60_000) -> pd.DataFrame:
    """A gene every 300 bp, one strand after the other."""
    tss = np.arange(150, size, 300)
    strand = np.where(np.arange(len(tss)) % 2, "-", "+")
    return pd.DataFrame({"chrom": "a", "tss": tss, "strand": strand})


def upstream(genes: pd.DataFrame) -> pd.DataFrame:
    """Regions from 110 to 10 bp upstream of each TSS."""
    minus = (genes["strand"] == "-").to_numpy()
    starts = np.where(minus, genes["tss"] + 11, genes["tss"] - 110)
    return pd.DataFrame({"chrom": "a", "start": starts, "end": starts + 100})


def random_motifs(rng: np.random.Generator, n: int) -> list[Motif]:
    return [Motif(f"m{k}", f"factor {k}", rng.dirichlet(np.full(4, 0.3), size=6)) for k in range(n)]


def test_a_planted_motif_is_found_against_both_backgrounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    bases, genes = random_genome(rng), promoters()
    chosen = np.sort(rng.choice(len(genes), 80, replace=False))
    table = upstream(genes).iloc[chosen]
    for start in table["start"].iloc[:40]:
        bases[start + 30 : start + 38] = list(rng.choice([SITE, OTHER]))
    fasta = write_fasta(tmp_path / "g.fa", {"a": "".join(bases)})
    motifs = [motif_of("GGGCCCAT", "absent"), motif_of(SITE)]
    found = motif_enrichment(
        table, fasta, motifs, loci=genes, n_shuffled=4, position_tolerance=30, gc_tolerance=0.1
    )
    assert found["background"].tolist() == ["shuffled", "shuffled", "matched", "matched"]
    assert found["motif"].tolist() == ["planted", "absent"] * 2
    best = found[found["motif"] == "planted"]
    assert (best["q_value"] < 1e-6).all()
    assert (best["odds_ratio_low"] > 3).all()
    # Plants, and what is there by chance, counted on the bases themselves.
    words = ["".join(bases[a:b]) for a, b in zip(table["start"], table["end"], strict=True)]
    having = [SITE in word or OTHER in word for word in words]
    shuffled, matched = best.iloc[0], best.iloc[1]
    assert shuffled["n_with_motif"] == sum(having)
    assert (shuffled["n_elements"], shuffled["n_controls"]) == (80, 320)
    assert matched["n_elements"] == matched["n_controls"] == 80
    assert matched["n_with_motif"] == sum(having)
    # With one control each, and none with the motif, it is McNemar's test.
    assert matched["n_controls_with_motif"] == 0
    n = int(matched["n_with_motif"])
    assert matched["p_value"] == pytest.approx(binomtest(n, n, alternative="greater").pvalue)
    for _, part in found.groupby("background"):
        np.testing.assert_allclose(part["q_value"], false_discovery_control(part["p_value"]))


def test_no_enrichment_where_there_is_none(tmp_path: Path) -> None:
    """P-values of unrelated motifs are about uniform over genomes, for either background."""
    shares = {"shuffled": [], "matched": []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        genes = promoters()
        fasta = write_fasta(tmp_path / f"{seed}.fa", {"a": "".join(random_genome(rng))})
        table = upstream(genes).iloc[np.sort(rng.choice(len(genes), 90, replace=False))]
        found = motif_enrichment(
            table, fasta, random_motifs(rng, 25), loci=genes, p_value=2e-3, random_state=seed,
            position_tolerance=30, gc_tolerance=0.1, n_shuffled=3,
        )  # fmt: skip
        assert (found["q_value"] > 0.05).all()
        for name, part in found.groupby("background"):
            shares[name] += part["p_value"].tolist()
    for name, p_values in shares.items():
        p = np.array(p_values)
        assert len(p) == 100
        # Uniform but for the steps of an exact test, which only make p-values larger.
        for level in (0.05, 0.1, 0.25, 0.5):
            below = int((p <= level).sum())
            assert binomtest(below, len(p), level, alternative="greater").pvalue > 0.005, name
        assert 0.2 < np.mean(p <= 0.5) < 0.6, name
        assert p.min() < 0.1, name  # not all near 1: the test is no test that cannot find


def test_elements_of_two_genes_count_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    bases = random_genome(rng, 4_000)
    starts = np.arange(0, 4_000, 200)
    for start in starts:
        bases[start + 10 : start + 18] = list(SITE)
    fasta = write_fasta(tmp_path / "g.fa", {"a": "".join(bases)})
    table = pd.DataFrame({"chrom": "a", "start": starts, "end": starts + 60})
    twice = pd.concat([table, table.assign(start=starts + 5, end=starts + 60)])
    once, again = (motif_enrichment(t, fasta, [motif_of(SITE)]) for t in (table, twice))
    assert once["background"].tolist() == ["shuffled"]  # without loci there is no other
    assert once["n_elements"].tolist() == [20]
    pd.testing.assert_frame_equal(once, again)


def test_the_seed_decides_and_batches_do_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    genes = promoters(20_000)
    fasta = write_fasta(tmp_path / "g.fa", {"a": "".join(random_genome(rng, 20_000))})
    table, motifs = upstream(genes).iloc[::3], random_motifs(rng, 5)
    how = {"loci": genes, "p_value": 5e-3, "gc_tolerance": 1.0}
    first = motif_enrichment(table, fasta, motifs, **how)
    pd.testing.assert_frame_equal(
        motif_enrichment(table, fasta, motifs, batch_size=500, **how), first
    )
    assert not motif_enrichment(table, fasta, motifs, random_state=1, **how).equals(first)


def test_elements_without_a_control_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    genes = promoters(12_000)
    bases = {"a": "".join(random_genome(rng, 12_000)), "b": "ACGT" * 50}
    fasta = write_fasta(tmp_path / "g.fa", bases)
    table = upstream(genes).iloc[::4]
    alone = elements_of([("b", 0, 100)])  # a chromosome without genes
    how = {"loci": genes, "background": ["matched"], "gc_tolerance": 0.2}
    with pytest.warns(UserWarning, match="1 of 11 elements have no control"):
        found = motif_enrichment(pd.concat([table, alone]), fasta, [motif_of(SITE)], **how)
    assert found["n_elements"].tolist() == [10]
    with pytest.raises(ValueError, match="none of the 1 elements has a control"):
        motif_enrichment(alone, fasta, [motif_of(SITE)], **how)


def test_a_motif_that_is_nowhere_has_a_row_that_says_so(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "g.fa", {"a": "ACGT" * 100})
    motifs = [motif_of("ACG", "short"), motif_of("GGGGGGGG", "nowhere")]
    with pytest.warns(UserWarning, match="1 of 2 motifs are too short"):
        found = motif_enrichment(elements_of([("a", 0, 50)]), fasta, motifs)
    assert found["n_with_motif"].tolist() == [0, 0]
    assert found["odds_ratio"].isna().all()
    assert found[["odds_ratio_low", "p_value", "q_value"]].values.tolist() == [[0, 1, 1]] * 2


WRONG = [
    ({"elements": elements_of([])}, "elements has no rows"),
    ({"elements": elements_of([("a", 5, 5)])}, "no region of at least one base"),
    ({"elements": elements_of([("a", 401, 402)])}, r"1 elements begin beyond .* a:401-402 of 400"),
    ({"elements": elements_of([("a", 9, 5)])}, "no 0-based half-open coordinates"),
    ({"elements": [1]}, "elements is a list"),
    ({"motifs": []}, "motifs is empty"),
    ({"motifs": [motif_of(SITE)] * 2}, "motifs holds two of one name"),
    ({"motifs": [Motif("flat", "", np.ones((3, 4)))]}, r"motif 'flat' .* shape \(3, 4\).* add up"),
    ({"motifs": [Motif("turned", "", np.eye(4)[:, :2])]}, r"'turned' .* shape \(4, 2\); expected"),
    (
        {"motifs": [Motif("none", "", np.ones((0, 4)))]},
        r"'none' has probabilities of shape \(0, 4\)",
    ),
    ({"p_value": 1.5}, "p_value is 1.5"),
    ({"n_shuffled": 0}, "n_shuffled is 0; expected at least 1"),
    ({"n_matched": 0}, "n_matched is 0"),
    ({"position_tolerance": -1}, "position_tolerance is -1"),
    ({"gc_tolerance": 2}, "gc_tolerance is 2"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"background": ["random"]}, r"background is \['random'\]; expected one or both"),
    ({"background": []}, r"background is \[\]"),
    ({"background": ["matched"]}, "background 'matched' needs loci"),
    ({"loci": pd.DataFrame({"chrom": ["a"]})}, "loci has no column tss, strand"),
]


@pytest.mark.parametrize(("given_wrong", "message"), WRONG)
def test_wrong_arguments(tmp_path: Path, given_wrong: dict, message: str) -> None:
    arguments = {
        "elements": elements_of([("a", 0, 50)]),
        "fasta": write_fasta(tmp_path / "g.fa", {"a": "ACGT" * 100}),
        "motifs": [motif_of(SITE)],
        **given_wrong,
    }
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError), match=message):
        motif_enrichment(**arguments)


def test_a_batch_of_sites_needs_a_base(tmp_path: Path) -> None:
    fasta = write_fasta(tmp_path / "g.fa", {"a": "ACGT" * 10})
    with pytest.raises(ValueError, match="batch_size is 0; expected at least 1 base pair"):
        scan_motifs(elements_of([("a", 0, 9)]), fasta, [motif_of(SITE)], batch_size=0)
    beyond = elements_of([("a", 20, 60)])  # cut off at 40
    assert scan_motifs(beyond, fasta, [motif_of("GTACGTAC")])["end"].max() == 38
    none = scan_motifs(elements_of([("a", 5, 5)]), fasta, [motif_of(SITE)])
    assert none.empty
    assert list(none.columns) == COLUMNS
