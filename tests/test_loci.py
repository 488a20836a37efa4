"""Tests of regmask_sk.loci."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.loci import check_loci, read_loci, read_regions

HEADER = "gene\tchrom\ttss\tstrand\tgc\n"


def written(folder: Path, text: str, name: str = "loci.tsv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_table_with_its_columns_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "gc\tstrand\ttss\tgene\tchrom\n0.5\t-\t11\tabc\t1\n\t+\t1\tNA\tX\n")
    loci = read_loci(path, tss_base=1)
    assert loci.index.tolist() == ["abc", "NA"]
    assert loci.index.name == "gene"
    assert loci.columns.tolist() == ["chrom", "tss", "strand", "gc"]
    assert loci["chrom"].tolist() == ["1", "X"]
    assert loci["tss"].tolist() == [10, 0]
    assert loci["tss"].dtype == np.int64
    assert np.isnan(loci["gc"].iloc[1])


@pytest.mark.parametrize("base", [0, 1])
def test_tss_base_moves_a_table_by_itself(tmp_path: Path, base: int) -> None:
    path = written(tmp_path, HEADER + "a\tchr1\t100\t+\t1\n")
    assert read_loci(path, tss_base=base)["tss"].tolist() == [100 - base]


def test_comma_gzip_renamed_columns_and_floats_that_are_integers(tmp_path: Path) -> None:
    path = tmp_path / "loci.csv.gz"
    path.write_bytes(gzip.compress(b"id,contig,start,dir,chrom2\r\nabc,chr1,5.0,+,q\r\n"))
    loci = read_loci(
        path,
        tss_base=0,
        name_column="id",
        chrom_column="contig",
        tss_column="start",
        strand_column="dir",
    )
    assert loci.reset_index().iloc[0].tolist() == ["abc", "chr1", 5, "+", "q"]


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "loci.tsv"
    path.write_bytes(gzip.compress((HEADER + "a\tchr1\t1\t+\t1\n").encode()))
    assert len(read_loci(path, tss_base=0)) == 1


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (HEADER + "a\tchr1\t1\t+\t1\n", {}, "tss_base is None; expected 0 or 1"),
        (HEADER + "a\tchr1\t1\t+\t1\n", {"tss_base": 2}, "tss_base is 2"),
        ("gene\tchr\ttss\tstrand\na\tc\t1\t+\n", {"tss_base": 0}, r"no column 'chrom'.*'chr'"),
        (HEADER + "a\tchr1\t1\tx\t1\n", {"tss_base": 0}, "strand of loci holds 'x'.*first a"),
        (HEADER + "a\tchr1\t1\t.\t1\n", {"tss_base": 0}, "allow_unstranded=True"),
        (HEADER + "a\tchr1\t1.5\t+\t1\n", {"tss_base": 0}, r"not integers, the first '1\.5'.*'a'"),
        (HEADER + "a\tchr1\tq\t+\t1\n", {"tss_base": 0}, "not integers, the first 'q'"),
        (HEADER + "a\tchr1\t\t+\t1\n", {"tss_base": 0}, "not integers, the first 'nan'"),
        (HEADER + "a\tchr1\t-3\t+\t1\n", {"tss_base": 0}, "'tss' of .* holds -3 .*'a'"),
        (HEADER + "a\tchr1\t0\t+\t1\n", {"tss_base": 1}, "holds 0 .*first base, 1"),
        (HEADER + "a\t\t1\t+\t1\n", {"tss_base": 0}, "chrom of loci holds ''"),
        (HEADER, {"tss_base": 0}, "no rows"),
        ("", {"tss_base": 0}, "empty"),
        (HEADER + "a\tchr1\t1\t+\t1\t7\n", {"tss_base": 0}, "cannot be read as a table"),
        (HEADER + "a\tchr1\t1\t+\t1\n", {"file_format": "bam"}, "file_format is 'bam'"),
        (
            HEADER + '"a\tchr1\t1\t+\t1\nb\tchr1\t2\t+\t1\n"c\tchr1\t3\t+\t1\n',
            {"tss_base": 0},
            "'gene' of .* goes on over a line's end: data row 1, from 'a.*stray quote",
        ),
        (
            HEADER + 'a\tchr1\t1\t+\t"1\nb\tchr1\t2\t+\t"1\n',
            {"tss_base": 0},
            "goes on over a line's end: data row 1, from '1'",
        ),
        (HEADER + '"a\tchr1\t1\t+\t1\n', {"tss_base": 0}, "that quotes are closed"),
        (HEADER + "a\tchr1\t1\t+\t1\n\tchr1\t5\t+\t1\n", {"tss_base": 0}, "1 genes have no name"),
        (
            "gene\tchrom\ttss\tstrand\tlevel\tlevel\na\tc\t1\t+\t1\t2\n",
            {"tss_base": 0},
            "several columns named 'level'",
        ),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, options: dict, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as error:
        read_loci(path, **options)
    assert options.get("file_format") or str(path) in str(error.value)


def test_a_second_column_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "gene\tchrom\ttss\tstrand\tstart\na\tchr1\t1\t+\t2\n")
    with pytest.raises(ValueError, match="beside those chosen"):
        read_loci(path, tss_base=0, tss_column="start")


def test_unstranded_only_on_request(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "a\tchr1\t1\t.\t1\n")
    assert read_loci(path, tss_base=0, allow_unstranded=True)["strand"].tolist() == ["."]


def test_missing_binary_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.tsv"):
        read_loci(tmp_path / "nothing.tsv", tss_base=0)
    binary = tmp_path / "binary.tsv"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"binary\.tsv cannot be read"):
        read_loci(binary, tss_base=0)
    cut = tmp_path / "cut.tsv.gz"
    cut.write_bytes(gzip.compress((HEADER + "a\tchr1\t1\t+\t1\n").encode())[:-12])
    with pytest.raises(ValueError, match=r"cut\.tsv\.gz cannot be read"):
        read_loci(cut, tss_base=0)
    with pytest.raises(ValueError, match=r"cannot be told from its name.*file_format"):
        read_loci(written(tmp_path, "", "loci"), tss_base=0)


def test_annotation_with_an_empty_name(tmp_path: Path) -> None:
    path = written(tmp_path, 'chr1\tx\tgene\t5\t9\t.\t+\t.\tgene_id "";\n', "genes.gtf")
    with pytest.raises(ValueError, match=r"1 genes have no name, the first at chr1:4.*name_attrib"):
        read_loci(path)


def test_a_scaffold_may_be_called_track_7(tmp_path: Path) -> None:
    path = written(tmp_path, "track name=x\ntrack_7\t10\t20\ta\t0\t+\n", "genes.bed")
    assert read_loci(path)["chrom"].tolist() == ["track_7"]


def test_bed_takes_first_base_on_plus_and_last_on_minus(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "track name=x\n# comment\nchr1\t10\t20\ta\t0\t+\nchr1\t10\t20\tb\t0\t-\t1\t2\n\n",
        "genes.BED",
    )
    loci = read_loci(path)
    assert loci["tss"].tolist() == [10, 19]
    assert loci.columns.tolist() == ["chrom", "tss", "strand"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t10\t20\ta\t0\n", "line 1: 5 columns; expected at least 6"),
        ("chrom\tstart\tend\tname\tscore\tstrand\n", "line 1: start 'start'"),
        ("chr1\t20\t20\ta\t0\t+\n", "genes have no bases"),
        ("chr1\t-1\t20\ta\t0\t+\n", "genes have no bases"),
        ("chr1\t10\t20\ta\t0\t.\n", "strand '.', first of gene 'a'"),
        ("# nothing\n", "holds no regions"),
    ],
)
def test_wrong_bed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_loci(written(tmp_path, text, "genes.bed"))


def test_formats_with_rules_refuse_a_base(tmp_path: Path) -> None:
    path = written(tmp_path, "chr1\t10\t20\ta\t0\t+\n", "genes.bed")
    with pytest.raises(ValueError, match="its own rule"):
        read_loci(path, tss_base=0)


GTF = """#!genome-build x
1\tsrc\tgene\t101\t200\t.\t+\t.\tgene_id "G1"; gene_name "ab; c"; level 2;
1\tsrc\ttranscript\t101\t200\t.\t+\t.\tgene_id "G1"; transcript_id "T1";
1\tsrc\tgene\t101\t200\t.\t-\t.\tgene_id "G2"; gene_name "d";
"""
GFF3 = """##gff-version 3
chrI\tsrc\tgene\t1\t7\t.\t-\t.\tID=gene:Y%2C1;Name=abc
chrI\tsrc\tmRNA\t1\t7\t.\t-\t.\tID=t1;Parent=gene:Y1
##FASTA
>chrI
ACGT
"""


def test_gtf_and_gff3(tmp_path: Path) -> None:
    path = written(tmp_path, GTF, "genes.gtf")
    loci = read_loci(path)
    assert loci.index.tolist() == ["G1", "G2"]
    assert loci["tss"].tolist() == [100, 199]
    assert read_loci(path, name_attribute="gene_name").index.tolist() == ["ab; c", "d"]
    assert read_loci(path, feature="transcript", name_attribute="transcript_id").index[0] == "T1"
    loci = read_loci(written(tmp_path, GFF3, "genes.gff3"))
    assert loci.index.tolist() == ["gene:Y,1"]
    assert loci.iloc[0].tolist() == ["chrI", 6, "-"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (GTF, {"feature": "CDS"}, "no rows of feature 'CDS'; it has {'gene': 2"),
        (GTF, {"name_attribute": "ID"}, "no attribute 'ID', only .*gene_name"),
        (GTF, {"file_format": "gff3"}, "no attribute 'ID'"),
        ("1\t2\n", {}, "line 1: 2 tab-separated columns; expected the 9"),
        (GTF.replace("101", "x"), {}, "not both integers"),
    ],
)
def test_wrong_annotations(tmp_path: Path, text: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_loci(written(tmp_path, text, "genes.gtf"), **options)


def test_duplicates_warn_and_stay(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "a\tc\t1\t+\t1\na\tc\t2\t+\t1\n")
    with pytest.warns(UserWarning, match="1 gene names occur more than once, such as a"):
        assert len(read_loci(path, tss_base=0)) == 2
    path = written(tmp_path, HEADER + "a\tc\t1\t+\t1\nb\tc\t1\t+\t1\n")
    with pytest.warns(UserWarning, match="1 genes share their chrom, tss, strand.*such as b"):
        assert len(read_loci(path, tss_base=0)) == 2


def test_cell_types_share_positions(tmp_path: Path) -> None:
    text = "gene\tchrom\ttss\tstrand\tcell_type\na1\tc\t1\t+\tx\na2\tc\t1\t+\ty\n"
    assert len(read_loci(written(tmp_path, text), tss_base=0)) == 2


def test_blacklist_leaves_out_and_names(tmp_path: Path) -> None:
    rows = "".join(f"g{i}\tchr1\t{i}\t+\t1\n" for i in range(20)) + "h\tchr2\t5\t+\t1\n"
    path = written(tmp_path, HEADER + rows)
    bed = written(tmp_path, "chr1\t3\t9\nchr1\t5\t7\nchr1\t19\t20\n", "black.bed")
    with pytest.warns(UserWarning, match="7 of 21 genes are left out.*g3, g4"):
        loci = read_loci(path, tss_base=0, blacklist=bed)
    assert loci.index.tolist() == [
        *(f"g{i}" for i in [0, 1, 2, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]),
        "h",
    ]
    bed = written(tmp_path, "1\t3\t9\n", "other.bed")
    with pytest.raises(ValueError, match="shares no chromosome"):
        read_loci(path, tss_base=0, blacklist=bed)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=6),
    st.integers(0, 40),
)
def test_blacklist_against_an_oracle(
    tmp_path_factory: pytest.TempPathFactory, regions: list[tuple[int, int]], tss: int
) -> None:
    folder = tmp_path_factory.mktemp("black")
    bed = written(folder, "".join(f"c\t{s}\t{s + n}\n" for s, n in regions), "b.bed")
    path = written(folder, HEADER + f"a\tc\t{tss}\t+\t1\nz\tc\t1000\t+\t1\n")
    listed = any(s <= tss < s + n for s, n in regions)
    if listed:
        with pytest.warns(UserWarning, match="left out"):
            loci = read_loci(path, tss_base=0, blacklist=bed)
    else:
        loci = read_loci(path, tss_base=0, blacklist=bed)
    assert ("a" not in loci.index) == listed


def test_check_loci_of_hand_made_tables() -> None:
    good = pd.DataFrame({"chrom": ["c"], "tss": [1], "strand": ["+"]}, index=["a"])
    assert check_loci(good) is good
    with pytest.raises(TypeError, match="loci is a list"):
        check_loci([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no column strand; its columns are"):
        check_loci(good.drop(columns="strand"))
    with pytest.raises(ValueError, match="dtype float64"):
        check_loci(good.astype({"tss": float}))
    with pytest.raises(ValueError, match=r"chrom of loci holds '1'.*str"):
        check_loci(good.assign(chrom=1))
    with pytest.raises(ValueError, match="strand of loci holds 'nan'"):
        check_loci(good.assign(strand=[np.nan]))
    with pytest.raises(ValueError, match="no rows"):
        check_loci(good.iloc[:0])
    with pytest.raises(ValueError, match="several columns"):
        check_loci(pd.concat([good, good["tss"]], axis=1))
    missing = good.assign(tss=pd.array([None], dtype="Int64"))
    with pytest.raises(ValueError, match="tss of loci holds '<NA>'"):
        check_loci(missing)


def test_read_regions(tmp_path: Path) -> None:
    bed = written(tmp_path, "chr1 1 2\nchr1\t5\t5\tx\n", "r.bed")
    assert read_regions(bed).columns.tolist() == ["chrom", "start", "end"]
    table = written(tmp_path, "gene\tchrom\tstart\tend\nq\t1\t2\t3\n", "r.tsv")
    regions = read_regions(table)
    assert regions.columns.tolist() == ["chrom", "start", "end", "gene"]
    assert regions.iloc[0].tolist() == ["1", 2, 3, "q"]
    with pytest.raises(ValueError, match="end < start, the first chr1:9-2"):
        read_regions(written(tmp_path, "chr1\t9\t2\n", "w.bed"))
    with pytest.raises(ValueError, match="holds no regions"):
        read_regions(written(tmp_path, "", "e.bed"))


def test_narrow_peaks_are_regions_with_scores(tmp_path: Path) -> None:
    lines = (
        "track type=narrowPeak name=atac\n"
        "chr1\t100\t350\tpeak_1\t812\t.\t9.13\t84.2\t81.2\t120\n"
        "chr2\t5\t60\tpeak_2\t31\t.\t2.5\t4.1\t3.1\t-1\n"
    )
    zipped = tmp_path / "atac.narrowPeak.gz"
    zipped.write_bytes(gzip.compress(lines.encode()))
    for path in (written(tmp_path, lines, "atac.narrowPeak"), zipped):
        regions = read_regions(path)
        assert regions.columns.tolist() == ["chrom", "start", "end", "name", "score", "strand"]
        assert regions["start"].tolist() == [100, 5]
        assert regions["end"].tolist() == [350, 60]
        assert regions["score"].astype(int).tolist() == [812, 31]


def test_yeast_tables(yeast: Path) -> None:
    loci = read_loci(yeast / "genes.tsv", tss_base=0)
    assert len(loci) == 4564
    assert loci["rnaseq_log2rpkm"].dtype == np.float64
    assert set(read_regions(yeast / "regulatory_elements.tsv")["type"]) > {"NFR"}
