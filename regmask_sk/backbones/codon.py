"""Codon backbone: the convolutional body with a branch that reads codons in frame.

Symbols
-------
``r``, ``T``
    Resolution in bases, and the number of tokens.
``phase``
    Position modulo 3, one of three. Which phase a gene is read in is not known.
``d``, ``f``
    Width of the body, and of the branch (half of it).

How a gene is expressed shows in its coding sequence: highly expressed genes use the codons
whose tRNAs abound (Sharp & Li, 1987). Counting codons needs a reading frame, which a motif
stem does not keep. Here the trinucleotides of each token are counted in each of the three
phases, one small tower with shared weights reads the three, and a softmax over the phases
picks, token by token, the one that reads as coding. For compact genomes, in which a window
around the TSS holds much coding sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.backbones.conv import ConvStem, ResidualBlock, TokenNorm, residual_tower
from regmask_sk.ops.tokens import N_CODONS, N_PHASES, codon_counts, pool_to_tokens

_BRANCH_DILATIONS = (1, 3, 9, 27)  # tokens: sees about 40 tokens to either side


class CodonBackbone(nn.Module):
    """Convolutional body plus codon counts in the frame that reads as coding.

    Parameters
    ----------
    in_channels : int
        Channels of the input, at least 4: the first four are A, C, G and T.
    d_model : int, default=64
        Width of the body, and number of output channels.
    n_layers : int, default=4
        Number of residual blocks of the body.
    dropout : float, default=0.1
        Dropout probability inside the residual blocks.
    resolution : int, default=16
        Bases a token stands for.

    Attributes
    ----------
    out_channels : int
        Equal to `d_model`.
    resolution : int
        Bases a token stands for.
    needs_sequence : bool
        True: the estimators refuse windows without the channels A, C, G and T.

    References
    ----------
    Sharp and Li, "The codon adaptation index", Nucleic Acids Research 15 (1987).

    Examples
    --------
    >>> import torch
    >>> body = CodonBackbone(5, d_model=8, n_layers=2, resolution=16)
    >>> body(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 7])
    """

    needs_sequence = True

    def __init__(
        self,
        in_channels: int,
        *,
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        resolution: int = 16,
    ) -> None:
        super().__init__()
        width, motifs = max(d_model // 2, 1), max(d_model // 2, 1)
        self.out_channels = d_model
        self.resolution = resolution
        self.stem = ConvStem(in_channels, motifs, resolution)
        self.codon_norm = TokenNorm(N_CODONS)
        self.codons = nn.Conv1d(N_CODONS, width, 1)
        self.context = nn.Conv1d(motifs + in_channels, width, 1)
        self.branch = nn.Sequential(
            *(ResidualBlock(width, dilation, dropout) for dilation in _BRANCH_DILATIONS),
            TokenNorm(width),
        )
        self.phase = nn.Conv1d(width, 1, 1)
        self.from_branch = nn.Conv1d(width, d_model, 1)
        self.from_stem = nn.Conv1d(motifs + in_channels, d_model, 1)
        self.tower = residual_tower(d_model, n_layers, dropout)
        self.norm = TokenNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, length)`` to ``(batch, out_channels, T)``."""
        batch = len(x)
        means = pool_to_tokens(x, self.resolution)
        found = torch.cat([self.stem(x, means), means], dim=1)
        # Counts are of integers: the mask's value, and its gradient, come in through the
        # mean of the masked bases of each token; what reaches into the next token counts
        # as far as both are kept.
        present = means[:, :4].sum(dim=1)
        following = F.pad(present[:, 1:], (0, 1))
        both = torch.minimum(present, following) / present.clamp_min(torch.finfo(x.dtype).tiny)
        inside, across = codon_counts(x[:, :4].detach(), self.resolution)
        counts = inside + across * both[:, None, None]
        counts = self.codon_norm(counts.flatten(0, 1)) * present.repeat_interleave(
            N_PHASES, dim=0
        ).unsqueeze(1)
        frames = self.codons(counts)
        frames = frames + self.context(found).repeat_interleave(N_PHASES, dim=0)
        frames = F.gelu(self.branch(frames))
        weight = self.phase(frames).view(batch, N_PHASES, 1, -1).softmax(dim=1)
        coding = (frames.view(batch, N_PHASES, -1, weight.shape[-1]) * weight).sum(dim=1)
        h = self.from_branch(coding) + self.from_stem(found)
        return F.gelu(self.norm(self.tower(h)))
