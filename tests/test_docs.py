"""The documentation is true: its examples run, its links, options and messages exist.

``python tests/test_docs.py`` writes the tables of options in docs/command-line.md, and that
of estimators in docs/benchmark.md, anew.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import regmask_sk
from regmask_sk import (
    RegMaskRegressor,
    SignalChannels,
    TSSWindows,
    export_masks,
    motif_enrichment,
    simulate_genome,
    write_report,
)
from regmask_sk.cli import main
from regmask_sk.cli.benchmark import TABLES
from regmask_sk.cli.options import REGRESSOR_OPTIONS, build_parser
from regmask_sk.cli.rivals import RIVALS

if TYPE_CHECKING:
    from conftest import ToyGenome

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(\{?\w+\}?)?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9_-]*")
# Of accelerate launch and torchrun.
LAUNCHER_OPTIONS = (
    "--main_process_ip", "--mixed_precision", "--nnodes", "--nproc_per_node", "--num_machines",
    "--num_processes", "--rdzv-endpoint",
)  # fmt: skip
OPTIONS_TABLE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)
ESTIMATORS_TABLE = re.compile(r"(<!-- estimators -->\n).*?(<!-- end of estimators -->)", re.DOTALL)
FILE_NAME = re.compile(r"`((?:\.ci|docs|examples|regmask_sk|tests)/[\w./-]*)`")
TOP_FILE = re.compile(r"`([\w-]+\.(?:md|toml|txt))`")

MEME = """MEME version 4

ALPHABET= ACGT

Background letter frequencies
A 0.25 C 0.25 G 0.25 T 0.25

MOTIF MA1.1 first
letter-probability matrix: alength= 4 w= 6 nsites= 20 E= 0
 1 0 0 0
 0 1 0 0
 0 0 1 0
 0 0 0.9 0.1
 0 0.5 0 0.5
 0.8 0 0.2 0

MOTIF MA2.1 second
letter-probability matrix: alength= 4 w= 7 nsites= 20 E= 0
 0 0 0 1
 0 0 1 0
 1 0 0 0
 0.3 0.4 0.3 0
 0 0 0 1
 0 1 0 0
 1 0 0 0
"""


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of the blocks of a language that are to be run."""
    text = path.read_text()
    return [
        (text.count("\n", 0, match.start(3)), match[3])
        for match in FENCE.finditer(text)
        if match[1] == language and "no-run" not in match[2]
    ]


def commands(path: Path) -> list[str]:
    joined = [text.replace("\\\n", " ") for _, text in blocks(path, "bash")]
    lines = [line for text in joined for line in text.splitlines()]
    return [line for line in lines if line.startswith("regmask ")]


PYTHON_PAGES = [path for path in PAGES if blocks(path, "python")]
COMMAND_PAGES = [path for path in PAGES if commands(path)]


@pytest.fixture
def example_files(toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working directory a folder that has the files the examples name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(toy_genome.fasta, "genome.fa")
    shutil.copy(toy_genome.loci_path, "genes.tsv")
    shutil.copy(toy_genome.tracks["counts"], "atac.bw")
    shutil.copy(toy_genome.tracks["ratio"], "ratio.bw")
    loci = toy_genome.loci
    ends = loci["chrom"].map({chrom: len(bases) for chrom, bases in toy_genome.sequences.items()})
    intervals = [
        (row.chrom, row.tss, end, gene) if row.strand == "+" else (row.chrom, 0, row.tss + 1, gene)
        for (gene, row), end in zip(loci.iterrows(), ends, strict=True)
    ]
    Path("genes.gtf").write_text(
        "".join(
            f'{chrom}\ttoy\tgene\t{start + 1}\t{end}\t.\t{strand}\t.\tgene_id "{gene}";\n'
            for (chrom, start, end, gene), strand in zip(intervals, loci["strand"], strict=True)
        )
    )
    Path("known_elements.bed").write_text(
        "".join(
            f"{row.chrom}\t{row.tss + 150}\t{row.tss + 250}\n"
            for row, end in zip(loci.itertuples(), ends, strict=True)
            if row.tss + 150 < end
        )
    )
    Path("motifs.meme").write_text(MEME)
    Path("blacklist.bed").write_text("chr1\t1000\t1400\nchr4\t700\t760\n")
    levels = loci["expression"].rename("level").iloc[:-2]
    levels.to_csv("expression.tsv", sep="\t")
    return tmp_path


# --- examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PYTHON_PAGES, ids=page_id)
@pytest.mark.usefixtures("example_files")
def test_python_blocks_run(path: Path) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        # What OptunaSearchCV says of itself, and of a part of Optuna that it uses.
        warnings.filterwarnings("ignore", message="OptunaSearchCV is experimental")
        warnings.filterwarnings("ignore", message="`optuna.terminator` module")
        # The toy genome has ten genes a chromosome: not every element has another place like it.
        warnings.filterwarnings("ignore", message=".* elements have no control as far from a TSS")
        for line, text in blocks(path, "python"):
            # Lines are counted as in the page, so that a traceback shows the place.
            exec(compile("\n" * line + text, str(path), "exec"), names)


@pytest.mark.parametrize("path", COMMAND_PAGES, ids=page_id)
@pytest.mark.usefixtures("example_files")
def test_commands_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if path.name == "tutorial.md":  # its second step
        simulate_genome("practice", n_genes=80)
    for line in commands(path):
        words = shlex.split(line)[1:]
        build_parser().parse_args(words)
        if words[0] == "demo":
            continue  # takes minutes
        if words[0] == "fit":
            words += ["--max-epochs", "1", "--device", "cpu"]
            words += ["--generator-epochs", "1", "--finetune-epochs", "1"]
        if words[0] == "benchmark":
            words += ["--max-epochs", "1", "--device", "cpu", "--no-isolate"]
        assert main(words) == 0, f"{line}\n{capsys.readouterr().err}"


def test_readme_keeps_the_marked_commands() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("run", "test"):
        match = re.search(rf"<!-- {name} -->\n```bash\n(.+)\n```\n", text)
        assert match, name
        assert "pip install -q -c constraints.txt" in match[1]


# --- names -----------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Give the names that headings have as link targets."""
    text = FENCE.sub("", path.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", TEXTS, ids=page_id)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(page), f"{target}: no such heading"


def test_the_table_of_contents_is_complete() -> None:
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text()))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= linked
    ((_, tree),) = blocks(ROOT / "docs" / "index.md", "{toctree}")
    assert {f"{name}.md" for name in tree.split()} >= pages


def test_the_reference_has_every_public_name_once() -> None:
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(regmask_sk.__all__) - {"__version__"})


@pytest.mark.parametrize("path", TEXTS, ids=page_id)
def test_named_files_exist(path: Path) -> None:
    text = path.read_text()
    named = [name for name in FILE_NAME.findall(text) if "NAME" not in name]
    for name in {*named, *TOP_FILE.findall(text)} - set(TABLES):
        assert (ROOT / name).exists(), f"{name} does not exist"


def parsers() -> dict[str, argparse.ArgumentParser]:
    whole = build_parser()
    action = next(a for a in whole._actions if isinstance(a, argparse._SubParsersAction))
    return {"": whole, **action.choices}


@pytest.mark.parametrize("path", TEXTS, ids=page_id)
def test_option_words_exist(path: Path) -> None:
    known = {word for parser in parsers().values() for word in parser._option_string_actions}
    known |= set(LAUNCHER_OPTIONS)
    for script in (ROOT / "examples").glob("*.py"):
        known |= set(re.findall(r'"(--[a-z-]+)"', script.read_text()))
    assert set(OPTION.findall(path.read_text())) <= known


def defaults(command: str) -> dict[str, Any]:
    """Defaults that the parser leaves to the functions it calls."""
    if command in ("fit", "benchmark"):
        known = RegMaskRegressor().get_params()
        given = {name: known[name] for name in REGRESSOR_OPTIONS} if command == "fit" else {}
        signal = inspect.signature(SignalChannels).parameters
        return given | {
            "jitter": TSSWindows().jitter,
            "scaling": signal["scaling"].default,
            "missing": signal["missing"].default,
        }
    if command == "report":
        known = inspect.signature(write_report).parameters
        calling = {name: known[name].default for name in ("threshold", "min_width", "merge_gap")}
        return calling | {"elements": known["n_elements"].default}
    if command == "mask":
        known = inspect.signature(export_masks).parameters
        return {
            name: known[name].default for name in ("threshold", "min_width", "merge_gap", "combine")
        }
    if command == "motifs":
        known = inspect.signature(motif_enrichment).parameters
        names = ("p_value", "n_shuffled", "n_matched", "position_tolerance", "gc_tolerance")
        return {name: known[name].default for name in names}
    return {}


def options_table(command: str) -> str:
    """Table of a command's options, as docs/command-line.md has it."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for action in parsers()[command]._actions:
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        value = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
        if action.choices is not None:
            value = ",".join(map(str, action.choices))
            value = f"{{{value}}}"
        if action.nargs == "+":
            value = f"{value} ..."
        words = [word for word in action.option_strings if not word.startswith("--no-")]
        default = defaults(command).get(action.dest, action.default)
        if action.required:
            shown = "required"
        elif default is None or default is False or default == argparse.SUPPRESS:
            shown = ""
        else:
            shown = f"`{default}`"
        meaning = (action.help or "").replace("|", "\\|").replace("%%", "%")
        lines.append(f"| `{' '.join([words[0], str(value)]).strip()}` | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    return OPTIONS_TABLE.sub(lambda match: match[1] + options_table(match[2]) + match[3], text)


def test_options_are_those_of_the_parser() -> None:
    text = (ROOT / "docs" / "command-line.md").read_text()
    assert {match[2] for match in OPTIONS_TABLE.finditer(text)} == set(parsers()) - {""}
    assert text == with_tables(text), "run `python tests/test_docs.py`"


def with_estimators(text: str) -> str:
    lines = ["| name | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {rival.meaning} |" for name, rival in RIVALS.items()]
    table = "\n".join(lines) + "\n"
    return ESTIMATORS_TABLE.sub(lambda match: match[1] + table + match[2], text)


def test_estimators_are_those_of_the_command() -> None:
    text = (ROOT / "docs" / "benchmark.md").read_text()
    assert ESTIMATORS_TABLE.search(text)
    assert text == with_estimators(text), "run `python tests/test_docs.py`"


# --- messages --------------------------------------------------------------------------------


def messages() -> list[str]:
    """Every text of the package, with … for what is filled in."""
    found = []
    for path in (ROOT / "regmask_sk").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(map(str, parts)))
    return found


def test_quoted_messages_are_in_the_sources() -> None:
    known = [re.sub(r"\s+", " ", text) for text in messages()]
    text = (ROOT / "docs" / "errors.md").read_text()
    quoted = re.findall(r"^### `(.+)`$", text, re.MULTILINE)
    assert len(quoted) > 40
    missing = [quote for quote in quoted if not any(quote in text for text in known)]
    assert not missing


if __name__ == "__main__":
    for name, complete in (("command-line.md", with_tables), ("benchmark.md", with_estimators)):
        page = ROOT / "docs" / name
        page.write_text(complete(page.read_text()))
