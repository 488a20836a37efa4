"""Convolution with filters as long as the sequence, by fast Fourier transform.

Symbols
-------
``L``
    Length of the sequence.
``K``
    Number of lags a filter reaches to one side, lag 0 included.
``n``
    Size of the transforms, at least ``L + K - 1``.

By the convolution theorem a circular convolution of size ``n`` is a product of spectra. With
``n >= L + K - 1`` what wraps around falls on places that are cut away, for causal and for
two-sided filters alike, so that the result is the linear convolution. The transforms run in
float32 at least; against float64 the relative error (L2) of float32 at 200,000 and 400,000
points is below 1e-6 (``tests/test_long_conv.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

_POINTS_AT_ONCE = 2**22  # of the transforms of a block of channels: 32 MiB of spectrum


class _LongConv(torch.autograd.Function):
    """Save the operands only, and go through the channels in blocks.

    Autograd would keep three spectra, each twice as large as the sequence; transforming the
    operands anew in the backward pass costs two transforms more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor, n_before: int) -> Tensor:
        ctx.save_for_backward(x, filters)
        ctx.n_before = n_before
        length = x.shape[2]
        n = _transform_size(length, filters.shape[1], n_before)
        result = torch.empty_like(x, memory_format=torch.contiguous_format)
        for block in _channel_blocks(x, n):
            spectrum = torch.fft.rfft(x[:, block], n) * torch.fft.rfft(filters[block], n)
            result[:, block] = torch.fft.irfft(spectrum, n)[..., n_before : n_before + length]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, filters = ctx.saved_tensors
        (gradient,) = gradients
        length, n_taps = x.shape[2], filters.shape[1]
        n = _transform_size(length, n_taps, ctx.n_before)
        to_x, to_filters = ctx.needs_input_grad[:2]
        dx = torch.empty_like(x, memory_format=torch.contiguous_format) if to_x else None
        dfilters = torch.empty_like(filters) if to_filters else None
        for block in _channel_blocks(x, n):
            # The transpose of a convolution is a correlation, with lags counted from the
            # same place: put the gradient where the forward pass cut its result.
            placed = torch.nn.functional.pad(gradient[:, block], (ctx.n_before, 0))
            outward = torch.fft.rfft(placed, n)
            if dx is not None:
                spectrum = outward * torch.fft.rfft(filters[block], n).conj()
                dx[:, block] = torch.fft.irfft(spectrum, n)[..., :length]
            if dfilters is not None:
                spectrum = (outward * torch.fft.rfft(x[:, block], n).conj()).sum(dim=0)
                dfilters[block] = torch.fft.irfft(spectrum, n)[..., :n_taps]
        return dx, dfilters, None


def long_conv(
    x: Tensor, filters: Tensor, skip: Tensor | None = None, *, causal: bool = True
) -> Tensor:
    """Convolve each channel with a long filter of its own.

    With ``h`` the filter of a channel and zeros beyond both ends of the sequence,
    ``y[i] = sum over j of h(i - j) x[j] + skip * x[i]``.

    Parameters
    ----------
    x : Tensor of shape (batch, channel, length)
        Sequence. float16 and bfloat16 are transformed in float32.
    filters : Tensor of shape (channel, n_taps)
        ``causal=True``: tap ``k`` is ``h(k)``, the weight of what lies ``k`` places to the
        left. ``causal=False``: `n_taps` is odd, ``2 K - 1``, and tap ``k`` is
        ``h(k - (K - 1))``: the taps run from lag ``-(K - 1)``, what lies furthest to the
        right, over lag 0 in the middle to lag ``K - 1``, what lies furthest to the left.
        Lags of `length` and more meet no input; their taps are left out.
    skip : Tensor of shape (channel,), optional
        Weight of the input itself, as another tap at lag 0.
    causal : bool, default=True
        Whether filters look to the left only.

    Returns
    -------
    Tensor of shape (batch, channel, length)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Notes
    -----
    Differentiable once. Time is ``O(n log n)`` a channel, ``n`` the next product of 2, 3 and
    5 at or above ``length + K - 1``. Only `x` and `filters` are kept for the backward pass.

    References
    ----------
    Oppenheim and Schafer, "Discrete-time signal processing", 3rd ed. (2010), section 8.7:
    linear convolution by the discrete Fourier transform.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]])
    >>> long_conv(x, torch.tensor([[1.0, 0.5]])).round(decimals=4) + 0.0
    tensor([[[1.0000, 0.5000, 0.0000, 2.0000]]])
    >>> two_sided = torch.tensor([[0.1, 1.0, 0.5]])
    >>> long_conv(x, two_sided, causal=False).round(decimals=4) + 0.0
    tensor([[[1.0000, 0.5000, 0.2000, 2.0000]]])
    """
    _check(x, filters, skip, causal)
    if x.numel() == 0:
        return x.clone()
    length, n_taps = x.shape[2], filters.shape[1]
    n_before = 0 if causal else n_taps // 2
    n_kept = min(n_taps - n_before, length)
    first = max(n_before - (length - 1), 0)
    filters = filters[:, first : n_before + n_kept]
    dtype = torch.promote_types(torch.promote_types(x.dtype, filters.dtype), torch.float32)
    wide = x.to(dtype)
    y = _LongConv.apply(wide, filters.to(dtype), n_before - first)
    if skip is not None:
        y = torch.addcmul(y, wide, skip.to(dtype)[:, None])
    return y.to(x.dtype)


def _transform_size(length: int, n_taps: int, n_before: int) -> int:
    """Smallest fast size at which nothing wraps around onto what is kept.

    The full convolution has ``length + n_taps - 1`` points. The first `n_before` are cut away,
    so as many of the last may fall on them.
    """
    needed = max(length + n_taps - 1 - n_before, length + n_before, n_taps)
    return next_fast_len(needed, real=True)


def _channel_blocks(x: Tensor, n: int) -> list[slice]:
    """Blocks of channels whose transforms of size `n` take a bounded room together."""
    at_once = max(_POINTS_AT_ONCE // (n * x.shape[0]), 1)
    return [slice(i, i + at_once) for i in range(0, x.shape[1], at_once)]


def _check(x: Tensor, filters: Tensor, skip: Tensor | None, causal: bool) -> None:
    if x.ndim != 3:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (batch, channel, length). Add the axes that "
            "are missing."
        )
    n_channels = x.shape[1]
    if filters.ndim != 2 or filters.shape[0] != n_channels or filters.shape[1] == 0:
        raise ValueError(
            f"filters has shape {tuple(filters.shape)}; expected (channel, n_taps) with the "
            f"{n_channels} channels of x and one tap or more. Give each channel a filter."
        )
    if not causal and filters.shape[1] % 2 == 0:
        raise ValueError(
            f"filters has {filters.shape[1]} taps; causal=False expects an odd number, with lag 0 "
            "in the middle. Pad the shorter side with a zero."
        )
    if skip is not None and skip.shape != (n_channels,):
        raise ValueError(
            f"skip has shape {tuple(skip.shape)}; expected ({n_channels},), one weight for each "
            "channel of x."
        )
