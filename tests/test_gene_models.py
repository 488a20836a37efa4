"""Genes and exons as GTF and GFF3 have them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from regmask_sk import read_gene_models

GTF = """#!comment
chr1\tx\tgene\t11\t90\t.\t+\t.\tgene_id "g1"; gene_name "ABC1";
chr1\tx\texon\t11\t30\t.\t+\t.\tgene_id "g1"; transcript_id "t1";
chr1\tx\tCDS\t15\t30\t.\t+\t0\tgene_id "g1"; transcript_id "t1";
"""
GFF3 = """##gff-version 3
chr1\tx\tgene\t11\t90\t.\t-\t.\tID=gene:g1;Name=ABC1
chr1\tx\tmRNA\t11\t90\t.\t-\t.\tID=t1;Parent=gene:g1
chr1\tx\tCDS\t15\t30\t.\t-\t0\tParent=t1
"""


def test_gtf(tmp_path: Path) -> None:
    path = tmp_path / "genes.gtf.gz"
    path.write_bytes(gzip.compress(GTF.encode()))
    table = read_gene_models(path, name_attribute="gene_name")
    assert table.columns.tolist() == ["chrom", "start", "end", "strand", "name", "feature"]
    # Exons where there are such, and no CDS beside them.
    assert table.to_numpy().tolist() == [
        ["chr1", 10, 90, "+", "ABC1", "gene"],
        ["chr1", 10, 30, "+", "g1", "exon"],
    ]
    assert read_gene_models(path)["name"].tolist() == ["g1", "g1"]


@pytest.mark.parametrize("name", ["genes.gff3", "genes.GFF", "a.b.gff"])
def test_gff3(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(GFF3)
    table = read_gene_models(path)
    assert table["feature"].tolist() == ["gene", "CDS"]
    assert table["name"].tolist() == ["gene:g1", "t1"]
    assert read_gene_models(path, name_attribute="Name")["name"][0] == "ABC1"


def test_genes_without_exons_and_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genes.gtf"
    path.write_text(GTF.splitlines(keepends=True)[1])
    assert read_gene_models(path)["feature"].tolist() == ["gene"]
    with pytest.raises(ValueError, match="has no rows of feature 'transcript'"):
        read_gene_models(path, feature="transcript")
    with pytest.raises(ValueError, match="no attribute 'symbol'"):
        read_gene_models(path, name_attribute="symbol")
    path.write_text(GTF + "chr1\tx\texon\t1\n")
    with pytest.raises(ValueError, match="4 tab-separated columns"):
        read_gene_models(path)
