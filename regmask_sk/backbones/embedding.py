"""From the channels of a window to the tokens that a sequence body reads.

Symbols
-------
``c``, ``d``
    Input channels, and width of the body.
``r``, ``T``
    Resolution: bases a token stands for; number of tokens, ``ceil(length / r)``.
"""

from __future__ import annotations

from torch import Tensor, nn

from regmask_sk.backbones.conv import ConvStem
from regmask_sk.ops.tokens import pool_to_tokens


class TokenEmbedding(nn.Module):
    """Embed bases, or stretches of bases, as tokens.

    With ``resolution=1`` each base is embedded by itself, linearly, as the published
    long-sequence models do with one-hot DNA. With a coarser resolution a motif stem scans
    the bases and keeps the best match of each token, and the means of the channels over the
    token are added, so that a body for many tokens runs on few.

    Parameters
    ----------
    in_channels, d_model : int
        Channels of the window and of the tokens.
    resolution : int
        Bases a token stands for.

    Examples
    --------
    >>> import torch
    >>> TokenEmbedding(5, 8, resolution=16)(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 7])
    """

    def __init__(self, in_channels: int, d_model: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.stem = ConvStem(in_channels, d_model, resolution) if resolution > 1 else None
        self.means = nn.Conv1d(in_channels, d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, c, length)`` to ``(batch, d, T)``."""
        means = pool_to_tokens(x, self.resolution)
        tokens = self.means(means)
        return tokens if self.stem is None else tokens + self.stem(x, means)
