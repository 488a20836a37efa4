"""A fitted network as a function of its windows alone: what attributions differentiate and vary.

Symbols
-------
``x``
    Windows, ``(batch, channel, length)``.
``held``
    All else that the network reads, by name, each with one entry a window: covariates, bases
    that are closed or open in any case, a mask that is given.
``f(x)``
    The prediction of one target, ``(batch,)``, in the unit of y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from regmask_sk._base import WindowArray
from regmask_sk._fitting import MaskedFit
from regmask_sk._model import SEQUENCE_CHANNELS
from regmask_sk._network import NetworkRegressor
from regmask_sk.backbones.codon import CodonBackbone
from regmask_sk.windows import Windows

MaskUse = Literal["model", "fixed", "open"]
Held = dict[str, Tensor]
Predict = Callable[[Tensor, Held], Tensor]


class Channels(NamedTuple):
    """What the channels of a window are, by their indices.

    Attributes
    ----------
    bases : tuple of int
        A, C, G and T, in this order; empty where the channels have no such names.
    coverage : tuple of int
        Channels that say where another one has values, ``NAME_covered``.
    signals : tuple of int
        The others.
    """

    bases: tuple[int, ...]
    coverage: tuple[int, ...]
    signals: tuple[int, ...]

    @classmethod
    def of(cls, names: tuple[str, ...] | None, n_channels: int) -> Channels:
        """Tell channels by their names; those without names are all signals.

        Examples
        --------
        >>> Channels.of(("atac", "atac_covered", "A", "C", "G", "T"), 6)
        Channels(bases=(2, 3, 4, 5), coverage=(1,), signals=(0,))
        """
        names = names or ()
        has_bases = set(SEQUENCE_CHANNELS) <= set(names)
        bases = tuple(names.index(base) for base in SEQUENCE_CHANNELS) if has_bases else ()
        covered = {f"{name}_covered" for name in names}
        coverage = tuple(i for i, name in enumerate(names) if name in covered)
        others = set(range(n_channels)) - set(bases) - set(coverage)
        return cls(bases, coverage, tuple(sorted(others)))


class Batch(NamedTuple):
    """Some rows of X: their windows, what else the network reads, and which rows they are."""

    x: Tensor
    held: Held
    rows: slice


@contextmanager
def plain_float32() -> Iterator[None]:
    """Keep convolutions from TensorFloat-32, which torch takes on CUDA unless told otherwise.

    It rounds what it multiplies to 10 bits, and what one base changes of a prediction is often
    less than that makes of it. The setting of torch is restored. That of products of matrices
    is left: it is float32 unless one has asked for another.
    """
    cudnn: Any = torch.backends.cudnn
    # Since torch 2.9, whose old name raises where the new one was used.
    new = hasattr(cudnn, "conv")
    holder, name = (cudnn.conv, "fp32_precision") if new else (cudnn, "allow_tf32")
    before = getattr(holder, name)
    setattr(holder, name, "ieee" if new else False)
    try:
        yield
    finally:
        setattr(holder, name, before)


class Explained:
    """A fitted estimator as a function of its windows.

    Parameters
    ----------
    estimator : NetworkRegressor
        Fitted.
    X : Windows or array
        As ``predict`` takes it.
    mask : {"model", "fixed", "open"}
        Whether the mask follows the window, is held at what it is for the window as it came,
        or keeps every base that is not closed in any case.
    output : int
        Which target.

    Attributes
    ----------
    channels : Channels
        What the channels are.
    shape : tuple of three int
        That of X.
    kind : str or None
        How the estimator reads its mask; None where it has none, or where it is held.

    Raises
    ------
    TypeError, ValueError
        See :func:`regmask_sk.attribute`.
    """

    def __init__(
        self, estimator: Any, X: Windows | ArrayLike, *, mask: MaskUse, output: int
    ) -> None:
        if not isinstance(estimator, NetworkRegressor):
            raise TypeError(
                f"estimator is a {type(estimator).__name__}; expected a fitted RegMaskRegressor or "
                "BackboneRegressor. Of a pipeline pass the last step, pipeline[-1], and what it "
                "is given, pipeline[:-1].transform(loci)."
            )
        check_is_fitted(estimator, "net_")
        if mask not in get_args(MaskUse):
            raise ValueError(f"mask is {mask!r}; expected one of {get_args(MaskUse)}.")
        masked = isinstance(estimator, MaskedFit)
        if mask != "model" and not masked:
            raise ValueError(
                f"mask={mask!r} says how the mask of a RegMaskRegressor is read, and "
                f"{type(estimator).__name__} has none. Leave mask='model'."
            )
        n_outputs = len(estimator.target_mean_)
        if isinstance(output, bool) or not isinstance(output, int | np.integer):
            raise ValueError(f"output is {output!r}; expected the number of a target, from 0.")
        if not 0 <= output < n_outputs:
            raise ValueError(
                f"output is {output}, but the estimator was fitted on {n_outputs} "
                f"target{'' if n_outputs == 1 else 's'}; expected 0 to {n_outputs - 1}."
            )
        self.estimator = estimator
        self.windows: WindowArray = estimator._check_windows(X, reset=False)
        self.dataset = estimator._dataset(self.windows)
        if self.dataset.extras is not None:
            raise ValueError(
                f"{type(estimator).__name__} reads more than the window: candidate elements, "
                "contacts or a mask that are found outside of the network, which no attribution "
                "reaches. Attribute a RegMaskRegressor or a BackboneRegressor."
            )
        self.mask = mask
        self.masked = masked
        self.kind: Any = estimator.mask if isinstance(estimator, MaskedFit) else None
        self.output = int(output)
        self.module: nn.Module = estimator.net_.ready_module.eval()
        self.scale = float(estimator.target_scale_[output])
        self.mean = float(estimator.target_mean_[output])
        n, n_channels, length = (int(size) for size in self.windows.shape)
        self.shape = (n, n_channels, length)
        self.channels = Channels.of(estimator.channel_names_in_, n_channels)

    @property
    def has_step(self) -> bool:
        """Whether predictions go through a mask of 0 and 1 that follows the window."""
        return self.masked and self.mask == "model" and self.kind != "soft"

    @property
    def counts_codons(self) -> bool:
        """Whether the network has the codon body, whose counts have no gradient."""
        return any(isinstance(part, CodonBackbone) for part in self.module.modules())

    def batches(self) -> Iterator[Batch]:
        """Read the windows, batch by batch."""
        start = 0
        for inputs in self.estimator.net_.batches(self.dataset):
            held = {name: value for name, value in inputs.items() if name != "x"}
            x = inputs["x"]
            if self.masked and self.mask != "model":
                held["mask"] = self._given_mask(x, held.pop("forced", None))
            rows = slice(start, start + len(x))
            yield Batch(x, held, rows)
            start = rows.stop

    @plain_float32()
    @torch.no_grad()
    def _given_mask(self, x: Tensor, forced: Tensor | None) -> Tensor:
        module: Any = self.module
        if self.mask == "open":
            opened: Tensor = module.open_window(x, forced)
            return opened
        gates = module.gates(module.openness(x), self.kind, module.room(forced))
        mask: Tensor = module.expand(gates, forced)
        return mask

    def __call__(self, x: Tensor, held: Held) -> Tensor:
        """Predict one target, ``(batch,)``, in the unit of y and in float32 throughout."""
        return self.read(self.module, x, held)

    def read(self, module: nn.Module, x: Tensor, held: Held) -> Tensor:
        """Predict with a copy of the module."""
        given = {**held, "kind": self.kind} if self.masked else held
        predicted = module(x, **given)
        predicted = predicted[0] if self.masked else predicted
        column: Tensor = predicted[:, self.output]
        return column * self.scale + self.mean


def repeated(held: Held, row: int, n_times: int) -> Held:
    """Give what one window holds to as many altered ones."""
    return {
        name: value[row : row + 1].expand(n_times, *value.shape[1:]) for name, value in held.items()
    }


def baseline_like(
    x: Tensor, rows: slice, channels: Channels, baseline: str | NDArray[np.float32]
) -> Tensor:
    """Give the windows that attributions compare with.

    Parameters
    ----------
    x : Tensor of shape (batch, channel, length)
        Windows.
    rows : slice
        Which rows of X they are.
    channels : Channels
        What the channels are.
    baseline : {"uniform", "zero"} or ndarray
        As checked by :func:`check_baseline`.

    Returns
    -------
    Tensor of shape (batch, channel, length)
        Channels of coverage are those of `x` unless the baseline is an array.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 2.0]]])
    >>> names = ("A", "C", "G", "T", "atac")
    >>> baseline_like(x, slice(0, 1), Channels.of(names, 5), "uniform")[0, :, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500, 0.0000])
    """
    if not isinstance(baseline, str):
        given = torch.from_numpy(baseline).to(x)
        if given.ndim == 3:
            return given[rows]
        return (given[:, None] if given.ndim == 1 else given).expand_as(x)
    out = torch.zeros_like(x)
    kept = list(channels.coverage)
    out[:, kept] = x[:, kept]
    if baseline == "uniform" and channels.bases:
        bases = list(channels.bases)
        # A quarter of what is there: an unknown base has nothing in either window.
        out[:, bases] = 0.25 * x[:, bases].sum(dim=1, keepdim=True)
    return out


def check_baseline(baseline: Any, shape: tuple[int, int, int]) -> str | NDArray[np.float32]:
    """Check the argument `baseline` against the shape of X.

    Raises
    ------
    ValueError
        If it is an unknown word, or an array of another shape or with values that are not finite.
    """
    if isinstance(baseline, str):
        if baseline not in ("uniform", "zero"):
            raise ValueError(
                f"baseline is {baseline!r}; expected 'uniform', 'zero' or an array of windows."
            )
        return baseline
    given = np.asarray(baseline, dtype=np.float32)
    _, n_channels, length = shape
    allowed = ((n_channels,), (n_channels, length), shape)
    if given.shape not in allowed:
        raise ValueError(
            f"baseline has shape {given.shape}; expected {allowed[0]}, one value a channel, "
            f"{allowed[1]}, one window for all, or {allowed[2]}, one a window."
        )
    if not np.isfinite(given).all():
        raise ValueError("baseline holds NaN or infinite values; expected finite ones.")
    return given
