"""A motif, and motif files in MEME and JASPAR format, read by Biopython and checked."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from Bio import motifs as bio_motifs
from numpy.typing import NDArray

from regmask_sk._text_files import open_text

# Biopython turns the probabilities of a MEME file into whole counts of this many sites. With the
# number that the file names, often 20 or 1, they would come back as other probabilities.
_N_SITES = 10_000_000
_SLACK = 0.02  # of the sum of a position's probabilities: files are rounded to two digits or more
_MATRIX = re.compile(r"^letter-probability matrix:(.*)$", re.MULTILINE)
_WIDTH = re.compile(r"\bw=\s*(\d+)")
_MARKS = {"meme": "MOTIF", "jaspar": ">"}


@dataclass(frozen=True, eq=False)
class Motif:
    """The base preferences of a transcription factor.

    Attributes
    ----------
    name : str
        First word of its heading in the file.
    description : str
        Second word, often the factor's name; may be empty.
    probabilities : ndarray of shape (width, 4), float64
        Of A, C, G and T at each position; each row adds up to 1.
    """

    name: str
    description: str
    probabilities: NDArray[np.float64]

    @property
    def width(self) -> int:
        """Number of positions, in base pairs."""
        return len(self.probabilities)

    @property
    def consensus(self) -> str:
        """Most likely base at each position."""
        return "".join("ACGT"[k] for k in self.probabilities.argmax(axis=1))


def read_motif_file(path: Path, file_format: Literal["meme", "jaspar"]) -> list[Motif]:
    """Read all motifs of a file.

    Parameters
    ----------
    path : Path
        The file, plain or gzipped.
    file_format : {"meme", "jaspar"}
        MEME's text format, or JASPAR's with a line ``>ID NAME`` and four rows of counts.

    Returns
    -------
    list of Motif
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file does not hold whole motifs of the letters A, C, G and T.
    """
    with open_text(path) as lines:
        text = lines.read()
    mark = _MARKS[file_format]
    headings = [
        line.removeprefix(mark).split() for line in text.splitlines() if line.startswith(mark)
    ]
    if not headings or not all(headings):
        raise ValueError(
            f"{path} holds no motifs, or one without a name: no line begins with {mark!r} and a "
            "name. Give file_format, 'meme' or 'jaspar'."
        )
    matrices = _MATRIX.findall(text) if file_format == "meme" else []
    if file_format == "meme":
        _check_numbers(path, len(headings), len(matrices))
        text = re.sub(r"nsites=\s*\S+", "", text)
        text = _MATRIX.sub(rf"letter-probability matrix: nsites= {_N_SITES} \1", text)
    try:
        parsed = bio_motifs.parse(
            io.StringIO(text), "minimal" if file_format == "meme" else "jaspar"
        )
        counts = [np.array([motif.counts[letter] for letter in "ACGT"]).T for motif in parsed]
    except Exception as error:  # Biopython raises just this, among others
        raise ValueError(
            f"{path} cannot be read as a {file_format.upper()} file: {str(error).strip()}. Check "
            "that it is complete and of the letters A, C, G and T, or give file_format."
        ) from error
    _check_numbers(path, len(headings), len(counts))
    for (name, *_), matrix, line in zip(headings, counts, matrices, strict=False):
        width = _WIDTH.search(line)
        if width and len(matrix) != int(width[1]):
            raise ValueError(
                f"{path}: motif {name!r} says w= {width[1]} and has {len(matrix)} rows of four "
                "numbers. Complete its matrix."
            )
    total = _N_SITES if file_format == "meme" else None
    return [
        Motif(words[0], " ".join(words[1:2]), _probabilities(matrix, words[0], path, total))
        for words, matrix in zip(headings, counts, strict=True)
    ]


def _check_numbers(path: Path, n_headings: int, n_matrices: int) -> None:
    if n_headings != n_matrices:
        raise ValueError(
            f"{path} names {n_headings} motifs and holds {n_matrices} matrices. Complete the file, "
            "or remove the motif without a matrix."
        )


def _probabilities(
    counts: NDArray[np.float64], name: str, path: Path, total: int | None
) -> NDArray[np.float64]:
    sums = counts.sum(axis=1, keepdims=True)
    wrong = counts.size == 0 or not bool(np.isfinite(counts).all())
    wrong = wrong or bool((counts < 0).any() or (sums <= 0).any())
    if not wrong and total is not None:
        wrong = bool((np.abs(sums / total - 1.0) > _SLACK).any())
    if wrong:
        raise ValueError(
            f"{path}: a position of motif {name!r} has no distribution over A, C, G and T. "
            "Expected numbers of 0 or more, in a MEME file with the sum 1."
        )
    return np.asarray(counts / sums, dtype=np.float64)
