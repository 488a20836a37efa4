"""From bases to tokens: means, codon counts in each reading frame, bins of distance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops.selective_scan import scan_backend

N_PHASES = 3
N_CODONS = 64
_FIRST_BIN = 64.0  # bp: width of the readout's bins next to the TSS


def pool_to_tokens(x: Tensor, resolution: int) -> Tensor:
    """Mean of each token's bases, ``(batch, channel, length)`` to ``(batch, channel, T)``.

    A last token that is not full is averaged over the bases it has.

    Examples
    --------
    >>> import torch
    >>> pool_to_tokens(torch.tensor([[[1.0, 3.0, 5.0]]]), 2)
    tensor([[[2., 5.]]])
    """
    if resolution == 1 or x.shape[1] == 0:
        return x[..., : -(-x.shape[-1] // resolution)]
    return F.avg_pool1d(x, resolution, ceil_mode=True)


def codon_counts(sequence: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Share of each trinucleotide in each token and phase.

    Parameters
    ----------
    sequence : Tensor of shape (batch, 4, length)
        One-hot A, C, G, T, possibly multiplied by a mask. A base all of whose channels are
        0 is unknown, and a trinucleotide with an unknown base is not counted.
    resolution : int
        Bases a token stands for.

    Returns
    -------
    inside, across : Tensor of shape (batch, 3, 64, T)
        Counts of the trinucleotides that lie in the token, and of those that start in it
        and end in the next one, divided by ``resolution / 3``, the codons of one phase in a
        token. Codon ``16 * a + 4 * b + c`` belongs to the phase that is the position of its
        first base in the window modulo 3.

    Examples
    --------
    >>> import torch
    >>> atg = torch.eye(4)[[0, 3, 2]].T[None]
    >>> inside, across = codon_counts(atg, 3)
    >>> inside[0, 0, 0 * 16 + 3 * 4 + 2], across.sum()
    (tensor([1.]), tensor(0.))
    """
    batch, _, length = sequence.shape
    n_tokens = -(-length // resolution)
    device = sequence.device
    share = N_PHASES / resolution  # of the codons of one phase in a token
    if scan_backend(device, sequence.dtype) == "numba":
        from regmask_sk.ops import _codons_numba

        inside, across = _codons_numba.counts(sequence, resolution)
        return inside.to(sequence.dtype) * share, across.to(sequence.dtype) * share
    base, known = (F.pad(t, (0, 2)) for t in _largest(sequence))
    codon = 16 * base[:, :-2] + 4 * base[:, 1:-1] + base[:, 2:]
    counted = known[:, :-2] & known[:, 1:-1] & known[:, 2:]
    position = torch.arange(length, device=device)
    across = (position + 2) // resolution > position // resolution
    row = torch.arange(batch, device=device)[:, None]
    cell = ((row * 2 + across.long()) * N_PHASES + position % N_PHASES) * n_tokens
    # One more bin takes what is not counted.
    index = (cell + position // resolution) * (N_CODONS + 1) + torch.where(counted, codon, N_CODONS)
    size = batch * 2 * N_PHASES * n_tokens * (N_CODONS + 1)
    table = torch.bincount(index.flatten(), minlength=size)
    table = table.view(batch, 2, N_PHASES, n_tokens, N_CODONS + 1)[..., :N_CODONS]
    shares = table.transpose(3, 4).to(sequence.dtype) * share
    return shares[:, 0], shares[:, 1]


def _largest(sequence: Tensor) -> tuple[Tensor, Tensor]:
    """Give the channel of each base's largest value, and whether that is above 0.

    As ``argmax`` does, which takes ten times as long along an axis that is not the last.
    """
    a, c, g, t = sequence.unbind(1)
    ac, gt = torch.maximum(a, c), torch.maximum(g, t)
    channel = torch.where(gt > ac, 2 + (t > g).long(), (c > a).long())
    return channel, torch.maximum(ac, gt) > 0


def distance_bins(n_tokens: int, resolution: int) -> Tensor:
    """Matrix that averages tokens over bins of their distance to the TSS.

    The TSS is the middle of the window. Bins double in width away from it, on either side:
    64 bp, 64 bp, 128 bp, 256 bp and so on, and end with the window.

    Parameters
    ----------
    n_tokens, resolution : int
        Number of tokens, and bases a token stands for.

    Returns
    -------
    Tensor of shape (n_tokens, n_bins)
        Each column sums to 1.

    Examples
    --------
    >>> distance_bins(8, 16)
    tensor([[0.2500, 0.0000],
            [0.2500, 0.0000],
            [0.2500, 0.0000],
            [0.2500, 0.0000],
            [0.0000, 0.2500],
            [0.0000, 0.2500],
            [0.0000, 0.2500],
            [0.0000, 0.2500]])
    """
    distance = (torch.arange(n_tokens) + 0.5 - n_tokens / 2) * resolution
    ring = (distance.abs() / _FIRST_BIN).clamp_min(1e-6).log2().floor().add(1).clamp_min(0)
    _, column = torch.unique(torch.where(distance < 0, -ring - 1, ring), return_inverse=True)
    members = F.one_hot(column).float()
    return members / members.sum(dim=0)
