"""Candidate elements of a gene: where they lie in its window, their sequence, what they are worth.

Distance, activity and contact are those of the activity-by-contact model (Fulco et al., Nature
Genetics 2019), as Lin et al. (Nature Communications 2026) give them to EPInformer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regmask_sk._base import SEQUENCE_CHANNELS
from regmask_sk._batches import Placement, Reading
from regmask_sk._contact_maps import power_law
from regmask_sk._regions import Regions
from regmask_sk._sources import RawTrack
from regmask_sk.peaks import call_peaks
from regmask_sk.windows import Windows

_NEAREST = 5_000  # base pairs below which contact maps of 5-kb bins tell no distances apart


def genomic(columns: NDArray[np.int64], placement: Placement) -> NDArray[np.int64]:
    """Turn half-open columns of a window into half-open positions, or the other way round.

    Parameters
    ----------
    columns : ndarray of shape (n, 2)
        Start and end of each, from the first column of the window that was read.
    placement : Placement
        Where the window lies.

    Returns
    -------
    ndarray of shape (n, 2), int64
        Offsets from the window's start on the plus strand.

    Examples
    --------
    >>> genomic(np.array([[0, 2]]), Placement("chr1", 100, 110, True)).tolist()
    [[8, 10]]
    """
    if not placement.reverse:
        return columns
    return (placement.end - placement.start) - columns[:, ::-1]


class Elements(NamedTuple):
    """The candidate elements of one window, nearest first, of two as near the upstream one.

    Attributes
    ----------
    columns : ndarray of shape (n, 2), int64
        Columns of each, half-open.
    features : ndarray of shape (n, 3), float64
        Distance from the TSS to the middle in base pairs; activity in the tracks' units; contact.
    """

    columns: NDArray[np.int64]
    features: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ElementFinder:
    """Find the candidate elements of windows; the ``extras`` of EPInformer's datasets.

    Parameters
    ----------
    sequence : tuple of int
        Channels A, C, G and T.
    track : int
        Channel on which peaks are called where `peaks` is None.
    activity_tracks : tuple of int
        Channels whose sums over an element make its activity: their geometric mean, sums below
        0 taken as 0.
    contact : int or None
        Channel whose mean over an element is its contact with the TSS, values below 0 taken as
        0; None for the power law of the activity-by-contact model.
    peaks : Regions or None
        Candidates on the genome.
    raw : dict of int to RawTrack
        How the channels above are read in the units of their files; others are taken as they
        are.
    peak_scale : float
        What one count adds up to in the units of the track; see
        :func:`regmask_sk.peaks.call_peaks`.
    max_elements : int
        The most that a window may have.
    max_distance : int
        Largest distance from the TSS to the middle of an element, in base pairs.
    promoter_length : int
        Width of the promoter in base pairs; elements have their middle outside.
    frame_length : int
        Width of the frame that holds a sequence, in base pairs.

    Notes
    -----
    The TSS is taken to be in column ``length // 2`` of a window as it is read: a window that is
    shifted in training has its promoter and its distances shifted, too.
    """

    sequence: tuple[int, ...]
    track: int
    activity_tracks: tuple[int, ...]
    contact: int | None
    peaks: Regions | None
    raw: Mapping[int, RawTrack]
    peak_scale: float
    max_elements: int
    max_distance: int
    promoter_length: int
    frame_length: int

    def __call__(self, reading: Reading) -> dict[str, NDArray[np.generic]]:
        """Give promoters and elements of a batch of windows, T of each: ``max_elements + 1``.

        Parameters
        ----------
        reading : Reading
            The windows, ``(batch, channels, length)``, and where they lie.

        Returns
        -------
        dict of str to ndarray
            ``frames``, uint8 of shape (batch, T, 4, frame_length): one-hot sequences, each with
            its middle in the middle of its frame, zero outside the element. The first of each
            window is the promoter's. ``features``, float32 of shape (batch, T, 3): those of
            :class:`Elements`, 0 for the promoter. ``present``, bool of shape (batch, T): False
            where there is no such element. ``columns``, int64 of shape (batch, T, 2).
        """
        n_windows, n_tokens = len(reading.x), self.max_elements + 1
        frames = np.zeros((n_windows, n_tokens, 4, self.frame_length), np.uint8)
        features = np.zeros((n_windows, n_tokens, 3), np.float32)
        present = np.zeros((n_windows, n_tokens), np.bool_)
        columns = np.zeros((n_windows, n_tokens, 2), np.int64)
        places: list[Placement] | list[None] = reading.placements or [None] * n_windows
        for row, (x, placement) in enumerate(zip(reading.x, places, strict=True)):
            found = self.find(x, placement)
            n_found = len(found.columns)
            columns[row, 0] = self._promoter(x.shape[1])
            columns[row, 1 : n_found + 1] = found.columns
            features[row, 1 : n_found + 1] = found.features
            present[row, : n_found + 1] = True
            one_hot = x[list(self.sequence)]
            tss = x.shape[1] // 2
            self._put(one_hot, columns[row, 0], tss, frames[row, 0])
            for interval, frame in zip(found.columns, frames[row, 1:], strict=False):
                self._put(one_hot, interval, int(interval.sum()) // 2, frame)
        return {"frames": frames, "features": features, "present": present, "columns": columns}

    def find(self, x: NDArray[np.float32], placement: Placement | None) -> Elements:
        """Find the elements of one window.

        Parameters
        ----------
        x : ndarray of shape (channels, length)
            The window.
        placement : Placement or None
            Where it lies; needed where `peaks` are given.

        Returns
        -------
        Elements
            At most ``max_elements``; parts outside the window are cut off.

        Raises
        ------
        ValueError
            If `peaks` are given, and the window lies nowhere.
        """
        length = x.shape[1]
        columns = np.clip(self._candidates(x, placement), 0, length)
        columns = columns[columns[:, 1] > columns[:, 0]]
        distance = np.abs((columns.sum(axis=1) - 1) / 2 - length // 2)
        wanted = (distance > self.promoter_length / 2) & (distance <= self.max_distance)
        columns, distance = columns[wanted], distance[wanted]
        nearest = np.lexsort((columns[:, 0], distance))[: self.max_elements]
        columns, distance = columns[nearest], distance[nearest]
        activity = [self._raw(x, channel, placement) for channel in self.activity_tracks]
        contact = None if self.contact is None else self._raw(x, self.contact, placement)
        features = np.zeros((len(columns), 3))
        features[:, 0] = distance
        for row, (first, last) in zip(features, columns.tolist(), strict=True):
            sums = [max(track[first:last].sum(), 0.0) for track in activity]
            row[1] = np.prod(np.power(sums, 1 / len(sums)))
            if contact is not None:
                row[2] = max(contact[first:last].mean(), 0.0)
        if contact is None:
            features[:, 2] = power_law(distance, bin_size=_NEAREST)
        return Elements(columns, features)

    def _candidates(self, x: NDArray[np.float32], placement: Placement | None) -> NDArray[np.int64]:
        """Columns of every peak that overlaps a window; they may stick out of it."""
        if self.peaks is None:
            raw = self._raw(x, self.track, placement)
            return call_peaks(raw, scale=self.peak_scale).intervals
        if placement is None:
            raise ValueError(
                "peaks are given in coordinates of the genome, but X is an array. Pass Windows "
                "(from TSSWindows), or fit without peaks."
            )
        within = self.peaks.within(placement.chrom, placement.start, placement.end)
        offsets = np.array(list(within), np.int64).reshape(-1, 2) - placement.start
        return genomic(offsets, placement)

    def _raw(
        self, x: NDArray[np.float32], channel: int, placement: Placement | None
    ) -> NDArray[np.float64]:
        """Values of a channel in the units of its file."""
        cell_type = None if placement is None else placement.cell_type
        return self.raw.get(channel, RawTrack(channel)).read(x, cell_type)

    def _promoter(self, length: int) -> tuple[int, int]:
        first = length // 2 - self.promoter_length // 2
        return max(first, 0), min(first + self.promoter_length, length)

    def _put(
        self,
        one_hot: NDArray[np.float32],
        interval: NDArray[np.int64],
        middle: int,
        frame: NDArray[np.uint8],
    ) -> None:
        """Write columns into a frame whose middle is column `middle` of the window."""
        begin = middle - self.frame_length // 2
        first, last = max(int(interval[0]), begin), min(int(interval[1]), begin + frame.shape[1])
        frame[:, first - begin : last - begin] = one_hot[:, first:last]


def element_finder(
    windows: Any,
    *,
    track: str | None,
    activity_tracks: Sequence[str] | None,
    contact: str | None,
    **settings: Any,
) -> ElementFinder:
    """Make the finder for windows whose channels have names.

    Parameters
    ----------
    windows : Windows
        With the channels A, C, G and T, and tracks.
    track, activity_tracks, contact
        As in ``EPInformerRegressor``.
    **settings
        The other parameters of :class:`ElementFinder`.

    Returns
    -------
    ElementFinder
        For these windows, or others with the same sources.

    Raises
    ------
    ValueError
        If `windows` is an array, or a channel that is needed or named is not there.
    """
    needed = "EPInformerRegressor needs the channels A, C, G and T and a track by name"
    if not isinstance(windows, Windows):
        raise ValueError(
            f"{needed}, but X is an array. Pass Windows, from TSSWindows, SequenceChannels and "
            "SignalChannels."
        )
    names = list(windows.channel_names)
    signals = [name for name in names if name not in SEQUENCE_CHANNELS]
    missing = [base for base in SEQUENCE_CHANNELS if base not in names]
    if missing or not signals:
        raise ValueError(
            f"{needed}; X has {names}. Put SequenceChannels and SignalChannels into the pipeline."
        )
    if track is None and len(signals) > 1:
        raise ValueError(
            f"track=None takes the only channel that is not sequence, but X has {signals}. Name "
            "the one with the accessibility."
        )
    if isinstance(activity_tracks, str) or (activity_tracks is not None and not activity_tracks):
        raise ValueError(
            f"activity_tracks={activity_tracks!r}; expected a sequence of at least one name, or "
            "None."
        )
    accessible = signals[0] if track is None else track
    active = [accessible] if activity_tracks is None else list(activity_tracks)
    chosen = {"track": [accessible], "activity_tracks": active}
    if contact is not None:
        chosen["contact"] = [contact]
    for parameter, channels in chosen.items():
        unknown = [name for name in channels if name not in signals]
        if unknown:
            raise ValueError(
                f"{parameter} {unknown} are not among the tracks of X, {signals}. Add them with "
                f"SignalChannels, or name others in {parameter}."
            )
    return ElementFinder(
        sequence=tuple(names.index(base) for base in SEQUENCE_CHANNELS),
        track=names.index(accessible),
        activity_tracks=tuple(names.index(name) for name in active),
        contact=None if contact is None else names.index(contact),
        raw={names.index(n): RawTrack.of(windows, n) for group in chosen.values() for n in group},
        **settings,
    )
