"""A cell of a comparison in a process of its own, whose memory and whose death are its own."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO

from joblib import wrap_non_picklable_objects

from regmask_sk._benchmark_cells import Outcome, Task, failed, run_cell

_CHILD = "from regmask_sk._benchmark_process import main; main()"


def pack(task: Task) -> bytes:
    """Pickle a task, classes and functions of a script or notebook included."""
    return pickle.dumps(wrap_non_picklable_objects(task, keep_wrapper=False))


def run_packed(payload: bytes, *, own_process: bool = False) -> Outcome:
    """Run what :func:`pack` packed; a task that cannot be unpickled is an outcome too."""
    try:
        task = pickle.loads(payload)
    except Exception as error:
        return failed(error)
    return run_cell(task, own_process=own_process)


def run_isolated(payload: bytes) -> Outcome:
    """Run what :func:`pack` packed in a new process, and wait for it.

    Parameters
    ----------
    payload : bytes
        The task.

    Returns
    -------
    Outcome
        What the process gave back. Where it was killed, as the system does where memory runs
        out, an outcome that says so.
    """
    with (
        tempfile.TemporaryFile() as task,
        tempfile.TemporaryFile() as result,
        tempfile.TemporaryFile() as messages,
    ):
        task.write(payload)
        task.seek(0)
        words = [str(task.fileno()), str(result.fileno())]
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *words],
            stdin=subprocess.PIPE,  # says, by its end, that this process is no more
            stdout=subprocess.DEVNULL,
            stderr=messages,
            pass_fds=(task.fileno(), result.fileno()),
            env={**os.environ, **_environment()},
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
        try:
            process.wait()
        finally:
            process.kill()  # nothing, where it has ended
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        result.seek(0)
        content = result.read()
        if process.returncode == 0 and content:
            outcome: Outcome = pickle.loads(content)
            return outcome
        return Outcome({}, None, _how_it_ended(process.returncode, messages))


def _environment() -> dict[str, str]:
    """Let the child import what can be imported here, and give torch as many threads."""
    found = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    return found


def _how_it_ended(code: int, messages: IO[bytes]) -> str:
    messages.seek(0)
    lines = messages.read().decode(errors="replace").strip().splitlines()
    last = f"; its last words: {' '.join(lines[-1].split())}" if lines else ""
    if code >= 0:
        return f"the process of this cell ended with status {code}{last}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    why = ", as it is where memory runs out" if -code == signal.SIGKILL else ""
    return f"the process of this cell was killed by signal {-code} ({name}){why}{last}"


def main() -> None:
    """Run the task that the file of the first word holds, in the child."""
    task, result = map(int, sys.argv[1:3])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(task, "rb") as source:
        outcome = run_packed(source.read(), own_process=True)
    with open(result, "wb") as target:
        pickle.dump(outcome, target)


def _end_with_parent() -> None:
    # Not sys.stdin, which the end of the interpreter would wait for.
    os.read(0, 1)
    os._exit(1)
