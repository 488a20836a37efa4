"""Processes that share one fit, each with its rows of every batch.

Symbols
-------
``R``, ``r``
    Number of processes, and one of them.
``L_r``
    What process ``r`` adds to the loss of the batch; the loss is their sum.

``accelerate launch`` or ``torchrun`` starts the processes; accelerate joins them and gives each
its device. A network is not wrapped in torch's DistributedDataParallel: that averages gradients,
which is right only where all processes hold as many rows of the same weight, and it sees one
forward pass of the whole network, where the stages of training call its parts. Here every
quantity of a batch, a loss, the share that masks keep, the moments of a batch norm, is summed
over the processes as it arises, and the gradients of the ``L_r`` are summed after them, so that
a step is that of one process with the whole batch.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_STRIDE = 1_000_003  # between the seeds of processes; those of epochs lie next to each other


class SharedFitError(RuntimeError):
    """A fit that is given up in all of its processes, because one of them failed."""


class _Loader(Sized, Iterable[T_co], Protocol[T_co]):
    """What knows how many batches it has."""


class _Sum(torch.autograd.Function):
    """Sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    with _talking():
        dist.all_reduce(total)
    return total


@contextmanager
def _talking() -> Iterator[None]:
    """Say in plain words that another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this fit stopped, and its own message says why. Start them all "
            "again."
        ) from error


@dataclass(frozen=True)
class Processes:
    """One process, this one, among those that share a fit.

    Parameters
    ----------
    rank : int, default=0
        Number of this process; 0 is the main one, which writes files and shows progress.
    count : int, default=1
        How many share the fit. With 1 every method gives what it is given.
    device : str, optional
        Device of this process; None leaves it to the estimator.
    mixed_precision : str, default="no"
        What the launcher was told: ``"no"`` or ``"bf16"``.

    Examples
    --------
    >>> Processes(rank=1, count=3).rows(8)
    range(2, 5)
    >>> ALONE.sum(torch.tensor(2.0))
    tensor(2.)
    """

    rank: int = 0
    count: int = 1
    device: str | None = None
    mixed_precision: str = "no"

    @property
    def is_main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def rows(self, n_rows: int) -> range:
        """Which of `n_rows` rows are those of this process: a run of them, as many as in others."""
        return range(self.rank * n_rows // self.count, (self.rank + 1) * n_rows // self.count)

    def part_ways(self, _: int = 0) -> None:
        """Give this process random numbers of its own, from seeds that are the same in all.

        Also what a loader worker calls with its number, when it starts.
        """
        torch.manual_seed(torch.initial_seed() + _STRIDE * self.rank)

    # -- quantities of a batch -------------------------------------------------------

    def sum(self, values: Tensor) -> Tensor:
        """Add up over the processes; the gradient is that of the sum of all the ``L_r``."""
        if self.count == 1:
            return values
        total: Tensor = _Sum.apply(values)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """Mean of ``(n,)`` values of this process, one a row, and of those of the others."""
        if self.count == 1:
            return values.mean()
        total = self.sum(torch.stack([values.sum(), values.new_full((), len(values))]))
        return total[0] / total[1]

    def pooled(self, value: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean of one value a process, with the gradient of this one's part of it.

        Parameters
        ----------
        value, weight : Tensor of shape ()
            Mean over the rows of this process, and what they weigh together.

        Returns
        -------
        Tensor of shape ()
            The mean over the rows of all; 0 where all weights are 0. Its gradient is that of
            ``L_r``: they are to be added up, see :meth:`sum_gradients`.
        """
        if self.count == 1:
            return value
        part = value * (weight / self.sum(weight).clamp_min(torch.finfo(weight.dtype).tiny))
        return part + (self.sum(part.detach()) - part.detach())

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of the ``L_r``; one that no process has stays None."""
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for dtype in dict.fromkeys(parameter.dtype for parameter in trained):
            alike = [parameter for parameter in trained if parameter.dtype == dtype]
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in alike]
            known = gradients[0].new_tensor([p.grad is not None for p in alike])
            flat = _summed(torch.cat([known, *(each.flatten() for each in gradients)]))
            known, flat = flat[: len(alike)], flat[len(alike) :]
            parts = flat.split([parameter.numel() for parameter in alike])
            for parameter, part, n_known in zip(alike, parts, known.tolist(), strict=True):
                parameter.grad = part.view_as(parameter).clone() if n_known else None

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""
        if self.count > 1:
            for tensor in tensors:
                sent = tensor.detach().contiguous()
                with _talking():
                    dist.broadcast(sent, src=0)
                tensor.copy_(sent)

    # -- agreement -------------------------------------------------------------------

    def from_main(self, make: Callable[[], T]) -> T:
        """Give all processes what the main one makes, or its error.

        Raises
        ------
        Exception
            In the main process, what `make` raises.
        SharedFitError
            In the others, where it raises.
        """
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        failed: Exception | None = None
        if self.is_main:
            try:
                told = [make(), None]
            except Exception as error:
                failed, told = error, [None, self._account(error)]
        with _talking():
            dist.broadcast_object_list(told, src=0)
        if failed is not None:
            raise failed
        if told[1] is not None:
            raise SharedFitError(told[1])
        made: T = told[0]
        return made

    @contextmanager
    def together(self) -> Iterator[None]:
        """Go on only where all processes do; nothing inside may wait for another.

        Raises
        ------
        SharedFitError
            Where another process raised and this one did not.
        """
        if self.count == 1:
            yield
            return
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        flag = torch.tensor(float(failed is not None), device=self.device)
        if float(_summed(flag)) > 0:
            accounts = self._gathered(None if failed is None else self._account(failed))
            if failed is not None:
                raise failed
            raise SharedFitError("; ".join(filter(None, accounts)))

    def read_together(self, loader: _Loader[T]) -> Iterator[T]:
        """Batches of a loader that reads in each process as many.

        Raises
        ------
        SharedFitError
            In all processes, where one could not read its rows.
        """
        batches: Iterator[T] | None = None
        for _ in range(len(loader)):
            try:
                with self.together():
                    batches = iter(loader) if batches is None else batches
                    batch = next(batches)
            except SharedFitError:
                raise
            except Exception as error:
                raise SharedFitError(self._account(error)) from error
            yield batch

    def check_alike(self, told: Mapping[str, str]) -> None:
        """Refuse processes that do not fit the same.

        Parameters
        ----------
        told : mapping of str to str
            What must be the same in all, by name.

        Raises
        ------
        ValueError
            In all processes; the message names what differs.
        """
        if self.count == 1:
            return
        everyone = self._gathered(dict(told))
        differ = sorted({n for other in everyone for n in told if other[n] != everyone[0][n]})
        if differ:
            raise ValueError(
                f"accelerate=True, but the {self.count} processes differ in {', '.join(differ)}; "
                "they must all fit the same model to the same rows. Let each run the same script "
                "on the same files, with an integer random_state in every step that draws random "
                "numbers (train_test_split, SignalChannels)."
            )

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Leave the others where this process alone fails, so that they do not wait for it.

        Over gloo they notice at once. Over NCCL, whose groups end together or not at all, they
        wait until the process ends, when the launcher ends them.
        """
        try:
            yield
        except (SharedFitError, FloatingPointError):  # raised in all of them
            raise
        except BaseException:
            if self.count > 1:
                with suppress(Exception):
                    if dist.get_backend() == "gloo":
                        dist.destroy_process_group()
            raise

    def _account(self, error: Exception) -> str:
        return f"process {self.rank} of {self.count} failed: {type(error).__name__}: {error}"

    def _gathered(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.count
        with _talking():
            dist.all_gather_object(found, value)
        return found


#: A fit of one process.
ALONE = Processes()


def join(device: str, amp: bool | Literal["auto"]) -> Processes:
    """Join the processes that a launcher started.

    Parameters
    ----------
    device : str
        As resolved for one process: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    amp : bool or "auto"
        As in ``RegMaskRegressor``.

    Returns
    -------
    Processes
        Of one process where there is no launcher.

    Raises
    ------
    ImportError
        If accelerate is not installed.
    ValueError
        If `device` or `amp` contradicts the launcher, or it asks for what is not done here, or
        this process is a worker that joblib started.
    RuntimeError
        If an error parted the processes before.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedType
    except ImportError as error:
        raise ImportError(
            "accelerate=True needs the package accelerate. Install it with pip install "
            "'regmask_sk[accelerate]', or set accelerate=False."
        ) from error
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1 and multiprocessing.current_process().name.startswith("Loky"):
        raise ValueError(
            f"accelerate=True in a worker of joblib, under a launcher of {launched} processes: a "
            "worker cannot join them. Set n_jobs=1, or accelerate=False."
        )
    accelerator = Accelerator(cpu=device == "cpu")
    count, precision = int(accelerator.num_processes), str(accelerator.mixed_precision)
    if launched > 1 and count != launched:
        raise ValueError(
            f"accelerate=True: the launcher started {launched} processes (WORLD_SIZE), but "
            f"accelerate knows of {count}. Where the script makes an Accelerator before fit, give "
            "it the same device as the estimator (cpu=True for device='cpu')."
        )
    kind = accelerator.distributed_type
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if kind not in known or accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"accelerate is set up for {kind.value} with gradient_accumulation_steps="
            f"{accelerator.gradient_accumulation_steps}; here processes only share the rows of "
            "each batch. Choose multi-GPU or multi-CPU in `accelerate config`, without "
            "accumulation; checkpointing=True saves memory."
        )
    if precision not in ("no", "bf16") or (precision == "bf16" and amp is False):
        raise ValueError(
            f"accelerate was launched with mixed_precision={precision!r}, and amp={amp!r}. "
            "Training is in float32 or, with amp=True, in bfloat16: launch with "
            "--mixed_precision no or bf16, or leave amp='auto'."
        )
    if count == 1:
        return Processes(mixed_precision=precision)
    if not dist.is_initialized():
        raise RuntimeError(
            "the processes parted when an earlier fit failed in one of them, and cannot join "
            "again. Start the script anew."
        )
    if device.startswith("cuda:"):
        raise ValueError(
            f"device={device!r} with accelerate=True in {count} processes: each takes a GPU of "
            "its own. Set device='cuda' or 'auto', and choose GPUs with CUDA_VISIBLE_DEVICES."
        )
    own = "cpu" if device == "cpu" else str(accelerator.device)
    return Processes(int(accelerator.process_index), count, own, precision)
