"""Tests of regmask_sk.genome."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyfaidx
import pytest
from conftest import SIZES, ToyGenome, write_bigwig, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.genome import BigWigReader, FastaReader, Reader, check_chromosomes

CODE = {"A": 0, "C": 1, "G": 2, "T": 3}

# Positions around both ends of chr4, and inside.
STARTS = st.integers(-50, SIZES["chr4"] + 50)


def naive_codes(bases: str, start: int, end: int) -> list[int]:
    inside = range(len(bases))
    return [CODE.get(bases[i].upper(), 4) if i in inside else 4 for i in range(start, end)]


def naive_values(values: np.ndarray, start: int, end: int) -> np.ndarray:
    inside = range(len(values))
    return np.array([values[i] if i in inside else np.nan for i in range(start, end)], np.float32)


@settings(max_examples=100, deadline=None)
@given(STARTS, st.integers(0, 200), st.sampled_from(["fasta", "bgzipped"]))
def test_codes_against_an_oracle(toy_genome: ToyGenome, start: int, width: int, kind: str) -> None:
    reader = FastaReader(getattr(toy_genome, kind))
    codes = reader.codes("chr4", start, start + width)
    assert codes.dtype == np.uint8
    assert codes.tolist() == naive_codes(toy_genome.sequences["chr4"], start, start + width)


@settings(max_examples=100, deadline=None)
@given(STARTS, st.integers(0, 200), st.sampled_from(["counts", "ratio"]))
def test_values_against_an_oracle(
    toy_genome: ToyGenome, start: int, width: int, track: str
) -> None:
    values = BigWigReader(toy_genome.tracks[track]).values("chr4", start, start + width)
    assert values.dtype == np.float32
    expected = naive_values(toy_genome.values[track]["chr4"], start, start + width)
    np.testing.assert_array_equal(values, expected)


def readers(toy_genome: ToyGenome) -> list[Reader]:
    return [
        FastaReader(toy_genome.fasta),
        FastaReader(toy_genome.bgzipped),
        BigWigReader(toy_genome.tracks["counts"]),
    ]


def read(reader: Reader, chrom: str, start: int, end: int) -> np.ndarray:
    if isinstance(reader, FastaReader):
        return reader.codes(chrom, start, end)
    assert isinstance(reader, BigWigReader)
    return reader.values(chrom, start, end)


def test_sizes_names_and_errors_of_coordinates(toy_genome: ToyGenome) -> None:
    for reader in readers(toy_genome):
        assert reader.chrom_sizes == SIZES
        with pytest.raises(ValueError, match=r"'chr9' is not in .*'chr1', .*chrom_alias"):
            read(reader, "chr9", 0, 1)
        with pytest.raises(ValueError, match="end is 1; expected at least start, which is 5"):
            read(reader, "chr1", 5, 1)
        assert len(read(reader, "chr1", -10, -5)) == 5
        assert len(read(reader, "chr1", 10_000, 10_007)) == 7
        assert str(reader.path) in repr(reader)


def test_alias_is_the_name_in_the_loci(toy_genome: ToyGenome) -> None:
    for reader in readers(toy_genome):
        other = type(reader)(reader.path, {"I": "chr1", "II": "nowhere"})
        assert set(other.chrom_sizes) == {"I", "chr2", "chr3", "chr4"}
        np.testing.assert_array_equal(read(other, "I", 3, 40), read(reader, "chr1", 3, 40))


def test_pickles_leave_the_handle_behind(toy_genome: ToyGenome) -> None:
    for reader in readers(toy_genome):
        expected = read(reader, "chr2", 100, 300)
        copy = pickle.loads(pickle.dumps(reader))
        assert copy.chrom_sizes == reader.chrom_sizes
        assert copy.signature() == reader.signature()
        np.testing.assert_array_equal(read(copy, "chr2", 100, 300), expected)
        reader.close()
        reader.close()
        np.testing.assert_array_equal(read(reader, "chr2", 100, 300), expected)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Reader, np.ndarray]]:
    """Readers and what they hold, beyond what fits into the buffer of an open file."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, 500_000)
    bases = {"c": "".join(np.array(list("ACGT"))[codes])}
    values = rng.normal(size=200_000).astype(np.float32)
    return [
        (FastaReader(write_fasta(folder / "c.fa", bases)), codes),
        (FastaReader(write_fasta(folder / "c.fa.gz", bases)), codes),
        (BigWigReader(write_bigwig(folder / "c.bw", {"c": values})), values),
    ]


def n_wrong(opened: list[tuple[Reader, np.ndarray]], seed: int) -> int:
    wrong = 0
    for start in np.random.default_rng(seed).integers(0, 199_900, 200).tolist():
        for reader, expected in opened:
            try:
                found = read(reader, "c", start, start + 100)
            except ValueError:
                found = np.empty(0)
            wrong += not np.array_equal(found, expected[start : start + 100])
    return wrong


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_open_their_own_handle(large: list[tuple[Reader, np.ndarray]]) -> None:
    for reader, _ in large:
        read(reader, "c", 0, 1)  # opens it in the parent
    context = get_context("fork")
    counts = [context.Value("i", 0) for _ in range(4)]

    def work(seed: int) -> None:
        counts[seed].value = n_wrong(large, seed)

    workers = [context.Process(target=work, args=(seed,)) for seed in range(1, 4)]
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert [count.value for count in counts] == [0] * 4


def test_threads(large: list[tuple[Reader, np.ndarray]]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda seed: n_wrong(large, seed), range(8))) == [0] * 8


def test_windows_line_ends_and_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "crlf.fa"
    path.write_bytes(b">a x\r\nACGT\r\nAC\r\n>b\r\nTTTTTT")
    reader = FastaReader(path)
    assert reader.chrom_sizes == {"a": 6, "b": 6}
    assert reader.codes("a", 0, 6).tolist() == [0, 1, 2, 3, 0, 1]
    assert reader.codes("b", 4, 7).tolist() == [3, 3, 4]


# -- the index of a FASTA file ---------------------------------------------------------------


@pytest.fixture
def fasta(tmp_path: Path, toy_genome: ToyGenome) -> Path:
    path = write_fasta(tmp_path / "genome.fa", toy_genome.sequences)
    FastaReader(path)
    return path


def test_index_is_written_once_and_whole(fasta: Path) -> None:
    assert sorted(path.name for path in fasta.parent.iterdir()) == ["genome.fa", "genome.fa.fai"]
    bgzipped = write_fasta(fasta.parent / "z.fa.gz", {"c": "ACGT" * 100})
    FastaReader(bgzipped)
    assert {"z.fa.gz.fai", "z.fa.gz.gzi"} <= {path.name for path in fasta.parent.iterdir()}
    assert len(list(fasta.parent.iterdir())) == 5


CHANGES = {
    "bases inserted": lambda text: text.replace("\n", "\nACGT\n", 1),
    "first record gone": lambda text: text[text.index(">chr2") :],
    "last record gone": lambda text: text[: text.index(">chr4")],
    "record added": lambda text: text + ">chr5\nACGT\n",
    "renamed": lambda text: text.replace(">chr3", ">chrX"),
    "truncated": lambda text: text[: len(text) // 2],
    "last line cut": lambda text: text[:-20],
    "other line width": lambda text: text.replace("\n", "", 2).replace(
        " a comment", " a comment\n"
    ),
    "bases appended": lambda text: text + "ACGT\n",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("newer", [True, False], ids=["index newer", "index older"])
def test_stale_index(fasta: Path, change: str, newer: bool) -> None:
    fasta.write_text(CHANGES[change](fasta.read_text()))
    moment = fasta.stat().st_mtime + (100 if newer else -100)
    os.utime(f"{fasta}.fai", (moment, moment))
    with pytest.raises(ValueError, match=r"genome\.fa\.fai does not belong to.*delete") as error:
        FastaReader(fasta)
    assert str(fasta) in str(error.value)
    if change not in ("other line width", "bases inserted", "bases appended"):  # not FASTA now
        Path(f"{fasta}.fai").unlink()
        FastaReader(fasta)


def test_older_index_that_fits_is_right(fasta: Path, toy_genome: ToyGenome) -> None:
    fasta.write_text(fasta.read_text().replace("A", "C"))
    os.utime(f"{fasta}.fai", (0, 0))
    expected = naive_codes(toy_genome.sequences["chr3"].replace("A", "C"), 0, 2_000)
    assert FastaReader(fasta).codes("chr3", 0, 2_000).tolist() == expected


@pytest.mark.parametrize("index", [".fai", ".gzi"])
def test_stale_index_of_a_bgzipped_file(tmp_path: Path, index: str) -> None:
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 200_000))
    path = write_fasta(tmp_path / "z.fa.gz", {"a": bases, "b": bases})
    FastaReader(path)
    old = Path(f"{path}{index}").read_bytes()
    write_fasta(path, {"a": bases[:150_123], "b": bases})
    for name in (".fai", ".gzi"):
        Path(f"{path}{name}").unlink()
    FastaReader(path)
    Path(f"{path}{index}").write_bytes(old)
    with pytest.raises(ValueError, match=r"does not belong to|cannot be read"):
        FastaReader(path)


def test_damaged_index(fasta: Path) -> None:
    Path(f"{fasta}.fai").write_text("chr1\tx\n")
    with pytest.raises(ValueError, match=r"genome\.fa cannot be read"):
        FastaReader(fasta)
    Path(f"{fasta}.fai").write_text("")
    with pytest.raises(ValueError, match="does not belong to"):
        FastaReader(fasta)


def test_folder_that_cannot_be_written(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FastaReader(fasta)  # needs to write nothing
    Path(f"{fasta}.fai").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)  # root may write anywhere
    with pytest.raises(ValueError, match=r"no index genome\.fa\.fai.*samtools faidx.*copy"):
        FastaReader(fasta)


def test_wrong_fasta_files(tmp_path: Path) -> None:
    def wrong(name: str, content: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            FastaReader(path)
        assert str(path) in str(error.value)

    wrong("empty.fa", b"", "it is empty")
    wrong("text.fa", b"hello\nworld\n", "does not begin with b'hello")
    wrong("gzip.fa.gz", gzip.compress(b">a\nACGT\n"), "use bgzip")
    wrong("plain.fa.gz", b">a\nACGT\n", "rename it")
    wrong("zipped.fa", gzip.compress(b">a\nACGT\n"), "rename it")
    wrong("twice.fa", b">a\nACGT\n>a\nACGT\n", "Duplicate key")
    wrong("ragged.fa", b">a\nAC\nACGT\nAC\nACGT\n", "not consistent")
    bgzipped = write_fasta(tmp_path / "whole.fa.gz", {"a": "ACGT" * 50_000})
    wrong("cut.fa.gz", bgzipped.read_bytes()[:-100], "truncated")
    wrong("cut2.fa.gz", bgzipped.read_bytes()[:-28], "truncated")
    with pytest.raises(FileNotFoundError, match=r"none\.fa cannot be read: No such file"):
        FastaReader(tmp_path / "none.fa")
    with pytest.raises(ValueError, match="is not a file"):
        FastaReader(tmp_path)


def test_file_that_shrinks_under_an_open_reader(fasta: Path) -> None:
    reader = FastaReader(fasta)
    fasta.write_text(fasta.read_text()[:200])
    with pytest.raises(ValueError, match=r"genome\.fa has changed on disk"):
        reader.codes("chr4", 0, 100)
    with pytest.raises(ValueError, match="has changed on disk"):
        reader.signature()


def test_error_of_pyfaidx_is_named(fasta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = FastaReader(fasta)

    def fail(*_: object) -> str:
        raise OSError("disk gone")

    monkeypatch.setattr(pyfaidx.Faidx, "from_file", fail)
    with pytest.raises(ValueError, match=r"genome\.fa cannot be read: disk gone"):
        reader.codes("chr4", 0, 100)


# -- bigWig ----------------------------------------------------------------------------------


def test_wrong_bigwig_files(tmp_path: Path, toy_genome: ToyGenome) -> None:
    whole = toy_genome.tracks["counts"].read_bytes()

    def wrong(name: str, content: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            BigWigReader(path)
        assert str(path) in str(error.value)

    wrong("empty.bw", b"", "does not begin with b''")
    wrong("text.bw", b"track type=wiggle\n", "does not begin with b'track")
    wrong("bed.bb", struct.pack("<I", 0x8789F2EB) + whole[4:], "bigBed file")
    for size in (20, 70, len(whole) // 2, len(whole) - 4):
        wrong(f"cut{size}.bw", whole[:size], "truncated")
    wrong("head.bw", whole[:64] + whole[-4:], "a part that its header names is missing")
    wrong("none.bw", whole[:24] + bytes(8) + whole[32:], "holds no values")
    with pytest.raises(FileNotFoundError, match=r"nothing\.bw cannot be read"):
        BigWigReader(tmp_path / "nothing.bw")


def test_damaged_values_are_named(tmp_path: Path, toy_genome: ToyGenome) -> None:
    content = bytearray(toy_genome.tracks["counts"].read_bytes())
    (data,) = struct.unpack_from("<Q", content, 16)
    content[data + 8 : data + 2_000] = b"\xff" * 1_992  # the compressed blocks
    path = tmp_path / "damaged.bw"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.bw cannot be read: chr1:0-3000"):
        BigWigReader(path).values("chr1", 0, 3_000)


# -- chromosomes -----------------------------------------------------------------------------


def loci_on(*chroms: str, tss: int = 0) -> pd.DataFrame:
    names = [f"g{i}" for i in range(len(chroms))]
    return pd.DataFrame({"chrom": list(chroms), "tss": tss, "strand": "+"}, index=names)


def test_names_are_compared(toy_genome: ToyGenome) -> None:
    check_chromosomes(loci_on("chr1", "chr2"), readers(toy_genome))
    for reader in readers(toy_genome):
        with pytest.raises(ValueError, match="2 of the 2 chromosomes of the loci") as error:
            check_chromosomes(loci_on("1", "2"), [reader])
        for part in ("'1', '2'", "'chr1', 'chr2'", str(reader.path), "chrom_alias"):
            assert part in str(error.value)


def test_absent_chromosomes(toy_genome: ToyGenome) -> None:
    fasta, _, track = readers(toy_genome)
    with pytest.raises(ValueError, match="1 of the 2 chromosomes"):
        check_chromosomes(loci_on("chr1", "chrM"), [fasta])
    with pytest.warns(UserWarning, match=r"'chrM'.*'chr1'.*chrom_alias"):
        check_chromosomes(loci_on("chr1", "chrM"), [track])
    with pytest.raises(ValueError, match="1 of the 2 chromosomes"):
        check_chromosomes(loci_on("chr1", "chrM"), [track], allow_absent=False)


def test_other_assembly(toy_genome: ToyGenome, tmp_path: Path) -> None:
    path = write_bigwig(tmp_path / "other.bw", {"chr1": np.ones(10), "chr2": np.ones(2_499)})
    fasta = FastaReader(toy_genome.fasta)
    with pytest.raises(ValueError, match=r"'chr1' has 3000 bp in FASTA .* and 10 bp in bigWig"):
        check_chromosomes(loci_on("chr2"), [BigWigReader(path), fasta])
    with pytest.raises(ValueError, match="two assemblies"):
        check_chromosomes(
            loci_on("chr2"), [BigWigReader(path), BigWigReader(toy_genome.tracks["ratio"])]
        )


def test_tss_beyond_the_end_names_the_genes(toy_genome: ToyGenome) -> None:
    loci = loci_on("chr1", "chr2", "chr4", tss=2_499)
    with pytest.raises(ValueError, match=r"1 genes .*'g2'.*2499 .*'chr4', which has 1500 bp"):
        check_chromosomes(loci, readers(toy_genome))
    check_chromosomes(loci.iloc[:2], readers(toy_genome))


def test_sizes_are_not_gathered_anew_for_each_chromosome(toy_genome: ToyGenome) -> None:
    reader = FastaReader(toy_genome.fasta)
    assert reader.chrom_sizes is reader.chrom_sizes == SIZES
    assert pickle.loads(pickle.dumps(reader)).chrom_sizes == SIZES


def test_names_may_be_categories(toy_genome: ToyGenome) -> None:
    loci = toy_genome.loci.astype({"chrom": "category", "strand": "category"})
    reader = FastaReader(toy_genome.fasta)
    check_chromosomes(loci, [reader])
    loci.loc[loci.index[3], "tss"] = 10**6
    with pytest.raises(ValueError, match=f"1 genes lies beyond.*'{loci.index[3]}'"):
        check_chromosomes(loci, [reader])


def test_the_largest_value_is_that_of_the_summary(toy_genome: ToyGenome, tmp_path: Path) -> None:
    for name, path in toy_genome.tracks.items():
        values = np.concatenate(list(toy_genome.values[name].values()))
        assert BigWigReader(path).largest() == pytest.approx(np.nanmax(np.abs(values)))
    for values in ([0.0, 0.0], [1.0, np.inf]):
        path = write_bigwig(tmp_path / "x.bw", {"c": np.array(values, np.float32)})
        assert BigWigReader(path).largest() is None
    content = bytearray(toy_genome.tracks["ratio"].read_bytes())
    content[44:52] = bytes(8)  # no summary, as in files of the first version
    path.write_bytes(content)
    assert BigWigReader(path).largest() is None
