"""An Enformer of enformer-pytorch with random weights, and a copy of them into ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regmask_sk.backbones._trunk import Trunk


def theirs(**settings: Any) -> Any:
    """Enformer of enformer-pytorch in evaluation, or a skipped test where it is missing."""
    module = pytest.importorskip("enformer_pytorch.modeling_enformer")
    made = module.Enformer.from_hparams(output_heads={"human": 1}, **settings).eval()
    torch.manual_seed(0)
    for value in [*made.parameters(), *made.buffers()]:
        if value.is_floating_point():
            # Scales and running variances stay away from 0.
            nn.init.uniform_(value, 0.5, 1.0) if value.ndim == 1 else nn.init.normal_(
                value, std=0.2
            )
    return made


def _without_pools(state: dict[str, Tensor], pool: str) -> list[Tensor]:
    return [value for key, value in state.items() if pool not in key]


@torch.no_grad()
def copy_trunk(other: Any, ours: Trunk) -> None:
    """Copy stem, tower and transformer of enformer-pytorch's Enformer."""
    # Convolutions and batch norms come in the same order; the pools of ours belong to the
    # level that they lead to.
    convolutions = {
        **{f"stem.{key}": value for key, value in other.stem.state_dict().items()},
        **{f"tower.{key}": value for key, value in other.conv_tower.state_dict().items()},
    }
    trunk = nn.ModuleList([ours.stem, ours.tower])
    copied = _without_pools(convolutions, "to_attn_logits")
    for mine, value in zip(_without_pools(trunk.state_dict(), "pool.logits"), copied, strict=True):
        mine.copy_(value)
    pools = [down.pool for down in ours.tower] + [ours.last_pool]
    logits = [value for key, value in convolutions.items() if "to_attn_logits" in key]
    for pool, weight in zip(pools, logits, strict=True):
        pool.logits.weight.copy_(weight[..., 0])
    for layer, (attended, network) in zip(ours.layers, other.transformer, strict=True):
        norm, attention, _ = attended.fn
        layer.norm.load_state_dict(norm.state_dict())
        layer.mlp.load_state_dict(network.fn.state_dict())
        for name, of_theirs in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("position_key", "to_rel_k"),
            ("out", "to_out"),
        ):
            projection = getattr(attention, of_theirs)
            getattr(layer.attention, name).load_state_dict(projection.state_dict())
        layer.attention.content_bias.copy_(attention.rel_content_bias[0])
        layer.attention.position_bias.copy_(attention.rel_pos_bias[0])
