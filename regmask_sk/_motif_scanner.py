"""Find the sites of motifs in sequences: FIMO's algorithm, as memelite has it.

References
----------
Grant et al., "FIMO: scanning for occurrences of a given motif", Bioinformatics 27:1017 (2011).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.genome import PADDING_CODE, shorten

_COLUMNS = ("sequence", "motif", "start", "end", "strand", "score", "p_value")


class MotifScanner:
    """Find the sites of motifs on both strands of sequences.

    Parameters
    ----------
    names : sequence of str
        Of the motifs, for messages.
    probabilities : sequence of ndarray of shape (width, 4)
        Of A, C, G and T at each position.
    p_value : float
        Largest p-value of a site: the share of all sequences of the motif's width, each letter
        as likely as another, with its score or a higher one.

    Raises
    ------
    ImportError
        If memelite is not installed.
    ValueError
        If `p_value` is not between 0 and 1, or there are no motifs.

    Warns
    -----
    UserWarning
        If the best site of a motif has a larger p-value: the motif is too short to be found.
    """

    def __init__(
        self,
        names: Sequence[str],
        probabilities: Sequence[NDArray[np.float64]],
        p_value: float,
    ) -> None:
        if not 0.0 < p_value < 1.0:
            raise ValueError(f"p_value is {p_value!r}; expected a number between 0 and 1.")
        if not len(names):
            raise ValueError(
                "motifs is empty; expected at least one motif. read_motifs reads them."
            )
        self._fimo = _load_fimo()
        self._p_value = float(p_value)
        # Numbers as names: memelite keeps motifs in a dict, and gives -rc to some of the names.
        self._matrices = {str(k): np.ascontiguousarray(p.T) for k, p in enumerate(probabilities)}
        best = [np.argmax(p, axis=1).astype(np.uint8) for p in probabilities]
        hits = self.scan(best)
        found = set(hits.loc[hits["sequence"] == hits["motif"], "motif"])
        never = [name for k, name in enumerate(names) if k not in found]
        if never:
            warnings.warn(
                f"{len(never)} of {len(names)} motifs are too short or too weak for any site of "
                f"theirs to reach p_value={p_value:g}: {shorten(never)}. They are found nowhere; "
                "give a larger p_value to look for them.",
                UserWarning,
                stacklevel=4,
            )

    def scan(self, sequences: Sequence[NDArray[np.uint8]]) -> pd.DataFrame:
        """Find all sites.

        Parameters
        ----------
        sequences : sequence of ndarray of uint8
            Codes as :meth:`FastaReader.codes` gives them. A site with a base that is not A, C, G
            or T is none.

        Returns
        -------
        pandas.DataFrame
            Columns ``sequence`` and ``motif`` (their numbers), ``start``, ``end`` (columns of the
            sequence, 0-based and half-open), ``strand`` (``-``: the reverse complement of the
            site fits the motif), ``score`` (log2 odds against equal letters) and ``p_value``;
            sorted by sequence, start, motif and strand.
        """
        # One long sequence with an unread base between any two: no padding, and what spans two
        # of them is no site.
        gap = np.array([PADDING_CODE], dtype=np.uint8)
        parts = [part for codes in sequences for part in (codes, gap)]
        joined = np.concatenate(parts) if parts else gap
        lengths = np.array([len(codes) + 1 for codes in sequences], dtype=np.int64)
        firsts = np.concatenate([[0], np.cumsum(lengths)])
        letters = np.zeros((1, 4, len(joined)), dtype=np.int8)
        read = np.flatnonzero(joined < PADDING_CODE)
        letters[0, joined[read], read] = 1
        tables = self._fimo(self._matrices, letters, threshold=self._p_value)
        hits = pd.concat([table for table in tables if len(table)] or tables[:1])
        starts = hits["start"].to_numpy(dtype=np.int64)
        ends = hits["end"].to_numpy(dtype=np.int64)
        unread = np.concatenate([[0], np.cumsum(joined >= PADDING_CODE)])
        # memelite compares scores in single precision: one at the edge may slip through.
        kept = (unread[ends] == unread[starts]) & (hits["p-value"].to_numpy() <= self._p_value)
        sequence = np.searchsorted(firsts, starts, side="right") - 1
        table = pd.DataFrame(
            {
                "sequence": sequence,
                "motif": hits["motif_idx"].to_numpy(dtype=np.int64),
                "start": starts - firsts[sequence],
                "end": ends - firsts[sequence],
                "strand": hits["strand"].to_numpy(dtype=object),
                "score": hits["score"].to_numpy(dtype=np.float64),
                "p_value": hits["p-value"].to_numpy(dtype=np.float64),
            },
            columns=list(_COLUMNS),
        )[kept]
        return table.sort_values(["sequence", "start", "motif", "strand"], ignore_index=True)

    def present(self, sequences: Sequence[NDArray[np.uint8]]) -> NDArray[np.bool_]:
        """Tell which sequences have a site of which motif.

        Parameters
        ----------
        sequences : sequence of ndarray of uint8
            As in `scan`.

        Returns
        -------
        ndarray of shape (n_sequences, n_motifs), bool
        """
        found = np.zeros((len(sequences), len(self._matrices)), dtype=bool)
        hits = self.scan(sequences)
        found[hits["sequence"], hits["motif"]] = True
        return found


def _load_fimo() -> Any:
    try:
        from memelite import fimo
    except ImportError as error:
        raise ImportError(
            "scanning for motifs needs memelite, which is not installed. Run `pip install "
            "'regmask_sk[motifs]'`."
        ) from error
    return fimo
