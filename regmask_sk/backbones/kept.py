"""The convolutional body on what a mask keeps: closed stretches are not computed token by token.

Symbols
-------
``x``
    Masked window and mask, ``(1, c, length)``; all channels are 0 where the mask is.
``r``, ``T``, ``d``
    Bases a token stands for, number of tokens, width of the body.
``active``
    Tokens that see a kept base, or an end of the window, by now.
``const``
    What all other tokens hold, ``(1, d)``.

Far from every kept base a convolution sees zeros, and all tokens hold the same. A layer of reach
``k`` makes ``k`` tokens to either side of the active ones active; they start from that constant.
So the numbers are those of the whole computation, and time falls with what is kept. A zero beyond
an end of the window is no closed token: tokens near the ends are active from the first layer
that sees beyond them.

The other bodies mix all tokens (state spaces, long convolutions, attention), so that a closed
token is not alike everywhere: for them there is no such form.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.backbones.conv import ConvBackbone, ConvStem, ResidualBlock, TokenNorm
from regmask_sk.ops.tokens import pool_to_tokens

_WORTH = 0.6  # share of active tokens at which the whole computation costs no more
_FEWEST_TOKENS = 1024  # in shorter windows the reach of the tower is most of the window


def can_read_kept(backbone: nn.Module, n_tokens: int) -> bool:
    """Whether :func:`read_kept` gives what a backbone gives for windows of so many tokens.

    Examples
    --------
    >>> can_read_kept(ConvBackbone(5).eval(), 4096), can_read_kept(ConvBackbone(5).eval(), 64)
    (True, False)
    """
    return type(backbone) is ConvBackbone and not backbone.training and n_tokens >= _FEWEST_TOKENS


def read_kept(backbone: ConvBackbone, x: Tensor) -> Tensor:
    """Tokens of masked windows, computed where they differ from those of a closed stretch.

    Parameters
    ----------
    backbone : ConvBackbone
        In evaluation mode. Nothing of this is differentiated.
    x : Tensor of shape (batch, c, length)
        Windows, 0 wherever the last channel, the mask, is.

    Returns
    -------
    Tensor of shape (batch, d, T)
        ``backbone(x)``, to rounding, row by row: no row depends on the others.

    Examples
    --------
    >>> import torch
    >>> body = ConvBackbone(5, d_model=8, n_layers=2, resolution=4).eval()
    >>> x = torch.zeros(1, 5, 400)
    >>> x[..., 200:208] = 1.0
    >>> torch.allclose(read_kept(body, x), body(x), atol=1e-6)
    True
    """
    return torch.cat([_read_row(backbone, x[row : row + 1]) for row in range(len(x))])


@torch.no_grad()
def _read_row(backbone: ConvBackbone, x: Tensor) -> Tensor:
    r, width = backbone.resolution, backbone.stem.scan.kernel_size[0]
    kept = F.max_pool1d(x[:, -1:], r, ceil_mode=True)[0, 0] != 0
    # Bases that the scan reaches, and tokens that the gate does.
    reach = max(-(-(width // 2) // r), backbone.stem.gate.kernel_size[0] // 2)
    active = _grown(kept, reach, beyond=False)
    reached = sum(cast(ResidualBlock, block).conv.dilation[0] for block in backbone.tower)
    if _grown(active, reached, beyond=True).float().mean() > _WORTH:
        return cast(Tensor, backbone(x))
    h, const = _stem(backbone, x, active)
    for block in backbone.tower:
        h, const, active = _block(cast(ResidualBlock, block), h, const, active)
    return F.gelu(_normed(backbone.norm, h)).T[None]


def _stem(backbone: ConvBackbone, x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens ``(T, d)`` after the stem, and what those that see nothing hold."""
    stem, r, length = backbone.stem, backbone.resolution, x.shape[2]
    half = stem.scan.kernel_size[0] // 2
    beyond = len(active) * r - length
    index = active.nonzero()[:, 0]
    bases = F.pad(x[0], (half, half + beyond)).unfold(1, r + 2 * half, r)[:, index]
    scores = stem.scan(bases.transpose(0, 1))
    if beyond and len(index) and int(index[-1]) == len(active) - 1:
        scores[-1, :, r - beyond :] = -torch.inf  # a last token that is not full
    means = pool_to_tokens(x, r)[0]
    near = stem.gate.kernel_size[0] // 2
    around = F.pad(means, (near, near)).unfold(1, 2 * near + 1, 1)[:, index]
    gate = _linear(stem.gate, around.transpose(0, 1).flatten(1))
    found = F.relu(_normed(stem.norm, scores.amax(dim=2))) * torch.sigmoid(gate)
    const = _closed_stem(stem) + cast(Tensor, backbone.means.bias)
    h = const.repeat(len(active), 1)
    h[index] = found + _linear(backbone.means, means.T[index])
    return h, const


def _closed_stem(stem: ConvStem) -> Tensor:
    scan, gate = cast(Tensor, stem.scan.bias), cast(Tensor, stem.gate.bias)
    return F.relu(_normed(stem.norm, scan[None])) * torch.sigmoid(gate)


def _block(
    block: ResidualBlock, h: Tensor, const: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, constant and active tokens after a block."""
    dilation = block.conv.dilation[0]
    closed = F.gelu(_normed(block.norm, const))
    inner = closed.repeat(len(h), 1)
    inner[active] = F.gelu(_normed(block.norm, h[active]))
    inner = F.pad(inner, (0, 0, dilation, dilation))
    active = _grown(active, dilation, beyond=True)
    index = active.nonzero()[:, 0]
    taps = block.conv.weight.unbind(2)
    mixed = torch.addmm(cast(Tensor, block.conv.bias), inner[index], taps[0].T)
    for i, tap in enumerate(taps[1:], start=1):
        mixed.addmm_(inner[index + i * dilation], tap.T)
    update = _mixed(block, mixed)
    closed = _mixed(block, closed @ block.conv.weight.sum(dim=2).T + cast(Tensor, block.conv.bias))
    after = (const + closed).repeat(len(h), 1)
    after[index] = h[index] + update
    return after, const + closed, active


def _mixed(block: ResidualBlock, rows: Tensor) -> Tensor:
    return _linear(block.mix, F.gelu(_normed(block.norm_mix, rows)))


def _linear(conv: nn.Conv1d, rows: Tensor) -> Tensor:
    return F.linear(rows, conv.weight.flatten(1), conv.bias)


def _normed(norm: TokenNorm, rows: Tensor) -> Tensor:
    return F.batch_norm(
        rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def _grown(active: Tensor, reach: int, *, beyond: bool) -> Tensor:
    """Tokens within `reach` of an active one, and of the ends where these count as active."""
    padded = F.pad(active.float()[None], (reach, reach), value=float(beyond))
    return F.max_pool1d(padded, 2 * reach + 1, 1)[0] > 0
