"""The study of a search: any number of processes take trials from it, and lose none."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

_ALIVE = "alive"  # time of the last sign of life, in seconds since 1970
_DIED = 3  # signs of life that are missed before a trial counts as dead
_POLL = 1.0  # seconds between looks at what other processes do


def open_study(
    storage: Any, name: str, n_objectives: int, random_state: int | None
) -> optuna.Study:
    """Make a study, or open that of the storage.

    Parameters
    ----------
    storage : str, optuna storage or None
        Where the study is kept; in memory for None.
    name : str
        Name of the study in the storage.
    n_objectives : int
        Numbers to be minimised.
    random_state : int or None
        Seed of the search. With a storage each process, and each thread, draws by a seed of its
        own.

    Returns
    -------
    optuna.Study
        The study.

    Raises
    ------
    ValueError
        If the storage has a study of this name with another number of objectives.
    """
    import optuna

    seed = random_state
    if storage is not None and random_state is not None:
        own = [random_state, os.getpid(), threading.get_ident()]
        seed = int(np.random.SeedSequence(own).generate_state(1)[0])
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[optuna.study.StudyDirection.MINIMIZE] * n_objectives,
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=storage is not None,
    )
    if len(study.directions) != n_objectives:
        raise ValueError(
            f"the storage has a study {name!r} with {len(study.directions)} objectives; expected "
            f"{n_objectives}. Choose another study_name, or the objectives of that study."
        )
    return study


class Queue:
    """Hands out trials until the study has enough, those of other processes counted."""

    def __init__(self, study: optuna.Study, n_trials: int, heartbeat: float) -> None:
        self.study = study
        self.n_trials = n_trials
        self.heartbeat = heartbeat

    def next_trial(self, space: dict[str, BaseDistribution]) -> optuna.Trial | None:
        """Wait for what others run, take over what a dead process left, or draw a new trial."""
        from optuna.trial import TrialState

        while True:
            self.revive()
            states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
            done = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
            if done >= self.n_trials:
                return None
            running = states.count(TrialState.RUNNING)
            if TrialState.WAITING in states or done + running < self.n_trials:
                return self.study.ask(space)
            time.sleep(_POLL)

    def revive(self) -> None:
        """Fail running trials that show no sign of life, and queue their parameters again."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            began = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
            seen = trial.user_attrs.get(_ALIVE, began)
            if time.time() - seen <= _DIED * self.heartbeat:
                continue
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):
                continue  # another process was faster, and has queued it
            first = trial.user_attrs.get("retry_of", trial.number)
            self.study.enqueue_trial(trial.params, user_attrs={"retry_of": first})


class Alive:
    """While entered, a thread notes the time in a trial every so often."""

    def __init__(self, trial: optuna.Trial, interval: float) -> None:
        self._trial = trial
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Alive:
        self._trial.set_user_attr(_ALIVE, time.time())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            self._trial.set_user_attr(_ALIVE, time.time())
