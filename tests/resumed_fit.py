"""A fit that a test kills: `python resumed_fit.py CHECKPOINT OUT` goes on with it."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from regmask_sk import RegMaskRegressor

SMALL: dict[str, Any] = {
    "resolution": 8, "d_model": 8, "n_layers": 1, "batch_size": 8, "max_epochs": 4,
    "generator_epochs": 2, "finetune_epochs": 3, "sparsity": 0.3, "validation_fraction": 0.25,
    "random_state": 0, "device": "cpu",
}  # fmt: skip


def data() -> tuple[np.ndarray, np.ndarray]:
    """Windows, and what the first eight bases of each add up to."""
    X = np.random.default_rng(0).normal(size=(48, 2, 64)).astype(np.float32)
    return X, X[:, 0, :8].sum(axis=1)


def main(checkpoint: str, out: str) -> None:
    """Fit, slowly enough to be killed, and write the predictions."""
    import torch

    from regmask_sk._network import NetworkRegressor

    torch.set_num_threads(1)
    train_epoch: Any = NetworkRegressor._train_epoch

    def slow(self: Any, *given: Any) -> None:
        train_epoch(self, *given)
        time.sleep(0.3)

    NetworkRegressor._train_epoch = slow  # type: ignore[method-assign]
    X, y = data()
    model = RegMaskRegressor(**SMALL).fit(X, y, checkpoint=checkpoint, resume=True)
    np.save(out, np.stack([model.predict(X), model.transform(X).mean(axis=1)]))


if __name__ == "__main__":
    main(*sys.argv[1:3])
