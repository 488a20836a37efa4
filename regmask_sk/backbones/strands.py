"""One body read on both strands with shared weights.

Symbols
-------
``f``
    Any body, ``(batch, c, length)`` to ``(batch, d, T)``.
``RC``
    Reverse complement of a window: positions reversed, each channel exchanged for the one
    that holds it on the opposite strand (A and T, C and G, the two strands of a track).

``h(x) = (f(x) + reverse(f(RC(x)))) / 2`` turns with the window: ``h(RC(x)) = reverse(h(x))``
exactly, whatever ``f`` is. In Caduceus-PS every block runs on both strands by itself with
the same weights, and the two meet only in the head, which adds them; since no block mixes
the strands, running the whole body twice and adding is the same function.

References
----------
Schiff et al., "Caduceus: bi-directional equivariant long-range DNA sequence modeling",
ICML 2024: parameter sharing (PS) and post-hoc conjoining (Ph).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from regmask_sk.ops.strands import reverse_complement


class SharedStrands(nn.Module):
    """A body that reads both strands with the same weights and turns with the window.

    Parameters
    ----------
    backbone : nn.Module
        Any body; see :mod:`regmask_sk.backbones`.
    complement : tuple of int
        For each input channel of the body the channel of the opposite strand.

    Attributes
    ----------
    out_channels, resolution : int
        Those of the body.

    Examples
    --------
    >>> import torch
    >>> from regmask_sk.backbones import ConvBackbone
    >>> from regmask_sk.ops.strands import reverse_complement
    >>> body = SharedStrands(ConvBackbone(4, d_model=8, resolution=4), (3, 2, 1, 0)).eval()
    >>> x = torch.rand(1, 4, 64)
    >>> turned = body(reverse_complement(x, body.complement))
    >>> torch.allclose(turned, body(x).flip(2), atol=1e-6)
    True
    """

    complement: Tensor

    def __init__(self, backbone: nn.Module, complement: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = cast(int, backbone.out_channels)
        self.resolution = cast(int, backbone.resolution)
        self.register_buffer("complement", torch.tensor(complement), persistent=False)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """Map ``(batch, c, length)`` to ``(batch, d, T)``.

        The length must be a multiple of the resolution, or the tokens of the two strands
        would not cover the same bases. What else the body takes, in `more`, has one entry a window
        and is the same for both strands; the body may give several rows of tokens a window.
        """
        both = torch.cat([x, reverse_complement(x, self.complement)])
        tokens = self.backbone(both, *(torch.cat([each, each]) for each in more))
        forward, backward = tokens.chunk(2)
        return 0.5 * (forward + backward.flip(2))
