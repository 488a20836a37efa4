"""The network of EPInformer: a promoter that attends to its candidate elements.

Symbols
-------
``B``, ``T``
    Genes, and tokens of a gene: its promoter, then its elements.
``N``, ``F``
    Frames that are read, one for each token there is, and their width in base pairs.
``C``, ``P``
    Channels of an encoded frame and its positions, ``P = F // 16 - 24``.
``D``, ``H``
    Width of a token and number of attention heads.

References
----------
Lin et al., "EPInformer", Nature Communications (2026), doi:10.1038/s41467-026-70535-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from regmask_sk.baselines._rival import WindowModel

FEATURES = ("distance", "activity", "contact")
#: Narrowest frame: two positions are left of it, the least that a batch of one can normalise.
LEAST_FRAME = 416
_STEM = 8  # width of the first convolution
_DILATIONS = (2, 4, 6)
_HIDDEN = 128  # width of the last network
# Frames that are encoded at once in evaluation. Kernels sum in an order that depends on the
# shape, so that every call has the same one.
_CHUNK = 32


def _conv(in_channels: int, out_channels: int, width: int, *, dilation: int = 1) -> nn.Sequential:
    """Convolution without padding but for width 3 without dilation, normalisation and ELU."""
    same = width // 2 if dilation == 1 else 0
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, width, padding=same, dilation=dilation),
        nn.BatchNorm1d(out_channels),
        nn.ELU(),
    )


class PooledConv(nn.Module):
    """Convolution and pooling by 2, then a residual step on each position.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 3)
        self.pointwise = nn.Conv1d(out_channels, out_channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(N, in_channels, L)`` to ``(N, out_channels, L // 2)``."""
        h = F.max_pool1d(self.conv(h), 2)
        return F.elu(self.pointwise(h)) + h


class FrameEncoder(nn.Module):
    """Convolutions over the one-hot sequence of a frame.

    Parameters
    ----------
    n_filters : int
        Channels of the first convolution, a multiple of 8; the published network has 256.
    """

    def __init__(self, n_filters: int) -> None:
        super().__init__()
        half, quarter, eighth = n_filters // 2, n_filters // 4, n_filters // 8
        self.out_channels = eighth
        self.stem = nn.Conv1d(4, n_filters, _STEM)
        widths = (n_filters, half, quarter, quarter, half)
        self.tower = nn.Sequential(*(PooledConv(a, b) for a, b in pairwise(widths)))
        dilated = [half, *[quarter] * len(_DILATIONS)]
        self.dilated = nn.Sequential(
            *(
                _conv(a, b, 3, dilation=dilation)
                for (a, b), dilation in zip(pairwise(dilated), _DILATIONS, strict=True)
            )
        )
        self.narrow = _conv(quarter, eighth, 1)

    @staticmethod
    def n_positions(frame_length: int) -> int:
        """Count the positions that are left of a frame."""
        return frame_length // 16 - 2 * sum(_DILATIONS)

    def forward(self, frames: Tensor) -> Tensor:
        """Map ``(N, 4, F)``, one-hot, to ``(N, C, P)``."""
        left = (_STEM - 1) // 2
        h = F.pad(frames.to(self.stem.weight.dtype), (left, _STEM - 1 - left))
        h = F.elu(self.stem(h))  # (N, n_filters, F)
        h = self.tower(h)  # (N, n_filters / 2, F // 16)
        return cast(Tensor, self.narrow(self.dilated(h)))


class StarAttention(nn.Module):
    """Attention and a network on each token, normalised before, added after.

    Parameters
    ----------
    d_model, n_heads : int
        Width of a token, and heads, which must divide it.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm = nn.LayerNorm(d_model)
        self.to_qkv = nn.Linear(d_model, 3 * d_model)
        self.to_out = nn.Linear(d_model, d_model)
        self.network = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, 4 * d_model),
            nn.ReLU(),
            nn.Linear(4 * d_model, d_model),
        )

    def forward(self, h: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens attend to each other.

        Parameters
        ----------
        h : Tensor of shape (B, T, D)
            Tokens.
        allowed : Tensor of shape (B, T, T), bool
            Which token (second axis) may attend to which (third axis).

        Returns
        -------
        h : Tensor of shape (B, T, D)
            Tokens.
        attention : Tensor of shape (B, T, T)
            Mean over the heads.
        """
        split = self.to_qkv(self.attention_norm(h)).unflatten(2, (3, self.n_heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each (B, H, T, D / H)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        weight = logits.masked_fill(~allowed.unsqueeze(1), -torch.inf).softmax(dim=3)
        h = h + self.to_out((weight @ v).transpose(1, 2).flatten(2))
        return h + self.network(h), weight.mean(dim=1)


def star(present: Tensor) -> Tensor:
    """Say which token may attend to which: each to itself, the promoter and elements mutually.

    Parameters
    ----------
    present : Tensor of shape (B, T), bool
        Which tokens there are; the first, the promoter, is always.

    Returns
    -------
    Tensor of shape (B, T, T), bool
        Nothing attends to a token that there is not.

    Examples
    --------
    >>> star(torch.tensor([[True, True, False]])).int().tolist()
    [[[1, 1, 0], [1, 1, 0], [1, 0, 0]]]
    """
    edges = torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    edges[0], edges[:, 0] = True, True
    return edges & present.unsqueeze(1)


class ElementReader(nn.Module):
    """Tokens from encoded frames and features, attention, and outputs from the promoter's token.

    Parameters
    ----------
    in_channels, n_positions : int
        Channels and positions of an encoded frame.
    n_outputs, n_covariates : int
        Numbers of targets and of covariates.
    d_model, n_layers, n_heads : int
        Width of a token, a multiple of `in_channels`; layers of attention; heads.
    features : sequence of int
        Which of :data:`FEATURES` join the tokens.
    activity_scale : float
        Activity that counts as 1.
    """

    def __init__(
        self,
        in_channels: int,
        n_positions: int,
        n_outputs: int,
        n_covariates: int,
        *,
        d_model: int,
        n_layers: int,
        n_heads: int,
        features: Sequence[int],
        activity_scale: float,
    ) -> None:
        super().__init__()
        self.features = list(features)
        self.activity_scale = activity_scale
        self.summary = nn.Linear(n_positions, d_model // in_channels)
        self.fusion = nn.Sequential(
            nn.Linear(d_model + len(self.features), d_model),
            nn.ReLU(),
            nn.Linear(d_model, d_model),
            nn.ReLU(),
        )
        self.layers = nn.ModuleList(StarAttention(d_model, n_heads) for _ in range(n_layers))
        self.network = nn.Sequential(
            nn.Linear(d_model + n_covariates, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, n_outputs),
        )

    def tokens(self, encoded: Tensor, features: Tensor) -> Tensor:
        """Make tokens ``(B, T, D)`` of ``(B, T, C, P)`` and of raw features ``(B, T, 3)``."""
        h = F.elu(self.summary(encoded)).flatten(2)
        distance, activity, contact = features.unbind(2)
        scaled = [distance / 1000, activity / self.activity_scale, torch.log10(1 + contact)]
        joining = [scaled[feature].unsqueeze(2) for feature in self.features]
        return cast(Tensor, self.fusion(torch.cat([h, *joining], dim=2)))

    def forward(
        self, encoded: Tensor, features: Tensor, present: Tensor, covariates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read the promoter's token.

        Parameters
        ----------
        encoded : Tensor of shape (B, T, C, P)
            Encoded frames.
        features : Tensor of shape (B, T, 3)
            Distance in base pairs, activity, contact.
        present : Tensor of shape (B, T), bool
            Which tokens there are.
        covariates : Tensor of shape (B, n_covariates)
            Standardised covariates.

        Returns
        -------
        predicted : Tensor of shape (B, n_outputs)
            In units of the standardised target.
        attention : Tensor of shape (B, T)
            That of the promoter in the last layer, mean over the heads.
        """
        h, allowed = self.tokens(encoded, features), star(present)
        attention = h.new_zeros(allowed.shape)
        for layer in self.layers:
            h, attention = layer(h, allowed)
        return self.network(torch.cat([h[:, 0], covariates], dim=1)), attention[:, 0]


class EPInformerModel(WindowModel):
    """Encoder and reader.

    Parameters
    ----------
    n_outputs, n_covariates : int
        Numbers of targets and of covariates.
    frame_length : int
        Width of a frame in base pairs, at least :data:`LEAST_FRAME`.
    n_filters, d_model, n_layers, n_heads, features, activity_scale
        As in :class:`FrameEncoder` and :class:`ElementReader`.

    Notes
    -----
    With the published sizes and 9 covariates the network has 447,149 parameters before features
    of elements join, which is the number in print, and 64 more for each of them: 447,341 with
    all three. Convolutions have biases, those but the first and the residual ones are
    normalised, the networks in the attention layers are four tokens wide.

    Only frames that there are pass the encoder. Where the published network encodes empty ones
    as well, its batch normalisation sees them in training; here it sees sequence alone.
    """

    def __init__(
        self,
        n_outputs: int,
        n_covariates: int,
        *,
        frame_length: int = 2000,
        n_filters: int = 256,
        d_model: int = 64,
        n_layers: int = 3,
        n_heads: int = 4,
        features: Sequence[int] = (0, 1, 2),
        activity_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = FrameEncoder(n_filters)
        self.reader = ElementReader(
            self.encoder.out_channels,
            FrameEncoder.n_positions(frame_length),
            n_outputs,
            n_covariates,
            d_model=d_model,
            n_layers=n_layers,
            n_heads=n_heads,
            features=features,
            activity_scale=activity_scale,
        )

    def read(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Tensor:
        """Predict ``(B, n_outputs)``; of the windows themselves nothing is read."""
        return self.attend(covariates, extras["frames"], extras["features"], extras["present"])[0]

    def attend(
        self, covariates: Tensor, frames: Tensor, features: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict, and tell how much the promoter attends to each token.

        Parameters
        ----------
        covariates : Tensor of shape (B, n_covariates)
            Standardised covariates.
        frames : Tensor of shape (B, T, 4, F)
            One-hot sequences; the promoter's comes first.
        features : Tensor of shape (B, T, 3)
            Distance in base pairs, activity, contact.
        present : Tensor of shape (B, T), bool
            Which of the frames count.

        Returns
        -------
        predicted : Tensor of shape (B, n_outputs)
            In units of the standardised target.
        attention : Tensor of shape (B, T)
            As :class:`ElementReader` gives it.
        """
        encoded = self._encode(frames, present)
        with torch.autocast(device_type=frames.device.type, enabled=False):
            if self.training:
                return cast(
                    "tuple[Tensor, Tensor]", self.reader(encoded, features, present, covariates)
                )
            # In double precision the order of sums is lost in rounding; see predictor.in_double.
            weights = {name: value.double() for name, value in self.reader.named_parameters()}
            inputs = (encoded.double(), features.double(), present, covariates.double())
            predicted, attention = functional_call(self.reader, weights, inputs)
            return predicted.to(features.dtype), attention.to(features.dtype)

    def _encode(self, frames: Tensor, present: Tensor) -> Tensor:
        """Encode those frames that there are, ``(B, T, C, P)``, float32; zero elsewhere."""
        given = frames[present]
        if self.training:
            encoded = self.encoder(given)
        else:
            padding = -len(given) % _CHUNK
            chunks = F.pad(given, (0, 0, 0, 0, 0, padding)).split(_CHUNK)
            encoded = torch.cat([self.encoder(chunk) for chunk in chunks])[: len(given)]
        placed = encoded.new_zeros((*present.shape, *encoded.shape[1:]))
        placed[present] = encoded
        return placed.float()
