"""What the rivals that are networks share: how they are trained, and read back.

A new rival is one file: a :class:`WindowModel`, and a :class:`RivalRegressor` whose
``_make_module`` builds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from regmask_sk._base import WindowArray
from regmask_sk._net import WindowNet
from regmask_sk._network import NetworkRegressor
from regmask_sk._objectives import Outcome
from regmask_sk._plan import Settings, Stage
from regmask_sk._reading import explaining
from regmask_sk.ops.strands import reverse_complement


class WindowModel(nn.Module):
    """A network that predicts outputs from windows; a rival says how in :meth:`read`.

    Parameters
    ----------
    conjoined : tuple of int, optional
        For each channel of the window the channel of the opposite strand. If given, a model in
        evaluation averages its predictions of the two strands (post-hoc conjoining, Schiff et
        al., 2024).
    """

    complement: Tensor

    def __init__(self, *, conjoined: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.conjoined = conjoined is not None
        self.register_buffer("complement", torch.tensor(conjoined or ()).long(), persistent=False)

    def read(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Tensor:
        """Predict from windows as they are; see :meth:`forward`."""
        raise NotImplementedError

    def forward(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Tensor:
        """Predict.

        Parameters
        ----------
        x : Tensor of shape (batch, channel, length)
            Windows.
        covariates : Tensor of shape (batch, n_covariates)
            Standardised covariates.
        **extras : Tensor
            What else the rival's datasets give, one entry a window. Those of a conjoined model
            run along the window on every axis but the first, and turn with it.

        Returns
        -------
        Tensor of shape (batch, n_outputs)
            In units of the standardised target.
        """
        predicted = self.read(x, covariates, **extras)
        if not self.conjoined or self.training:
            return predicted
        opposite = {k: v.flip(tuple(range(1, v.ndim))) for k, v in extras.items()}
        turned = reverse_complement(x, self.complement)
        return 0.5 * (predicted + self.read(turned, covariates, **opposite))

    def objective(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Outcome:
        """Give what training minimises: by default the regression loss of the prediction."""
        predicted = self(x, covariates, **extras)
        return Outcome([predicted], None, predicted.new_zeros(()), predicted.new_ones(()))


class RegressionNet(WindowNet):
    """The skorch net that trains a :class:`WindowModel` in one stage."""

    def training_outcome(self, inputs: dict[str, Tensor]) -> Outcome:
        """Forward pass in training."""
        outcome: Outcome = self.module_.objective(**inputs)
        return outcome

    def validation_outcome(self, module: nn.Module, inputs: dict[str, Tensor]) -> Outcome:
        """Forward pass by which epochs are compared: that of prediction."""
        predicted = module(**inputs)
        return Outcome([predicted], None, predicted.new_zeros(()), predicted.new_ones(()))

    @explaining
    @torch.no_grad()
    def predict_batches(self, dataset: Any) -> Iterator[Tensor]:
        """Predictions of the rows of a dataset, ``(batch, n_outputs)``, in order."""
        module = self.ready_module.eval()
        for inputs, n_rows in self.filled_batches(dataset):
            with self.autocast():
                predicted = module(**inputs)
            yield predicted[:n_rows].float().cpu()


class RivalRegressor(NetworkRegressor):
    """Base of the rivals that are networks.

    A rival sets the parameters that :class:`~regmask_sk._network.NetworkRegressor` names, under
    the same names and with the same meaning as in ``RegMaskRegressor``, and those of its own.
    """

    net_: RegressionNet

    def __init__(
        self,
        *,
        covariates: Sequence[str],
        reverse_complement: Literal["none", "augment", "ph", "ps"],
        loss: Literal["squared_error", "huber"],
        max_epochs: int,
        patience: int,
        batch_size: int | Literal["auto"],
        learning_rate: float,
        weight_decay: float,
        gradient_clip: float,
        ema_decay: float,
        validation_chroms: Sequence[str] | None,
        validation_fraction: float,
        warm_start: bool,
        n_workers: int,
        device: str,
        amp: bool | Literal["auto"],
        accelerate: bool,
        random_state: int | np.random.RandomState | None,
        verbose: int,
    ) -> None:
        self.covariates = covariates
        self.reverse_complement = reverse_complement
        self.loss = loss
        self.max_epochs = max_epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay
        self.validation_chroms = validation_chroms
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.n_workers = n_workers
        self.device = device
        self.amp = amp
        self.accelerate = accelerate
        self.random_state = random_state
        self.verbose = verbose

    def _make_module(self, n_outputs: int) -> WindowModel:
        """Build the network for the shapes that X has."""
        raise NotImplementedError

    def _make_net(
        self, module: nn.Module, settings: dict[str, Any], plan: tuple[Stage, ...] | None
    ) -> RegressionNet:
        stages = (Stage("regression", self.max_epochs),) if plan is None else plan
        return RegressionNet(
            cast(WindowModel, module),
            settings=Settings(**settings, stages=stages),
            batch_size=self.batch_size_,
            n_workers=self.n_workers,
            device=self.device_,
        )

    def _read_predictions(self, X: WindowArray) -> Iterator[Tensor]:
        return self.net_.predict_batches(self._dataset(X))
