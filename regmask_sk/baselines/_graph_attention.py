"""Graph attention with a sigmoid gate, as in GraphReg.

Symbols
-------
``x_i``
    Channels of node ``i``.
``A``
    Adjacency, 0/1, without self-loops; ``N(i) = {j : A_ij = 1}`` are the neighbours of ``i``.
``W_s``, ``W_n``
    Weights by which a node reads itself and its neighbours, without a bias.
``a_s``, ``a_n``
    Vectors of attention to what the two give.
``e_ij``, ``s_ij``
    Logit of the edge from ``j`` to ``i``, and its gate.

For each head, in which nothing is normalised to 1 over the neighbours: a node without a true
neighbour may read itself alone,

    e_ij     = LeakyReLU_0.2(a_s . W_s x_i + a_n . W_n x_j)
    s_ij     = sigmoid(e_ij)                        for j in N(i), else 0
    alpha_ij = s_ij / (1 + sum_k s_ik)
    y_i      = ELU(W_s x_i / (1 + sum_k s_ik) + sum_j alpha_ij W_n x_j)

and the ``y_i`` of the heads are joined.

References
----------
Karbalayghareh et al., "Chromatin interaction-aware gene regulatory modeling with graph
attention networks", Genome Research 32 (2022).
Veličković et al., "Graph attention networks", ICLR 2018.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SLOPE = 0.2  # of LeakyReLU below 0


class GraphAttention(nn.Module):
    """One layer of graph attention with a sigmoid gate.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the nodes. `out_channels` is shared out among the heads.
    n_heads : int
        Number of heads; it divides `out_channels`.

    Raises
    ------
    ValueError
        If `n_heads` does not divide `out_channels`.

    Examples
    --------
    >>> import torch
    >>> layer = GraphAttention(3, 8, n_heads=4)
    >>> adjacency = torch.tensor([[[False, True], [True, False]]])
    >>> layer(torch.zeros(1, 3, 2), adjacency).shape
    torch.Size([1, 8, 2])
    """

    def __init__(self, in_channels: int, out_channels: int, *, n_heads: int) -> None:
        super().__init__()
        if out_channels % n_heads:
            raise ValueError(f"n_heads={n_heads} does not divide out_channels={out_channels}.")
        self.n_heads = n_heads
        self.to_self = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        self.to_neighbour = nn.Conv1d(in_channels, out_channels, 1, bias=False)
        width = out_channels // n_heads
        self.attend_self = nn.Parameter(torch.empty(n_heads, width))
        self.attend_neighbour = nn.Parameter(torch.empty(n_heads, width))
        for weight in (self.to_self.weight, self.to_neighbour.weight):
            nn.init.xavier_uniform_(weight)
        for vector in (self.attend_self, self.attend_neighbour):
            nn.init.xavier_uniform_(vector)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Let nodes read themselves and their neighbours.

        Parameters
        ----------
        x : Tensor of shape (batch, in_channels, n)
            Nodes.
        adjacency : Tensor of shape (batch, n, n)
            Bool or 0/1; entry ``[i, j]`` says whether node ``i`` reads node ``j``.

        Returns
        -------
        Tensor of shape (batch, out_channels, n)
            Nodes.
        """
        own = self.to_self(x).unflatten(1, (self.n_heads, -1))  # (batch, head, width, n)
        other = self.to_neighbour(x).unflatten(1, (self.n_heads, -1))
        to_own = (own * self.attend_self.unsqueeze(2)).sum(dim=2)  # (batch, head, n)
        to_other = (other * self.attend_neighbour.unsqueeze(2)).sum(dim=2)
        e = F.leaky_relu(to_own.unsqueeze(3) + to_other.unsqueeze(2), _SLOPE)  # [..., i, j]
        s = torch.sigmoid(e) * adjacency.unsqueeze(1).to(e.dtype)
        own_share = 1.0 / (1.0 + s.sum(dim=3))  # (batch, head, n)
        alpha = s * own_share.unsqueeze(3)
        gathered = other @ alpha.transpose(2, 3)  # (batch, head, width, n)
        return F.elu(own * own_share.unsqueeze(2) + gathered).flatten(1, 2)
