"""Prism: a short window whose signals are read under several background states.

Symbols
-------
``d``, ``T``
    Width of the body, and number of tokens.
``s``, ``e``
    Embedded sequence and embedded signals, ``(batch, d, T)``.
``n``, ``a_k``
    Number of background states, and weights of state ``k``, in (0, 1), ``(batch, d)``.
``f``
    Body, mean over the tokens around the TSS, and a network of two hidden layers.
``t``
    Width of the uniform term's kernel, 2.

Yang et al. (2026): signals mark elements that act, and a background of chromatin that does not.
A small network gives each window ``n`` weightings of its signals, the background states, and the
back-door adjustment averages over them, each as likely: with the prediction ``f(s + e)`` and the
intervened one, the mean over ``k`` of ``f(s + a_k e)``, training minimises

    loss(prediction) + loss(intervened prediction) + mean over windows of
    log sum over j, k of exp(2 t a_j . a_k / (|a_j| |a_k|) - 2 t)

The last term (Wang & Isola, 2020) keeps the states apart. The fitted model predicts
``f(s + e)``: the states shape its training alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk._base import WindowArray
from regmask_sk._model import ChannelRoles, among, channel_roles, check_symmetry, token_length
from regmask_sk._objectives import Outcome
from regmask_sk.backbones.caduceus import CaduceusBackbone
from regmask_sk.backbones.conv import TokenNorm
from regmask_sk.backbones.embedding import TokenEmbedding
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.baselines._rival import RivalRegressor
from regmask_sk.baselines.backbone import BackboneModel, CenterReadout, center_tokens

_STATE_CHANNELS, _STATE_TAPS = (8, 16, 32), (7, 5, 3)  # of the network that gives the states
_STATE_POOL = 4  # bases, then stretches of 4, then of 16
_KERNEL_T = 2.0


def uniform_penalty(weights: Tensor, t: float = _KERNEL_T) -> Tensor:
    """How near each other the states of a window lie on the unit sphere.

    Parameters
    ----------
    weights : Tensor of shape (batch, n, d)
        Weights of the states; only their directions count.
    t : float, default=2.0
        Width of the kernel ``exp(-t |a_j - a_k| ** 2)``.

    Returns
    -------
    Tensor of shape ()
        Mean over windows of the logarithm of the kernel's sum over all pairs of states, a state
        with itself among them: about ``log(n)`` where all are far apart, ``2 log(n)`` where
        they are the same.

    References
    ----------
    Wang and Isola, "Understanding contrastive representation learning through alignment and
    uniformity on the hypersphere", ICML 2020.

    Examples
    --------
    >>> import torch
    >>> same = torch.ones(1, 2, 3)
    >>> apart = torch.eye(3)[None, :2]
    >>> uniform_penalty(same), uniform_penalty(apart)
    (tensor(1.3863), tensor(0.7113))
    """
    direction = F.normalize(weights, dim=2)
    cosine = direction @ direction.transpose(1, 2)
    return torch.logsumexp(2 * t * cosine - 2 * t, dim=(1, 2)).mean()


class BackgroundStates(nn.Module):
    """Weights of the embedded signals' channels in each background state, from the signals.

    Three convolutions, each with batch norm, ReLU and pooling, the mean over the window, and a
    linear map.

    Parameters
    ----------
    n_signals, d_model, n_states : int
        Numbers of tracks, of channels of their embedding, and of states.

    Examples
    --------
    >>> import torch
    >>> BackgroundStates(3, 8, 2)(torch.zeros(5, 3, 100)).shape
    torch.Size([5, 2, 8])
    """

    def __init__(self, n_signals: int, d_model: int, n_states: int) -> None:
        super().__init__()
        self.shape = (n_states, d_model)
        channels = pairwise((n_signals, *_STATE_CHANNELS))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(narrow, wide, taps, padding=taps // 2), TokenNorm(wide), nn.ReLU()
            )
            for (narrow, wide), taps in zip(channels, _STATE_TAPS, strict=True)
        )
        self.project = nn.Linear(_STATE_CHANNELS[-1], n_states * d_model)

    def forward(self, signals: Tensor) -> Tensor:
        """Map ``(batch, n_signals, length)`` to ``(batch, n_states, d_model)`` in (0, 1)."""
        h = signals
        for block in self.blocks:
            h = block(h)
            # What a whole pool does not fill is left out, but where there is nothing else.
            h = F.max_pool1d(h, _STATE_POOL, ceil_mode=h.shape[2] < _STATE_POOL)
        return torch.sigmoid(self.project(h.mean(dim=2))).unflatten(1, self.shape)


class SignalBody(nn.Module):
    """Caduceus on the sum of embedded sequence and embedded, weighted signals.

    Parameters
    ----------
    n_sequence, n_signals : int
        Channels of the sequence, 0 or more, which come first, and of the signals.
    d_model, n_layers, dropout, resolution, checkpointing
        As in :class:`regmask_sk.backbones.CaduceusBackbone`.

    Attributes
    ----------
    out_channels, resolution : int
        Those of the body.
    """

    def __init__(
        self,
        n_sequence: int,
        n_signals: int,
        *,
        d_model: int,
        n_layers: int,
        dropout: float,
        resolution: int,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.n_sequence = n_sequence
        self.out_channels = d_model
        self.resolution = resolution
        self.signal_embedding = TokenEmbedding(n_signals, d_model, resolution)
        self.sequence_embedding = (
            TokenEmbedding(n_sequence, d_model, resolution) if n_sequence else None
        )
        self.body = CaduceusBackbone(
            d_model,
            d_model=d_model,
            n_layers=n_layers,
            dropout=dropout,
            checkpointing=checkpointing,
            embedded=True,
        )

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Read windows once for each of `m` weightings of their signals.

        Parameters
        ----------
        x : Tensor of shape (batch, n_sequence + n_signals, length)
            Windows.
        weights : Tensor of shape (batch, m, d_model), optional
            Weightings; by default one of ones.

        Returns
        -------
        Tensor of shape (batch * m, d_model, T)
            The readings of a window lie next to each other.
        """
        h = self.signal_embedding(x[:, self.n_sequence :]).unsqueeze(1)
        if weights is not None:
            h = weights.unsqueeze(3) * h
        if self.sequence_embedding is not None:
            h = h + self.sequence_embedding(x[:, : self.n_sequence]).unsqueeze(1)
        return cast(Tensor, self.body(h.flatten(0, 1)))


class PrismModel(BackboneModel):
    """Body, readout and background states.

    Parameters
    ----------
    backbone : SignalBody or SharedStrands
        The body.
    readout : CenterReadout
        From tokens to outputs.
    roles : ChannelRoles
        Which channels of a window are sequence, and which are signals.
    states : BackgroundStates or None
        The states; None trains the prediction alone.
    intervention_weight, uniform_weight : float
        Weights of the second and of the third term of the loss.
    conjoined : tuple of int, optional
        As in ``BackboneModel``.
    """

    readout: CenterReadout

    def __init__(
        self,
        backbone: SignalBody | SharedStrands,
        readout: CenterReadout,
        roles: ChannelRoles,
        states: BackgroundStates | None,
        *,
        intervention_weight: float,
        uniform_weight: float,
        conjoined: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(backbone, readout, roles.read, conjoined=conjoined)
        self.n_sequence = len(roles.sequence)
        self.states = states
        self.intervention_weight = intervention_weight
        self.uniform_weight = uniform_weight

    def objective(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Outcome:
        """Losses of the prediction and of the intervened one, and the uniform term."""
        if self.states is None:
            return super().objective(x, covariates, **extras)
        read = x[:, self.body_index]
        states = self.states(read[:, self.n_sequence :]).float()
        weights = torch.cat([torch.ones_like(states[:, :1]), states], dim=1)
        h = self.backbone(read, weights).float()
        known = covariates.repeat_interleave(weights.shape[1], dim=0)
        with torch.autocast(device_type=x.device.type, enabled=False):
            each = self.readout(h, known, exact=False).unflatten(0, (len(x), -1))
            penalty = self.uniform_weight * uniform_penalty(states)
        predictions = [each[:, 0], each[:, 1:].mean(dim=1)]
        loss_weights = (1.0, self.intervention_weight)
        return Outcome(predictions, None, penalty, penalty.new_ones(()), loss_weights)


class PrismRegressor(RivalRegressor):
    """Predict expression from sequence and signals near the TSS, as Prism does.

    Made for short windows: with 2 kb it beats in print the models that read 200 kb. The
    signals are embedded apart from the sequence; the training also averages predictions over
    learned weightings of that embedding, the background states.

    Parameters
    ----------
    n_states : int, default=2
        Number of background states; with 0 the prediction alone is trained.
    intervention_weight : float, default=1.0
        Weight of the loss of the prediction that is averaged over the states.
    uniform_weight : float, default=1.0
        Weight of the term that keeps the states apart.
    center_length : int or None, default=2000
        Base pairs around the TSS whose tokens are averaged for the prediction; None stands for
        the whole window.
    resolution : int, default=16
        Base pairs that a token of the body stands for; 1 as published.
    d_model, n_layers, dropout, checkpointing
        As in ``RegMaskRegressor``, for the body, which is Caduceus.
    covariates, reverse_complement, loss, max_epochs, patience, batch_size, learning_rate, \
            weight_decay, gradient_clip, ema_decay, validation_chroms, validation_fraction, \
            warm_start, n_workers, device, amp, accelerate, random_state, verbose
        As in ``RegMaskRegressor``.

    Attributes
    ----------
    net_ : WindowNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, seconds``. ``train_loss`` is
        the sum of the three terms, ``valid_loss`` the loss of the prediction alone.
    channel_names_in_, n_features_in_, target_mean_, target_scale_, covariate_mean_, \
            covariate_scale_, device_, scan_backend_, n_processes_
        As in ``RegMaskRegressor``.

    Notes
    -----
    X must have signals: all channels of windows but A, C, G and T, or all channels of an array.
    Windows of sequence alone are refused with a ``ValueError``.

    The published size, on windows of 2,000 bp::

        PrismRegressor(resolution=1, d_model=128, n_layers=4, dropout=0.0, loss="huber",
                       batch_size=8)

    Where the formulas of the paper and the released code differ, the formulas are followed: the
    code averages the body's output over the states and reads it once, the formula, and this
    class, average predictions. The sum in the uniform term has a state with itself among its
    pairs, as in the code: these are constants, which keep the term finite with one state.

    References
    ----------
    Yang et al., "Extending sequence length is not all you need: effective integration of
    multimodal signals for gene expression prediction", ICLR 2026.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import PrismRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> model = PrismRegressor(d_model=8, n_layers=1, max_epochs=2, random_state=0)
    >>> model.fit(X, X[:, 0, :8].sum(axis=1)).predict(X).shape
    (40,)
    """

    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "n_states", "resolution", "d_model", "n_layers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        n_states: int = 2,
        intervention_weight: float = 1.0,
        uniform_weight: float = 1.0,
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
        self.n_states = n_states
        self.intervention_weight = intervention_weight
        self.uniform_weight = uniform_weight
        self.center_length = center_length
        self.resolution = resolution
        self.d_model = d_model
        self.n_layers = n_layers
        self.dropout = dropout
        self.checkpointing = checkpointing

    def _roles(self) -> ChannelRoles:
        roles = channel_roles(self.channel_names_in_, self.n_channels_in_)
        return roles if self.channel_names_in_ else ChannelRoles((), roles.read)

    def _note_windows(self, X: WindowArray) -> None:
        if not self._roles().signals:
            raise ValueError(
                f"PrismRegressor reads signals, but X has only the channels "
                f"{list(self.channel_names_in_ or ())}. Add tracks with SignalChannels, or take "
                "BackboneRegressor(backbone='caduceus', readout='center') for sequence alone."
            )

    def _make_module(self, n_outputs: int) -> PrismModel:
        length, complement, roles = self.n_features_in_, self._channel_complement, self._roles()
        grain = token_length(length, self.resolution)
        if complement is not None and self.reverse_complement in ("ph", "ps"):
            check_symmetry(length, grain, (0, 0), self.reverse_complement)
        body: SignalBody | SharedStrands = SignalBody(
            len(roles.sequence),
            len(roles.signals),
            d_model=self.d_model,
            n_layers=self.n_layers,
            dropout=self.dropout,
            resolution=grain,
            checkpointing=self.checkpointing,
        )
        if self.reverse_complement == "ps" and complement is not None:
            body = SharedStrands(body, among(complement, roles.read))
        readout = CenterReadout(
            self.d_model,
            n_outputs,
            len(self.covariate_mean_),
            tokens=center_tokens(length, grain, self.center_length),
            dropout=self.dropout,
        )
        states = None
        if self.n_states:
            states = BackgroundStates(len(roles.signals), self.d_model, self.n_states)
        return PrismModel(
            body,
            readout,
            roles,
            states,
            intervention_weight=self.intervention_weight,
            uniform_weight=self.uniform_weight,
            conjoined=complement if self.reverse_complement == "ph" else None,
        )
