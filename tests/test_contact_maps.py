"""The power law, and the reader of cooler files."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZES
from cool_files import maps, write_cool
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._contact_maps import CoolerReader, power_law, tables_to_cooler

BIN = 70  # divides no chromosome


@pytest.fixture(scope="module")
def counts() -> dict[str, np.ndarray]:
    return maps(SIZES, BIN)


@pytest.fixture(scope="module")
def weights(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    drawn = {chrom: rng.uniform(0.5, 2.0, len(array)) for chrom, array in counts.items()}
    for array in drawn.values():
        array[3] = np.nan
    return drawn


@pytest.fixture(scope="module")
def cool(
    counts: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    path = tmp_path_factory.mktemp("maps") / "x.cool"
    return write_cool(path, SIZES, BIN, counts, {"weight": weights, "VC": weights})


@given(st.integers(0, 10**7), st.integers(1, 10**5), st.floats(0.1, 3.0))
def test_power_law(distance: int, bin_size: int, gamma: float) -> None:
    found = power_law([distance], bin_size=bin_size, gamma=gamma)
    apart = max(distance, bin_size) / 1000
    np.testing.assert_allclose(found, [apart**-gamma], rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    chrom=st.sampled_from(list(SIZES)),
    rows=st.tuples(st.integers(-5, 45), st.integers(0, 9)),
    columns=st.tuples(st.integers(-5, 45), st.integers(0, 9)),
    balance=st.sampled_from([True, False, "VC"]),
)
def test_contacts_against_the_matrix(
    cool: str,
    counts: dict[str, np.ndarray],
    weights: dict[str, np.ndarray],
    chrom: str,
    rows: tuple[int, int],
    columns: tuple[int, int],
    balance: bool | str,
) -> None:
    reader = CoolerReader(cool, balance=balance)
    found = reader.contacts(chrom, (rows[0], sum(rows)), (columns[0], sum(columns)))
    expected = np.full((rows[1], columns[1]), np.nan)
    n_bins = -(-SIZES[chrom] // BIN)
    for i in range(rows[1]):
        for j in range(columns[1]):
            one, other = rows[0] + i, columns[0] + j
            if 0 <= one < n_bins and 0 <= other < n_bins:
                factor = weights[chrom][one] * weights[chrom][other]
                factor = {True: factor, False: 1.0, "VC": 1 / factor}[balance]
                expected[i, j] = counts[chrom][one, other] * factor
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_it_is_a_reader(cool: str) -> None:
    reader = CoolerReader(cool, chrom_alias={"one": "chr1", "two": "elsewhere"})
    assert reader.bin_size == BIN
    assert reader.chrom_sizes == {"one": 3_000, "chr2": 2_500, "chr3": 2_000, "chr4": 1_500}
    expected = reader.contacts("one", (0, 3), (2, 9))
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(again.contacts("one", (0, 3), (2, 9)), expected)
    assert again.signature() == reader.signature()
    assert CoolerReader(cool, balance=False).signature() != reader.signature()
    reader.close()
    np.testing.assert_array_equal(reader.contacts("one", (0, 3), (2, 9)), expected)
    with pytest.raises(ValueError, match=r"chromosome 'chr9' is not in cooler .*chrom_alias"):
        reader.contacts("chr9", (0, 1), (0, 1))


def test_a_map_in_a_file_of_several(tmp_path: Path) -> None:
    path = tmp_path / "x.mcool"
    for bin_size in (100, 200):
        write_cool(
            path, SIZES, bin_size, maps(SIZES, bin_size, bin_size), group=f"resolutions/{bin_size}"
        )
    reader = CoolerReader(f"{path}::resolutions/200", balance=False)
    assert reader.bin_size == 200
    np.testing.assert_array_equal(
        reader.contacts("chr2", (0, 13), (0, 13)), maps(SIZES, 200, 200)["chr2"]
    )
    other = CoolerReader(f"{path}::/resolutions/100", balance=False)
    assert other.signature() != reader.signature()
    with pytest.raises(ValueError, match=r"no contact map at its root; it has '/resolutions/100'"):
        CoolerReader(path)
    with pytest.raises(ValueError, match="no contact map at 'resolutions/5'"):
        CoolerReader(f"{path}::resolutions/5")


def test_what_is_no_map_of_equal_bins(cool: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cooler .*none\.cool cannot be read"):
        CoolerReader(tmp_path / "none.cool")
    text = tmp_path / "text.cool"
    text.write_text("chr1\t0\t100\n")
    with pytest.raises(ValueError, match=r"cooler .*text\.cool cannot be read"):
        CoolerReader(text)
    with pytest.raises(ValueError, match=r"no weights 'KR' of its bins, only the columns 'chrom'"):
        CoolerReader(cool, balance="KR")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x.cool"
    path.touch()
    monkeypatch.setitem(sys.modules, "cooler", None)
    with pytest.raises(ImportError, match=r"pip install regmask_sk\[contacts\]"):
        CoolerReader(path)


# --- tables --------------------------------------------------------------------------------------


def write_table(path: Path, rows: list[tuple[object, object, object]]) -> Path:
    path.write_text("bin1,bin2,hic_contact\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    return path


def test_tables_become_a_contact_map(counts: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("cooler", reason="cooler is not installed")
    rng = np.random.default_rng(0)
    tables = {}
    for chrom in ("chr3", "chr1"):
        one, other = np.nonzero(np.triu(counts[chrom]))
        swapped = rng.random(len(one)) < 0.5  # a pair may be given in either order, in any row
        one, other = np.where(swapped, other, one), np.where(swapped, one, other)
        order = rng.permutation(len(one))
        rows = [(a, b, counts[chrom][a, b] + 0.5) for a, b in zip(one, other, strict=True)]
        tables[chrom] = write_table(tmp_path / f"{chrom}.csv", [rows[i] for i in order])
    path = tmp_path / "x.cool"
    tables_to_cooler(tables, path, chrom_sizes=SIZES, bin_size=BIN)
    reader = CoolerReader(path, balance=False)
    assert (reader.chrom_sizes, reader.bin_size) == (SIZES, BIN)
    for chrom, array in counts.items():
        n = len(array)
        wanted = np.where(array > 0, array + 0.5, 0.0) if chrom in tables else np.zeros((n, n))
        np.testing.assert_allclose(reader.contacts(chrom, (0, n), (0, n)), wanted, rtol=1e-6)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []
    with pytest.raises(FileExistsError, match="exists"):
        tables_to_cooler(tables, path, chrom_sizes=SIZES, bin_size=BIN)


def test_a_contact_without_a_value_stays_without(tmp_path: Path) -> None:
    pytest.importorskip("cooler", reason="cooler is not installed")
    table = write_table(tmp_path / "t.csv", [(0, 1, ""), (0, 2, 3.0), (2, 0, 3.0)])
    tables_to_cooler({"chr2": table}, tmp_path / "x.cool", chrom_sizes=SIZES, bin_size=BIN)
    found = CoolerReader(tmp_path / "x.cool", balance=False).contacts("chr2", (0, 1), (0, 4))
    np.testing.assert_array_equal(found, [[0.0, np.nan, 3.0, 0.0]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 1, 2.0), (1, 999, 1.0)], r"t.csv, data row 2: bins 1 and 999; expected 0 to 35 for"),
        ([(-1, 1, 2.0)], "data row 1: bins -1 and 1; expected 0 to"),
        ([(0, 1, -2.0)], r"data row 1: contact -2.0; expected 0 or more"),
        ([(0, 1, 2.0), (1, 0, 3.0)], "two contacts of bins 0 and 1; expected one"),
        ([(0, "x", 2.0)], "'bin2' of .*t.csv holds 1 values that are not integers"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(
    rows: list[tuple[object, object, object]], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("cooler", reason="cooler is not installed")
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(ValueError, match=message):
        tables_to_cooler({"chr2": table}, tmp_path / "x.cool", chrom_sizes=SIZES, bin_size=BIN)
    assert [file.name for file in tmp_path.iterdir()] == ["t.csv"]


def test_tables_of_unknown_chromosomes(tmp_path: Path) -> None:
    pytest.importorskip("cooler", reason="cooler is not installed")
    table = write_table(tmp_path / "t.csv", [(0, 1, 2.0)])
    for tables, said in ({"chrQ": table}, r"contacts of \['chrQ'\]"), ({}, "of no chromosome"):
        with pytest.raises(ValueError, match=said):
            tables_to_cooler(tables, tmp_path / "x.cool", chrom_sizes=SIZES, bin_size=BIN)
