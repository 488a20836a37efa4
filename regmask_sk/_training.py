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

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from skorch import NeuralNet
from skorch.callbacks import PassthroughScoring
from skorch.dataset import unpack_data
from skorch.helper import predefined_split
from skorch.utils import to_device
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import Dataset, Subset

from regmask_sk import _objectives
from regmask_sk._batches import Batch, WindowDataset
from regmask_sk._objectives import Outcome
from regmask_sk._plan import SCHEDULES, Settings, Stage, learning_rate_factor, moving_average
from regmask_sk.losses import regression_loss
from regmask_sk.masking import MaskedExpressionModel, MaskKind, Room
from regmask_sk.ops.gates import logistic_noise

_LEARNED = 0.98  # of the constant prediction's loss: below it a stage has begun to learn
_CALIBRATION_WINDOWS = 2048  # training windows on which the budget is met, ...
_CALIBRATION_GATES = 2**25  # ... fewer of long ones at a fine grain: 128 MiB of gates
# Kernels sum in an order that depends on the number of rows. Batches of fewer bases than
# this are filled up to batch_size rows, so that a window's prediction is the same to the
# last bit whatever other windows are predicted with it.
_FILL_UP_BASES = 262_144
# How fast a state fades and what passes it by are no weights to be kept small (Gu & Dao, 2023).
_PARAMETERS: tuple[tuple[str, dict[str, float]], ...] = (
    (".A_log", {"weight_decay": 0.0}),
    (".D", {"weight_decay": 0.0}),
    ("", {}),
)


@dataclass
class _Progress:
    """What a stage has reached: all that changes between its steps but the weights."""

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_state: dict[str, Tensor] | None = None
    epochs_without_gain: int = 0
    average: AveragedModel | None = None


def _as_it_is(batch: Batch) -> Batch:
    return batch


class RegMaskNet(NeuralNet):
    """The skorch net: trains a :class:`MaskedExpressionModel` stage by stage.

    Parameters
    ----------
    module : MaskedExpressionModel
        An instance, not a class.
    settings : Settings
        Stages, budget, losses and learning rate.
    batch_size, n_workers : int
        As in ``RegMaskRegressor``.
    device : str
        ``"cpu"`` or ``"cuda"``.
    """

    progress_: _Progress

    def __init__(
        self,
        module: MaskedExpressionModel,
        *,
        settings: Settings,
        batch_size: int,
        n_workers: int,
        device: str,
    ) -> None:
        self.settings = settings
        self.n_workers = n_workers
        super().__init__(
            module,
            criterion=nn.MSELoss,  # never called: get_loss is overridden
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=settings.weight_decay,
            optimizer__param_groups=[
                (f"{part}.*{name}", {"part": part, **options})
                for part in ("generator", "predictor")
                for name, options in _PARAMETERS
            ],
            lr=settings.learning_rate,
            batch_size=batch_size,
            iterator_train__shuffle=True,
            iterator_train__collate_fn=_as_it_is,
            iterator_valid__collate_fn=_as_it_is,
            iterator_train__num_workers=n_workers,
            iterator_valid__num_workers=n_workers,
            train_split=None,
            callbacks=[
                ("train_kept", PassthroughScoring("train_kept", on_train=True)),
                ("valid_kept", PassthroughScoring("valid_kept")),
            ],
            callbacks__print_log=None,
            device=device,
            verbose=0,
        )

    # -- the plan of stages --------------------------------------------------------

    def start(self) -> None:
        """Begin the plan of stages from the weights that the module has now."""
        if not self.initialized_:
            self.initialize()
            self.goes_on_ = False
        self.stage_index_ = 0
        self._enter_stage()

    def restore(self, tensors: dict[str, Tensor], history: list[dict[str, Any]]) -> None:
        """Take the state of a finished net.

        Parameters
        ----------
        tensors : dict of str to Tensor
            State of the module.
        history : list of dict
            Rows of the history.
        """
        self.take_over(tensors, history)
        self.start()
        self.progress_.average = None
        self.stage_index_ = len(self.settings.stages)

    def take_over(self, tensors: dict[str, Tensor], history: list[dict[str, Any]]) -> None:
        """Take the weights and the history of another net, before any training.

        Parameters
        ----------
        tensors, history
            As in :meth:`restore`.

        Raises
        ------
        RuntimeError
            If the tensors are not those of the module.
        """
        self.initialize()
        self.goes_on_ = True
        self.module_.load_state_dict(tensors)
        for row in history:
            self.history.new_epoch()
            for key, value in row.items():
                if key != "batches":
                    self.history.record(key, value)

    @property
    def stage(self) -> Stage:
        """The stage that the next epoch belongs to."""
        return self.settings.stages[min(self.stage_index_, len(self.settings.stages) - 1)]

    @property
    def finished(self) -> bool:
        """Whether every stage has ended."""
        return self.stage_index_ >= len(self.settings.stages)

    @property
    def ready_module(self) -> MaskedExpressionModel:
        """The module to predict with: averaged weights in the stages that average."""
        average = self.progress_.average
        if average is not None and int(average.n_averaged) > 0:
            return cast(MaskedExpressionModel, average.module)
        return self.module_

    def _enter_stage(self) -> None:
        trained = self.stage.name
        self.progress_ = _Progress()
        self.module_.predictor.requires_grad_(trained != "generator")
        self.module_.generator.requires_grad_(trained != "predictor")
        self._initialize_optimizer()
        if trained != "generator":
            self.progress_.average = AveragedModel(
                self.module_,
                avg_fn=partial(moving_average, decay=self.settings.ema_decay),
                use_buffers=True,
            )

    def train_epoch(self, train: WindowDataset, valid: WindowDataset | None) -> None:
        """Run one epoch of the current stage, and end the stage where that is due.

        Parameters
        ----------
        train, valid : WindowDataset
            Training and, optionally, validation rows.
        """
        if self.finished:  # partial_fit beyond the plan goes on with its last stage
            self.stage_index_ = len(self.settings.stages) - 1
        stage = self.stage
        self.steps_per_epoch_ = -(-len(train) // self.batch_size)
        self.train_split = None if valid is None else predefined_split(valid)
        first = self.progress_.epoch == 0
        if first and stage.name == "generator" and not self.goes_on_:
            self.module_.start_generator()
        if first and stage.name == "finetune":
            self.calibrate(train)
            self._enter_stage()  # so that the average starts from the calibrated module
        try:
            self.fit_loop(train, epochs=1)
        finally:
            self.train_split = None  # a pickled net takes no data along
        self.history.record("stage", stage.name)
        self.progress_.epoch += 1
        if valid is not None and stage.name != "generator":
            # The generator's losses are not comparable between epochs, because its
            # budget is lowered as it goes: that stage runs to its end.
            self._note_validation_loss(self.history[-1, "valid_loss"])
        out_of_patience = self.progress_.epochs_without_gain >= self.settings.patience
        if self.progress_.epoch >= stage.n_epochs or out_of_patience:
            self._leave_stage()

    def _note_validation_loss(self, loss: float) -> None:
        if loss < self.progress_.best_loss:
            self.progress_.best_loss = loss
            self.progress_.best_state = copy.deepcopy(self.ready_module.state_dict())
            self.progress_.epochs_without_gain = 0
        elif self.progress_.best_loss < _LEARNED * self.settings.constant_loss:
            # A plateau at the level of the constant prediction is where training starts,
            # not where it ends: patience counts only once the stage has learned.
            self.progress_.epochs_without_gain += 1

    def _leave_stage(self) -> None:
        self.module_.load_state_dict(self.progress_.best_state or self.ready_module.state_dict())
        self.progress_.average = None
        self.stage_index_ += 1
        if not self.finished:
            self._enter_stage()

    # -- hooks of skorch -----------------------------------------------------------

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Set the learning rate of the step."""
        super().on_batch_begin(net, batch=batch, training=training, **kwargs)
        if training:
            schedule = SCHEDULES[self.stage.name]
            rate = self.settings.learning_rate
            rate *= learning_rate_factor(self._share_done(), end=schedule.end)
            for group in self.optimizer_.param_groups:
                group["lr"] = rate * getattr(schedule, group["part"])

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Clip the gradient's norm."""
        super().on_grad_computed(net, named_parameters, **kwargs)
        nn.utils.clip_grad_norm_(self.module_.parameters(), self.settings.gradient_clip)

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Count the step and update the averaged weights."""
        super().on_batch_end(net, batch=batch, training=training, **kwargs)
        if training:
            self.progress_.step += 1
            if self.progress_.average is not None:
                self.progress_.average.update_parameters(self.module_)

    def _share_done(self) -> float:
        return self.progress_.step / max(self.stage.n_epochs * self.steps_per_epoch_, 1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            torch.device(self.device).type, torch.bfloat16, enabled=self.settings.amp
        )

    def infer(self, x: dict[str, Tensor], **fit_params: Any) -> Outcome:
        """Forward pass of the current stage, in training or in validation."""
        inputs = {name: to_device(value, self.device) for name, value in x.items()}
        with self._autocast():
            if self.module_.training:
                return self._training_outcome(inputs)
            kind = self.settings.mask
            module = self.ready_module.eval()
            return _objectives.validation_outcome(
                module,
                **inputs,
                stage=self.stage.name,
                kind=kind,
                budget=self.settings.sparsity,
            )

    def _training_outcome(self, inputs: dict[str, Any]) -> Outcome:
        model, settings = self.module_, self.settings
        sampled: dict[str, Any] = {
            "continuity_weight": settings.continuity_weight,
            "continuity": settings.continuity,
            "gate_correlation": settings.gate_correlation,
        }
        match self.stage.name:
            case "predictor":
                return _objectives.predictor_outcome(model, **inputs, progress=self._share_done())
            case "generator" | "finetune" as name:
                budget = settings.sparsity
                objective = _objectives.finetune_outcome
                if name == "generator":
                    budget = _objectives.annealed_budget(
                        budget, self._share_done(), settings.start_share
                    )
                    objective = _objectives.generator_outcome
                return objective(model, **inputs, budget=budget, **sampled)
            case "joint":
                return _objectives.joint_outcome(
                    model,
                    **inputs,
                    kind=settings.mask,
                    kl_weight=settings.kl_weight,
                    prior_mean=settings.prior_mean,
                    prior_concentration=settings.prior_concentration,
                    **sampled,
                )

    def get_loss(
        self, y_pred: Outcome, y_true: tuple[Tensor, Tensor], X: Any = None, training: bool = False
    ) -> Tensor:
        """Weighted regression loss plus the penalty of the stage."""
        measured, weight = (to_device(value, self.device) for value in y_true)
        target = measured if y_pred.target is None else y_pred.target.float()
        losses = [
            regression_loss(predicted.float(), target, weight, loss=self.settings.loss)
            for predicted in y_pred.predictions
        ]
        loss = torch.stack(losses).mean() + y_pred.penalty
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"the loss became {loss.item()} in epoch {len(self.history)}, stage "
                f"{self.stage.name!r}. Lower learning_rate (now {self.settings.learning_rate}), "
                "and look for extreme values among the signals and targets."
            )
        self.history.record_batch(
            "train_kept" if training else "valid_kept", float(y_pred.kept.detach())
        )
        return loss

    # -- reading the fitted module ---------------------------------------------------

    def batches(self, dataset: Dataset[Batch]) -> Iterator[dict[str, Tensor]]:
        """Read the inputs of the rows of a dataset, in order, batch by batch, on the device."""
        for batch in self.get_iterator(dataset, training=False):
            inputs, _ = unpack_data(batch)
            yield {name: to_device(value, self.device) for name, value in inputs.items()}

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
        n_windows = max(min(_CALIBRATION_WINDOWS, _CALIBRATION_GATES // module.n_gates), 1)
        step = -(-len(train) // n_windows)
        plain = WindowDataset(train.x, train.covariates, forced=train.forced)
        sample = Subset(plain, range(0, len(train), step))
        parts, rooms = [], []
        for batch in self.batches(sample):
            with self._autocast():
                parts.append(module.openness(batch["x"]))
            rooms.append(module.room(batch.get("forced")))
        openness = torch.cat(parts)
        known = [room for room in rooms if room is not None]
        room = Room(*map(torch.cat, zip(*known, strict=True))) if known else None
        for owner in {id(m): m for m in (module, self.module_)}.values():
            owner.soft_shift.fill_(
                _objectives.budget_shift(module, openness, self.settings.sparsity, "soft", room)
            )
            owner.hard_shift.fill_(
                _objectives.budget_shift(module, openness, self.settings.sparsity, "hard", room)
            )

    @torch.no_grad()
    def predict_batches(
        self, dataset: WindowDataset, kind: MaskKind
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Predictions and masks of the rows of a dataset, in order, batch by batch.

        A dataset that carries masks is predicted under them.

        Parameters
        ----------
        dataset : WindowDataset
            Rows to predict.
        kind : {"soft", "hard", "topk"}
            How masks are read.

        Yields
        ------
        tuple of Tensor
            ``(batch, n_outputs)`` predictions and ``(batch, length)`` masks, float32.
        """
        module = self.ready_module.eval()
        for inputs, n_rows in self._filled_batches(dataset):
            with self._autocast():
                output = module(**inputs, kind=kind)
            yield output.prediction[:n_rows].float().cpu(), output.mask[:n_rows].float().cpu()

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
            ``(batch, length)`` masks, as :meth:`predict_batches` gives them, and standard
            deviations, float32.
        """
        module = self.ready_module.eval()
        for inputs, n_rows in self._filled_batches(dataset):
            with self._autocast():
                gates = module.gate_distribution(inputs["x"])
            forced = inputs.get("forced")
            mask = module.expand(module.gates(gates.log_odds, kind, module.room(forced)), forced)
            std = module.mask_std(gates, kind, forced)
            yield mask[:n_rows].float().cpu(), std[:n_rows].float().cpu()

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
            with self._autocast():
                gates = module.gate_distribution(x)
                for _ in range(n_samples):
                    noise = logistic_noise(gates.log_odds, correlation)
                    mask = module.expand(module.drawn_gates(gates, kind, noise, room), forced)
                    predictions.append(module.predict(x, mask, covariates).float().cpu())
            yield torch.stack(predictions, dim=1)

    def _filled_batches(self, dataset: WindowDataset) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Batches, and how many of their rows count."""
        for inputs in self.batches(dataset):
            n_rows = len(inputs["x"])
            if inputs["x"][0, 0].numel() * self.batch_size <= _FILL_UP_BASES:
                inputs = {
                    name: _filled_up(value, self.batch_size) for name, value in inputs.items()
                }
            yield inputs, n_rows


def _filled_up(rows: Tensor, n_rows: int) -> Tensor:
    """Repeat the first row until there are `n_rows`."""
    return torch.cat([rows, rows[:1].expand(n_rows - len(rows), *rows.shape[1:])])
