"""Base of the estimators that train a network on windows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from tqdm.auto import tqdm

from regmask_sk._base import WindowArray, resolve_device
from regmask_sk._checkpoint import Checkpoint, Unfinished
from regmask_sk._identity import fit_identity, shared_identity
from regmask_sk._net import WindowNet
from regmask_sk._parameters import check_parameters
from regmask_sk._plan import Stage
from regmask_sk._preparation import PreparedEstimator, TrainingData
from regmask_sk._processes import ALONE, Processes, join
from regmask_sk._turns import own_random_numbers
from regmask_sk.backbones.mamba import SelectiveStateSpace
from regmask_sk.ops.selective_scan import scan_backend
from regmask_sk.windows import Windows

if TYPE_CHECKING:
    from typing_extensions import Self


class NetworkRegressor(RegressorMixin, PreparedEstimator):
    """Base of regressors whose model is a torch network, trained through skorch.

    It trains on the rows that its base prepares, and reads the network back. A regressor makes
    its network in :meth:`_make_module` and says in :meth:`_make_net` how that is trained.
    Parameters are those of ``RegMaskRegressor`` with the same names.
    """

    max_epochs: int
    patience: int
    learning_rate: float
    weight_decay: float
    gradient_clip: float
    ema_decay: float
    warm_start: bool
    n_workers: int
    device: str
    amp: bool | Literal["auto"]
    accelerate: bool
    random_state: int | np.random.RandomState | None
    verbose: int

    net_: WindowNet
    n_processes_: int

    #: Fitted attributes that a saved model holds beside the tensors.
    _kept_attributes: ClassVar[tuple[str, ...]] = (
        "channel_names_in_",
        "n_channels_in_",
        "n_features_in_",
        "feature_names_in_",
        "target_mean_",
        "target_scale_",
        "covariate_mean_",
        "covariate_scale_",
        "batch_size_",
        "_target_ndim",
        "_seed",
        "_channel_complement",
    )
    #: Parameters on which the shape of the network depends.
    _shape_parameters: ClassVar[tuple[str, ...]] = ()
    #: Parameters that may be None beside those that may be in every estimator.
    _optional_parameters: ClassVar[tuple[str, ...]] = ()
    #: Columns of ``history_``, and what skorch calls them.
    _history_columns: ClassVar[dict[str, str]] = {
        "epoch": "epoch",
        "stage": "stage",
        "train_loss": "train_loss",
        "valid_loss": "valid_loss",
        "dur": "seconds",
    }

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what the estimator can do."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = True
        return tags

    # -- what a regressor defines ------------------------------------------------------

    def _make_module(self, n_outputs: int) -> nn.Module:
        """Build the torch model for the shapes that X has."""
        raise NotImplementedError

    def _make_net(
        self, module: nn.Module, settings: dict[str, Any], plan: tuple[Stage, ...] | None
    ) -> WindowNet:
        """Build the net that trains the module, from the settings that every net has."""
        raise NotImplementedError

    def _note_windows(self, X: WindowArray) -> None:
        """Note what the estimator needs to know of X beside its shape, once a fit."""

    def _end_training(self, data: TrainingData) -> None:
        """Do what follows the last epoch."""

    def _read_predictions(self, X: WindowArray) -> Iterator[Tensor]:
        """Predictions in units of the standardised target, batch by batch."""
        raise NotImplementedError

    # -- fitting -------------------------------------------------------------------

    def fit(
        self,
        X: Windows | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> Self:
        """Train the network.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows; a 2-D array is read as one channel.
        y : array of shape (n,) or (n, n_outputs)
            Measured expression, in any unit (a log scale is usual).
        sample_weight : array of shape (n,), optional
            Non-negative weights.
        groups : array of shape (n,), optional
            Group of each row, in place of its chromosome, for the validation split.
        checkpoint : path-like, optional
            File in which the state of the fit is kept, replaced as a whole after each epoch. Where
            the disk is full a warning says so, and the file stays that of an earlier epoch.
        resume : bool, default=False
            Whether to go on from `checkpoint`, where there is such a file: on the CPU to the same
            bits as without the interruption. The parameters (but ``verbose``, ``device`` and
            ``accelerate``) and the data must be the same. With another number of processes it
            goes on to other random numbers.
        callback : callable, optional
            Called after each epoch with its row of ``history_``, as a dict. What it raises ends
            the fit.

        Returns
        -------
        self
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, X or y is malformed, a covariate is missing, or the
            checkpoint is damaged or of another fit.
        FileExistsError
            If `checkpoint` holds a fit that is not finished, and `resume` is false.
        PermissionError, FileNotFoundError
            If `checkpoint` cannot be written.
        FloatingPointError
            If the loss becomes NaN or infinite.
        SharedFitError
            If `accelerate` is true and another process failed, to check its data or to read its
            rows; a ``RuntimeError``.
        ConnectionError
            If `accelerate` is true and another process is gone.
        MemoryError
            If memory runs out, with what was needed by the estimate; or if ``batch_size="auto"``
            and not even one window fits.
        """
        goes_on = self.warm_start and hasattr(self, "net_")
        if resume and (checkpoint is None or goes_on):
            raise ValueError(
                "resume=True goes on with the fit in a file: pass checkpoint=FILE, and leave "
                "warm_start False."
            )
        if checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"random_state is {self.random_state!r}: a fit that can be resumed needs an "
                "integer, from which its random numbers can be drawn again."
            )
        data = self._begin(X, y, sample_weight, groups, reset=not goes_on)
        file, left = None, None
        if checkpoint is not None:
            file, left = self._open_checkpoint(checkpoint, resume, X, data)
        if left is not None and "batch_size" in left.values:  # the free memory may be another now
            self.batch_size_ = left.values["batch_size"]
        else:
            self._set_batch_size(X, y, data)
        with self._memory_explained("fit", X, y):
            with data.processes.together():
                if goes_on:
                    self._build_from_last(data)
                else:
                    self._build(data.constant_loss, processes=data.processes)
            self._train(data, file, left, callback)
        return self

    def _open_checkpoint(
        self, path: str | os.PathLike[str], resume: bool, X: Any, data: TrainingData
    ) -> tuple[Checkpoint | None, Unfinished | None]:
        """Open the file, which the main process alone writes, and read what it has for all."""
        opened: list[Checkpoint] = []

        def on_main() -> Unfinished | None:
            told = (self.get_params(deep=False), X, data.parts, self._known)
            opened.append(Checkpoint(Path(path), fit_identity(*told)))
            if resume:
                return opened[0].read()
            opened[0].check_replaceable()
            return None

        left = data.processes.from_main(on_main)
        return (opened[0] if opened else None), left

    def _set_batch_size(self, X: Any, y: ArrayLike, data: TrainingData) -> None:
        """Settle the batch size: of several processes the main one's free memory decides.

        A batch is shared by the processes, so that none holds more than the main one counted on,
        and each has a row at least.
        """
        size = data.processes.from_main(lambda: self._automatic_size(None, X, y))
        self.batch_size_ = max(size, data.processes.count) if self.batch_size == "auto" else size

    @property
    def _known(self) -> dict[str, Any]:
        """What was learned from the data before the first epoch."""
        names = [name for name in self._kept_attributes if name != "batch_size_"]
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def partial_fit(
        self,
        X: Windows | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Train one epoch, the next one of the plan that ``fit`` would run.

        As many calls as the plan has epochs come to the bits of ``fit``. Calls beyond it go on
        with its last stage, after ``fit`` too.

        Parameters
        ----------
        X, y, sample_weight, groups
            As in :meth:`fit`, the same in each call. What is learned before the training (the
            standardisation, the plan, and the seed by which validation rows are drawn) is
            learned by the first one.

        Returns
        -------
        self
            The estimator after one more epoch, ready to predict.

        Raises
        ------
        ValueError, FloatingPointError
            As in :meth:`fit`.

        Notes
        -----
        The stages, the budget and the optimizer's settings are those of the first call. A pickled
        or copied estimator goes on where it was, to the same bits; one that was saved with
        ``save_model`` has its weights, but no optimizer, and goes on with the last stage.

        Of a masked regressor the generator learns only once the predictor's stage is over.
        Scores of earlier epochs are those of masks that have learned nothing, and tend to be the
        better, the more is kept.
        """
        begun = hasattr(self, "net_")
        data = self._begin(X, y, sample_weight, groups, reset=not begun, note=not begun)
        count = data.processes.count
        if begun and count > 1 and count != self.n_processes_:
            raise ValueError(
                f"partial_fit began in {self.n_processes_} processes and cannot go on in {count}. "
                "Launch as many as before, or begin anew with a clone of the estimator."
            )
        if not begun:
            self._set_batch_size(X, y, data)
            with data.processes.together():
                self._build(data.constant_loss, processes=data.processes)
        with self._memory_explained("partial_fit", X, y), self._training(data):
            if not begun:
                self.net_.start()
            self._train_epoch(data)
            with own_random_numbers():
                self._end_training(data)
        return self

    def _begin(
        self,
        X: Windows | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
        *,
        reset: bool,
        note: bool = True,
    ) -> TrainingData:
        """Check all that a fit is given, before any training."""
        check_parameters(self)
        processes = ALONE
        if self.accelerate:
            processes = join(resolve_device(self.device), self.amp)
        # One seed for all calls: another split would train on the rows that judge.
        seed = processes.from_main(self._draw_seed) if reset else self._seed
        with processes.together():
            windows = self._check_windows(X, reset=reset)
            if note:
                self._note_windows(windows)
            data = self._prepare(
                windows, y, sample_weight, groups, reset=reset, seed=seed, processes=processes
            )
            told = {}
            if processes.count > 1:
                self._check_shares(data)
                params = self.get_params(deep=False)
                told = shared_identity(params, windows, data.parts, self._known)
        processes.check_alike(told)
        return data

    def _draw_seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _check_shares(self, data: TrainingData) -> None:
        """Refuse batches of which there is not a row for each process."""
        count = data.processes.count
        found = {"training rows": len(data.train)}
        if self.batch_size != "auto":  # which is settled later, for as many processes
            found["batch_size"] = int(self.batch_size)
        if data.valid is not None:
            found["validation rows"] = len(data.valid)
        short = [f"{name} {n}" for name, n in found.items() if n < count]
        if short:
            raise ValueError(
                f"accelerate=True shares each batch among {count} processes, and there are fewer "
                f"rows than that: {', '.join(short)}. Raise batch_size, hold out more rows or "
                "none, or launch fewer processes."
            )

    def _build(
        self,
        constant_loss: float,
        plan: tuple[Stage, ...] | None = None,
        *,
        processes: Processes = ALONE,
    ) -> None:
        """Make the torch model and its net for the shapes that X has."""
        self.n_processes_ = processes.count
        self.device_ = processes.device or resolve_device(self.device)
        self._epochs_done = 0
        with own_random_numbers(self._seed):
            module = self._make_module(n_outputs=len(self.target_mean_))
        scans = any(isinstance(part, SelectiveStateSpace) for part in module.modules())
        self.scan_backend_ = scan_backend(self.device_) if scans else None
        settings = self._settings(constant_loss, processes.mixed_precision)
        self.net_ = self._make_net(module, settings, plan)

    def _build_from_last(self, data: TrainingData, plan: tuple[Stage, ...] | None = None) -> None:
        """Make a new net that has the weights and the history of the last one."""
        last, epochs_done = self.net_, self._epochs_done
        self._build(data.constant_loss, plan, processes=data.processes)
        try:
            self.net_.take_over(last.ready_module.state_dict(), list(last.history))
        except RuntimeError as error:
            self.net_ = last
            *most, final = self._shape_parameters
            raise ValueError(
                "warm_start=True goes on from the weights of the last fit, but with the present "
                f"parameters the model has another shape. Put {', '.join(most)} and {final} "
                "back, or set warm_start=False."
            ) from error
        self._epochs_done = epochs_done

    def _settings(self, constant_loss: float, mixed_precision: str = "no") -> dict[str, Any]:
        """Give the settings that every net has; see :class:`regmask_sk._plan.Settings`."""
        amp = self.amp
        if amp == "auto":
            amp = self.device_.startswith("cuda") or mixed_precision == "bf16"
        return {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "gradient_clip": self.gradient_clip,
            "ema_decay": self.ema_decay,
            "patience": self.patience,
            "constant_loss": constant_loss,
            "amp": bool(amp),
        }

    def _train(
        self,
        data: TrainingData,
        checkpoint: Checkpoint | None = None,
        left: Unfinished | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        """Run the stages of the net's plan, or what is left of them."""
        with self._training(data):
            if left is None:
                self.net_.start()
            else:
                self.net_.go_on(left)
                self._epochs_done = left.values["epochs_done"]
            with tqdm(
                total=sum(stage.n_epochs for stage in self.net_.settings.stages),
                initial=len(self.net_.history) if left is not None else 0,
                disable=not (self.verbose and data.processes.is_main),
                unit="epoch",
            ) as bar:
                while not self.net_.finished:
                    self._train_epoch(data)
                    if checkpoint is not None:
                        state = self.net_.unfinished()
                        state.values["epochs_done"] = self._epochs_done
                        state.values["batch_size"] = self.batch_size_
                        done = self.net_.finished
                        checkpoint.write(state, epochs=self._epochs_done, finished=done)
                    if callback is not None:
                        callback(self._history_row(self.net_.history[-1]))
                    last = self.net_.history[-1]
                    bar.set_postfix(stage=last["stage"], loss=f"{last['train_loss']:.3f}")
                    bar.update()
            with own_random_numbers():
                self._end_training(data)

    @contextmanager
    def _training(self, data: TrainingData) -> Iterator[None]:
        """Share what is trained inside with the processes of the fit."""
        with self.net_.sharing(data.processes):
            yield

    def _train_epoch(self, data: TrainingData) -> None:
        """One epoch with random numbers of its own, so that fit and partial_fit agree."""
        with own_random_numbers(self._seed + self._epochs_done):
            self.net_.train_epoch(data.train, data.valid)
        self._epochs_done += 1

    @property
    def history_(self) -> pd.DataFrame:
        """One row an epoch: stage, losses, seconds, and what else the training notes."""
        check_is_fitted(self, "net_")
        rows = [self._history_row(row) for row in self.net_.history]
        return pd.DataFrame(rows, columns=list(self._history_columns.values()))

    def _history_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: row.get(key, np.nan) for key, name in self._history_columns.items()}

    # -- reading the fitted estimator --------------------------------------------------

    def predict(self, X: Windows | ArrayLike) -> NDArray[np.float64]:
        """Predict expression.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
            In the unit of y.
        """
        check_is_fitted(self, "net_")
        windows = self._check_windows(X, reset=False)
        with self._memory_explained("predict", X):
            return self._to_target_unit(list(self._read_predictions(windows)))

    # -- saving without pickle -----------------------------------------------------------

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Give what is learned, as plain values and tensors; see ``regmask_sk.persistence``."""
        check_is_fitted(self, "net_")
        state = {name: getattr(self, name) for name in self._kept_attributes if hasattr(self, name)}
        state["history"] = self.net_.plain_history
        return state, dict(self.net_.ready_module.state_dict())

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Rebuild the fitted estimator from what ``_get_state`` gave."""
        unknown = sorted(set(state) - set(self._kept_attributes) - {"history"})
        if unknown:
            raise ValueError(f"{type(self).__name__} has no fitted attributes {unknown}")
        for name, value in state.items():
            if name != "history":
                setattr(self, name, value)
        check_parameters(self)
        if not hasattr(self, "batch_size_"):  # of a model that an earlier version saved
            self.batch_size_ = int(self.batch_size)
        self._build(constant_loss=1.0)
        self.net_.restore(tensors, state["history"])
        self._epochs_done = len(state["history"])
