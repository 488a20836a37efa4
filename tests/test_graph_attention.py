"""Graph attention against its equations, written out edge by edge."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regmask_sk.baselines._graph_attention import GraphAttention


def literal(layer: GraphAttention, x: Tensor, adjacency: Tensor) -> Tensor:
    """The equations of the file's head, one number at a time."""
    n_heads, (_, _, n_nodes) = layer.n_heads, x.shape
    w_s, w_n = layer.to_self.weight[:, :, 0], layer.to_neighbour.weight[:, :, 0]
    width = len(w_s) // n_heads
    out = torch.zeros(len(x), n_heads * width, n_nodes, dtype=x.dtype)
    for b in range(len(x)):
        for head in range(n_heads):
            rows = slice(head * width, (head + 1) * width)
            own = [w_s[rows] @ x[b, :, i] for i in range(n_nodes)]
            other = [w_n[rows] @ x[b, :, i] for i in range(n_nodes)]
            a_s, a_n = layer.attend_self[head], layer.attend_neighbour[head]
            for i in range(n_nodes):
                s = {}
                for j in range(n_nodes):
                    if adjacency[b, i, j]:
                        e = float(a_s @ own[i] + a_n @ other[j])
                        e = e if e > 0 else 0.2 * e
                        s[j] = 1 / (1 + math.exp(-e))
                total = sum(s.values())
                y = own[i] / (1 + total)
                for j, gate in s.items():
                    y = y + gate / (1 + total) * other[j]
                out[b, rows, i] = torch.where(y > 0, y, torch.exp(y) - 1)
    return out


def made(in_channels: int, out_channels: int, n_heads: int, seed: int) -> GraphAttention:
    torch.manual_seed(seed)
    return GraphAttention(in_channels, out_channels, n_heads=n_heads).double()


@settings(max_examples=25, deadline=None)
@given(
    n_heads=st.integers(1, 4),
    width=st.integers(1, 3),
    in_channels=st.integers(1, 4),
    n_nodes=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_it_is_its_equations(
    n_heads: int, width: int, in_channels: int, n_nodes: int, share: float, seed: int
) -> None:
    layer = made(in_channels, n_heads * width, n_heads, seed)
    x = 3 * torch.randn(2, in_channels, n_nodes, dtype=torch.float64)
    adjacency = torch.rand(2, n_nodes, n_nodes) < share  # directed, and with rows of nothing
    with torch.no_grad():
        torch.testing.assert_close(
            layer(x, adjacency), literal(layer, x, adjacency), rtol=0, atol=1e-10
        )
        single = layer.float()(x.float(), adjacency)
        torch.testing.assert_close(single.double(), literal(layer.double(), x, adjacency),
                                   rtol=1e-5, atol=1e-5)  # fmt: skip


def test_a_node_without_neighbours_reads_itself_alone() -> None:
    layer = made(3, 8, 4, 0)
    x = torch.randn(1, 3, 5, dtype=torch.float64)
    nothing = torch.zeros(1, 5, 5, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(x, nothing), torch.nn.functional.elu(layer.to_self(x)), rtol=0, atol=1e-12
        )


def test_what_is_not_a_neighbour_is_not_read() -> None:
    layer = made(3, 8, 2, 1)
    x = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    adjacency = torch.zeros(1, 4, 4, dtype=torch.bool)
    adjacency[0, 0, 2] = True  # node 0 reads node 2
    (gradient,) = torch.autograd.grad(layer(x, adjacency)[..., 0].sum(), x)
    read = gradient[0].abs().sum(dim=0) > 0
    assert read.tolist() == [True, False, True, False]


def test_nodes_have_no_order() -> None:
    layer = made(3, 8, 2, 2)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    adjacency = torch.rand(2, 6, 6) < 0.5
    order = torch.randperm(6)
    with torch.no_grad():
        turned = layer(x[..., order], adjacency[:, order][:, :, order])
        torch.testing.assert_close(turned, layer(x, adjacency)[..., order])


def test_heads_share_the_channels() -> None:
    with pytest.raises(ValueError, match="n_heads=3 does not divide out_channels=8"):
        GraphAttention(4, 8, n_heads=3)
