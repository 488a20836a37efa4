from __future__ import annotations

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import regmask_sk


@pytest.mark.parametrize("name", regmask_sk.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(regmask_sk, name) is not None
    assert name in dir(regmask_sk)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(regmask_sk.__file__).read_text())
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("regmask_sk.")
        for alias in node.names
    }
    assert told == {name: f"regmask_sk.{module}" for name, module in regmask_sk._PUBLIC.items()}


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        regmask_sk.nothing  # noqa: B018


def test_version() -> None:
    assert regmask_sk.__version__ == metadata.version("regmask_sk")


@pytest.mark.parametrize(
    "statement", ["import regmask_sk", "import regmask_sk.contacts", "import regmask_sk.cli"]
)
def test_reading_loci_and_tracks_loads_no_torch(statement: str) -> None:
    code = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
