"""``ContactChannel``: how often each base's bin meets that of the TSS, as a channel."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from regmask_sk._contact_maps import GAMMA, CoolerReader, power_law
from regmask_sk._window_steps import PathLike, WindowsTransformer
from regmask_sk.genome import Reader, check_chromosomes
from regmask_sk.windows import Interval, Windows

_DEFAULT_BIN = 5_000
_SAMPLED_PER_WINDOW = 16_384


@dataclass(frozen=True, eq=False)
class ContactSource:
    """Contact of each base's bin with the bin of the TSS; compact form: scaled values.

    Parameters
    ----------
    name : str
        Name of the channel.
    reader : CoolerReader or None
        The file; None for the power law alone.
    bin_size : int
        Base pairs of a bin. Bin ``i`` of a chromosome begins at ``i * bin_size``.
    gamma : float
        Exponent of the power law.
    missing : {"power_law", "zero"}
        What bins without a value in the file get.
    law_scale : float
        Contact in the unit of the file where the power law is 1.
    scaling : {"robust", "log1p", "none"}
        What is done with contacts.
    scales : dict of str to dict of str to float, or None
        ``center`` (0) and ``scale`` of the channel, for ``scaling="robust"``.
    sized : tuple of Reader
        Files of other channels, which know how long chromosomes are.
    """

    name: str
    reader: CoolerReader | None
    bin_size: int
    gamma: float
    missing: str
    law_scale: float
    scaling: str
    scales: dict[str, dict[str, float]] | None
    sized: tuple[Reader, ...]

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Name of the channel."""
        return (self.name,)

    @property
    def readers(self) -> tuple[Reader, ...]:
        """The file, where there is one."""
        return () if self.reader is None else (self.reader,)

    def readers_of(self, cell_type: str | None) -> tuple[Reader, ...]:
        """Return the file, where there is one."""
        return self.readers

    def over(self, stored: Callable[[Reader], Any]) -> None:
        """Return None: contacts depend on the TSS."""

    def read(self, interval: Interval) -> NDArray[np.float32]:
        """Read contacts of shape (1 or 2, length), nan where the file has none.

        The second row is what the power law expects, where that is to fill the first. Bases off
        the chromosome are 0 in both.
        """
        chrom, start, end, _, tss = interval
        if tss is None:
            raise ValueError(
                f"the interval {chrom}:{start}-{end} has no tss, to which contact is measured. "
                "Take it from Windows.interval."
            )
        filled = self.reader is not None and self.missing == "power_law"
        raw = np.zeros((1 + filled, end - start), np.float32)
        low, high = max(start, 0), min(end, self._size(chrom, end))
        if low >= high:
            return raw
        first, last, here = (
            low // self.bin_size,
            (high - 1) // self.bin_size + 1,
            tss // self.bin_size,
        )
        apart = np.abs(np.arange(first, last) - here) * self.bin_size
        rows = [power_law(apart, bin_size=self.bin_size, gamma=self.gamma)]
        if self.reader is not None:
            found = np.full(last - first, np.nan)
            if chrom in self.reader.chrom_sizes:  # check_chromosomes has allowed that it is not
                found = self.reader.contacts(chrom, (here, here + 1), (first, last))[0]
            rows = [found, *rows] if filled else [found]
        bases = np.repeat(np.stack(rows), self.bin_size, axis=1)
        skipped = first * self.bin_size
        raw[:, low - start : high - start] = bases[:, low - skipped : high - skipped]
        return raw

    def _size(self, chrom: str, otherwise: int) -> int:
        for reader in (*self.readers, *self.sized):
            if chrom in reader.chrom_sizes:
                return reader.chrom_sizes[chrom]
        return otherwise

    def reverse(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Flip."""
        return raw[:, ::-1]

    def compact(self, raw: NDArray[np.float32], cell_type: str | None) -> NDArray[np.float32]:
        """Fill in what the file has not, and scale."""
        values = np.array(raw[:1], dtype=np.float32, order="C")
        holes = np.isnan(values)
        values[holes] = raw[1:][holes] * np.float32(self.law_scale) if len(raw) > 1 else 0.0
        if self.scales is not None:
            values /= np.float32(self.scales[self.name]["scale"])
            np.arcsinh(values, out=values)
        elif self.scaling == "log1p":
            np.log1p(values, out=values)
            values /= np.float32(math.log(10.0))
        return values

    def unscaled(
        self, values: NDArray[np.float32], name: str, cell_type: str | None
    ) -> NDArray[np.float64]:
        """Turn values of the channel back into contacts, to the precision of float32."""
        raw = values.astype(np.float64)
        if self.scales is not None:
            return np.asarray(np.sinh(raw) * self.scales[self.name]["scale"])
        return np.expm1(raw * math.log(10.0)) if self.scaling == "log1p" else raw

    def expand(self, compact: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write the values."""
        out[:] = compact

    def cache_key(self, *, fitted: bool) -> str:
        """Identify the file and the law, and with `fitted` the scales."""
        files = [reader.signature() for reader in (*self.readers, *self.sized)]
        law = (len(self.readers), self.bin_size, self.gamma, self.missing)
        learned = (self.law_scale, self.scaling, self.scales) if fitted else None
        return repr((files, law, learned))


class ContactChannel(WindowsTransformer):
    """Append one channel: the contact of each base's bin with the bin of the TSS.

    Bins are those of the chromosome, ``bin_size`` base pairs from its first base on, so that all
    bases of a bin have the same contact. Without a file it is what a power law of the distance
    expects,

    ``(max(d, bin_size) / 1000) ** -gamma``,

    with ``d`` the distance of the bins in base pairs: 1 at 1 kb, in no unit.

    Parameters
    ----------
    contacts : str or path-like, optional
        Contact map of a Hi-C or similar experiment: a ``.cool`` file, or one map of a file of
        several, as ``"x.mcool::resolutions/5000"``. Needs the package cooler
        (``pip install regmask_sk[contacts]``). By default the power law.
    bin_size : int, optional
        Base pairs of a bin; by default 5000, or that of the file, from which it may not differ.
    gamma : float, default=0.87
        Exponent of the power law; the default is that of the activity-by-contact model.
    balance : bool or str, default=True
        Whether contacts of the file are balanced by the weights that it has in the column
        ``weight`` of its bins, or the column that has them (``"VC"``, say); False for raw counts.
    scaling : {"robust", "log1p", "none"}, default="robust"
        "robust": ``asinh(x / scale)`` with `scale` the median of the contacts that are not 0 in
        the rows given to `fit`. "log1p": ``log10(1 + x)``, as in the published method.
        "none": contacts as they are, in the unit of the file.
    missing : {"power_law", "zero"}, default="power_law"
        What becomes of bins without a weight, and of a chromosome that the file lacks: the power
        law in the unit of the file, or 0. Raw counts have no missing bins, but zeros. Bases off
        the chromosome are 0 in any case, as far as a file of this or of an earlier step says how
        long it is.
    name : str, default="contact"
        Name of the channel.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the file, for chromosomes that are named differently.
    n_scaling_windows : int, default=256
        Rows from which scales are learned, drawn at random.
    random_state : int, RandomState instance or None, default=None
        For drawing these rows.

    Attributes
    ----------
    scales_ : dict or None
        ``{name: {"center": 0.0, "scale": float}}``, in the unit of the contacts; None if
        `scaling` is not "robust".
    power_law_scale_ : float
        Contact in the file where the power law is 1, so that both have the same sum over the rows
        given to `fit`; 1 without a file.

    See Also
    --------
    SignalChannels : Appends the channels of bigWig tracks.

    Notes
    -----
    The channel is its own complement: it does not change with the strand that is read.

    References
    ----------
    Fulco et al., Nature Genetics 51 (2019): the power law. Su et al., ICLR 2025: contact to the
    TSS as a signal.

    Examples
    --------
    >>> import pandas as pd
    >>> from regmask_sk.features import TSSWindows
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [9], "strand": ["-"]}, index=["abc"])
    >>> windows = TSSWindows(length=10).fit_transform(loci)
    >>> contact = ContactChannel(bin_size=3, gamma=1.0, scaling="none").fit(windows)
    >>> contact.transform(windows)[0].round()
    array([[333., 333., 333., 333., 333., 333., 333., 333., 333., 167.]],
          dtype=float32)
    """

    def __init__(
        self,
        contacts: PathLike | None = None,
        bin_size: int | None = None,
        gamma: float = GAMMA,
        balance: bool | str = True,
        scaling: Literal["robust", "log1p", "none"] = "robust",
        missing: Literal["power_law", "zero"] = "power_law",
        name: str = "contact",
        chrom_alias: Mapping[str, str] | None = None,
        n_scaling_windows: int = 256,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.contacts = contacts
        self.bin_size = bin_size
        self.gamma = gamma
        self.balance = balance
        self.scaling = scaling
        self.missing = missing
        self.name = name
        self.chrom_alias = chrom_alias
        self.n_scaling_windows = n_scaling_windows
        self.random_state = random_state

    def fit(self, X: Windows, y: Any = None) -> ContactChannel:
        """Check the file and learn scales from the rows of `X`.

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
        ImportError
            If there is a file, and the package cooler is not installed.
        FileNotFoundError, ValueError
            If the file cannot be read, does not fit the loci or the other files, or has no value
            in any window.
        """
        windows = self._check_windows(X)
        source = self._source(windows)
        raws = self._sample(windows, source)
        self.power_law_scale_ = self._learn_law(raws)
        self.scales_ = None
        if self.scaling == "robust":
            plain = replace(source, scaling="none", law_scale=self.power_law_scale_)
            self.scales_ = {self.name: self._learn_scale(plain, raws)}
        return self

    def transform(self, X: Windows) -> Windows:
        """Append the channel; nothing is read.

        Parameters
        ----------
        X : Windows of shape (n_samples, n_channels, length)
            The windows.

        Returns
        -------
        Windows of shape (n_samples, n_channels + 1, length)
            The windows with contact.
        """
        check_is_fitted(self, "power_law_scale_")
        windows = self._check_windows(X)
        source = self._source(windows)
        if (self.scaling == "robust") != (self.scales_ is not None):
            raise ValueError(
                f"scaling is {self.scaling!r}, but fit ran with another. Fit again after a change "
                "of scaling."
            )
        scales = None if self.scales_ is None else {self.name: next(iter(self.scales_.values()))}
        return windows.with_source(replace(source, law_scale=self.power_law_scale_, scales=scales))

    def _source(self, windows: Windows) -> ContactSource:
        """Open the file and check it against the loci and the other files."""
        self._check_parameters()
        reader = None
        bin_size = self.bin_size
        if self.contacts is not None:
            reader = CoolerReader(self.contacts, balance=self.balance, chrom_alias=self.chrom_alias)
            if bin_size not in (None, reader.bin_size):
                raise ValueError(
                    f"bin_size is {bin_size}, but the bins of {reader.path} have "
                    f"{reader.bin_size} bp. Leave bin_size out, or name another map of the file."
                )
            bin_size = reader.bin_size
        source = ContactSource(
            self.name,
            reader,
            _DEFAULT_BIN if bin_size is None else int(bin_size),
            float(self.gamma),
            self.missing,
            1.0,
            self.scaling,
            None,
            windows.readers,
        )
        check_chromosomes(windows.loci, windows.with_source(source).readers)
        return source

    def _check_parameters(self) -> None:
        allowed = {"scaling": ("robust", "log1p", "none"), "missing": ("power_law", "zero")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {values}.")
        for name in ("bin_size", "n_scaling_windows"):
            value = getattr(self, name)
            if name == "bin_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least 1.")
        gamma = self.gamma
        if isinstance(gamma, bool) or not isinstance(gamma, Real) or not 0 < gamma < math.inf:
            raise ValueError(f"gamma is {gamma!r}; expected a number above 0.")
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name is {self.name!r}; expected a channel name (str).")
        if not isinstance(self.balance, bool | str):
            raise ValueError(
                f"balance is {self.balance!r}; expected True, False or the name of a column of "
                "weights."
            )
        if not isinstance(self.contacts, str | os.PathLike | None):
            raise ValueError(
                f"contacts is {self.contacts!r}; expected the path of a cooler file, or None for "
                "the power law."
            )

    def _sample(self, windows: Windows, source: ContactSource) -> NDArray[np.float32]:
        """Read some bases of some windows, ``(1 or 2, n)``."""
        drawn = check_random_state(self.random_state).permutation(len(windows))
        step = max(1, windows.length // _SAMPLED_PER_WINDOW)
        return np.concatenate(
            [
                source.read(windows.interval(row))[:, ::step]
                for row in drawn[: self.n_scaling_windows]
            ],
            axis=1,
        )

    def _learn_law(self, raws: NDArray[np.float32]) -> float:
        if len(raws) == 1:
            return 1.0
        found, law = raws.astype(np.float64)
        covered = ~np.isnan(found)
        if not law[covered].any():
            raise ValueError(
                f"contacts {self.contacts} have no value in any of the windows given to fit. Check "
                "its weights (balance=False takes raw counts), or leave contacts out."
            )
        return float(found[covered].sum() / law[covered].sum())

    def _learn_scale(self, source: ContactSource, raws: NDArray[np.float32]) -> dict[str, float]:
        values = source.compact(raws, None)
        values = values[values > 0]
        if not len(values):
            warnings.warn(
                f"contacts {self.contacts} are 0 wherever they have a value in the windows given "
                "to fit: the channel tells the model nothing.",
                UserWarning,
                stacklevel=3,
            )
            return {"center": 0.0, "scale": 1.0}
        return {"center": 0.0, "scale": float(np.median(values))}
