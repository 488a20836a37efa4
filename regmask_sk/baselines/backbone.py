"""A body without a mask: HyenaDNA, Mamba, Caduceus and any other backbone as a rival.

The published baselines of Su et al. (2025) are such: a body over the window, the mean of its
output over 2,000 bp around the TSS, a small network (``readout="center"``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from regmask_sk._model import among, channel_roles, check_symmetry, make_body, token_length
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.baselines._rival import RivalRegressor, WindowModel
from regmask_sk.predictor import Readout, in_double


def center_tokens(length: int, resolution: int, center_length: int | None) -> slice:
    """Tokens that hold the base pairs around the TSS, the middle of the window.

    Parameters
    ----------
    length, resolution : int
        Base pairs of the window and of a token.
    center_length : int or None
        Base pairs around the TSS; None stands for the whole window.

    Returns
    -------
    slice
        At least the token or the two tokens at the TSS, at most all.

    Examples
    --------
    >>> center_tokens(196_608, 128, 114_688), center_tokens(4096, 16, None)
    (slice(320, 1216, None), slice(0, 256, None))
    """
    width = length if center_length is None else min(center_length, length)
    reach, middle = max(width / (2 * resolution), 0.5), length / (2 * resolution)
    first, last = math.floor(middle - reach), math.ceil(middle + reach)
    return slice(max(first, 0), min(last, -(-length // resolution)))


class CenterReadout(nn.Module):
    """Mean of the tokens around the TSS, and covariates, through a network of two hidden layers.

    Parameters
    ----------
    in_channels : int
        Channels of the tokens.
    n_outputs, n_covariates : int
        Numbers of targets and of covariates.
    tokens : slice
        The tokens to average.
    dropout : float
        Dropout probability of the hidden layers.
    width : int, optional
        Width of the hidden layers, by default that of the tokens.
    """

    def __init__(
        self,
        in_channels: int,
        n_outputs: int,
        n_covariates: int,
        *,
        tokens: slice,
        dropout: float,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        width = in_channels if width is None else width
        self.network = nn.Sequential(
            nn.Linear(in_channels + n_covariates, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, n_outputs),
        )

    def forward(self, h: Tensor, covariates: Tensor, *, exact: bool) -> Tensor:
        """Map tokens ``(batch, in_channels, T)`` to ``(batch, n_outputs)``."""
        inputs = torch.cat([h[..., self.tokens].mean(dim=2), covariates], dim=1)
        return in_double(self.network, inputs) if exact else cast(Tensor, self.network(inputs))


class BackboneModel(WindowModel):
    """Body and readout.

    Parameters
    ----------
    backbone : nn.Module
        Body, from the window's channels to tokens.
    readout : Readout or CenterReadout
        From tokens to outputs.
    channels : tuple of int
        Indices of the window's channels in the order in which the body reads them.
    conjoined : tuple of int, optional
        As in ``WindowModel``.
    """

    body_index: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        readout: Readout | CenterReadout,
        channels: tuple[int, ...],
        *,
        conjoined: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(conjoined=conjoined)
        self.backbone = backbone
        self.readout = readout
        self.register_buffer("body_index", torch.tensor(channels), persistent=False)

    def read(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Tensor:
        """Predict ``(batch, n_outputs)``, in units of the standardised target."""
        h = self.backbone(x[:, self.body_index]).float()
        exact = not self.training
        with torch.autocast(device_type=x.device.type, enabled=False):
            if isinstance(self.readout, CenterReadout):
                return cast(Tensor, self.readout(h, covariates, exact=exact))
            kept = torch.ones_like(h[:, 0])
            return cast(Tensor, self.readout(h, kept, covariates, exact=exact))


class BackboneRegressor(RivalRegressor):
    """Predict expression from the whole window with one body, without a mask.

    Parameters
    ----------
    backbone : str or type, default="conv"
        Body: a short name of ``regmask_sk.backbones.BACKBONES`` (``"hyena-causal"``, ``"mamba"``
        and ``"caduceus"`` are those of the published baselines), or a class with the same
        interface.
    readout : {"learned", "center"}, default="learned"
        How tokens become a prediction: as in ``RegMaskRegressor``, by a gated sum, means over
        bins of distance to the TSS and attention heads; or by the mean over `center_length`,
        as in the published baselines.
    center_length : int or None, default=2000
        Base pairs around the TSS that ``readout="center"`` averages over; None stands for the
        whole window.
    resolution : int, default=16
        Base pairs that a token of the body stands for.
    d_model, n_layers, dropout, checkpointing
        As in ``RegMaskRegressor``.
    covariates, reverse_complement, loss, max_epochs, patience, batch_size, learning_rate, \
            weight_decay, gradient_clip, ema_decay, validation_chroms, validation_fraction, \
            warm_start, n_workers, device, amp, accelerate, random_state, verbose
        As in ``RegMaskRegressor``.

    Attributes
    ----------
    net_ : WindowNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, seconds``.
    channel_names_in_, n_features_in_, target_mean_, target_scale_, covariate_mean_, \
            covariate_scale_, device_, scan_backend_, n_processes_
        As in ``RegMaskRegressor``.

    References
    ----------
    Nguyen et al., "HyenaDNA", NeurIPS 2023. Gu and Dao, "Mamba", arXiv:2312.00752 (2023).
    Schiff et al., "Caduceus", ICML 2024. Su et al., ICLR 2025: their use on expression.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import BackboneRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> model = BackboneRegressor(resolution=8, max_epochs=2, random_state=0)
    >>> model.fit(X, X[:, 0, :8].sum(axis=1)).predict(X).shape
    (40,)
    """

    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "backbone", "readout", "center_length", "resolution", "d_model", "n_layers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        backbone: str | type[nn.Module] = "conv",
        readout: Literal["learned", "center"] = "learned",
        center_length: int | None = 2000,
        resolution: int = 16,
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        checkpointing: bool = False,
        covariates: Sequence[str] = (),
        reverse_complement: Literal["none", "augment", "ph", "ps"] = "none",
        loss: Literal["squared_error", "huber"] = "squared_error",
        max_epochs: int = 30,
        patience: int = 15,
        batch_size: int | Literal["auto"] = 32,
        learning_rate: float = 0.003,
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
        self.backbone = backbone
        self.readout = readout
        self.center_length = center_length
        self.resolution = resolution
        self.d_model = d_model
        self.n_layers = n_layers
        self.dropout = dropout
        self.checkpointing = checkpointing

    def _make_module(self, n_outputs: int) -> BackboneModel:
        length, complement = self.n_features_in_, self._channel_complement
        read = channel_roles(self.channel_names_in_, self.n_channels_in_).read
        grain = token_length(length, self.resolution)
        if complement is not None and self.reverse_complement in ("ph", "ps"):
            check_symmetry(length, grain, (0, 0), self.reverse_complement)
        body = make_body(
            self.backbone,
            len(read),
            channel_names=self.channel_names_in_,
            length=length,
            d_model=self.d_model,
            n_layers=self.n_layers,
            dropout=self.dropout,
            resolution=grain,
            checkpointing=self.checkpointing,
        )
        shared = self.reverse_complement == "ps"
        if shared and complement is not None:
            body = SharedStrands(body, among(complement, read))
        width, n_covariates = cast(int, body.out_channels), len(self.covariate_mean_)
        readout: Readout | CenterReadout
        if self.readout == "center":
            tokens = center_tokens(length, grain, self.center_length)
            readout = CenterReadout(
                width, n_outputs, n_covariates, tokens=tokens, dropout=self.dropout
            )
        else:
            readout = Readout(
                width,
                n_outputs,
                n_covariates,
                n_tokens=-(-length // grain),
                resolution=grain,
                dropout=min(3 * self.dropout, 0.5),
                both_directions=shared,
            )
        conjoined = complement if self.reverse_complement == "ph" else None
        return BackboneModel(body, readout, read, conjoined=conjoined)
