"""How much memory an estimator takes, as a function of the batch size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# AdamW's gradient and two moments, and the averaged weights, of each parameter.
_COPIES_IN_TRAINING = 4
# Of the free memory, what automatic batch sizes may take by the estimate.
SHARE_OF_FREE = 0.6


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that an estimator takes with a batch size; all of them are estimates.

    What Python and its libraries take themselves, about 0.4 GB, is not in them.

    Parameters
    ----------
    device : str
        Where the network runs.
    batch_size : int
        Windows a step.
    parameters : int
        Weights and buffers of the network.
    optimizer : int
        Gradients, the optimizer's two moments and the averaged weights.
    training_step : int
        What a step of training holds at most beside these: activations and their gradients. With
        masks that keep a budget, also the gates by which it is met after a stage.
    predict_step, transform_step : int
        What ``predict`` and ``transform`` hold at most beside the parameters, for a batch; 0 where
        there is no ``transform``.
    windows : int
        Batches of windows that are read, in main memory, those of loader workers included.
    cache : int
        What a ``WindowCache`` in memory holds of X once it is full.
    masks : int
        What ``transform`` returns for the whole of X. ``export_masks`` writes it piece by piece.

    Examples
    --------
    >>> estimate = MemoryEstimate(
    ...     device="cpu", batch_size=2, parameters=10, optimizer=40, training_step=500,
    ...     predict_step=200, transform_step=150, windows=30, cache=0, masks=80,
    ... )
    >>> estimate.fit, estimate.predict, estimate.transform, estimate.total
    (580, 240, 270, 580)
    """

    device: str
    batch_size: int
    parameters: int
    optimizer: int
    training_step: int
    predict_step: int
    transform_step: int
    windows: int
    cache: int
    masks: int

    @property
    def fit(self) -> int:
        """Bytes on `device` in training; on the CPU with windows and cache."""
        return self.parameters + self.optimizer + self.training_step + self._host

    @property
    def predict(self) -> int:
        """Bytes on `device` in ``predict``; on the CPU with windows and cache."""
        return self.parameters + self.predict_step + self._host

    @property
    def transform(self) -> int:
        """Bytes on `device` in ``transform``; on the CPU with windows, cache and the masks."""
        masks = self.masks if self._on_host else 0
        return self.parameters + self.transform_step + self._host + masks

    @property
    def total(self) -> int:
        """The largest of the three."""
        return max(self.fit, self.predict, self.transform)

    @property
    def _on_host(self) -> bool:
        return not self.device.startswith("cuda")

    @property
    def _host(self) -> int:
        return self.windows + self.cache if self._on_host else 0

    @property
    def largest_step(self) -> int:
        """The largest of the three, without the masks, which do not depend on `batch_size`."""
        masks = self.masks if self._on_host else 0
        return max(self.fit, self.predict, self.transform - masks)

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {in_words(getattr(self, name))}" for name in ("fit", "predict", "transform")
        )
        return f"{parts} on {self.device}, with batch_size={self.batch_size}"


def in_words(n_bytes: float) -> str:
    """Write bytes with a unit.

    Examples
    --------
    >>> in_words(1_234), in_words(56_700_000), in_words(8.9e9), in_words(0)
    ('1.23 kB', '56.7 MB', '8.9 GB', '0 B')
    """
    units = ("B", "kB", "MB", "GB", "TB")
    power = 0 if n_bytes < 1 else min(int(math.log10(n_bytes) / 3 + 1e-9), len(units) - 1)
    return f"{n_bytes / 1000**power:.3g} {units[power]}"


@dataclass(frozen=True)
class MemoryModel:
    """Bytes as a function of the batch size, for one estimator and one X.

    Parameters
    ----------
    device : str
        Where the network runs.
    fixed, per_window : dict of str to float
        Bytes of a step of "fit", "predict" and "transform" that do not depend on the number of
        windows, and those that each takes.
    parameters, trained : float
        Bytes of the network, and of the weights in it that are trained.
    after_stages : float
        Bytes that the training holds between its stages.
    windows_fixed, window : int
        Bytes for reading one window, and those of one in a batch, times batches held at once.
    cache, masks : int
        As in :class:`MemoryEstimate`.
    """

    device: str
    fixed: dict[str, float]
    per_window: dict[str, float]
    parameters: float
    trained: float
    after_stages: float
    windows_fixed: int
    window: int
    cache: int
    masks: int

    def at(self, batch_size: int) -> MemoryEstimate:
        """Estimate for a batch size."""
        step = {name: self.fixed[name] + batch_size * self.per_window[name] for name in self.fixed}
        optimizer = _COPIES_IN_TRAINING * self.trained
        training = max(step["fit"] - self.parameters - optimizer, 0.0)
        between = self.after_stages and self.after_stages + step["predict"]
        return MemoryEstimate(
            device=self.device,
            batch_size=batch_size,
            parameters=round(self.parameters),
            optimizer=round(optimizer),
            training_step=round(max(training, between)),
            predict_step=round(step["predict"]),
            transform_step=round(step["transform"]),
            windows=self.windows_fixed + batch_size * self.window,
            cache=self.cache,
            masks=self.masks,
        )

    def largest_batch(self, free: int, most: int) -> int:
        """Find the largest power of two of windows that fit into a share of what is free.

        Parameters
        ----------
        free : int
            Bytes.
        most : int
            Largest batch to consider.

        Returns
        -------
        int
            At most `most`.

        Raises
        ------
        MemoryError
            If not even one window fits.
        """
        size = 1 << (most.bit_length() - 1)
        while size and self.at(size).largest_step > SHARE_OF_FREE * free:
            size //= 2
        if not size:
            raise MemoryError(
                f"batch_size='auto' finds no batch that fits: one window takes "
                f"{in_words(self.at(1).largest_step)} by the estimate, and {SHARE_OF_FREE:.0%} of "
                f"the {in_words(free)} that are free on {self.device} may be taken. Set "
                "checkpointing=True, raise resolution, or shorten the windows."
            )
        return size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on the CPU or on a GPU.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    True
    >>> is_out_of_memory(RuntimeError("shapes differ"))
    False
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        ("DefaultCPUAllocator" in text and "memory" in text) or "CUDA out of memory" in text
    )
