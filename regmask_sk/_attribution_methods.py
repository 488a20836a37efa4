"""How windows are scored by each method of :func:`regmask_sk.attribute`.

Symbols are those of :mod:`regmask_sk._explained`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regmask_sk._deeplift import deeplift
from regmask_sk._explained import (
    Batch,
    Explained,
    Held,
    MaskUse,
    baseline_like,
    check_baseline,
    plain_float32,
)
from regmask_sk._perturbation import mutagenesis, occluded_groups, occlusion
from regmask_sk.backbones.mamba import SelectiveStateSpace
from regmask_sk.windows import Windows

Method = Literal["saliency", "integrated_gradients", "deeplift", "mutagenesis", "occlusion"]
Baseline = Literal["uniform", "zero"] | ArrayLike

_GRADIENT = ("saliency", "integrated_gradients", "deeplift")
_PERTURBING = ("mutagenesis", "occlusion")
# Of what is attributed: where more of it is missing, an operation had no rule.
_DEEPLIFT_GAP = 1e-4


class Work:
    """A checked call of :func:`regmask_sk.attribute`; its parameters are documented there."""

    def __init__(
        self,
        estimator: Any,
        X: Windows | ArrayLike,
        method: Method,
        *,
        baseline: Baseline,
        mask: MaskUse,
        output: int,
        per_channel: bool,
        n_steps: int,
        width: int | None,
        step: int | None,
        columns: slice | None,
        batch_size: int | None,
    ) -> None:
        if method not in get_args(Method):
            raise ValueError(f"method is {method!r}; expected one of {get_args(Method)}.")
        if columns is not None and method not in _PERTURBING:
            raise ValueError(
                f"columns with method={method!r}, which scores all columns at once. It goes with "
                f"one of {_PERTURBING}; of other scores take scores[:, columns]."
            )
        self.explained = Explained(estimator, X, mask=mask, output=output)
        self.method, self.per_channel = method, per_channel
        self.baseline = check_baseline(baseline, self.explained.shape)
        self.n_steps = _whole("n_steps", n_steps)
        # A rival without tokens is occluded by stretches of the default length of one.
        width = getattr(estimator, "resolution", 16) if width is None else width
        self.width = _whole("width", width)
        self.step = self.width if step is None else _whole("step", step)
        if self.step > self.width:
            raise ValueError(
                f"step is {self.step}, more than width, {self.width}: bases between the stretches "
                "would have no score. Lower step."
            )
        self.batch_size = _whole(
            "batch_size", estimator.batch_size if batch_size is None else batch_size
        )
        self.columns = self._range(columns)
        if method == "mutagenesis" and not self.explained.channels.bases:
            raise ValueError(
                "method='mutagenesis' needs the channels A, C, G and T by name; the estimator was "
                f"fitted on {list(estimator.channel_names_in_ or ()) or 'channels without names'}."
                " Build X with SequenceChannels, or use method='occlusion'."
            )
        if method in _GRADIENT:
            self._check_gradient()
        if method == "integrated_gradients":
            self.captum = _captum()
        if method == "deeplift":
            self.module = self._double(estimator)

    def _range(self, columns: slice | None) -> range:
        every = range(self.explained.shape[2])
        wanted = slice(None) if columns is None else columns
        if not isinstance(wanted, slice) or wanted.step not in (None, 1) or not every[wanted]:
            raise ValueError(
                f"columns is {columns!r}; expected a slice of the window's {len(every)} columns "
                "that is not empty and has no step."
            )
        return every[wanted]

    def _check_gradient(self) -> None:
        if self.explained.has_step:
            raise ValueError(
                f"method={self.method!r} needs a gradient, and the mask of this estimator, "
                f"mask={self.explained.kind!r}, is 0 or 1: a step, whose gradient is 0. Pass "
                "mask='fixed' or mask='open' to attribute, read the mask with "
                "estimator.set_params(mask='soft'), or use method='mutagenesis' or 'occlusion'."
            )
        if self.explained.counts_codons:
            raise ValueError(
                f"method={self.method!r} needs a gradient, and backbone='codon' counts codons, "
                "which has none. Use method='mutagenesis' or 'occlusion'."
            )

    def _double(self, estimator: Any) -> torch.nn.Module:
        scans = any(isinstance(m, SelectiveStateSpace) for m in self.explained.module.modules())
        if scans or getattr(estimator, "checkpointing", False):
            found = "backbone" if scans else "checkpointing"
            raise ValueError(
                f"method='deeplift' has no rule for {found}={getattr(estimator, found, None)!r}. "
                "Use method='integrated_gradients'."
            )
        return copy.deepcopy(self.explained.module).double().requires_grad_(False)

    @plain_float32()
    def scores(self, batch: Batch) -> NDArray[np.float32]:
        """Scores of a batch of windows."""
        x, held, rows = batch
        base = baseline_like(x, rows, self.explained.channels, self.baseline)
        each: Tensor
        if self.method == "saliency":
            each = self._saliency(x, held, base)
        elif self.method == "integrated_gradients":
            each = self._integrated_gradients(x, held, base)
        elif self.method == "deeplift":
            each = self._deeplift(x, held, base)
        elif self.method == "mutagenesis":
            each = mutagenesis(
                self.explained, x, held, self.explained.channels.bases, self.columns,
                self.batch_size,
            )  # fmt: skip
        else:
            each = self._occlusion(x, held, base)
        found = each if self.per_channel else self._by_base(each)
        if self.method in _PERTURBING:
            found[..., : self.columns.start] = torch.nan
            found[..., self.columns.stop :] = torch.nan
        numbers: NDArray[np.float32] = found.float().cpu().numpy()
        return numbers

    def _by_base(self, each: Tensor) -> Tensor:
        return each.sum(dim=1) / -3.0 if self.method == "mutagenesis" else each.sum(dim=1)

    def _saliency(self, x: Tensor, held: Held, base: Tensor) -> Tensor:
        parts = []
        for some in _slices(len(x), self.batch_size):
            at = x[some].detach().requires_grad_()
            with torch.enable_grad():
                total = self.explained(at, {k: v[some] for k, v in held.items()}).sum()
                (gradient,) = torch.autograd.grad(total, at)
            parts.append(gradient * (x[some] - base[some]))
        return torch.cat(parts)

    def _integrated_gradients(self, x: Tensor, held: Held, base: Tensor) -> Tensor:
        names = tuple(held)

        def predict(altered: Tensor, *values: Tensor) -> Tensor:
            return self.explained(altered, dict(zip(names, values, strict=True)))

        scores: Tensor = self.captum.IntegratedGradients(predict).attribute(
            x,
            baselines=base,
            additional_forward_args=tuple(held.values()),
            n_steps=self.n_steps,
            internal_batch_size=max(self.batch_size, len(x)),
        )
        return scores.detach()

    def _deeplift(self, x: Tensor, held: Held, base: Tensor) -> Tensor:
        contributions = []
        for some in _slices(len(x), self.batch_size):
            twice = {name: v[some].repeat_interleave(2, dim=0) for name, v in held.items()}
            twice = {k: v.double() if v.is_floating_point() else v for k, v in twice.items()}

            def predict(both: Tensor, twice: Held = twice) -> Tensor:
                return self.explained.read(self.module, both, twice)

            found, change = deeplift(predict, x[some], base[some])
            gap = change - found.sum(dim=(1, 2))
            attributed = change.abs() + found.abs().sum(dim=(1, 2))
            if (gap.abs() > _DEEPLIFT_GAP * attributed).any():
                raise ValueError(
                    "method='deeplift': the scores do not add up to the difference of the "
                    f"prediction, a window misses {float(gap.abs().max()):.3g}, so that the body "
                    "has an operation for which there is no rule. Use "
                    "method='integrated_gradients'."
                )
            contributions.append(found)
        return torch.cat(contributions)

    def _occlusion(self, x: Tensor, held: Held, base: Tensor) -> Tensor:
        channels = self.explained.channels
        groups = occluded_groups(channels, per_channel=self.per_channel)
        found = occlusion(
            self.explained, x, held, base, groups, self.columns, self.width, self.step,
            self.batch_size,
        )  # fmt: skip
        if not self.per_channel:
            return found
        each = torch.zeros_like(x)
        for number, group in enumerate(groups):
            if group == channels.bases:
                index = list(group)
                each[:, index] = found[:, number : number + 1] * x[:, index]
            else:
                each[:, group[0]] = found[:, number]
        return each


def _slices(n: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n, size))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least 1.")
    return int(value)


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError(
            "method='integrated_gradients' needs captum. Install it: "
            'pip install "regmask_sk[attribution]"'
        ) from error
    return captum.attr
