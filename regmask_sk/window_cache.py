"""``WindowCache``: keep windows in memory or on disk once they are read."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from regmask_sk._cache import CacheSize, FolderStore, MemoryStore, content_key
from regmask_sk._window_steps import PathLike, WindowsTransformer
from regmask_sk.windows import Windows

_MOST_MEMORY = 8 * 2**30


class WindowCache(WindowsTransformer):
    r"""Keep windows once they are read.

    Put it after the transformers that append channels. Shifts by up to `jitter` come from the
    cache too, and rows of another split are found again.

    Parameters
    ----------
    path : str or path-like, optional
        Folder in which bases and values of the genome's files are kept unpacked, as ``.npy`` files
        mapped into memory when read, over all places where windows lie: what windows share is
        there once. All processes and later runs use it, whatever the length of their windows and
        the scales of `SignalChannels`, which are applied when a window is read. A genome file is
        known by its path, size and time of change, so that a changed one is read anew. By default
        windows are kept in memory, one by one, 1 byte a base for the sequence and 4 for each
        track, as long as the fitted transformer lives; pickles and clones start empty.
    max_bytes : int, optional
        The most that windows may take: of memory, by default 8 GiB; of the disk, with all that
        `path` holds already, by default what the disk has left. `fit` refuses to go beyond, before
        it reads; rows that only `transform` sees are then read from the files each time.
    dtype : {"float16", "float32"}, default="float16"
        How tracks are kept in a folder, in 2 or 4 bytes a base; sequence takes 1. "float16" rounds
        values to 11 significant bits: an error of at most 0.05 % of the value before scaling (or,
        for values below 4e-9 of the file's largest, of 2e-12 of the largest), and none for whole
        numbers up to 2048. Reading is faster than from "float32", which keeps values to the bit.
        In memory they are kept to the bit in any case.

    See Also
    --------
    estimate_bytes : What it would take.

    Notes
    -----
    Writing is safe under several processes, and under a kill: whoever comes next goes on with what
    was finished. Nothing is ever deleted from the folder. Delete it when it is not needed any more.

    Channels that depend on the TSS (`ContactChannel`) are kept window by window in a folder too,
    in float32.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pandas as pd
    >>> from regmask_sk import SequenceChannels, TSSWindows
    >>> loci = pd.DataFrame({"chrom": ["chr1"] * 2, "tss": [9, 12], "strand": ["+", "-"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fasta = Path(folder, "genome.fa")
    ...     _ = fasta.write_text(">chr1\n" + "ACGTN" * 20 + "\n")
    ...     windows = TSSWindows(length=6).fit_transform(loci)
    ...     windows = SequenceChannels(fasta).fit_transform(windows)
    ...     cache = WindowCache(Path(folder, "cache"), max_bytes=10**6)
    ...     print(cache.estimate_bytes(windows))
    ...     cached = cache.fit_transform(windows)
    ...     print((cached[1] == windows[1]).all(), cache.estimate_bytes(windows).missing)
    CacheSize(needed=10, missing=10, separate=12)
    True 0
    """

    def __init__(
        self,
        path: PathLike | None = None,
        max_bytes: int | None = None,
        dtype: Literal["float16", "float32"] = "float16",
    ) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.dtype = dtype

    def fit(self, X: Windows, y: Any = None) -> WindowCache:
        """Read what the windows of all rows need and is not kept yet.

        Parameters
        ----------
        X : Windows
            The windows.
        y : ignored

        Returns
        -------
        self
            The transformer.

        Raises
        ------
        ValueError
            If the windows take more than `max_bytes`, or than the disk has left; if `path` cannot
            be written to; if a track does not fit into float16.
        OSError
            If the disk gets full meanwhile.
        """
        self._store(self._check_windows(X)).fill(X)
        return self

    def transform(self, X: Windows) -> Windows:
        """Return the windows with what is kept.

        Parameters
        ----------
        X : Windows of shape (n_samples, n_channels, length)
            The windows.

        Returns
        -------
        Windows of shape (n_samples, n_channels, length)
            The same, read from the cache. New rows are kept too: in memory when they are first
            read, in a folder at once.

        Warns
        -----
        UserWarning
            If the folder cannot take new rows, for one of the reasons for which `fit` would stop;
            they are then read from the files.
        """
        windows = self._check_windows(X)
        store = self._store(windows)
        if isinstance(store, FolderStore):
            store.fill(windows, required=False)
        return replace(windows, store=store)

    def estimate_bytes(self, X: Windows) -> CacheSize:
        """Say what windows would take, and write nothing.

        Parameters
        ----------
        X : Windows of shape (n_samples, n_channels, length)
            The windows.

        Returns
        -------
        CacheSize
            ``needed`` for all of them; ``missing``, the part of it that is not kept yet;
            ``separate``, what they would take one by one, sharing nothing. Bytes all three.
        """
        return self._store(self._check_windows(X)).estimate(X)

    def _store(self, windows: Windows) -> MemoryStore | FolderStore:
        """Return the store for these windows, a new one if files or scales have changed."""
        self._check_parameters()
        content = content_key(windows)
        where = None if self.path is None else os.fspath(self.path)
        key = (content, where, self.max_bytes, self.dtype)
        known, store = self.__dict__.get("_kept", (None, None))
        if store is None or known != key:
            if where is None:
                most = _MOST_MEMORY if self.max_bytes is None else self.max_bytes
                store = MemoryStore(content, windows, most)
            else:
                store = FolderStore(where, windows, self.dtype, self.max_bytes)
            self._kept = (key, store)
        return store

    def _check_parameters(self) -> None:
        if self.dtype not in ("float16", "float32"):
            raise ValueError(
                f"dtype is {self.dtype!r}; expected 'float16' or 'float32', the type in which "
                "tracks are kept in a folder."
            )
        most = self.max_bytes
        if most is not None and (
            isinstance(most, bool) or not isinstance(most, int | np.integer) or most < 0
        ):
            raise ValueError(
                f"max_bytes is {most!r}; expected a number of bytes (int), such as 20 * 10**9, or "
                "None."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return True
