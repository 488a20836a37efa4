"""MEME and JASPAR files: probabilities to the digits of the file, and nothing read by half."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from regmask_sk._motif_files import read_motif_file

HEAD = "MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\n"
BACKGROUND = "Background letter frequencies\nA 0.25 C 0.25 G 0.25 T 0.25\n\n"
MEME = (
    HEAD
    + BACKGROUND
    + """MOTIF MA1.1 ABC

log-odds matrix: alength= 4 w= 2 E= 0
 -40 10 10 20
 -40 10 10 20

letter-probability matrix: alength= 4 w= 2 nsites= 1 E= 0
 0.123456 0.376544 0.25 0.25
 1.0 0.0 0.0 0.0
URL http://example.org/MA1.1

MOTIF second
letter-probability matrix: alength= 4 w= 3 nsites= 153.99 E= 4.1e-009
0.1 0.2 0.3 0.4
0.4 0.3 0.2 0.1
0.333 0.333 0.333 0.000
"""
)
JASPAR = """>MA0001.1\tAGL3
A  [ 0  3 79 ]
C  [94 75  4 ]
G  [ 1  0  3 ]
T  [ 2 19 11 ]
>MA2
1 0
1 0
1 0
1 2.5
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "motifs.txt"
    path.write_text(text)
    return path


def test_probabilities_are_those_of_the_file(tmp_path: Path) -> None:
    # A reader that turns them into counts of `nsites` would give 0, 0, 0, 0 for the first row.
    first, second = read_motif_file(write(tmp_path, MEME), "meme")
    assert (first.name, first.description) == ("MA1.1", "ABC")
    np.testing.assert_allclose(
        first.probabilities, [[0.123456, 0.376544, 0.25, 0.25], [1, 0, 0, 0]], atol=1e-6
    )
    assert (second.name, second.description) == ("second", "")
    np.testing.assert_allclose(
        second.probabilities[:2], [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]
    )
    np.testing.assert_allclose(second.probabilities[2], [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(second.probabilities.sum(axis=1), 1)


def test_jaspar_with_and_without_brackets(tmp_path: Path) -> None:
    first, second = read_motif_file(write(tmp_path, JASPAR), "jaspar")
    assert (first.name, first.description) == ("MA0001.1", "AGL3")
    np.testing.assert_allclose(first.probabilities[0], np.array([0, 94, 1, 2]) / 97)
    np.testing.assert_allclose(first.probabilities[2], np.array([79, 4, 3, 11]) / 97)
    assert (second.name, second.description) == ("MA2", "")
    np.testing.assert_allclose(second.probabilities, [[0.25] * 4, [0, 0, 0, 1]])


def test_gzipped_and_a_space_after_the_mark(tmp_path: Path) -> None:
    path = tmp_path / "motifs.jaspar.gz"
    with gzip.open(path, "wt") as file:
        file.write(JASPAR.replace(">", "> "))
    assert [motif.name for motif in read_motif_file(path, "jaspar")] == ["MA0001.1", "MA2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no motifs"),
        (HEAD + BACKGROUND, "no line begins with 'MOTIF' and a name"),
        (
            BACKGROUND + MEME[len(HEAD + BACKGROUND) :],
            "cannot be read as a MEME file.*MEME version",
        ),
        (MEME.replace(BACKGROUND, ""), "cannot be read as a MEME file.*background"),
        (MEME.replace("w= 3", "w= 4"), r"motif 'second' says w= 4 and has 3 rows"),
        (MEME.replace("0.4 0.3 0.2 0.1", "0.4 0.3 0.2"), r"says w= 3 and has 1 rows"),
        (MEME.replace("0.4 0.3 0.2 0.1", "0.4 0.3 0.2 x"), "could not convert"),
        (MEME.replace("0.4 0.3 0.2 0.1", "40 30 20 10"), "position of motif 'second'"),
        (MEME.replace("0.4 0.3 0.2 0.1", "0 0 0 0"), "position of motif 'second'"),
        (MEME.replace("0.4 0.3 0.2 0.1", "1.4 -0.4 0 0"), "position of motif 'second'"),
        (MEME + "MOTIF third\n", "names 3 motifs and holds 2 matrices"),
        (MEME.replace("MOTIF second\n", ""), "names 1 motifs and holds 2 matrices"),
    ],
)
def test_meme_files_that_are_not_whole(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_motif_file(write(tmp_path, text), "meme")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MEME, "no line begins with '>'"),
        (JASPAR.replace(">MA2", ">"), "one without a name"),
        (JASPAR.replace("1 2.5\n", ""), "names 2 motifs and holds 1 matrices"),
        (JASPAR.replace("1 2.5\n", "1\n"), "cannot be read as a JASPAR file"),
        (JASPAR.replace("1 0\n", "0 0\n").replace("2.5", "0"), "position of motif 'MA2'"),
        (JASPAR.replace("94", "-94"), "position of motif 'MA0001.1'"),
        (JASPAR.replace("94", "nan"), "position of motif 'MA0001.1'"),
    ],
)
def test_jaspar_files_that_are_not_whole(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_motif_file(write(tmp_path, text), "jaspar")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_motif_file(tmp_path / "none.meme", "meme")
