"""Attention with Enformer's relative positions.

Symbols
-------
``n``
    Number of tokens.
``d``, ``H``
    Width of the body, and number of heads.
``f``
    Position features; ``f / 6`` of each family, symmetric and signed.
``q``, ``k``, ``v``, ``r``
    Queries, keys and values of tokens; keys of distances.
``u``, ``w``
    Biases of the queries towards content and towards positions.

Logits are ``(q + u) k_j + (q + w) r_(j - i)`` (Dai et al., 2019), where the keys of the
distances are linear in fixed functions of the distance (Avsec et al., 2021).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

#: Position features come in multiples of this: three families, each symmetric and signed.
N_FAMILIES = 6

_SHORTEST_HALF_LIFE = 3.0  # log2 of tokens
_FLOOR = 1e-8  # of gamma densities, which may all be 0 far away


def position_features(n_tokens: int, n_features: int, device: torch.device | None = None) -> Tensor:
    """Functions of the distances ``-(n - 1), ..., n - 1`` between ``n`` tokens.

    Three families, of which each has ``n_features / 6`` members: exponentials
    ``2 ** (-|x| / half_life)`` with half-lives evenly spaced in their logarithm from 8 tokens
    to ``n``; central masks, 1 where ``|x| < 2 ** i - 1``; gamma densities with means evenly
    spaced up to ``n`` and one standard deviation, divided by the largest of them at each
    distance. All of them come once as they are and once times the sign of the distance.

    Parameters
    ----------
    n_tokens : int
        Number of tokens, 1 or more.
    n_features : int
        Number of features, a multiple of 6.
    device : torch.device, optional
        Where to make them.

    Returns
    -------
    Tensor of shape (2 * n_tokens - 1, n_features)
        float32.

    Raises
    ------
    ValueError
        If `n_features` is no multiple of 6.

    References
    ----------
    Avsec et al., "Effective gene expression prediction from sequence by integrating
    long-range interactions", Nature Methods 18 (2021), Methods, "Relative positional
    encodings".

    Examples
    --------
    >>> position_features(3, 6).shape
    torch.Size([5, 6])
    """
    if n_features < N_FAMILIES or n_features % N_FAMILIES:
        raise ValueError(
            f"n_features={n_features}; expected a multiple of {N_FAMILIES}: three families of "
            "functions, each symmetric and signed."
        )
    size = n_features // N_FAMILIES
    signed = torch.arange(1 - n_tokens, n_tokens, device=device, dtype=torch.float32)[:, None]
    distance = signed.abs()
    half_life = torch.linspace(_SHORTEST_HALF_LIFE, math.log2(n_tokens), size, device=device).exp2()
    exponential = torch.exp2(-distance / half_life)
    width = torch.arange(1, size + 1, device=device, dtype=torch.float32).exp2() - 1
    central = (distance < width).float()
    mean = torch.linspace(n_tokens / size, n_tokens, size, device=device)
    deviation = n_tokens / (2 * size)
    shape, rate = (mean / deviation) ** 2, mean / deviation**2
    log_density = (
        torch.xlogy(shape - 1, distance)
        - rate * distance
        + torch.xlogy(shape, rate)
        - torch.lgamma(shape)
    )
    density = log_density.exp() + _FLOOR
    gamma = density / density.amax(dim=1, keepdim=True)
    symmetric = torch.cat([exponential, central, gamma], dim=1)
    return torch.cat([symmetric, signed.sign() * symmetric], dim=1)


class RelativeAttention(nn.Module):
    """Multi-head attention over all tokens that knows how far apart they are.

    Parameters
    ----------
    d_model : int
        Channels in and out.
    n_heads : int
        Number of heads.
    key_width, value_width : int
        Width of keys and of values, a head.
    n_position_features : int
        Position features, a multiple of 6.
    dropout, position_dropout : float, default=0.0
        Dropout probabilities of attention weights and of position features.

    Notes
    -----
    The last projection starts at zero: at first the layer adds nothing.

    References
    ----------
    Avsec et al., "Effective gene expression prediction from sequence by integrating
    long-range interactions", Nature Methods 18 (2021).
    Dai et al., "Transformer-XL", ACL 2019, section 3.3.

    Examples
    --------
    >>> import torch
    >>> layer = RelativeAttention(
    ...     8, n_heads=2, key_width=4, value_width=4, n_position_features=6
    ... )
    >>> layer(torch.zeros(3, 10, 8), position_features(10, 6)).shape
    torch.Size([3, 10, 8])
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_heads: int,
        key_width: int,
        value_width: int,
        n_position_features: int,
        dropout: float = 0.0,
        position_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(d_model, n_heads * key_width, bias=False)
        self.key = nn.Linear(d_model, n_heads * key_width, bias=False)
        self.value = nn.Linear(d_model, n_heads * value_width, bias=False)
        self.position_key = nn.Linear(n_position_features, n_heads * key_width, bias=False)
        self.content_bias = nn.Parameter(torch.randn(n_heads, 1, key_width))
        self.position_bias = nn.Parameter(torch.randn(n_heads, 1, key_width))
        self.dropout = nn.Dropout(dropout)
        self.position_dropout = nn.Dropout(position_dropout)
        self.out = nn.Linear(n_heads * value_width, d_model)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, positions: Tensor) -> Tensor:
        """Map ``(batch, n, d_model)`` to the same shape.

        `positions` are ``position_features(n, n_position_features)``.
        """
        q, k, v = (self._heads(project(h)) for project in (self.query, self.key, self.value))
        q = q * q.shape[-1] ** -0.5
        positions = self.position_dropout(positions.to(self.position_key.weight.dtype))
        r = self._heads(self.position_key(positions))
        logits = (q + self.content_bias) @ k.transpose(-1, -2)
        logits = logits + shift_to_pairs((q + self.position_bias) @ r.transpose(-1, -2))
        weights = self.dropout(logits.softmax(dim=-1))
        return self.out((weights @ v).transpose(-2, -3).flatten(-2))

    def _heads(self, h: Tensor) -> Tensor:
        """``(..., n, n_heads * width)`` to ``(..., n_heads, n, width)``."""
        return h.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3)


def shift_to_pairs(by_distance: Tensor) -> Tensor:
    """From what each token gives each distance to what it gives each token.

    Parameters
    ----------
    by_distance : Tensor of shape (..., n, 2 * n - 1)
        Column ``n - 1 + x`` is for what lies ``x`` tokens to the right.

    Returns
    -------
    Tensor of shape (..., n, n)
        Entry ``i, j`` is ``by_distance[i, n - 1 + j - i]``.

    Examples
    --------
    >>> import torch
    >>> shift_to_pairs(torch.tensor([[-1, 0, 1], [-1, 0, 1]]))
    tensor([[ 0,  1],
            [-1,  0]])
    """
    n = by_distance.shape[-2]
    if n == 1:
        return by_distance
    # Entry i, j lies at n - 1 + i (2 n - 2) + j of the rows in a row: every row of pairs
    # begins 2 n - 2 after the last one.
    flat = by_distance.flatten(-2)[..., n - 1 : -1]
    return flat.unflatten(-1, (n, 2 * n - 2))[..., :n]
