"""What two processes do together for a test: ``python shared_fits.py OUT``, once in each.

Each writes ``OUT/0.json`` or ``OUT/1.json``: by the name of a function below, what it returned.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import regmask_sk._net as _net
import regmask_sk._objectives as objectives
from regmask_sk import BackboneRegressor, PrismRegressor, RegMaskRegressor, sparsity_path
from regmask_sk._batches import WindowDataset
from regmask_sk._checkpoint import Checkpoint
from regmask_sk._net import WindowNet
from regmask_sk._network import NetworkRegressor
from regmask_sk._processes import ALONE, Processes, SharedFitError, join
from regmask_sk._shared_norms import share_norms, unshare_norms
from regmask_sk.baselines._rival import RegressionNet

SMALL: dict[str, Any] = {
    "resolution": 8, "d_model": 8, "n_layers": 1, "batch_size": 10, "max_epochs": 2,
    "validation_fraction": 0.25, "random_state": 0, "device": "cpu", "n_workers": 0,
}  # fmt: skip
MASKED: dict[str, Any] = {
    **SMALL, "max_epochs": 1, "generator_epochs": 1, "finetune_epochs": 1, "sparsity": 0.3,
}  # fmt: skip


def data(n_rows: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows, what the first eight bases of each add up to, and weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, 2, 64)).astype(np.float32)
    return X, X[:, 0, :8].sum(axis=1), rng.choice([0.5, 1.0, 3.0], n_rows).astype(np.float32)


def fitted(model: Any) -> dict[str, Any]:
    """Tell the weights, the history and the predictions of a fit."""
    X = data()[0]
    state = {name: value.tolist() for name, value in model.net_.ready_module.state_dict().items()}
    history = model.history_.drop(columns="seconds").replace({np.nan: None})
    told = {
        "weights": state,
        "history": history.to_dict("list"),
        "predicted": model.predict(X).tolist(),
        "n_processes": model.n_processes_,
    }
    if hasattr(model, "transform"):
        told["masks"] = model.transform(X).tolist()
    return told


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Replace attributes for a while."""
    last = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in last.items():
            setattr(owner, name, value)


def raised(call: Callable[[], Any]) -> list[str]:
    """Kind and text of the error that a call raises."""
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


# -- fits that one process does too, for comparison --------------------------------------


def regression(accelerate: bool) -> dict[str, Any]:
    """A body with batch norm, weighted rows, a loss over them all, in three batches and a rest."""
    X, y, weight = data()
    model = BackboneRegressor(accelerate=accelerate, dropout=0.0, **SMALL)
    return fitted(model.fit(X, y, sample_weight=weight))


def several_losses(accelerate: bool) -> dict[str, Any]:
    """Two predictions with weights of their own, and a penalty."""
    X, y, weight = data()
    model = PrismRegressor(
        accelerate=accelerate, dropout=0.0, loss="huber", **{**SMALL, "max_epochs": 1}
    )
    return fitted(model.fit(X, y, sample_weight=weight))


def _known_masks(model: Any, x: Tensor, share: float, generator: Any = None) -> Tensor:
    phase = x.mean(dim=(1, 2)).unsqueeze(1) * 100.0
    return (torch.sin(phase + torch.arange(model.n_gates)) > 0.3).to(x.dtype)


def masked(accelerate: bool) -> dict[str, Any]:
    """Three stages in which nothing is drawn but the order of the rows."""
    X, y, weight = data()
    with replaced(
        objectives,
        logistic_noise=lambda like, *_: torch.zeros_like(like),
        _random_masks=_known_masks,
        SOFT_SHARE=2.0,  # every window is read under means
        RANDOM_SHARE=-1.0,
    ):
        options = {**MASKED, "max_epochs": 2, "dropout": 0.0}
        model = RegMaskRegressor(accelerate=accelerate, **options)
        return fitted(model.fit(X, y, sample_weight=weight))


ALIKE = (regression, several_losses, masked)


# -- what the two do together --------------------------------------------------------------


def drawn(rank: int, out: Path) -> dict[str, Any]:
    """Three stages with dropout and sampled masks, in bfloat16, the first one out of patience."""
    X, y, _ = data()
    options = {**MASKED, "patience": 1, "max_epochs": 6}
    with replaced(_net, _LEARNED=100.0):  # patience counts from the first epoch
        return fitted(RegMaskRegressor(accelerate=True, amp=True, **options).fit(X, y))


def rows_read(rank: int, out: Path) -> dict[str, Any]:
    """Which rows each batch reads, known by their first value, in training and validation."""
    X, y, _ = data(31)
    X[:, 0, 0] = np.arange(31)
    seen: list[Any] = []
    plain = WindowDataset.__getitems__

    def watched(self: WindowDataset, rows: list[int]) -> Any:
        seen.append([self.augment, [float(self.x[row, 0, 0]) for row in rows]])
        return plain(self, rows)

    with replaced(WindowDataset, __getitems__=watched):
        model = BackboneRegressor(accelerate=True, **{**SMALL, "batch_size": 7})
        model.fit(X, y)
    return {"read": seen, "batches": model.net_.history[:, "train_batch_count"]}


def loader_workers(rank: int, out: Path) -> dict[str, Any]:
    """Rows read by a process of their own, without an integer seed."""
    X, y, _ = data()
    options = {**SMALL, "n_workers": 1, "max_epochs": 1, "random_state": None}
    return fitted(BackboneRegressor(accelerate=True, **options).fit(X, y))


def random_numbers(rank: int, out: Path) -> list[float]:
    """Numbers drawn in the first forward pass."""
    X, y, _ = data()
    seen: list[float] = []

    def watched(self: Any, inputs: Any) -> Any:
        seen.append(float(torch.rand(())))
        return self.module_.objective(**inputs)

    with replaced(RegressionNet, training_outcome=watched):
        BackboneRegressor(accelerate=True, **{**SMALL, "max_epochs": 1}).fit(X, y)
    return seen


def epoch_by_epoch(rank: int, out: Path) -> dict[str, Any]:
    """partial_fit, pickled between two epochs, against fit; then fit once more from there."""
    X, y, _ = data()
    model = RegMaskRegressor(accelerate=True, **MASKED)
    for _ in range(3):
        model = pickle.loads(pickle.dumps(model.partial_fit(X, y)))
    whole = RegMaskRegressor(accelerate=True, **MASKED).fit(X, y)
    found = {"parts": model.predict(X).tolist(), "whole": whole.predict(X).tolist()}
    whole.set_params(warm_start=True, finetune_epochs=0).fit(X, y)
    return {**found, "again": whole.predict(X).tolist()}


def budgets(rank: int, out: Path) -> list[float]:
    """Share of bases kept along a path of budgets."""
    X, y, _ = data()
    model = RegMaskRegressor(accelerate=True, **MASKED)
    path = sparsity_path(model, X, y, [0.4, 0.3])
    return [float(each.transform(X).mean()) for each in path]


def checkpoints(rank: int, out: Path) -> dict[str, Any]:
    """A fit that stops in both after its second epoch, and goes on."""
    X, y, _ = data()
    file = out / "fit.checkpoint"
    written: list[int] = []
    write, train_epoch = Checkpoint.write, NetworkRegressor._train_epoch

    def watched(self: Checkpoint, state: Any, *, epochs: int, finished: bool) -> None:
        written.append(epochs)
        write(self, state, epochs=epochs, finished=finished)

    def stopping(self: Any, given: Any) -> None:
        if self._epochs_done == 2:
            raise SharedFitError("enough")
        train_epoch(self, given)

    model = RegMaskRegressor(accelerate=True, **MASKED)
    with replaced(Checkpoint, write=watched):
        with replaced(NetworkRegressor, _train_epoch=stopping):
            stopped = raised(lambda: model.fit(X, y, checkpoint=file))
        anew = raised(lambda: model.fit(X, y, checkpoint=file))
        # Only the main process needs to see the file.
        own = file if rank == 0 else out / "elsewhere" / "none"
        model.fit(X, y, checkpoint=own, resume=True)
    whole = RegMaskRegressor(accelerate=True, **MASKED).fit(X, y)
    return {
        "stopped": stopped,
        "anew": anew,
        "written": written,
        "resumed": fitted(model)["weights"],
        "whole": fitted(whole)["weights"],
    }


def norms(rank: int, out: Path) -> dict[str, Any]:
    """Batch norms over a batch of which this process has a part, and their gradients."""
    processes = join("cpu", False)
    torch.manual_seed(0)
    whole = 3.0 + 2.0 * torch.randn(7, 3, 5)
    rows = [slice(0, 2), slice(2, 7)][rank]
    found: dict[str, Any] = {}
    kinds: dict[str, dict[str, Any]] = {
        "plain": {}, "average": {"momentum": None}, "bare": {"affine": False},
    }  # fmt: skip
    for name, options in kinds.items():
        layer, alone = nn.BatchNorm1d(3, **options), nn.BatchNorm1d(3, **options)
        x, full = whole[rows].clone().requires_grad_(), whole.clone().requires_grad_()
        share_norms(layer, processes)
        for _ in range(2):
            given, expected = layer(x), alone(full)
        (given**3).sum().backward()
        (expected**3).sum().backward()
        processes.sum_gradients(layer.parameters())
        unshare_norms(layer)
        pairs = [(given, expected[rows]), (x.grad, full.grad[rows])]
        pairs += zip(layer.buffers(), alone.buffers(), strict=True)
        weights = zip(layer.parameters(), alone.parameters(), strict=True)
        pairs += [(own.grad, its.grad) for own, its in weights]
        pairs.append((layer.eval()(x), alone.eval()(full)[rows]))
        found[name] = [float((own - its).detach().abs().max()) for own, its in pairs]
    found["off"] = "forward" in vars(layer)
    return found


def quantities(rank: int, out: Path) -> dict[str, Any]:
    """Sums and means over three rows of one process and one of the other."""
    processes = join("cpu", False)
    values = torch.tensor([[1.0, 2.0, 3.0], [10.0]][rank], requires_grad=True)
    weight = torch.tensor([0.0, 2.0][rank])
    mean = processes.mean(values)
    (mean * (rank + 1.0)).backward()  # L_0 = mean, L_1 = 2 mean
    unused, half = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    used = nn.Parameter(torch.ones(1))
    (half.sum() * (rank + 1)).backward()
    if rank == 1:  # the other process has no gradient for it
        used.sum().backward()
    processes.sum_gradients([unused, half, used])
    pooled = processes.pooled(values.mean(), weight)
    nothing = processes.pooled(values.mean(), weight * 0.0)
    return {
        "mean": float(mean.detach()),
        "gradient": values.grad.tolist(),
        "pooled": [float(pooled.detach()), float(nothing.detach())],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (unused, half, used)],
        "from_main": processes.from_main(lambda: rank + 5),
        "failed": raised(lambda: processes.from_main(lambda: 1 // rank)),
        "alone": Processes() == ALONE,
    }


# -- what goes wrong -------------------------------------------------------------------------


def unlike(rank: int, out: Path) -> dict[str, Any]:
    """Fits that differ between the two, or that cannot be shared."""
    X, y, _ = data()
    small = {**SMALL, "max_epochs": 1}
    gap = y.copy()
    gap[3] = np.nan if rank == 1 else 0.0

    def fit(y: Any, X: Any = X, **options: Any) -> list[str]:
        return raised(lambda: BackboneRegressor(accelerate=True, **{**small, **options}).fit(X, y))

    alone = BackboneRegressor(**small).partial_fit(X, y).set_params(accelerate=True)
    return {
        "partial_fit": raised(lambda: alone.partial_fit(X, y)),
        "y": fit(y + rank),
        "X": fit(y, X=X + rank),
        "learning_rate": fit(y, learning_rate=0.001 * (rank + 1)),
        "gap": fit(gap),
        "batch_size": fit(y, batch_size=1),
        "infinite": fit(y, learning_rate=1e30, gradient_clip=1e30, max_epochs=9),
        "seed": fit(y, random_state="one"),
        "and then": fit(y),
    }


def unread(rank: int, out: Path) -> dict[str, Any]:
    """A file that one of the two cannot read in its second batch; then a fit of both."""
    X, y, _ = data()
    plain, calls = WindowDataset.__getitems__, [0]

    def broken(self: WindowDataset, rows: list[int]) -> Any:
        calls[0] += 1
        if rank == 1 and calls[0] == 2:
            raise FileNotFoundError("genome.fa is gone")
        return plain(self, rows)

    model = BackboneRegressor(accelerate=True, **SMALL)
    with replaced(WindowDataset, __getitems__=broken):
        found = raised(lambda: model.fit(X, y))
    return {"error": found, "and then": raised(lambda: model.fit(X, y))}


def lost(rank: int, out: Path) -> dict[str, Any]:
    """An error of one of the two in a forward pass, where the other waits for it."""
    X, y, _ = data()
    model = BackboneRegressor(accelerate=True, **SMALL)

    def failing(self: WindowNet, inputs: Any) -> Any:
        if rank == 1 and self.progress_.step == 2:
            raise MemoryError("out of memory")
        return self.module_.objective(**inputs)

    with replaced(RegressionNet, training_outcome=failing):
        found = raised(lambda: model.fit(X, y))
    return {"error": found, "and then": raised(lambda: model.fit(X, y))}


TOGETHER = (
    norms, quantities, drawn, rows_read, loader_workers, random_numbers, epoch_by_epoch,
    budgets, checkpoints, unlike, unread, lost,
)  # fmt: skip


def main(out: Path) -> None:
    """Run all; ``lost`` comes last, because the processes part there."""
    torch.set_num_threads(1)
    # Fits of a few epochs are there to run, not to learn; other warnings are errors.
    warnings.filterwarnings("ignore", "the predictor has learned nothing")
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {each.__name__: each(True) for each in ALIKE}
    for each in TOGETHER:
        found[each.__name__] = each(rank, out)
    (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
