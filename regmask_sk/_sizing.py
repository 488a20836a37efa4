"""How much memory an estimator needs, and what it says and does where that is not there."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from numpy.typing import ArrayLike
from sklearn.base import clone

from regmask_sk._base import WindowEstimator, resolve_device
from regmask_sk._free_memory import free_memory
from regmask_sk._memory import (
    MemoryEstimate,
    MemoryModel,
    in_words,
    is_out_of_memory,
)
from regmask_sk._memory_probe import measuring, memory_model
from regmask_sk._parameters import check_parameters
from regmask_sk.windows import Windows

_LARGEST = 32  # automatic batch of an estimator whose batch_size has no number as default


class SizedEstimator(WindowEstimator):
    """Base of estimators that know how much memory their network takes."""

    batch_size: int | Literal["auto"]
    device: str
    batch_size_: int
    device_: str

    def _bytes_after_stages(self, n_windows: int, length: int) -> float:
        """Bytes that training holds between its stages, in a fitted estimator.

        The estimator is one fitted on short windows; the number and the length are those of a fit
        to come.
        """
        return 0.0

    def estimate_memory(self, X: Windows | ArrayLike, y: ArrayLike | None = None) -> MemoryEstimate:
        """Estimate the memory that fit, predict and transform will take, before any of them.

        One step of each stage of training, a prediction and a transform run on one and two
        windows, of an eighth of the length at most where windows are longer than 16 kb; what they
        hold is carried over to the length of X and to `batch_size`. That takes the time of a few
        steps. Estimators that take no shorter windows are measured at their length.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            The windows that ``fit`` would be given.
        y : array of shape (n,) or (n, n_outputs), optional
            The targets, where there are several for each window.

        Returns
        -------
        MemoryEstimate
            Bytes, part by part. The estimator stays as it is, and need not be fitted.

        Raises
        ------
        ValueError
            If a parameter is out of range, or X is malformed.

        Examples
        --------
        >>> import numpy as np
        >>> from regmask_sk import RegMaskRegressor
        >>> X = np.zeros((100, 6, 512), "float32")
        >>> model = RegMaskRegressor(d_model=8, n_layers=1, batch_size=4)
        >>> estimate = model.estimate_memory(X)
        >>> estimate.masks, estimate.fit > estimate.predict > estimate.parameters
        (204800, True)
        """
        model = self._memory_model(X, y)
        return model.at(self._automatic_size(model))

    def _automatic_size(self, model: MemoryModel | None, X: Any = None, y: Any = None) -> int:
        """Windows a step, as `batch_size` says."""
        if self.batch_size != "auto":
            return int(self.batch_size)
        default = inspect.signature(type(self)).parameters["batch_size"].default
        most = default if isinstance(default, int) else _LARGEST
        if model is None:
            try:
                model = self._memory_model(X, y)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self.batch_size_ = 1
                raise MemoryError(
                    "out of memory while what one window takes was measured, for "
                    f"batch_size='auto'. {self._less_memory()}"
                ) from error
        return model.largest_batch(free_memory(model.device), most)

    @contextmanager
    def _memory_explained(self, task: str, X: Any, y: Any = None) -> Iterator[None]:
        """Say, where memory runs out, how much was needed and what takes less."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if measuring.get() or not is_out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # they hold the tensors
            said = str(error).strip().splitlines()[0] if str(error).strip() else "no memory"
            raise MemoryError(
                f"out of memory in {task} on {self.device_} with batch_size={self.batch_size_}: "
                f"{said.rstrip('.')}. {self._told_estimate(X, y)}{self._less_memory()}"
            ) from error

    def _told_estimate(self, X: Any, y: Any) -> str:
        try:
            model = self._memory_model(X, y)
            free = free_memory(model.device)
        except Exception as error:  # what is out of memory may fail in measuring, too
            return f"There is no estimate: measuring failed ({type(error).__name__}). "
        one, all_ = model.at(1), model.at(self.batch_size_)
        return (
            f"By the estimate: {all_}; with batch_size=1 fit {in_words(one.fit)}, predict "
            f"{in_words(one.predict)}. Free are {in_words(free)}. "
        )

    def _less_memory(self) -> str:
        params = self.get_params(deep=False)
        ways = ["a smaller batch_size (or batch_size='auto')"] if self.batch_size_ > 1 else []
        if params.get("checkpointing") is False:
            ways.append("checkpointing=True, where the backbone can")
        if "resolution" in params:
            ways.append(f"a coarser resolution than {params['resolution']}")
        return f"Less memory takes: {', '.join([*ways, 'shorter windows'])}."

    def _memory_model(self, X: Any, y: Any) -> MemoryModel:
        check_parameters(self)
        windows = clone(self)._check_windows(X, reset=True)
        n_windows, _, length = map(int, windows.shape)
        return memory_model(
            self,
            windows,
            y,
            device=resolve_device(self.device),
            after_stages=lambda model: model._bytes_after_stages(n_windows, length),
        )
