"""Training of the masked expression model through skorch.

``training="decoupled"`` runs three stages, one after the other:

``predictor``
    The predictor alone learns E[y | what a mask keeps] under *random* masks, which know
    nothing of y. A mask therefore cannot carry a message to it (Jethani et al., 2021).
``generator``
    The generator learns, against that predictor held fixed, to keep the prediction of
    the open window under a budget of bases. The share of open gates is lowered from one
    half to the budget; each batch is held at it by one step, the same for all its gates.
``finetune``
    Both go on together under the generator's masks mixed with random ones, at the budget.

``training="joint"`` runs one stage, the published objective of Su et al. (2025): both
networks together, regression loss plus the divergence of the Beta gates to their prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import torch
from skorch.callbacks import PassthroughScoring
from torch import Tensor, nn
from torch.utils.data import Subset

from regmask_sk import _objectives
from regmask_sk._batches import WindowDataset
from regmask_sk._net import WindowNet
from regmask_sk._objectives import Outcome
from regmask_sk._plan import MaskSettings
from regmask_sk._processes import ALONE
from regmask_sk._reading import explained, explaining
from regmask_sk.masking import MaskedExpressionModel, MaskKind, Room
from regmask_sk.ops.gates import logistic_noise

_CALIBRATION_WINDOWS = 2048  # training windows on which the budget is met, ...
_CALIBRATION_GATES = 2**25  # ... fewer of long ones at a fine grain: 128 MiB of gates
_CALIBRATION_COPIES = 5  # of them: batch by batch, together, shifted, as gates, as shares


def calibration_windows(n_gates: int) -> int:
    """Most windows whose gates are looked at to meet the budget.

    Examples
    --------
    >>> calibration_windows(125), calibration_windows(200_000)
    (2048, 167)
    """
    return max(min(_CALIBRATION_WINDOWS, _CALIBRATION_GATES // n_gates), 1)


def calibration_bytes(n_windows: int, n_gates: int) -> int:
    """Bytes of the gates of a training's windows while the budget is met.

    Examples
    --------
    >>> calibration_bytes(1000, 125)
    2500000
    """
    return _CALIBRATION_COPIES * 4 * n_gates * min(n_windows, calibration_windows(n_gates))


class RegMaskNet(WindowNet):
    """The skorch net: trains a :class:`MaskedExpressionModel` stage by stage.

    Parameters
    ----------
    module : MaskedExpressionModel
        An instance, not a class.
    settings : MaskSettings
        Stages, budget, losses and learning rate.
    batch_size, n_workers : int
        As in ``RegMaskRegressor``.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """

    parts: ClassVar[dict[str, str]] = {"generator": "generator.*", "predictor": "predictor.*"}

    settings: MaskSettings

    def __init__(
        self,
        module: MaskedExpressionModel,
        *,
        settings: MaskSettings,
        batch_size: int,
        n_workers: int,
        device: str,
    ) -> None:
        super().__init__(
            module,
            settings=settings,
            batch_size=batch_size,
            n_workers=n_workers,
            device=device,
            callbacks=[
                ("train_kept", PassthroughScoring("train_kept", on_train=True)),
                ("valid_kept", PassthroughScoring("valid_kept")),
            ],
        )

    # -- the stages ------------------------------------------------------------------

    def enter_stage(self) -> None:
        """Let the stage's networks learn, and no others."""
        trained = self.stage.name
        self.module_.predictor.requires_grad_(trained != "generator")
        self.module_.generator.requires_grad_(trained != "predictor")
        super().enter_stage()

    @property
    def averaged(self) -> bool:
        """Whether the weights are averaged: those that predict."""
        return self.stage.name != "generator"

    @property
    def judged(self) -> bool:
        """Whether epochs are compared.

        The generator's losses are not comparable between epochs, because its budget is
        lowered as it goes: that stage runs to its end.
        """
        return self.stage.name != "generator"

    def begin_stage(self, train: WindowDataset) -> None:
        """Start the generator from the predictor, and fine-tuning at the budget."""
        if self.stage.name == "generator" and not self.goes_on_:
            self.module_.start_generator()
        if self.stage.name == "finetune":
            self.calibrate(train)
            self.enter_stage()  # so that the average starts from the calibrated module

    @property
    def ready_module(self) -> MaskedExpressionModel:
        """The module to predict with: averaged weights in the stages that average."""
        return cast(MaskedExpressionModel, super().ready_module)

    def validation_outcome(self, module: nn.Module, inputs: dict[str, Any]) -> Outcome:
        """Forward pass by which epochs of the current stage are compared."""
        return _objectives.validation_outcome(
            cast(MaskedExpressionModel, module),
            **inputs,
            stage=self.stage.name,
            kind=self.settings.mask,
            budget=self.settings.sparsity,
            processes=self.processes,
        )

    def training_outcome(self, inputs: dict[str, Any]) -> Outcome:
        """Forward pass of the current stage in training."""
        model, settings = self.module_, self.settings
        sampled: dict[str, Any] = {
            "continuity_weight": settings.continuity_weight,
            "continuity": settings.continuity,
            "gate_correlation": settings.gate_correlation,
        }
        name = self.stage.name
        if name == "predictor":
            return _objectives.predictor_outcome(model, **inputs, progress=self.share_done)
        if name == "joint":
            return _objectives.joint_outcome(
                model,
                **inputs,
                kind=settings.mask,
                kl_weight=settings.kl_weight,
                prior_mean=settings.prior_mean,
                prior_concentration=settings.prior_concentration,
                **sampled,
            )
        if name == "finetune":
            return _objectives.finetune_outcome(
                model, **inputs, budget=settings.sparsity, processes=self.processes, **sampled
            )
        budget = _objectives.annealed_budget(
            settings.sparsity, self.share_done, settings.start_share
        )
        return _objectives.generator_outcome(
            model, **inputs, budget=budget, processes=self.processes, **sampled
        )

    def get_loss(
        self, y_pred: Outcome, y_true: tuple[Tensor, Tensor], X: Any = None, training: bool = False
    ) -> Tensor:
        """Loss of the stage; what its masks keep is noted beside it."""
        loss = super().get_loss(y_pred, y_true, X, training)
        n_rows = loss.new_full((), len(y_true[0]))
        kept = self.processes.pooled(y_pred.kept.detach(), n_rows)
        self.history.record_batch("train_kept" if training else "valid_kept", float(kept))
        return loss

    # -- reading the fitted module ---------------------------------------------------

    @torch.no_grad()
    def calibrate(self, train: WindowDataset) -> None:
        """Shift the gates so that the masks keep the budget on the training rows.

        Soft and hard masks get a shift of their own, the same for every gene. Gates of
        joint training are left as they are: there the prior decides what is kept.

        Parameters
        ----------
        train : WindowDataset
            Training rows; an evenly spaced sample of at most 2,048 of them is read, or of as
            many as have 2**25 gates.
        """
        module = self.ready_module.eval()
        if self.stage.name == "joint":
            return
        step = -(-len(train) // calibration_windows(module.n_gates))
        plain = WindowDataset(train.x, train.covariates, forced=train.forced)
        rows, processes = range(0, len(train), step), self.processes
        if len(rows) >= processes.count:
            own = processes.rows(len(rows))
            rows = rows[own.start : own.stop]
        else:
            processes = ALONE  # each reads them all
        sample = Subset(plain, rows)
        parts, rooms = [], []
        with explained(sample, n_workers=self.n_workers):
            for batch in self.batches(sample):
                with self.autocast():
                    parts.append(module.openness(batch["x"]))
                rooms.append(module.room(batch.get("forced")))
        openness = torch.cat(parts)
        known = [room for room in rooms if room is not None]
        room = Room(*map(torch.cat, zip(*known, strict=True))) if known else None
        budget = self.settings.sparsity
        for owner in {id(m): m for m in (module, self.module_)}.values():
            owner.soft_shift.fill_(
                _objectives.budget_shift(module, openness, budget, "soft", room, processes)
            )
            owner.hard_shift.fill_(
                _objectives.budget_shift(module, openness, budget, "hard", room, processes)
            )

    @explaining
    @torch.no_grad()
    def predict_batches(self, dataset: WindowDataset, kind: MaskKind) -> Iterator[Tensor]:
        """Predictions of the rows of a dataset, in order, batch by batch.

        A dataset that carries masks is predicted under them.

        Parameters
        ----------
        dataset : WindowDataset
            Rows to predict.
        kind : {"soft", "hard", "topk"}
            How masks are read.

        Yields
        ------
        Tensor of shape (batch, n_outputs), float32
            Predictions.
        """
        module = self.ready_module.eval()
        for inputs, n_rows in self.filled_batches(dataset):
            with self.autocast():
                output = module(**inputs, kind=kind)
            yield output.prediction[:n_rows].float().cpu()

    @explaining
    @torch.no_grad()
    def mask_batches(
        self, dataset: WindowDataset, kind: MaskKind
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Masks of the rows of a dataset, and the standard deviations of their gates.

        Parameters
        ----------
        dataset, kind
            As in :meth:`predict_batches`.

        Yields
        ------
        tuple of Tensor
            ``(batch, length)`` masks, those under which :meth:`predict_batches` predicts, and
            standard deviations, float32.
        """
        module = self.ready_module.eval()
        for inputs, n_rows in self.filled_batches(dataset):
            with self.autocast():
                gates = module.gate_distribution(inputs["x"])
            forced = inputs.get("forced")
            mask = module.expand(module.gates(gates.log_odds, kind, module.room(forced)), forced)
            std = module.mask_std(gates, kind, forced)
            yield mask[:n_rows].float().cpu(), std[:n_rows].float().cpu()

    @explaining
    @torch.no_grad()
    def sample_batches(
        self, dataset: WindowDataset, kind: MaskKind, n_samples: int
    ) -> Iterator[Tensor]:
        """Predictions of the rows of a dataset under masks that are sampled.

        Parameters
        ----------
        dataset, kind
            As in :meth:`predict_batches`.
        n_samples : int
            Masks a row.

        Yields
        ------
        Tensor of shape (batch, n_samples, n_outputs), float32
            Predictions.
        """
        module = self.ready_module.eval()
        correlation = self.settings.gate_correlation / module.mask_resolution
        for inputs in self.batches(dataset):
            x, covariates, forced = inputs["x"], inputs["covariates"], inputs.get("forced")
            predictions, room = [], module.room(forced)
            with self.autocast():
                gates = module.gate_distribution(x)
                for _ in range(n_samples):
                    noise = logistic_noise(gates.log_odds, correlation)
                    mask = module.expand(module.drawn_gates(gates, kind, noise, room), forced)
                    predictions.append(module.predict(x, mask, covariates).float().cpu())
            yield torch.stack(predictions, dim=1)
