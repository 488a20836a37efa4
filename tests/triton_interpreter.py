"""Runs code with Triton's interpreter, which needs no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def check_in_interpreter(code: str, **environment: str) -> None:
    """Run code that prints "agrees", in a process of its own.

    The interpreter is chosen when Triton is first imported.
    """
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent,
        env={**os.environ, "TRITON_INTERPRET": "1", **environment},
    )
    assert done.stdout.strip() == "agrees", done.stderr
