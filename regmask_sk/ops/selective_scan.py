"""Selective scan, the recurrence of Mamba, with its gradient, on CPU and GPU.

Symbols
-------
``batch``, ``length``, ``d``, ``n``
    Rows, steps, channels, and states of a channel.
``u``, ``delta``, ``z``
    Input, step size (above 0) and gate, ``(batch, length, d)``.
``A``
    Decay rates of the states, below 0, ``(d, n)``.
``B``, ``C``
    How a step's input enters the states, and how they are read, ``(batch, length, n)``.
``D``
    Weight of the input that passes the states by, ``(d,)``.
``h``
    State, ``(batch, d, n)``.

Equations 2a, 2b of Gu and Dao (2023), with A discretised by zero-order hold and B by Euler's
rule, as in the published code::

    h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t
    y_t = (C_t h_t + D u_t) * SiLU(z_t)

References
----------
Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
arXiv:2312.00752 (2023).
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from regmask_sk.ops import _scan_torch

#: Values of ``backend``, besides "auto".
SCAN_BACKENDS = ("reference", "torch", "numba", "triton")

_VARIABLE = "REGMASK_SCAN_BACKEND"


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    *,
    delta_softplus: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Run a selective state space along the length.

    Parameters
    ----------
    u : Tensor of shape (batch, length, d)
        Input.
    delta : Tensor of shape (batch, length, d)
        Step sizes, above 0; with `delta_softplus` any numbers.
    A : Tensor of shape (d, n)
        Decay rates, below 0.
    B, C : Tensor of shape (batch, length, n)
        Input and output weights of the states.
    D : Tensor of shape (d,), optional
        Weight of the input in the output.
    z : Tensor of shape (batch, length, d), optional
        The output is multiplied by its SiLU.
    delta_softplus : bool, default=False
        Take the softplus of `delta` inside the kernel, which saves a pass over memory, and in
        training a tensor of that size.
    reverse : bool, default=False
        Run from the last step to the first: what flipping `u`, `delta`, `B`, `C` and `z`
        along the length, scanning, and flipping back would give.
    backend : {"auto", "reference", "torch", "numba", "triton"}, default="auto"
        See :func:`scan_backend`.

    Returns
    -------
    Tensor of shape (batch, length, d)
        In the dtype of `u`. The state is held in float32, or in float64 where an input is.

    Raises
    ------
    ValueError
        If shapes or devices do not fit together, or the backend is unknown or cannot work
        on these tensors.

    References
    ----------
    Gu and Dao, arXiv:2312.00752 (2023), equations 2a, 2b and section 3.3.

    Examples
    --------
    With a decay of 1/2 a step and an input of 1 the state climbs to 2.

    >>> import torch
    >>> one = torch.ones(1, 4, 1)
    >>> A = torch.full((1, 1), 0.5).log()
    >>> selective_scan(one, one, A, one, one).flatten()
    tensor([1.0000, 1.5000, 1.7500, 1.8750])
    >>> selective_scan(one, one, A, one, one, reverse=True).flatten()
    tensor([1.8750, 1.7500, 1.5000, 1.0000])
    """
    _check(u, delta, A, B, C, D, z)
    tensors = [t for t in (u, delta, A, B, C, D, z) if t is not None]
    dtype = _scan_torch.state_dtype(*tensors)
    chosen = scan_backend(u.device, dtype, backend)
    if chosen == "reference":
        return _scan_torch.reference(
            u, delta, A, B, C, D, z, delta_softplus=delta_softplus, reverse=reverse
        )
    if chosen == "torch":
        return _scan_torch.chunked(
            u, delta, A, B, C, D, z, delta_softplus=delta_softplus, reverse=reverse
        )
    save = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    out, _ = _scan(u, delta, A, B, C, D, z, delta_softplus, reverse, chosen, save)
    return out


def scan_backend(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> str:
    """Name the backend that :func:`selective_scan` uses for such tensors.

    ``backend`` decides where it is not "auto"; then the environment variable
    ``REGMASK_SCAN_BACKEND``; then "numba" is taken on CPU, "triton" on CUDA where it is
    installed, and "torch" for float64 and everywhere else.

    ============= ======================================================================
    "numba"       CPU, float32 state: compiled on the first call, then kept on disk
    "triton"      CUDA, float32 state
    "torch"       any device, float32 or float64: parallel over chunks
    "reference"   any device, float32 or float64: a loop over steps, to compare with
    ============= ======================================================================

    Parameters
    ----------
    device : torch.device or str, default="cpu"
        Where the tensors are.
    dtype : torch.dtype, default=torch.float32
        The widest of the tensors.
    backend : {"auto", "reference", "torch", "numba", "triton"}, default="auto"
        Choice by hand.

    Returns
    -------
    str
        One of ``SCAN_BACKENDS``.

    Raises
    ------
    ValueError
        If the choice is unknown or does not work on that device or dtype.

    Examples
    --------
    >>> scan_backend("cpu", torch.float64)
    'torch'
    """
    kind = torch.device(device).type
    source = f"backend={backend!r}"
    if backend == "auto" and os.environ.get(_VARIABLE):
        backend = os.environ[_VARIABLE]
        source = f"the environment variable {_VARIABLE}={backend!r}"
    if backend == "auto":
        if dtype == torch.float64:
            return "torch"
        if kind == "cpu":
            return "numba"
        return "triton" if kind == "cuda" and _has_triton() else "torch"
    if backend not in SCAN_BACKENDS:
        raise ValueError(f"{source} is not known; expected 'auto' or one of {SCAN_BACKENDS}.")
    if backend in ("numba", "triton") and dtype == torch.float64:
        raise ValueError(
            f"{source} has a float32 state, but a tensor is float64. Pass float32 tensors, or "
            "backend='torch'."
        )
    if backend == "numba" and kind != "cpu":
        raise ValueError(
            f"{source} works on CPU, but the tensors are on {kind!r}. Move them, or leave the "
            "choice to 'auto'."
        )
    if backend == "triton" and not (kind == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ValueError(
            f"{source} works on CUDA, but the tensors are on {kind!r}. Move them, or leave the "
            "choice to 'auto'."
        )
    return backend


@cache
def _has_triton() -> bool:
    """Whether Triton is installed; warns, once, where it is not."""
    if find_spec("triton") is not None:
        return True
    warnings.warn(
        "Triton is not installed: the selective scan falls back to plain torch, which is much "
        "slower on CUDA. Install it with: pip install triton",
        RuntimeWarning,
        stacklevel=4,
    )
    return False


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None
) -> None:
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(
            f"u must have shape (batch, length, d) with no axis of size 0, got {tuple(u.shape)}."
        )
    if A.ndim != 2 or A.shape[0] != u.shape[2] or A.shape[1] == 0:
        raise ValueError(
            f"A must have shape (d, n) = ({u.shape[2]}, n) with n > 0 for u of shape "
            f"{tuple(u.shape)}, got {tuple(A.shape)}."
        )
    states = (*u.shape[:2], A.shape[1])
    expected = {
        "A": (A, tuple(A.shape)),
        "delta": (delta, tuple(u.shape)),
        "B": (B, states),
        "C": (C, states),
    }
    if D is not None:
        expected["D"] = (D, (u.shape[2],))
    if z is not None:
        expected["z"] = (z, tuple(u.shape))
    check_shapes("u", u, expected, f"u of shape {tuple(u.shape)} and A of shape {tuple(A.shape)}")


def check_shapes(
    main: str, given: Tensor, expected: dict[str, tuple[Tensor, tuple[int, ...]]], sizes: str
) -> None:
    """Raise where a tensor has another shape than beside it, or is not where `given` is.

    ``main`` is the name of `given`, ``sizes`` names the tensors that decide the shapes.
    """
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape} for {sizes}, got {tuple(tensor.shape)}."
            )
        if tensor.device != given.device:
            raise ValueError(
                f"{name} is on {tensor.device}, but {main} is on {given.device}. Move them to one "
                "device."
            )


# -- the compiled backends as operators of torch, which torch.compile leaves whole ---------

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z"


def _kernels(backend: str) -> ModuleType:
    """Import the kernels when they are first needed: it costs seconds, or a GPU's compiler."""
    if backend == "numba":
        from regmask_sk.ops import _scan_numba

        return _scan_numba
    from regmask_sk.ops import _scan_triton

    return _scan_triton


@torch.library.custom_op(
    "regmask_sk::selective_scan",
    mutates_args=(),
    schema=f"({_INPUTS}, bool softplus, bool reverse, str backend, bool save) -> (Tensor, Tensor)",
)
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    softplus: bool,
    reverse: bool,
    backend: str,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """Output, and the states that backward starts its chunks from (empty without `save`)."""
    found: tuple[Tensor, Tensor] = _kernels(backend).forward(
        u, delta, A, B, C, D, z, delta_softplus=softplus, reverse=reverse, save=save
    )
    return found


@_scan.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, backend, save = rest
    shape = _kernels(backend).states_shape(*u.shape, A.shape[1]) if save else (0,)
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    return out, u.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "regmask_sk::selective_scan_backward",
    mutates_args=(),
    schema=(
        f"(Tensor grad, {_INPUTS}, Tensor states, bool softplus, bool reverse, str backend)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _scan_backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    states: Tensor,
    softplus: bool,
    reverse: bool,
    backend: str,
) -> tuple[Tensor, ...]:
    """Gradients of the seven inputs; an empty tensor for one that is not there."""
    found = _kernels(backend).backward(
        grad, u, delta, A, B, C, D, z, states, delta_softplus=softplus, reverse=reverse
    )
    return tuple(u.new_empty(0) if t is None else t for t in found)


@_scan_backward.register_fake
def _(grad: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(
        grad.new_empty(0)
        if t is None
        else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in rest[:7]
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, ctx.reverse, ctx.backend, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the states have no gradient: not even zeros


def _differentiate(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad is None:  # nothing was made of the output
        return (None,) * 11
    *tensors, states = ctx.saved_tensors
    found = _scan_backward(grad, *tensors, states, ctx.softplus, ctx.reverse, ctx.backend)
    gradients = [None if t is None else g for t, g in zip(tensors, found, strict=True)]
    return (*gradients, None, None, None, None)


_scan.register_autograd(_differentiate, setup_context=_keep)

__all__ = ["SCAN_BACKENDS", "scan_backend", "selective_scan"]
