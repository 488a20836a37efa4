"""Transformers from the loci table to ``Windows``, to be used in series.

``TSSWindows`` turns loci into windows without channels; ``SequenceChannels`` and ``SignalChannels``
each append channels, as does ``ContactChannel``; ``WindowCache`` keeps what is read. All of them
return ``Windows``: the data are read when a row is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from regmask_sk._regions import Regions
from regmask_sk._sources import SequenceSource, SignalSource, learn_scale
from regmask_sk._window_steps import PathLike, WindowsTransformer
from regmask_sk.genome import BigWigReader, FastaReader, check_chromosomes, shorten
from regmask_sk.loci import check_loci, read_regions
from regmask_sk.windows import Windows


class TSSWindows(WindowsTransformer):
    """Place a window around each transcription start site.

    Parameters
    ----------
    length : int, default=200_000
        Width of a window in base pairs; column ``length // 2`` is the TSS.
    stranded : bool, default=True
        Whether windows of genes on the minus strand are read 5' to 3' on that strand.
    jitter : int, default=0
        Base pairs by which a regressor shifts windows in training, at most, in either direction.

    See Also
    --------
    SequenceChannels, SignalChannels : Append channels to the windows.

    Examples
    --------
    >>> import pandas as pd
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [100], "strand": ["+"]}, index=["abc"])
    >>> TSSWindows(length=50).fit_transform(loci)
    Windows(n=1, length=50, channels=())
    """

    def __init__(self, length: int = 200_000, stranded: bool = True, jitter: int = 0) -> None:
        self.length = length
        self.stranded = stranded
        self.jitter = jitter

    def fit(self, X: pd.DataFrame, y: Any = None) -> TSSWindows:
        """Check the loci and the parameters.

        Parameters
        ----------
        X : pandas.DataFrame
            Columns ``chrom``, ``tss`` (0-based) and ``strand``.
        y : ignored

        Returns
        -------
        self
            The transformer.
        """
        self.transform(X)
        return self

    def transform(self, X: pd.DataFrame) -> Windows:
        """Place the windows; nothing is read.

        Parameters
        ----------
        X : pandas.DataFrame of n_samples rows
            Columns ``chrom``, ``tss`` (0-based) and ``strand``.

        Returns
        -------
        Windows of shape (n_samples, 0, length)
            The windows, without channels.
        """
        check_loci(X)
        return Windows(X, self.length, stranded=self.stranded, jitter=self.jitter)

    def __sklearn_is_fitted__(self) -> bool:
        return True


class SequenceChannels(WindowsTransformer):
    r"""Append the channels A, C, G and T.

    Parameters
    ----------
    fasta : str or path-like
        Genome, plain or bgzipped FASTA.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the file, for chromosomes that are named differently.

    See Also
    --------
    SignalChannels : Appends the channels of bigWig tracks.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [2], "strand": ["-"]}, index=["abc"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fasta = Path(folder, "genome.fa")
    ...     _ = fasta.write_text(">chr1\nAACN\n")
    ...     windows = TSSWindows(length=4).fit_transform(loci)
    ...     print(SequenceChannels(fasta).fit_transform(windows)[0])
    [[0. 0. 0. 0.]
     [0. 0. 0. 0.]
     [0. 0. 1. 0.]
     [0. 0. 0. 1.]]
    """

    def __init__(self, fasta: PathLike, chrom_alias: Mapping[str, str] | None = None) -> None:
        self.fasta = fasta
        self.chrom_alias = chrom_alias

    def fit(self, X: Windows, y: Any = None) -> SequenceChannels:
        """Open the file and compare its chromosomes to those of the loci and the other files.

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
        FileNotFoundError, ValueError
            If the file cannot be read, or does not fit the loci.
        """
        self.transform(X)
        return self

    def transform(self, X: Windows) -> Windows:
        """Append the channels; nothing is read but the index of the file.

        Parameters
        ----------
        X : Windows of shape (n_samples, n_channels, length)
            The windows.

        Returns
        -------
        Windows of shape (n_samples, n_channels + 4, length)
            The windows with the sequence.

        Raises
        ------
        FileNotFoundError, ValueError
            If the file cannot be read, or does not fit the loci.
        """
        windows = self._check_windows(X)
        result = windows.with_source(SequenceSource(FastaReader(self.fasta, self.chrom_alias)))
        check_chromosomes(result.loci, result.readers)
        return result

    def __sklearn_is_fitted__(self) -> bool:
        return True


class SignalChannels(WindowsTransformer):
    """Append one channel for each bigWig track.

    Parameters
    ----------
    tracks : mapping of str to (path or mapping of str to path)
        Name of the channel to its file, or to the file of each ``cell_type`` of the loci.
    scaling : {"robust", "none"}, default="robust"
        "robust": ``asinh((x - center) / scale)``, learned for each file from the rows given to
        `fit`: `center` is 0 for a track without negative values, else the median; `scale` is the
        median distance from `center` of the values that are not equal to it, so that neither the
        many zeros of sparse counts nor a few high peaks decide it.
    missing : {"zero", "mask", "error"}, default="zero"
        Bases without a value, and those off the chromosome, become 0 after scaling; "mask" appends
        for each track a channel ``NAME_covered``, 1 where there is a value; "error" refuses them
        on the chromosome.
    blacklist : str or path-like, optional
        BED file; bases in its regions count as having no value.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the files, for chromosomes that are named differently.
    n_scaling_windows : int, default=256
        Rows from which the scale of each file is learned, drawn at random.
    random_state : int, RandomState instance or None, default=None
        For drawing these rows.

    Attributes
    ----------
    scales_ : dict or None
        ``scales_[track]`` is ``{"center": float, "scale": float}``, in the units of the file; where
        the track has a file for each cell type, ``scales_[track][cell_type]`` is. None if `scaling`
        is "none".

    See Also
    --------
    SequenceChannels : Appends the sequence.

    Examples
    --------
    >>> import tempfile, pyBigWig
    >>> from pathlib import Path
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [2], "strand": ["+"]}, index=["abc"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "counts.bw")
    ...     with pyBigWig.open(str(path), "w") as file:
    ...         file.addHeader([("chr1", 100)])
    ...         file.addEntries(["chr1", "chr1"], [1, 3], ends=[2, 4], values=[2.0, 6.0])
    ...     windows = TSSWindows(length=4).fit_transform(loci)
    ...     signal = SignalChannels({"counts": path}, missing="mask").fit(windows)
    ...     print(signal.scales_, signal.transform(windows).channel_names)
    ...     print(signal.transform(windows)[0].round(2))
    {'counts': {'center': 0.0, 'scale': 4.0}} ('counts', 'counts_covered')
    [[0.   0.48 0.   1.19]
     [0.   1.   0.   1.  ]]
    """

    def __init__(
        self,
        tracks: Mapping[str, PathLike | Mapping[str, PathLike]],
        scaling: Literal["robust", "none"] = "robust",
        missing: Literal["zero", "mask", "error"] = "zero",
        blacklist: PathLike | None = None,
        chrom_alias: Mapping[str, str] | None = None,
        n_scaling_windows: int = 256,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.tracks = tracks
        self.scaling = scaling
        self.missing = missing
        self.blacklist = blacklist
        self.chrom_alias = chrom_alias
        self.n_scaling_windows = n_scaling_windows
        self.random_state = random_state

    def fit(self, X: Windows, y: Any = None) -> SignalChannels:
        """Check the files and learn a scale for each of them from the rows of `X`.

        Parameters
        ----------
        X : Windows
            The windows of the training rows.
        y : ignored

        Returns
        -------
        self
            The transformer.

        Raises
        ------
        FileNotFoundError, ValueError
            If a file cannot be read, does not fit the loci or the other files, or has no value in
            any window.
        """
        windows = self._check_windows(X)
        source = self._source(windows, scales=None)
        self.scales_ = self._learn(windows, source) if self.scaling == "robust" else None
        return self

    def transform(self, X: Windows) -> Windows:
        """Append the channels; nothing is read.

        Parameters
        ----------
        X : Windows of shape (n_samples, n_channels, length)
            The windows.

        Returns
        -------
        Windows of shape (n_samples, n_channels + n_new, length)
            The windows with the tracks; `n_new` is the number of tracks, twice that with
            ``missing="mask"``.
        """
        check_is_fitted(self, "scales_")
        windows = self._check_windows(X)
        return windows.with_source(self._source(windows, self.scales_))

    def _source(self, windows: Windows, scales: dict[str, Any] | None) -> SignalSource:
        """Open the files and check them against the loci and the other files."""
        self._check_parameters()
        tracks = {name: self._open(name, files) for name, files in self.tracks.items()}
        if scales is not None:
            if set(scales) != set(tracks):
                raise ValueError(
                    f"tracks are {sorted(tracks)}; fit has learned the scales of {sorted(scales)}. "
                    "Fit again after a change of tracks."
                )
            scales = {
                name: {None: scales[name]} if "center" in scales[name] else scales[name]
                for name in tracks
            }
        source = SignalSource(tracks, scales, self.missing, self._regions(tracks))
        if any(None not in files for files in tracks.values()):
            if "cell_type" not in windows.loci.columns:
                raise ValueError(
                    "tracks has files for each cell type, and the loci have no column cell_type; "
                    f"their columns are {list(windows.loci.columns)}."
                )
            source.check_cell_types(windows.cell_types)
        readers = windows.with_source(source).readers
        check_chromosomes(windows.loci, readers, allow_absent=self.missing != "error")
        return source

    def _check_parameters(self) -> None:
        allowed = {"scaling": ("robust", "none"), "missing": ("zero", "mask", "error")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {values}.")
        if not isinstance(self.n_scaling_windows, int | np.integer) or self.n_scaling_windows < 1:
            raise ValueError(
                f"n_scaling_windows is {self.n_scaling_windows!r}; expected an integer of at least "
                "1."
            )
        if not isinstance(self.tracks, Mapping) or not self.tracks:
            raise ValueError(
                f"tracks is {self.tracks!r}; expected a dict of channel name to bigWig path, or to "
                "a dict of cell type to path."
            )

    def _open(
        self, name: str, files: PathLike | Mapping[str, PathLike]
    ) -> dict[str | None, BigWigReader]:
        if not isinstance(name, str) or not name:
            raise ValueError(f"tracks has the key {name!r}; expected a channel name (str).")
        if not isinstance(files, Mapping):
            return {None: BigWigReader(files, self.chrom_alias)}
        if not files or not all(isinstance(cell_type, str) for cell_type in files):
            raise ValueError(
                f"track {name!r} is {files!r}; expected a path, or a dict of cell type (str) to "
                "path."
            )
        return {
            cell_type: BigWigReader(path, self.chrom_alias) for cell_type, path in files.items()
        }

    def _regions(self, tracks: Mapping[str, Mapping[Any, BigWigReader]]) -> Regions:
        if self.blacklist is None:
            return Regions({})
        regions = Regions.from_table(read_regions(self.blacklist))
        readers = [reader for by_type in tracks.values() for reader in by_type.values()]
        known = {chrom for reader in readers for chrom in reader.chrom_sizes}
        if not known & set(regions.by_chrom):
            raise ValueError(
                f"blacklist {self.blacklist} shares no chromosome with the tracks: it has "
                f"{shorten(regions.by_chrom)}, they have {shorten(sorted(known))}. Name "
                "chromosomes in it as in the loci."
            )
        return regions

    def _learn(self, windows: Windows, source: SignalSource) -> dict[str, Any]:
        drawn = check_random_state(self.random_state).permutation(len(windows))
        learned: dict[str, Any] = {}
        for name, files in source.tracks.items():
            alone = SignalSource({name: files}, None, "zero", source.blacklist)
            by_type = {}
            for cell_type in files:
                rows = [row for row in drawn if cell_type in (None, windows.cell_types[row])]
                if rows:
                    by_type[cell_type] = learn_scale(alone, windows, rows, self.n_scaling_windows)
            learned[name] = by_type.get(None, by_type)
        return learned
