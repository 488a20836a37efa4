"""Files of a simulated genome: FASTA and bigWig."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyBigWig
from numpy.typing import NDArray

BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_FASTA_LINE = 80


def write_fasta(path: Path, names: NDArray[np.str_], chroms: list[NDArray[np.uint8]]) -> None:
    """Write chromosomes, given as codes 0 to 3 for A, C, G and T.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    names : ndarray of shape (n_chroms,)
        Names of the chromosomes.
    chroms : list of ndarray of shape (size,), uint8
        Their bases.
    """
    with path.open("wb") as handle:
        for name, codes in zip(names, chroms, strict=True):
            handle.write(f">{name}\n".encode())
            letters = BASES[codes]
            whole = len(letters) // _FASTA_LINE * _FASTA_LINE
            lines = letters[:whole].reshape(-1, _FASTA_LINE)
            newline = np.full((len(lines), 1), ord("\n"), dtype=np.uint8)
            handle.write(np.concatenate([lines, newline], axis=1).tobytes())
            if whole < len(letters):
                handle.write(letters[whole:].tobytes() + b"\n")


def write_bigwig(
    path: Path,
    names: NDArray[np.str_],
    sizes: NDArray[np.int64],
    values: list[NDArray[np.float32]],
    bin_size: int,
) -> None:
    """Write one value a bin, from the start of each chromosome.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    names, sizes : ndarray of shape (n_chroms,)
        Names of the chromosomes, and their sizes in base pairs.
    values : list of ndarray of shape (n_bins,), float32
        Values of each chromosome.
    bin_size : int
        Base pairs of a bin.
    """
    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader([(str(n), int(s)) for n, s in zip(names, sizes, strict=True)])
        for name, value in zip(names, values, strict=True):
            handle.addEntries(str(name), 0, values=value, span=bin_size, step=bin_size)
