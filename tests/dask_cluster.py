"""Two workers of dask on this machine, for tests of what runs through joblib."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import joblib
import pytest


@contextmanager
def on_dask(*, processes: bool) -> Iterator[None]:
    """Have joblib run through dask inside, in processes or in threads; skip without dask."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        warnings.simplefilter("ignore")  # what dask and its parts say is not ours
        yield
