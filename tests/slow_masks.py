"""An estimator of known error and masks, and a process that tunes it, for tests of tuning."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin


class KnownMasks(TransformerMixin, RegressorMixin, BaseEstimator):
    """Keeps the share `sparsity`, and errs by `(width - 3)**2 + max(0, 0.2 - sparsity)`."""

    def __init__(
        self, sparsity: float = 0.1, width: float = 3.0, sleep: float = 0.0, log: str | None = None
    ) -> None:
        self.sparsity = sparsity
        self.width = width
        self.sleep = sleep
        self.log = log

    def fit(self, X: Any, y: Any) -> KnownMasks:
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{self.sparsity!r}\n")
        time.sleep(self.sleep)
        self.fitted_ = True
        return self

    def predict(self, X: Any) -> np.ndarray:
        error = (self.width - 3.0) ** 2 + max(0.0, 0.2 - self.sparsity)
        return np.asarray(X)[:, 0, 0] + np.sqrt(error)

    def transform(self, X: Any) -> np.ndarray:
        return np.full((X.shape[0], X.shape[2]), self.sparsity)


class Meeting(KnownMasks):
    """Waits in its first fit until another process or thread fits one, too; `log` is a folder."""

    def fit(self, X: Any, y: Any) -> KnownMasks:
        folder = Path(str(self.log))
        (folder / f"{os.getpid()}-{threading.get_ident()}").touch()
        deadline = time.monotonic() + 120
        while len(list(folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        self.fitted_ = True
        return self


def data(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Windows, and the target that `KnownMasks` misses by its error."""
    X = np.random.default_rng(0).normal(size=(n, 1, 8))
    return X, X[:, 0, 0]


def work(journal: str, n_trials: int, sleep: float, log: str) -> None:
    """Work on the study in a journal file."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from sklearn.model_selection import KFold

    from regmask_sk import tune_sparsity

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    X, y = data()
    tune_sparsity(
        KnownMasks(sleep=sleep, log=log), X, y, cv=KFold(2), n_trials=n_trials,
        storage=JournalStorage(JournalFileBackend(journal)), heartbeat=0.5, prune=False,
        refit=False,
    )  # fmt: skip


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
