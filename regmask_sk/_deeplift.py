"""DeepLIFT: multipliers of a network between an input and a baseline, operation by operation.

Symbols
-------
``x``, ``r``
    Input and baseline.
``t``, ``t0``
    An activation for the input and for the baseline.
``m``
    Multiplier: what the output's difference is to be credited with for a unit of difference here.

Each operation gets a rule under which differences of its inputs times multipliers add up to the
difference of its output. Linear ones have their gradient. Elementwise ones have
``(f(t) - f(t0)) / (t - t0)`` (the Rescale rule). A product of two activations has the mean of the
other factor over input and baseline, which is its Shapley value with two players.
Normalisations are composed of these; a softmax has the logarithmic means of its values in place
of the values in its gradient. A maximum credits the difference that its two winners make to
the two, as tangermeme does. So contributions add up to ``f(x) - f(r)``, and where they do not,
the network has an operation without a rule.

The libraries set these rules on modules (``nn.ReLU``, ``nn.MaxPool1d``), and take what is not a
module of a kind that they know for linear: gates, products with a mask, attention. Here rules
are set on the functions of torch. Rows of input and baseline alternate in one batch, so that the
two are at hand in every operation; all is computed in float64.

References
----------
Shrikumar, Greenside, Kundaje, "Learning important features through propagating activation
differences", ICML 2017: multipliers, the Rescale rule, the chain rule.
Ancona, Ceolini, Oztireli, Gross, "Towards better understanding of gradient-based attribution
methods for deep neural networks", ICLR 2018: the rule as a modified gradient.
Lundberg, Lee, "A unified approach to interpreting model predictions", NeurIPS 2017: attributions
of components as Shapley values, composed by multipliers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SAME = 1e-9  # differences below it, in float64, have the gradient in place of the quotient

Op = Callable[..., Tensor]


def _pairs(t: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the input and rows of the baseline."""
    if len(t) % 2:
        raise ValueError(
            f"DeepLIFT needs the batch on the first axis of every activation; found shape "
            f"{tuple(t.shape)}. Use method='integrated_gradients'."
        )
    return t[0::2], t[1::2]


def _for_both(m: Tensor) -> Tensor:
    return m.repeat_interleave(2, dim=0)


class _Rescale(torch.autograd.Function):
    """An elementwise function; backward multiplies by the quotient of differences."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, function: Op) -> Tensor:
        out = function(t)
        ctx.save_for_backward(t, out)
        ctx.function = function
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        t, out = ctx.saved_tensors
        (change, change_out) = (a - b for a, b in (_pairs(t), _pairs(out)))
        same = change.abs() < _SAME
        quotient = change_out / torch.where(same, 1.0, change)
        if same.any():
            with torch.enable_grad():
                at = _pairs(t)[0].detach().requires_grad_()
                (slope,) = torch.autograd.grad(ctx.function(at).sum(), at)
            quotient = torch.where(same, slope, quotient)
        return grads[0] * _for_both(quotient), None


class _Product(torch.autograd.Function):
    """A function linear in each of two; backward takes the mean of the other one."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, function: Op) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.function = function
        return function(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, None]:
        a, b = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        mean_a, mean_b = (_for_both(0.5 * (t + t0)) for t, t0 in map(_pairs, (a, b)))
        with torch.enable_grad():
            (to_a,) = torch.autograd.grad(ctx.function(a, mean_b.detach()), a, grads[0])
            (to_b,) = torch.autograd.grad(ctx.function(mean_a.detach(), b), b, grads[0])
        return to_a, to_b, None


class _MaxPool(torch.autograd.Function):
    """Largest of each stretch; backward credits the winners of input and baseline."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, size: int, options: dict[str, Any]) -> Tensor:
        out, place = F.max_pool1d(t, size, return_indices=True, **options)
        ctx.save_for_backward(t, out, place)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        t, out, place = ctx.saved_tensors
        (t1, t0), (out1, out0), (place1, place0) = map(_pairs, (t, out, place))
        grad = _pairs(grads[0])[0]
        both = torch.maximum(out1, out0)
        credit = torch.zeros_like(t1)
        credit.scatter_add_(2, place1, grad * (both - out0))
        credit.scatter_add_(2, place0, grad * (out1 - both))
        change = t1 - t0
        same = change.abs() < _SAME
        multiplier = torch.where(same, 0.0, credit / torch.where(same, 1.0, change))
        return _for_both(multiplier), None, None


class _Softmax(torch.autograd.Function):
    """Softmax; backward has the logarithmic means of its values in place of the values.

    ``p - p0 = L (log p - log p0)`` with ``L`` the logarithmic mean of ``p`` and ``p0``, and
    ``log p = t - lse(t)``. The changes of ``p`` add up to 0, so that the change of ``lse`` is the
    mean of those of ``t`` with the weights ``L / sum(L)``.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor, dim: int) -> Tensor:
        logs = t.log_softmax(dim)
        ctx.save_for_backward(logs)
        ctx.dim = dim
        return logs.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (logs,) = ctx.saved_tensors
        log1, log0 = _pairs(logs)
        p1, p0, change = log1.exp(), log0.exp(), log1 - log0
        # Where both are 0 the change is that of two infinities.
        same = ~(change.abs() >= _SAME)
        mean = torch.where(same, p1, (p1 - p0) / torch.where(same, 1.0, change))
        grad = _pairs(grads[0])[0]
        total = mean.sum(dim=ctx.dim, keepdim=True)
        shared = (mean * grad).sum(dim=ctx.dim, keepdim=True) / total
        return _for_both(mean * (grad - shared)), None


_ELEMENTWISE: set[Any] = {
    F.relu, torch.relu, Tensor.relu, F.gelu, F.silu, F.softplus, F.elu, F.leaky_relu,
    F.sigmoid, torch.sigmoid, Tensor.sigmoid, F.tanh, torch.tanh, Tensor.tanh,
    torch.exp, Tensor.exp, torch.log, Tensor.log, torch.log1p, Tensor.log1p,
    torch.sqrt, Tensor.sqrt, torch.rsqrt, Tensor.rsqrt, torch.square, Tensor.square,
    torch.reciprocal, Tensor.reciprocal, torch.abs, Tensor.abs,
    torch.clamp, Tensor.clamp, torch.clamp_min, Tensor.clamp_min, Tensor.clamp_max,
}  # fmt: skip
_PRODUCTS: set[Any] = {
    torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__, torch.multiply, Tensor.multiply,
    torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm,
}  # fmt: skip
_QUOTIENTS: set[Any] = {torch.div, Tensor.div, Tensor.__truediv__}
_INVERSES: set[Any] = {Tensor.__rtruediv__, Tensor.__rdiv__}
_SOFTMAX: set[Any] = {torch.softmax, Tensor.softmax, F.softmax}
_TO_FLOAT: set[Any] = {Tensor.float, Tensor.half, Tensor.bfloat16}


def _varies(t: Any) -> bool:
    return isinstance(t, Tensor) and t.requires_grad


def _rescale(t: Tensor, function: Op) -> Tensor:
    out: Tensor = _Rescale.apply(t, function)
    return out


def _product(a: Tensor, b: Tensor, function: Op = torch.mul) -> Tensor:
    out: Tensor = _Product.apply(a, b, function)
    return out


def _softmax(t: Tensor, dim: int) -> Tensor:
    out: Tensor = _Softmax.apply(t, dim)
    return out


def _normed(t: Tensor, shape: Any, weight: Any, bias: Any, eps: float, *, centred: bool) -> Tensor:
    dims = tuple(range(-len(tuple(shape)), 0))
    if centred:
        t = t - t.mean(dim=dims, keepdim=True)
    variance = _rescale(t, torch.square).mean(dim=dims, keepdim=True)
    out = _product(t, _rescale(variance + eps, torch.rsqrt))
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


class _Rules(TorchFunctionMode):
    """Replaces the functions that have a rule of their own while a network runs."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # What a rule keeps of its input must not be written over.
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "inplace"}
        if func in _TO_FLOAT:
            return args[0]  # a network of float64 stays so
        if not args or not any(_varies(arg) for arg in args):
            return func(*args, **kwargs)
        t, *rest = args
        if func in _ELEMENTWISE:
            return _rescale(t, lambda u: func(u, *rest, **kwargs))
        if func in _PRODUCTS and _varies(t) and _varies(rest[0]):
            return _product(t, rest[0], func)
        if func in _QUOTIENTS and _varies(rest[0]):
            inverse = _rescale(rest[0], torch.reciprocal)
            return _product(t, inverse) if _varies(t) else t * inverse
        if func in _INVERSES:
            return rest[0] * _rescale(t, torch.reciprocal)
        if func in _SOFTMAX:
            return _softmax(t, kwargs["dim"] if "dim" in kwargs else rest[0])
        if func is F.layer_norm:
            return self._layer_norm(*args, **kwargs)
        if func is F.rms_norm:
            return self._rms_norm(*args, **kwargs)
        if func is F.max_pool1d or func is torch.max_pool1d:
            return self._max_pool(*args, **kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _layer_norm(
        t: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
    ) -> Tensor:
        return _normed(t, shape, weight, bias, eps, centred=True)

    @staticmethod
    def _rms_norm(t: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
        least = torch.finfo(t.dtype).eps if eps is None else eps
        return _normed(t, shape, weight, None, least, centred=False)

    @staticmethod
    def _max_pool(
        t: Tensor,
        size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor:
        options = {"stride": stride or size, "padding": padding, "dilation": dilation}
        pooled: Tensor = _MaxPool.apply(t, size, {**options, "ceil_mode": ceil_mode})
        return pooled


def deeplift(function: Op, x: Tensor, baseline: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions of inputs to the difference of a function from its value at a baseline.

    Parameters
    ----------
    function : callable
        From ``(2 * batch, ...)`` to ``(2 * batch,)``, row by row, inputs and baselines in turn.
        Parameters of it must not require gradients.
    x, baseline : Tensor of shape (batch, ...)
        Inputs and baselines.

    Returns
    -------
    contributions : Tensor of shape (batch, ...), float64
        Multiplier times difference.
    difference : Tensor of shape (batch,), float64
        ``function(x) - function(baseline)``.

    Raises
    ------
    ValueError
        If an activation has no batch on its first axis.

    Examples
    --------
    A gate is a product, whose parts share what they make together:

    >>> x, baseline = torch.tensor([[3.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    >>> deeplift(lambda t: torch.relu(t[:, 0]) * t[:, 1], x, baseline)
    (tensor([[3., 3.]], dtype=torch.float64), tensor([6.], dtype=torch.float64))
    """
    both = torch.stack([x, baseline], dim=1).flatten(0, 1).double().requires_grad_()
    with torch.enable_grad():
        with _Rules():  # not while multipliers are computed: the rules there are plain
            out = function(both)
        value, at_baseline = _pairs(out)
        (multipliers,) = torch.autograd.grad(value.sum(), both)
    m, change = _pairs(multipliers)[0], x.double() - baseline.double()
    return (m * change).detach(), (value - at_baseline).detach()
