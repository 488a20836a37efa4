"""Fits in threads of one process: each has the random numbers that it would have alone."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from regmask_sk._turns import own_random_numbers, turn
from regmask_sk.regressor import RegMaskRegressor


def in_threads(*tasks: Callable[[], Any]) -> list[Any]:
    results: list[Any] = [None] * len(tasks)

    def run(number: int) -> None:
        results[number] = tasks[number]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def one_thread_each() -> Iterator[None]:
    """Every Python thread computes on one core: bits depend on the number of cores.

    Whoever has set that number in one thread and put it back in another (a search in threads
    may) leaves new threads with another number than this one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread_each")
def test_fits_in_threads_come_to_the_bits_of_fits_alone() -> None:
    X = np.random.default_rng(0).normal(size=(32, 2, 32)).astype(np.float32)
    y = X[:, 0, :8].mean(axis=1)

    def model(seed: int) -> RegMaskRegressor:
        return RegMaskRegressor(
            d_model=8, n_layers=1, resolution=4, sparsity=0.3, max_epochs=2, batch_size=16,
            random_state=seed, device="cpu",
        )  # fmt: skip

    def whole(seed: int) -> RegMaskRegressor:
        return model(seed).fit(X, y)

    def step_by_step(seed: int) -> RegMaskRegressor:
        steps = model(seed)
        for _ in range(4):
            steps.partial_fit(X, y)
        return steps

    alone = [whole(0).predict(X), whole(1).predict(X)]
    fitted = whole(2)
    masks, samples = fitted.transform(X), fitted.predict_samples(X, 3, random_state=0)

    def read() -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (fitted.transform(X), fitted.predict_samples(X, 3, random_state=0)) for _ in range(5)
        ]

    *predicted, read_meanwhile = in_threads(
        lambda: whole(0).predict(X), lambda: whole(1).predict(X),
        lambda: step_by_step(0).predict(X), read,
    )  # fmt: skip
    for ours, expected in zip(predicted, [*alone, alone[0]], strict=True):
        np.testing.assert_array_equal(ours, expected)
    for ours, drawn in read_meanwhile:
        np.testing.assert_array_equal(ours, masks)
        np.testing.assert_array_equal(drawn, samples)


def test_numbers_are_put_back_whoever_is_faster() -> None:
    before = torch.get_rng_state()

    def draw(seed: int) -> Callable[[], list[torch.Tensor]]:
        def task() -> list[torch.Tensor]:
            drawn = []
            with own_random_numbers(seed):
                for _ in range(5):
                    time.sleep(0.002)
                    drawn.append(torch.rand(4))
            return drawn

        return task

    found = in_threads(*map(draw, range(3)))
    for seed, drawn in enumerate(found):
        generator = torch.Generator().manual_seed(seed)
        for numbers in drawn:
            assert torch.equal(numbers, torch.rand(4, generator=generator))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_does_not_wait_for_threads_it_lacks() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with turn():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forks with threads
        child = os.fork()
    if child == 0:
        with turn():
            os._exit(0)
    deadline = time.monotonic() + 20
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    done.set()
    thread.join()
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended
    assert os.waitstatus_to_exitcode(status) == 0
