"""Enformer on the window, read around the TSS.

Symbols
-------
``L``
    Length of the window in bases.
``p``, ``n``
    Bases of a token, ``2 ** n_downsamples``, and number of tokens, ``ceil(L / p)``.
``d``
    Width of the transformer.

Avsec et al. (2021): stem and tower with attention pooling, transformer blocks with relative
positions, a crop to the tokens of interest, and a pointwise convolution to ``2 d`` channels. The
parts are those of :mod:`regmask_sk.backbones`; here is how they are put together. As in Su et
al. (2025), the mean over the cropped tokens and the covariates go through a network of two
hidden layers, in place of the heads for 5,313 tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk._base import WindowArray
from regmask_sk._model import among, channel_roles
from regmask_sk.backbones._trunk import ConvBlock, FastGELU, Trunk, head_width, tower_widths
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.baselines._rival import RivalRegressor
from regmask_sk.baselines.backbone import BackboneModel, CenterReadout, center_tokens

_HEAD_WIDTH = 128  # of the network that reads the mean over tokens, as in Su et al. (2025)
_WIDTH_STEPS = 12  # the published widths are multiples of 128, a twelfth of the transformer's
_POINTWISE_PART = 1 / 8  # dropout of the pointwise convolution, as a part of the blocks'


class EnformerTrunk(Trunk):
    """Enformer from the window to its last, pointwise layer.

    Parameters
    ----------
    in_channels : int
        Channels of the window.
    d_model, n_layers, n_heads, key_width, n_downsamples, dropout, checkpointing
        As in :class:`EnformerRegressor`.
    tokens : slice, optional
        Tokens that are left after the transformer, by default all.

    Attributes
    ----------
    out_channels : int
        Twice `d_model`.
    resolution : int
        Base pairs of a token, ``2 ** n_downsamples``.

    Examples
    --------
    >>> import torch
    >>> trunk = EnformerTrunk(
    ...     4, d_model=24, n_layers=1, n_heads=2, key_width=8, n_downsamples=3, dropout=0.0
    ... )
    >>> trunk(torch.zeros(2, 4, 100)).shape
    torch.Size([2, 48, 13])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        d_model: int,
        n_layers: int,
        n_heads: int,
        key_width: int,
        n_downsamples: int,
        dropout: float,
        tokens: slice = slice(None),
        checkpointing: bool = False,
    ) -> None:
        step = d_model // _WIDTH_STEPS if d_model % _WIDTH_STEPS == 0 else 1
        super().__init__(
            in_channels,
            widths=tower_widths(d_model, n_downsamples, step),
            n_layers=n_layers,
            n_heads=n_heads,
            key_width=key_width,
            value_width=head_width(d_model, n_heads),
            dropout=dropout,
            checkpointing=checkpointing,
        )
        self.out_channels = 2 * d_model
        self.resolution = 2**n_downsamples
        self.tokens = tokens
        self.pointwise = nn.Sequential(
            ConvBlock(d_model, 2 * d_model, 1),
            nn.Dropout(_POINTWISE_PART * dropout),
            FastGELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, L)`` to ``(batch, 2 d, T)``, `T` tokens after the crop."""
        missing = -x.shape[2] % self.resolution
        h = self.run(self.stem, F.pad(x, (missing // 2, missing - missing // 2)))
        for down in self.tower:
            h = self.run(down, h)
        return cast(Tensor, self.pointwise(self.attend(h)[..., self.tokens]))


class EnformerRegressor(RivalRegressor):
    """Predict expression with Enformer: convolutional tower, attention pooling, transformer.

    The defaults are a reduced size that trains on a CPU, a sixteenth as wide. All channels of the
    window, tracks too, enter the stem. A window whose length is no multiple of
    ``2 ** n_downsamples`` is padded with zeros, which stand for unknown bases, on both sides.

    Parameters
    ----------
    center_length : int or None, default=2000
        Base pairs around the TSS whose tokens are averaged for the prediction; None stands for
        the whole window.
    d_model : int, default=96
        Width of the transformer. The tower widens from half of it, in steps of a twelfth of it
        where that is whole, as published.
    n_layers : int, default=2
        Number of transformer blocks.
    n_heads : int, default=4
        Number of heads. The values of a head, and its position features, have the width
        ``d_model / n_heads``, rounded up to a multiple of 6.
    key_width : int, default=8
        Width of a head's queries and keys.
    n_downsamples : int, default=7
        How often the tower halves the length, 2 or more; a token stands for
        ``2 ** n_downsamples`` base pairs, at most twice the window.
    dropout : float, default=0.1
        Dropout probability of what a transformer block adds; of attention weights, position
        features and the pointwise layer an eighth, a fortieth and an eighth of it, as published.
    checkpointing : bool, default=False
        Whether the backward pass computes each level of the tower and each transformer block
        anew, in place of keeping its intermediate results: less memory, for one more forward
        pass.
    learning_rate : float, default=0.001
        Highest learning rate.
    covariates, reverse_complement, loss, max_epochs, patience, batch_size, weight_decay, \
            gradient_clip, ema_decay, validation_chroms, validation_fraction, warm_start, \
            n_workers, device, amp, accelerate, random_state, verbose
        As in ``RegMaskRegressor``.

    Attributes
    ----------
    net_ : WindowNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, seconds``.
    channel_names_in_, n_features_in_, target_mean_, target_scale_, covariate_mean_, \
            covariate_scale_, device_
        As in ``RegMaskRegressor``.

    Notes
    -----
    The published size, on windows of 196,608 bp of which the central 896 tokens are read::

        EnformerRegressor(d_model=1536, n_layers=11, n_heads=8, key_width=64, n_downsamples=7,
                          dropout=0.4, center_length=114_688)

    Su et al. (2025) trained this from random weights with a learning rate of 7e-6 in batches of
    4; most of the 896 tokens that are averaged then lie far from the TSS. No pretrained weights
    are loaded here either.

    Half-lives and means of the position features scale with the number of tokens, as published:
    a fitted model reads windows of one length.

    References
    ----------
    Avsec et al., "Effective gene expression prediction from sequence by integrating long-range
    interactions", Nature Methods 18 (2021).
    Su et al., ICLR 2025: its use as a baseline.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import EnformerRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> model = EnformerRegressor(d_model=24, n_downsamples=3, max_epochs=2, random_state=0)
    >>> model.fit(X, X[:, 0, :8].sum(axis=1)).predict(X).shape
    (40,)
    """

    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "d_model", "n_layers", "n_heads", "key_width", "n_downsamples",
    )  # fmt: skip

    def __init__(
        self,
        *,
        center_length: int | None = 2000,
        d_model: int = 96,
        n_layers: int = 2,
        n_heads: int = 4,
        key_width: int = 8,
        n_downsamples: int = 7,
        dropout: float = 0.1,
        checkpointing: bool = False,
        covariates: Sequence[str] = (),
        reverse_complement: Literal["none", "augment", "ph", "ps"] = "none",
        loss: Literal["squared_error", "huber"] = "squared_error",
        max_epochs: int = 30,
        patience: int = 15,
        batch_size: int | Literal["auto"] = 32,
        learning_rate: float = 0.001,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        ema_decay: float = 0.994,
        validation_chroms: Sequence[str] | None = None,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        n_workers: int = 0,
        device: str = "auto",
        amp: bool | Literal["auto"] = "auto",
        accelerate: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            covariates=covariates,
            reverse_complement=reverse_complement,
            loss=loss,
            max_epochs=max_epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
            validation_chroms=validation_chroms,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            n_workers=n_workers,
            device=device,
            amp=amp,
            accelerate=accelerate,
            random_state=random_state,
            verbose=verbose,
        )
        self.center_length = center_length
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.key_width = key_width
        self.n_downsamples = n_downsamples
        self.dropout = dropout
        self.checkpointing = checkpointing

    def _note_windows(self, X: WindowArray) -> None:
        grain, length = 2**self.n_downsamples, self.n_features_in_
        if grain > 2 * length:
            raise ValueError(
                f"n_downsamples={self.n_downsamples} makes tokens of {grain} bp, but X has windows "
                f"of {length} bp ({length} feature(s)): most of a token would be padding. Lower "
                "n_downsamples, or lengthen the windows."
            )

    def _make_module(self, n_outputs: int) -> BackboneModel:
        grain = 2**self.n_downsamples
        padded = -(-self.n_features_in_ // grain) * grain
        read = channel_roles(self.channel_names_in_, self.n_channels_in_).read
        trunk = EnformerTrunk(
            len(read),
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            key_width=self.key_width,
            n_downsamples=self.n_downsamples,
            dropout=self.dropout,
            tokens=center_tokens(padded, grain, self.center_length),
            checkpointing=self.checkpointing,
        )
        readout = CenterReadout(
            trunk.out_channels,
            n_outputs,
            len(self.covariate_mean_),
            tokens=slice(None),
            dropout=self.dropout,
            width=_HEAD_WIDTH,
        )
        complement = self._channel_complement
        body: nn.Module = trunk
        # A mean over tokens does not ask for their order: the strands' need not be the same.
        if self.reverse_complement == "ps" and complement is not None:
            body = SharedStrands(trunk, among(complement, read))
        conjoined = complement if self.reverse_complement == "ph" else None
        return BackboneModel(body, readout, read, conjoined=conjoined)
