"""Bodies of the model: one ``nn.Module`` a file, all behind one interface.

A backbone is an ``nn.Module`` whose first argument is ``in_channels`` and which maps a
tensor of shape ``(batch, in_channels, length)`` to ``(batch, out_channels, n_tokens)``
with ``n_tokens = ceil(length / resolution)``: token *t* stands for the bases
``[t * resolution, (t + 1) * resolution)``. With ``resolution=1`` tokens are bases. It has
the attributes ``out_channels`` and ``resolution`` and takes the keyword arguments
``d_model``, ``n_layers``, ``dropout`` and ``resolution``, and, where it can trade time for
memory, ``checkpointing``. The estimators hand it the
channels A, C, G and T first, where there are such, then the tracks, and the mask last; a
class with ``needs_sequence = True`` relies on the first four, and one with
``takes_max_length = True`` is told the length of the windows.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from regmask_sk.backbones.caduceus import CaduceusBackbone
from regmask_sk.backbones.codon import CodonBackbone
from regmask_sk.backbones.conv import ConvBackbone
from regmask_sk.backbones.hyena import CausalHyenaBackbone, HyenaBackbone
from regmask_sk.backbones.mamba import MambaBackbone
from regmask_sk.backbones.transformer import TransformerBackbone

#: Short names that ``backbone=`` of the estimators takes.
BACKBONES: dict[str, type[nn.Module]] = {
    "caduceus": CaduceusBackbone,
    "codon": CodonBackbone,
    "conv": ConvBackbone,
    "hyena": HyenaBackbone,
    "hyena-causal": CausalHyenaBackbone,
    "mamba": MambaBackbone,
    "transformer": TransformerBackbone,
}


def make_backbone(
    backbone: str | type[nn.Module],
    in_channels: int,
    *,
    d_model: int,
    n_layers: int,
    dropout: float,
    resolution: int,
    max_length: int | None = None,
    checkpointing: bool = False,
) -> nn.Module:
    """Build a backbone from its short name or its class.

    Parameters
    ----------
    backbone : str or type
        A key of :data:`BACKBONES`, or any class with the interface described at the top
        of this module.
    in_channels : int
        Number of channels of the input.
    d_model, n_layers, dropout, resolution
        Passed to the class by keyword.
    max_length : int, optional
        Longest window in base pairs; passed by keyword to a class with
        ``takes_max_length = True``, whose own default holds otherwise.
    checkpointing : bool, default=False
        Passed to the class where True: layers are computed again in backward, for less memory.

    Returns
    -------
    torch.nn.Module
        The backbone, with attributes ``out_channels`` and ``resolution``.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If a class is given that does not have the interface, or that has no argument
        `checkpointing` where it is True.

    Examples
    --------
    >>> make_backbone("conv", 5, d_model=8, n_layers=1, dropout=0.0, resolution=4).out_channels
    8
    """
    if isinstance(backbone, str):
        if backbone not in BACKBONES:
            raise ValueError(
                f"backbone={backbone!r} is not known; expected one of {sorted(BACKBONES)}, or an "
                "nn.Module class whose first argument is in_channels."
            )
        backbone = BACKBONES[backbone]
    if not (isinstance(backbone, type) and issubclass(backbone, nn.Module)):
        raise TypeError(
            f"backbone must be one of {sorted(BACKBONES)} or a subclass of torch.nn.Module, "
            f"got {backbone!r}. Pass the class itself, not an instance."
        )
    optional: dict[str, Any] = {}
    if max_length is not None and getattr(backbone, "takes_max_length", False):
        optional["max_length"] = max_length
    if checkpointing:
        if not _can_checkpoint(backbone):
            able = [name for name, body in BACKBONES.items() if _can_checkpoint(body)]
            raise TypeError(
                f"backbone {backbone.__name__} has no argument 'checkpointing': its layers cannot "
                f"be computed again in backward. Set checkpointing=False, or use one of {able}."
            )
        optional["checkpointing"] = True
    module = backbone(
        in_channels,
        d_model=d_model,
        n_layers=n_layers,
        dropout=dropout,
        resolution=resolution,
        **optional,
    )
    for attribute in ("out_channels", "resolution"):
        if not hasattr(module, attribute):
            raise TypeError(
                f"backbone {backbone.__name__} has no attribute {attribute!r}; set it in __init__ "
                "so that the heads know the shape of its output."
            )
    return module


def _can_checkpoint(backbone: type[nn.Module]) -> bool:
    return "checkpointing" in inspect.signature(backbone).parameters


__all__ = [
    "BACKBONES",
    "CaduceusBackbone",
    "CausalHyenaBackbone",
    "CodonBackbone",
    "ConvBackbone",
    "HyenaBackbone",
    "MambaBackbone",
    "TransformerBackbone",
    "make_backbone",
]
