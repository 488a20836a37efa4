"""Training of a network on windows through skorch: stages, averaged weights, early stopping.

A net runs a plan of stages, one after the other, each with an optimizer, a learning-rate
schedule and, where it is judged by its validation loss, patience of its own. What a stage
minimises is left to two methods, :meth:`WindowNet.training_outcome` and
:meth:`WindowNet.validation_outcome`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNet
from skorch.dataset import unpack_data
from skorch.helper import predefined_split
from skorch.utils import to_device
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler

from regmask_sk._batches import Batch, BatchShares, WindowDataset, batch_sizes
from regmask_sk._checkpoint import Unfinished
from regmask_sk._objectives import Outcome
from regmask_sk._plan import SCHEDULES, Settings, Stage, learning_rate_factor, moving_average
from regmask_sk._processes import ALONE, Processes
from regmask_sk._progress import Progress, take_up, taken_down, weights
from regmask_sk._reading import explained
from regmask_sk._shared_norms import share_norms, unshare_norms
from regmask_sk._turns import turn
from regmask_sk.losses import regression_loss

_LEARNED = 0.98  # of the constant prediction's loss: below it a stage has begun to learn
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


def _as_it_is(batch: Batch) -> Batch:
    return batch


class WindowNet(NeuralNet):
    """A skorch net that trains a network on windows, stage by stage.

    Parameters
    ----------
    module : nn.Module
        An instance, not a class.
    settings : Settings
        Stages, loss and learning rate.
    batch_size, n_workers : int
        As in the estimators.
    device : str
        ``"cpu"`` or ``"cuda"``.
    callbacks : list, optional
        Callbacks of skorch.
    """

    #: Parts of the module that may have learning rates of their own, and the names of their
    #: parameters; see :class:`regmask_sk._plan.Schedule`.
    parts: ClassVar[dict[str, str]] = {"predictor": "*"}

    progress_: Progress
    #: Those that share the training which runs; see :meth:`sharing`.
    processes: Processes = ALONE

    def __init__(
        self,
        module: nn.Module,
        *,
        settings: Settings,
        batch_size: int,
        n_workers: int,
        device: str,
        callbacks: list[tuple[str, Any]] | None = None,
    ) -> None:
        self.settings = settings
        self.n_workers = n_workers
        super().__init__(
            module,
            criterion=nn.MSELoss,  # never called: get_loss is overridden
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=settings.weight_decay,
            optimizer__param_groups=[
                (f"{pattern}{name}", {"part": part, **options})
                for part, pattern in self.parts.items()
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
            callbacks=callbacks,
            callbacks__print_log=None,
            device=device,
            verbose=0,
        )

    # -- what a net decides about its stages -----------------------------------------

    def training_outcome(self, inputs: dict[str, Tensor]) -> Outcome:
        """Forward pass of the current stage in training."""
        raise NotImplementedError

    def validation_outcome(self, module: nn.Module, inputs: dict[str, Tensor]) -> Outcome:
        """Forward pass by which epochs of the current stage are compared."""
        raise NotImplementedError

    def begin_stage(self, train: WindowDataset) -> None:
        """Prepare the first epoch of a stage."""

    @property
    def judged(self) -> bool:
        """Whether epochs of the current stage are compared by their validation loss."""
        return True

    @property
    def averaged(self) -> bool:
        """Whether the weights of the current stage are averaged."""
        return True

    # -- several processes ---------------------------------------------------------

    @contextmanager
    def sharing(self, processes: Processes) -> Iterator[None]:
        """Share what is trained inside with other processes; reading is not shared.

        Parameters
        ----------
        processes : Processes
            Each trains on its rows of every batch, and all come to the same weights.
        """
        # The same object, but in a net that was pickled.
        module = self.module_ if self.initialized_ else self.module
        self.processes = processes
        share_norms(module, processes)
        try:
            with processes.leaving():
                yield
        finally:
            self.processes = ALONE
            unshare_norms(module)
            progress = getattr(self, "progress_", None)
            if progress is not None and progress.average is not None:
                unshare_norms(progress.average)

    def initialize(self) -> WindowNet:
        """Make optimizer and history, and give all processes the same weights."""
        super().initialize()
        self.processes.spread(self.module_.state_dict().values())
        return self

    def get_iterator(self, dataset: WindowDataset, training: bool = False) -> Any:
        """Batches of an epoch, of which each process reads its rows."""
        if self.processes.count == 1:
            return super().get_iterator(dataset, training=training)
        order = RandomSampler(dataset) if training else SequentialSampler(dataset)
        shares = BatchShares(order, self.batch_size, self.processes, part_ways=training)
        loader = DataLoader(
            dataset,
            batch_sampler=shares,
            collate_fn=_as_it_is,  # type: ignore[arg-type] # a batch, as __getitems__ reads it
            num_workers=self.n_workers,
            worker_init_fn=self.processes.part_ways,
        )
        return self.processes.read_together(loader)

    # -- the plan of stages --------------------------------------------------------

    def start(self) -> None:
        """Begin the plan of stages from the weights that the module has now."""
        if not self.initialized_:
            self.initialize()
            self.goes_on_ = False
        self.stage_index_ = 0
        self.enter_stage()

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

    def unfinished(self) -> Unfinished:
        """Take down all that the next epoch depends on, between two epochs."""
        values = {
            "stage_index": self.stage_index_,
            "goes_on": self.goes_on_,
            "history": self.plain_history,
        }
        return taken_down(self.progress_, self.module_, self.optimizer_, values)

    def go_on(self, state: Unfinished) -> None:
        """Take up what :meth:`unfinished` took down, in a net that has not been started.

        Parameters
        ----------
        state : Unfinished
            Of a net with the same module and settings.
        """
        values = state.values
        self.take_over(weights(state), values["history"])
        self.goes_on_ = values["goes_on"]
        self.stage_index_ = values["stage_index"]
        self.enter_stage()
        if self.finished:
            self.progress_.average = None
        else:
            take_up(state, self.progress_, self.optimizer_)

    @property
    def plain_history(self) -> list[dict[str, Any]]:
        """Rows of the history, without those of single batches."""
        return [
            {key: value for key, value in row.items() if key != "batches"} for row in self.history
        ]

    @property
    def stage(self) -> Stage:
        """The stage that the next epoch belongs to."""
        return self.settings.stages[min(self.stage_index_, len(self.settings.stages) - 1)]

    @property
    def finished(self) -> bool:
        """Whether every stage has ended."""
        return self.stage_index_ >= len(self.settings.stages)

    @property
    def ready_module(self) -> nn.Module:
        """The module to predict with: averaged weights in the stages that average."""
        average = self.progress_.average
        if average is not None and int(average.n_averaged) > 0:
            return average.module
        module: nn.Module = self.module_
        return module

    def enter_stage(self) -> None:
        """Make an optimizer, and an average, for the current stage."""
        self.progress_ = Progress()
        self._initialize_optimizer()
        if self.averaged:
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
        self.steps_per_epoch_ = len(batch_sizes(len(train), self.batch_size, self.processes.count))
        self.train_split = None if valid is None else predefined_split(valid)
        if self.progress_.epoch == 0:
            self.begin_stage(train)
        try:
            with explained(train, valid, n_workers=self.n_workers):
                self.fit_loop(train, epochs=1)
        finally:
            self.train_split = None  # a pickled net takes no data along
        self.history.record("stage", stage.name)
        self.progress_.epoch += 1
        if valid is not None and self.judged:
            self._note_validation_loss(self.history[-1, "valid_loss"])
        out_of_patience = self.progress_.epochs_without_gain >= self.settings.patience
        if self.progress_.epoch >= stage.n_epochs or out_of_patience:
            if valid is not None:
                self._warn_of_plateau(self.progress_.best_loss)
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

    def _warn_of_plateau(self, loss: float) -> None:
        """Say so where a stage that begins from nothing ends where it began."""
        constant = self.settings.constant_loss
        learned = constant == 0.0 or loss < _LEARNED * constant
        if learned or not self.judged or self.stage.name == "finetune":
            return
        masks = "" if self.stage.name == "regression" else " Masks that come of it mean nothing."
        warnings.warn(
            f"the predictor has learned nothing in {self.progress_.epoch} epochs of stage "
            f"{self.stage.name!r}: its validation loss is {loss:.3g}, that of a constant "
            f"prediction {constant:.3g}.{masks} Raise max_epochs, give more training genes, "
            "or look at the channels: history_ has the losses.",
            ConvergenceWarning,
            stacklevel=2,
        )

    def _leave_stage(self) -> None:
        self.module_.load_state_dict(self.progress_.best_state or self.ready_module.state_dict())
        self.progress_.average = None
        self.stage_index_ += 1
        if not self.finished:
            self.enter_stage()

    # -- hooks of skorch -----------------------------------------------------------

    def on_batch_begin(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Set the learning rate of the step."""
        super().on_batch_begin(net, batch=batch, training=training, **kwargs)
        if training:
            schedule = SCHEDULES[self.stage.name]
            rate = self.settings.learning_rate
            rate *= learning_rate_factor(self.share_done, end=schedule.end)
            for group in self.optimizer_.param_groups:
                group["lr"] = rate * getattr(schedule, group["part"])

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Add up the gradients of the processes, and clip the norm."""
        super().on_grad_computed(net, named_parameters, **kwargs)
        self.processes.sum_gradients(self.module_.parameters())
        nn.utils.clip_grad_norm_(self.module_.parameters(), self.settings.gradient_clip)

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Count the step and update the averaged weights."""
        super().on_batch_end(net, batch=batch, training=training, **kwargs)
        if self.processes.count > 1:  # epochs average over batches by their size
            n_rows = self.processes.sum(kwargs["loss"].new_full((), len(batch[1][0])))
            self.history.record_batch(
                "train_batch_size" if training else "valid_batch_size", int(n_rows)
            )
        if training:
            self.progress_.step += 1
            if self.progress_.average is not None:
                self.progress_.average.update_parameters(self.module_)

    @property
    def share_done(self) -> float:
        """Share of the current stage that is done."""
        return self.progress_.step / max(self.stage.n_epochs * self.steps_per_epoch_, 1)

    def autocast(self) -> torch.autocast:
        """bfloat16 where the settings ask for it."""
        return torch.autocast(
            torch.device(self.device).type, torch.bfloat16, enabled=self.settings.amp
        )

    def infer(self, x: dict[str, Tensor], **fit_params: Any) -> Outcome:
        """Forward pass of the current stage, in training or in validation."""
        inputs = {name: to_device(value, self.device) for name, value in x.items()}
        with self.autocast():
            if self.module_.training:
                return self.training_outcome(inputs)
            return self.validation_outcome(self.ready_module.eval(), inputs)

    def get_loss(
        self, y_pred: Outcome, y_true: tuple[Tensor, Tensor], X: Any = None, training: bool = False
    ) -> Tensor:
        """Regression loss plus the penalty of the stage, over the rows of all processes."""
        measured, weight = (to_device(value, self.device) for value in y_true)
        target = measured if y_pred.target is None else y_pred.target.float()
        losses = torch.stack(
            [
                regression_loss(predicted.float(), target, weight, loss=self.settings.loss)
                for predicted in y_pred.predictions
            ]
        )
        if y_pred.weights is None:
            regression = losses.mean()
        else:
            regression = losses @ losses.new_tensor(y_pred.weights)
        n_rows = weight.new_full((), len(weight))
        loss = self.processes.pooled(regression, weight.sum())
        loss = loss + self.processes.pooled(y_pred.penalty, n_rows)
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"the loss became {loss.item()} in epoch {len(self.history)}, stage "
                f"{self.stage.name!r}. Lower learning_rate (now {self.settings.learning_rate}), "
                "and look for extreme values among the signals and targets."
            )
        return loss

    # -- reading the fitted module ---------------------------------------------------

    def batches(self, dataset: Dataset[Batch]) -> Iterator[dict[str, Tensor]]:
        """Read the inputs of the rows of a dataset, in order, batch by batch, on the device."""
        with explained(dataset, n_workers=self.n_workers):
            with turn():  # a loader draws, whether it needs to or not
                loader = iter(super().get_iterator(dataset, training=False))
            while True:
                with turn():
                    batch = next(loader, None)
                if batch is None:
                    return
                inputs, _ = unpack_data(batch)
                yield {name: to_device(value, self.device) for name, value in inputs.items()}

    def filled_batches(self, dataset: WindowDataset) -> Iterator[tuple[dict[str, Tensor], int]]:
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
