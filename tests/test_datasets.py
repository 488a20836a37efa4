"""The planted genome: files that read back, and a truth that sequence and tracks agree with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest

from regmask_sk.datasets import TRACKS, SimulatedGenome, simulate_genome

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
    assert set(elements["kind"]) == {"acting", "decoy_open", "decoy_motif"}
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
        ({"grammar_per_gene": -1}, "grammar_per_gene is -1"),
        ({"closed_effect": float("nan")}, "closed_effect is nan"),
        ({"distal_reach": 0}, "distal_reach is 0"),
        ({"distal_reach": 1.5}, "distal_reach is 1.5"),
        ({"grammar_spacing": -1}, "grammar_spacing is -1"),
        ({"grammar_per_gene": 1, "grammar_spacing": 45}, "can be 0 to 44 bp apart"),
        (
            {"decoy_grammar_per_gene": 1, "element_width": 24, "grammar_spacing": 2},
            "decoys need another distance",
        ),
        (
            {"grammar_per_gene": 1, "element_width": 18, "sites_per_element": 1},
            "a pair has 2",
        ),
    ],
)
def test_bad_arguments_say_what_was_found_and_write_nothing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_genome(tmp_path / "genome", **arguments)
    assert not (tmp_path / "genome").exists()


# What simulate_genome wrote before kinds of elements could be added to it: sha256 of the files,
# of the counts of the tracks (int64, bin by bin) and of the tables with numbers of 6 decimals.
EARLIER = {
    (("n_chroms", 3), ("n_genes", 60), ("length", 768), ("sites_per_element", 1),
     ("random_state", 4)): {
        "genome.fa": "152f51c9457209b216e7db5a59da248701f627cce4e1237a8ea90139f0602e6b",
        "elements.bed": "e66194e5ed6e9641b4ac778793f90355c4f3b296f1e87696e5ebb86798337ea8",
        "atac": "532e1d0b0b4761b1044e1e785e07ed32faa7457095bf5d0ed331ea98b4ab221e",
        "h3k27ac": "398762eef38334b106cc02c0a6db52434cf90c9b879d3d42502090b28cc13c46",
        "noise": "645f5ce53316d4162732394964dd075b38b23820c030e4d3226ae5c5efd2de38",
        "loci": "922ed3182c1ef728cc7911b20cd297f5efcf25d9640c0fc8c0e902d78d5e7064",
        "elements": "2b79dd0c399be9b7c3624f78338fa40ab6ded619563b9a2ab619f3362d23576d",
        "motifs": "d234f3c45b0b1828c86f92e13542afa9967a228007f8b63bae9bb8b220878792",
    },
    (): {  # the defaults, which are the demo's genome
        "genome.fa": "7c54638c58b73233b291640f0c0ce6b940b15016b5b413be462b9719dd59dd6e",
        "elements.bed": "a3b734a5702bbf81f5dfb9f2142621b17874bb28abe911860cebeb990ecd7a9b",
        "atac": "e5a9daae648acd1bab9e4f908cce22048479a749cf8e0c96cf3de3301da06103",
        "h3k27ac": "c2d28b1c5d9b2fba5dcd3f9d3d629358d36698bf6187d8f2d9f295eb9c8f3041",
        "noise": "4d5b18046733a2bfc286bbacb030f56e8a7be09db74edf44286ad98c70000298",
        "loci": "de69b337e7058b3fcbaaa710b66bf94e4657b59984914034fa4a377d57d6a4a8",
        "elements": "bd0b37cf70ccdb46da42c449752a10b76755fae5b25e1f5a270620d684cdbe65",
        "motifs": "1d13387df7ea3cc70e081f733d7bf2c4223bc1634e14fa54a4898ce728c4dd11",
    },
}  # fmt: skip


@pytest.mark.parametrize("arguments", list(EARLIER), ids=["small", "demo"])
def test_the_genome_without_added_kinds_is_the_earlier_one_bit_for_bit(tmp_path, arguments):
    genome = simulate_genome(tmp_path, **dict(arguments))
    found = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("genome.fa", "elements.bed")
    }
    for track, path in genome.tracks.items():
        digest = hashlib.sha256()
        with pyBigWig.open(str(path)) as handle:
            for chrom, size in handle.chroms().items():
                counts = handle.values(chrom, 0, size, numpy=True)[::8]
                digest.update(counts.astype(np.int64).tobytes())
        found[track] = digest.hexdigest()
    for name in ("loci", "elements", "motifs"):
        table = getattr(genome, name).round(6).to_csv(sep="\t")
        found[name] = hashlib.sha256(table.encode()).hexdigest()
    assert found == EARLIER[arguments]


# -- the kinds that can be added ------------------------------------------------------------------

REACH = 300
HARDER = {
    "n_chroms": 2,
    "n_genes": 300,
    "length": 2048,
    "grammar_per_gene": 1.0,
    "decoy_grammar_per_gene": 1.0,
    "distal_per_gene": 2.0,
    "closed_per_gene": 1.0,
    "distal_reach": REACH,
    "motif_fidelity": 1.0,
    "noise": 0.0,
    "random_state": 2,
}


@pytest.fixture(scope="module", params=[None, 7], ids=["anywhere", "spaced"])
def harder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SimulatedGenome:
    return simulate_genome(
        tmp_path_factory.mktemp("harder"), grammar_spacing=request.param, **HARDER
    )


def test_added_kinds_have_the_rates_that_were_asked_for(harder):
    kinds = harder.elements["kind"].value_counts() / HARDER["n_genes"]
    distal = kinds.pop("acting_distal") + kinds.pop("decoy_distal")
    assert distal == pytest.approx(2.0, rel=0.15)
    for kind, rate in kinds.items():
        wanted = 1.0 if "grammar" in kind or "closed" in kind else 1.5
        assert rate == pytest.approx(wanted, rel=0.2), kind


def test_the_effect_of_each_kind_follows_its_rule(harder):
    elements = harder.elements.join(harder.loci[["tss"]], on="gene")
    effects = harder.motifs["effect"]
    distance = ((elements["start"] + elements["end"]) / 2 - elements["tss"]).abs()
    near = effects["distal"] * np.exp(-distance / REACH)
    by_kind = {
        "acting": elements["motif"].map(effects) * elements["height"],
        "acting_grammar": effects["pair1"] * elements["height"],
        "acting_distal": near * elements["height"],
        "acting_closed": effects["pioneer"] + 0.0 * elements["height"],
    }
    for kind, effect in by_kind.items():
        rows = elements["kind"] == kind
        assert rows.sum() > 50
        np.testing.assert_allclose(elements.loc[rows, "effect"], effect[rows])
    decoys = elements["kind"].str.startswith("decoy")
    assert (elements.loc[decoys, "effect"] == 0).all()
    assert (elements.loc[~decoys, "effect"] != 0).all()
    assert (distance[elements["kind"] == "acting_distal"] <= REACH).all()
    assert (distance[elements["kind"] == "decoy_distal"] > REACH).all()
    closed = elements["kind"].isin(["acting_closed", "decoy_motif"])
    assert ((elements["height"] == 0) == closed).all()
    total = elements.groupby("gene")["effect"].sum().reindex(harder.loci.index, fill_value=0.0)
    np.testing.assert_allclose(harder.loci["expression"], total, atol=1e-12)


def test_closed_elements_have_no_peak_and_the_others_have_one(harder):
    with pyBigWig.open(str(harder.tracks["atac"])) as handle:
        mean = [
            np.mean(handle.values(row.chrom, row.start, row.end, numpy=True))
            for row in harder.elements.itertuples()
        ]
    level = pd.Series(mean).groupby(harder.elements["kind"].to_numpy()).mean()
    peaked = level.drop(["decoy_motif", "acting_closed"])
    assert (level[["decoy_motif", "acting_closed"]] < 0.3 * level["acting"]).all()
    np.testing.assert_allclose(peaked, level["acting"], rtol=0.15)


def test_the_sites_are_where_their_table_says(harder):
    sequence = read_fasta(harder.fasta)
    for row in harder.sites.itertuples():
        text = sequence[row.chrom][row.start : row.end]
        consensus = harder.motifs.loc[row.motif, "consensus"]
        assert text == (consensus if row.strand == "+" else reverse_complement(consensus))
    own = harder.elements.loc[harder.sites["element"]].reset_index(drop=True)
    for column in ("chrom", "gene", "kind", "effect"):
        pd.testing.assert_series_equal(harder.sites[column], own[column])
    assert (harder.sites["start"] >= own["start"]).all()
    assert (harder.sites["end"] <= own["end"]).all()
    named = harder.sites.groupby("element")["motif"].agg(lambda names: "+".join(sorted(set(names))))
    with_sites = harder.elements["motif"] != ""
    assert (harder.elements.loc[with_sites, "motif"] == named).all()


def test_pairs_act_only_as_their_rule_says(harder, request):
    spacing = 7 if "spaced" in request.node.name else None
    pairs = harder.sites[harder.sites["kind"].str.endswith("grammar")]
    wrong_distance = 0
    for _, sites in pairs.groupby("element"):
        assert len(sites) == 2
        kind, motifs = sites["kind"].iloc[0], set(sites["motif"])
        apart = sites["start"].iloc[1] - sites["end"].iloc[0]
        if kind == "acting_grammar":
            assert motifs == {"pair1", "pair2"}
        if spacing is None:
            assert kind == "acting_grammar" or len(motifs) == 1
            continue
        assert sites["strand"].nunique() == 1
        if len(motifs) == 2:
            # pair1 is 5' of pair2 on the strand of the pair
            forward = sites["strand"].iloc[0] == "+"
            assert sites["motif"].tolist() == sorted(motifs, reverse=not forward)
        if kind == "acting_grammar" or len(motifs) == 1:
            assert apart == spacing
        else:
            assert abs(apart - spacing) >= 5
            wrong_distance += 1
    decoys = (harder.elements["kind"] == "decoy_grammar").sum()
    assert wrong_distance == 0 if spacing is None else 0.3 < wrong_distance / decoys < 0.7


def test_the_table_of_acting_elements_has_all_acting_kinds(harder):
    bed = pd.read_csv(harder.acting_path, sep="\t", header=None)
    acting = harder.elements[harder.elements["kind"].str.startswith("acting")]
    assert bed.to_numpy().tolist() == acting[["chrom", "start", "end", "gene"]].to_numpy().tolist()


def test_noise_does_not_change_what_is_planted(tmp_path):
    quiet, loud = (
        simulate_genome(tmp_path / name, **{**HARDER, "n_genes": 40, "noise": noise})
        for name, noise in (("quiet", 0.0), ("loud", 1.0))
    )
    pd.testing.assert_frame_equal(quiet.elements, loud.elements)
    assert quiet.fasta.read_bytes() == loud.fasta.read_bytes()
    difference = loud.loci["expression"] - quiet.loci["expression"]
    assert difference.std() == pytest.approx(quiet.loci["expression"].std(), rel=0.4)
