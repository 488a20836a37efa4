"""Selective state space on CPU, in blocks: what lies around the scan, compiled with Numba.

Symbols
-------
``x``, ``z``, ``y``
    Input, gate, and output of all directions together, ``(batch, length, d)``. Input and gate lie
    side by side in one tensor, ``xz``.
``s``
    Input after the convolution and SiLU, of one block, ``(batch, size, d)``.
``r``, ``n``
    Rank of the step sizes, and states of a channel, padded as the scan has them.
``p``
    What ``x_proj`` makes of ``s``: step sizes of rank ``r``, then B, then C, ``(batch, size, P)``
    with ``P = r + 2 n``.

A direction walks along the length block by block, backward from its last block to its first. A
block is so short that what is made in the middle of it stays in the cache of the processor, and
its steps are shared out among threads twice: by tiles of time for convolution and projection, by
channels for the scan. Two directions do so side by side, as long as their blocks are of
different steps: to each step of the output the one that comes first writes, and the other adds.

Products of matrices are loops here, in tiles of two rows and four columns that stay in registers:
a library's own threads would go on spinning after each, in the way of these.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops import _conv_numba, _scan_numba
from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, Job, run_jobs, worker_threads

_BLOCK = 4096  # steps of all rows together: with 256 channels 4 MiB a tensor

_U: Any = np.uint64
_S = _U(_conv_numba.TILE)
_0, _1, _2, _3, _4 = (_U(i) for i in range(5))


@compiled
def _prepare_task(
    task: int,
    x: Any,
    taps: Any,
    bias: Any,
    weight: Any,
    s: Any,
    p: Any,
    shape: Any,
    n_outputs: int,
    reverse: bool,
) -> None:
    """Convolve a tile and project it; ``weight`` is ``(P, d)``, ``shape`` that of the convolution.

    A tile has as many steps forward and backward, and lies in one stretch of memory both ways.
    """
    _conv_numba.convolve_task(task, x, taps, bias, s, shape, reverse)
    d, size, width = _U(shape[1]), _U(shape[4]), _U(n_outputs)
    n_tiles = (size + _S - _1) // _S
    row, begin = _U(task) // n_tiles, _U(task) % n_tiles * _S
    steps = min(_S, size - begin)
    t = row * size + (size - begin - steps if reverse else begin)
    for pair in range((steps + _1) // _2):
        t0 = t + _U(pair) * _2
        t1 = min(t0 + _1, t + steps - _1)
        x0, x1 = t0 * d, t1 * d
        for quad in range(width // _4):
            j = quad * _4
            w0 = j * d
            w1 = w0 + d
            w2 = w1 + d
            w3 = w2 + d
            a0, a1, a2, a3 = F32(0.0), F32(0.0), F32(0.0), F32(0.0)
            b0, b1, b2, b3 = F32(0.0), F32(0.0), F32(0.0), F32(0.0)
            for i in range(d):
                a0 += s[x0 + i] * weight[w0 + i]
                a1 += s[x0 + i] * weight[w1 + i]
                a2 += s[x0 + i] * weight[w2 + i]
                a3 += s[x0 + i] * weight[w3 + i]
                b0 += s[x1 + i] * weight[w0 + i]
                b1 += s[x1 + i] * weight[w1 + i]
                b2 += s[x1 + i] * weight[w2 + i]
                b3 += s[x1 + i] * weight[w3 + i]
            at = t0 * width + j
            p[at], p[at + _1], p[at + _2], p[at + _3] = a0, a1, a2, a3
            at = t1 * width + j
            p[at], p[at + _1], p[at + _2], p[at + _3] = b0, b1, b2, b3


@compiled
def _project_back_task(
    task: int, partial: Any, weight: Any, s: Any, grad_s: Any, grad_weight: Any, shape: Any
) -> None:
    """Gradients of ``s``, added to, and of ``weight``, of a tile.

    ``partial``, ``(group, batch, size, P)``, is the gradient of ``p`` by groups of channels;
    ``grad_weight``, ``(task, P, d)``, is added to; ``shape`` is ``(batch, size, d, P, groups)``.
    """
    batch, size, d = _U(shape[0]), _U(shape[1]), _U(shape[2])
    width, n_groups = _U(shape[3]), _U(shape[4])
    n_tiles = (size + _S - _1) // _S
    row, begin = _U(task) // n_tiles, _U(task) % n_tiles * _S
    steps = min(_S, size - begin)
    t = row * size + begin
    # Of steps beyond the last one the gradient is 0, and what they read is the last one's.
    g = np.zeros((steps + _3) * width, np.float32)
    for group in range(n_groups):
        at = (group * batch * size + t) * width
        for i in range(steps * width):
            g[i] += partial[at + i]
    for pair in range((steps + _1) // _2):
        k = _U(pair) * _2
        o0 = (t + k) * d
        o1 = (t + min(k + _1, steps - _1)) * d
        for quad in range(width // _4):
            j = quad * _4
            at = k * width + j
            a0, a1, a2, a3 = g[at], g[at + _1], g[at + _2], g[at + _3]
            at += width
            b0, b1, b2, b3 = g[at], g[at + _1], g[at + _2], g[at + _3]
            w0 = j * d
            w1 = w0 + d
            w2 = w1 + d
            w3 = w2 + d
            for i in range(d):
                v0, v1, v2, v3 = weight[w0 + i], weight[w1 + i], weight[w2 + i], weight[w3 + i]
                grad_s[o0 + i] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                grad_s[o1 + i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
    total = np.zeros(width * d, np.float32)
    for four in range((steps + _3) // _4):
        k = _U(four) * _4
        s0 = (t + k) * d
        s1 = (t + min(k + _1, steps - _1)) * d
        s2 = (t + min(k + _2, steps - _1)) * d
        s3 = (t + min(k + _3, steps - _1)) * d
        for pair in range(width // _2):
            j = pair * _2
            at = k * width + j
            a0, b0 = g[at], g[at + _1]
            at += width
            a1, b1 = g[at], g[at + _1]
            at += width
            a2, b2 = g[at], g[at + _1]
            at += width
            a3, b3 = g[at], g[at + _1]
            o0 = j * d
            o1 = o0 + d
            for i in range(d):
                v0, v1, v2, v3 = s[s0 + i], s[s1 + i], s[s2 + i], s[s3 + i]
                total[o0 + i] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3
                total[o1 + i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3
    at = _U(task) * width * d
    for i in range(width * d):
        grad_weight[at + i] += total[i]


@dataclass(frozen=True)
class _Block:
    """A stretch of the length.

    Attributes
    ----------
    place : int
        Its first step in memory; blocks of both directions are cut at the same places.
    first : int
        Its first step in the direction.
    size : int
        Steps.
    chunk : int
        Its first chunk in the direction.
    fresh : bool
        Whether no direction was here before.
    """

    place: int
    first: int
    size: int
    chunk: int
    fresh: bool


class _Direction:
    """One direction of the state space: its parameters as the kernels want them, and its jobs.

    Parameters
    ----------
    xz : Tensor of shape (batch, length, 2 d)
        Input of the operator, float32 and contiguous.
    parameters : sequence of Tensor
        Of this direction, in the order of the operator.
    reverse : bool
        Whether it runs from the last step to the first.
    """

    def __init__(self, xz: Tensor, parameters: Sequence[Tensor], reverse: bool) -> None:
        conv_weight, self.conv_bias, x_proj, dt_weight, self.dt_bias, A, self.skip = parameters
        self.xz, self.reverse = xz, reverse
        self.batch, self.length, d_both = xz.shape
        self.d, self.n_taps = d_both // 2, conv_weight.shape[1]
        self.given_rank, self.given_n = dt_weight.shape[1], A.shape[1]
        self.rank = _scan_numba.padded_rank(self.given_rank)
        self.n = _scan_numba.padded(self.given_n)
        self.width = self.rank + 2 * self.n
        self.taps = conv_weight.float().flip(1).T.contiguous()
        self.x_proj = torch.zeros(self.width, self.d)
        self.x_proj[self.rows] = x_proj.float()
        more = self.rank - self.given_rank
        self.dt_weight = F.pad(dt_weight.float().T, (0, 0, 0, more)).contiguous()
        self.decay, start = _scan_numba.decay_rates(A)
        self.start = start.expand(self.batch, self.n, self.d)
        # A block is of whole chunks, and its convolution reads no further than the next one.
        unit = _scan_numba.CHUNK
        self.steps = -(-max(_BLOCK // self.batch, self.n_taps - 1, 1) // unit) * unit
        self.n_blocks = -(-self.length // self.steps)
        longest = min(self.steps, self.length)
        self.n_groups = _scan_numba.n_groups(self.d)
        self.n_tiles = self.batch * -(-longest // _conv_numba.TILE)
        self._s = torch.empty(self.batch * longest * self.d)
        self._p = torch.empty(self.batch * longest * self.width)

    @property
    def rows(self) -> Tensor:
        """Where rows of x_proj stand among padded ones."""
        rank, n = torch.arange(self.given_rank), torch.arange(self.given_n)
        return torch.cat([rank, self.rank + n, self.rank + self.n + n])

    def block(self, number: int, visited: Container[int]) -> _Block:
        """Give a block, counted in the direction; ``visited`` are places."""
        unit = _scan_numba.CHUNK
        index = self.n_blocks - 1 - number if self.reverse else number
        place = index * self.steps
        size = min(self.steps, self.length - place)
        # In reverse the block that may be shorter comes first.
        first = self.length - place - size if self.reverse else place
        chunk = -(-first // unit)
        return _Block(place, first, size, chunk, place not in visited)

    def made(self, block: _Block) -> tuple[Tensor, Tensor]:
        """Give ``s`` and ``p`` of a block, in memory that the next block uses again."""
        n_steps = self.batch * block.size
        return self._s[: n_steps * self.d], self._p[: n_steps * self.width]

    def prepare(self, block: _Block) -> Job:
        """Convolve and project."""
        tensors = (self.xz, self.taps, self.conv_bias, self.x_proj, *self.made(block))
        options = (self.conv_shape(block), self.width, self.reverse)
        return Job(_prepare_task, self.tiles(block), tensors, options)

    def conv_shape(self, block: _Block) -> tuple[int, ...]:
        """Give what the convolution is told of sizes."""
        return self.length, self.d, self.n_taps, block.first, block.size, 2 * self.d

    def scan_options(self, block: _Block) -> tuple[Any, ...]:
        """Give what the scan is told besides tensors."""
        sizes = (
            *(self.batch, block.size, self.d, self.n, self.rank, self.width),
            *(self.length, 2 * self.d),
        )
        return sizes, True, True, self.reverse, not block.fresh

    def tiles(self, block: _Block) -> int:
        """Give the number of tiles of a block."""
        return self.batch * -(-block.size // _conv_numba.TILE)

    def gate(self, xz: Tensor, block: _Block) -> Tensor:
        """Give the second half of a tensor, from the first step of a block on, flat."""
        return xz.view(-1)[block.place * 2 * self.d + self.d :]

    def output(self, y: Tensor, block: _Block) -> Tensor:
        """Give a tensor of ``d`` channels from the first step of a block on, flat."""
        return y.view(-1)[block.place * self.d :]

    def states_of(self, states: Tensor, block: _Block) -> Tensor:
        """Give the part of the states that belongs to a block; what is empty stays so."""
        return states[block.chunk : block.chunk + -(-block.size // _scan_numba.CHUNK)]


class _Forward(_Direction):
    """A direction on its way from the first block to the last.

    ``y`` and ``states`` are written to.
    """

    def __init__(self, *given: Any, y: Tensor, states: Tensor) -> None:
        super().__init__(*given)
        self.y, self.states = y, states

    def stages(self, block: _Block) -> Iterator[Job]:
        """Give the jobs of a block, each to be run before the next one is asked for."""
        yield self.prepare(block)
        s, p = self.made(block)
        end = torch.empty(self.batch, self.n, self.d)
        tensors = (
            *(s, p, self.dt_weight, self.dt_bias, self.decay, self.start),
            *(p[self.rank :], p[self.rank + self.n :], self.skip, self.gate(self.xz, block)),
            *(self.output(self.y, block), self.states_of(self.states, block), end),
        )
        n_tasks = self.batch * self.n_groups
        yield Job(_scan_numba.forward_task, n_tasks, tensors, self.scan_options(block))
        self.start = end


class _Backward(_Direction):
    """A direction on its way from the last block to the first.

    ``y`` and the gradient of ``xz`` are written to.
    """

    def __init__(
        self, *given: Any, grad: Tensor, y: Tensor, grad_xz: Tensor, states: Tensor
    ) -> None:
        super().__init__(*given)
        self.grad, self.y, self.grad_xz, self.states = grad, y, grad_xz, states
        batch, d, n = self.batch, self.d, self.n
        self.grad_a, self.grad_skip = torch.zeros(batch, n, d), torch.zeros(batch, d)
        self.grad_dt_weight = torch.zeros(batch, self.rank, d)
        self.grad_dt_bias = torch.zeros(batch, d)
        self.grad_x_proj = torch.zeros(self.n_tiles, self.width, d)
        self.grad_taps = torch.zeros(self.n_tiles, self.n_taps, d)
        self.grad_conv_bias = torch.zeros(self.n_tiles, d)
        self.grad_end = torch.zeros(batch, n, d)
        self.after = torch.zeros(batch, self.n_taps - 1, d)  # of what the next block begins with
        self._grad_s = torch.empty_like(self._s)
        self._partial = torch.empty(self.n_groups * self._p.numel())

    def stages(self, block: _Block) -> Iterator[Job]:
        """Give the jobs of a block, each to be run before the next one is asked for."""
        yield self.prepare(block)
        batch, d, n, rank, n_groups = self.batch, self.d, self.n, self.rank, self.n_groups
        s, p = self.made(block)
        grad_s, partial = self._grad_s[: len(s)], self._partial[: n_groups * len(p)]
        grad_start = torch.empty(batch, n, d)
        tensors: tuple[Tensor, ...] = (
            *(self.output(self.grad, block), s, p, self.dt_weight, self.dt_bias, self.decay),
            *(p[rank:], p[rank + n :], self.skip, self.gate(self.xz, block)),
            *(self.states_of(self.states, block), self.grad_end, grad_start, grad_s, partial),
            *(self.grad_dt_weight, self.grad_dt_bias, self.grad_a),
            *(partial[rank:], partial[rank + n :], self.grad_skip),
            *(self.gate(self.grad_xz, block), self.output(self.y, block)),
        )
        n_tasks = batch * n_groups
        yield Job(_scan_numba.backward_task, n_tasks, tensors, self.scan_options(block))
        tensors = (partial, self.x_proj, s, grad_s, self.grad_x_proj)
        options: tuple[Any, ...] = ((batch, block.size, d, self.width, n_groups),)
        yield Job(_project_back_task, self.tiles(block), tensors, options)
        tensors = (
            *(grad_s, self.after, self.xz, self.taps, self.conv_bias),
            *(self.grad_xz, self.grad_taps, self.grad_conv_bias),
        )
        options = (self.conv_shape(block), self.reverse, not block.fresh)
        yield Job(_conv_numba.differentiate_task, self.tiles(block), tensors, options)
        steps = grad_s.view(batch, block.size, d)
        begin = (steps.flip(1) if self.reverse else steps)[:, : self.n_taps - 1]
        self.after = F.pad(begin, (0, 0, 0, self.n_taps - 1 - begin.shape[1])).clone()
        self.grad_end = grad_start

    def found(self) -> tuple[Tensor, ...]:
        """Give the gradients of the parameters, when all blocks are done."""
        return (
            *(self.grad_taps.sum(dim=0).T.flip(1), self.grad_conv_bias.sum(dim=0)),
            self.grad_x_proj.sum(dim=0)[self.rows],
            self.grad_dt_weight.sum(dim=0)[: self.given_rank].T,
            self.grad_dt_bias.sum(dim=0),
            *(self.grad_a.sum(dim=0)[: self.given_n].T, self.grad_skip.sum(dim=0)),
        )


def states_shape(xz: Tensor, A: Tensor) -> tuple[int, ...]:
    """Shape of the states that forward keeps for backward; A is that of all directions."""
    batch, length, _ = xz.shape
    return (A.shape[0], *_scan_numba.states_shape(batch, length, *A.shape[1:]))


def forward(
    xz: Tensor, parameters: Sequence[Tensor], reverse: Sequence[bool], *, save: bool
) -> tuple[Tensor, Tensor]:
    """Give ``y`` and the states at the start of each chunk, empty without `save`.

    The parameters are those of all directions, with an axis of directions in front.
    """
    y = torch.empty(*xz.shape[:2], xz.shape[2] // 2)
    shape = states_shape(xz, parameters[-2])
    states = torch.empty(shape if save else (shape[0], 0))
    xz = _single(xz)
    ways = [
        _Forward(xz, [p[i] for p in parameters], back, y=y, states=states[i])
        for i, back in enumerate(reverse)
    ]
    _walk(ways, range(ways[0].n_blocks))
    return y, states


def backward(
    grad: Tensor,
    xz: Tensor,
    parameters: Sequence[Tensor],
    states: Tensor,
    reverse: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Give ``y`` again, and the gradients of ``xz`` and of the parameters, in float32.

    ``grad`` is that of ``y``.
    """
    xz, grad = _single(xz), _single(grad)
    y, grad_xz = torch.empty_like(grad), torch.empty_like(xz)
    whole = {"grad": grad, "y": y, "grad_xz": grad_xz}
    ways = [
        _Backward(xz, [p[i] for p in parameters], back, states=states[i], **whole)
        for i, back in enumerate(reverse)
    ]
    _walk(ways, reversed(range(ways[0].n_blocks)))
    found = zip(*(way.found() for way in ways), strict=True)
    return y, grad_xz, [torch.stack(parts) for parts in found]


def _walk(ways: Sequence[_Forward | _Backward], numbers: Iterable[int]) -> None:
    """Take all directions through their blocks, side by side where they do not meet."""
    visited: set[int] = set()
    with worker_threads() as pool:
        for number in numbers:
            places = {way.block(number, visited).place for way in ways}
            sets = [ways] if len(places) == len(ways) else [[way] for way in ways]
            for together in sets:
                blocks = [way.block(number, visited) for way in together]
                work = sum(block.size for block in blocks) * ways[0].batch * ways[0].d * ways[0].n
                stages = [way.stages(block) for way, block in zip(together, blocks, strict=True)]
                # Asked for the next jobs, directions first take note of what these have found.
                for jobs in zip(*stages, strict=True):
                    run_jobs(jobs, work, pool)
                visited.update(block.place for block in blocks)


def _single(x: Tensor) -> Tensor:
    return x.detach().float().contiguous()
