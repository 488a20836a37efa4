"""The parts of a report on the data: genes, chromosomes, splits, files and what they cover."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from regmask_sk.genome import PADDING_CODE, BigWigReader, FastaReader
from regmask_sk.model_selection import overlapping_rows
from regmask_sk.report._page import Finding, Table, number
from regmask_sk.windows import Windows

_SAMPLE = 300  # windows that are read for what files cover, fewer of long ones
_SPARSE = 0.5  # a track with fewer bases than this is remarked on
_FLAT = 1e-12
_NONE = ["n/a"] * 3
_MOST_BASES = 20_000_000  # of each file


@dataclass(frozen=True, eq=False)
class Genes:
    """The genes of a report, their values and their windows.

    Attributes
    ----------
    loci : DataFrame
        One row a gene.
    measured : ndarray of shape (n_genes,)
        Measured expression.
    windows : Windows
        What the model's last step reads.
    test : ndarray of bool
        Genes that were held out.
    validation : ndarray of bool
        Those of the training genes that told when to stop.
    """

    loci: pd.DataFrame
    measured: NDArray[np.float64]
    windows: Windows
    test: NDArray[np.bool_]
    validation: NDArray[np.bool_]

    @property
    def train(self) -> NDArray[np.bool_]:
        """Genes that the weights were fitted to."""
        return ~(self.test | self.validation)

    @property
    def scored(self) -> NDArray[np.intp]:
        """Rows that accuracy is told of: those held out, or all."""
        return np.flatnonzero(self.test) if self.test.any() else np.arange(len(self.loci))


def validation_of(model: Any, windows: Windows, test: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the genes that a fit on all but the test genes held out for validation.

    Parameters
    ----------
    model : regressor
        Fitted; its seed draws the same chromosomes again.
    windows : Windows
        Of all genes.
    test : ndarray of bool
        Test genes.

    Returns
    -------
    ndarray of bool
        One a gene; all False for models that hold none out.
    """
    found = np.zeros(len(windows), dtype=bool)
    params = model.get_params(deep=False)
    if not hasattr(model, "_seed") or "validation_fraction" not in params:
        return found
    fitted = np.flatnonzero(~test)
    named = params.get("validation_chroms")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the fit has said it
        if named is not None:
            chroms = windows.loci["chrom"].to_numpy(dtype=str)
            return np.isin(chroms, list(named)) & ~test
        rows = model._split_validation(
            windows[fitted], validation_chroms=None, groups=None, seed=model._seed,
            validation_fraction=params["validation_fraction"],
        )[1]  # fmt: skip
    found[fitted[rows]] = True
    return found


def data_parts(
    genes: Genes, model: Pipeline, *, target: str, random_state: int
) -> list[tuple[str, Any]]:
    """Check genes and files, and tell what they are.

    Parameters
    ----------
    genes : Genes
        All of them.
    model : Pipeline
        Its first steps name the files.
    target : str
        Name of what is predicted.
    random_state : int
        Of the windows that are read.

    Returns
    -------
    list of (kind, part)
        For the template.
    """
    n = len(genes.loci)
    rows = np.arange(n)
    most = max(1, min(_SAMPLE, _MOST_BASES // genes.windows.length))
    if n > most:
        rows = np.sort(np.random.default_rng(random_state).choice(n, most, replace=False))
    findings = [*_gene_findings(genes, target)]
    files, of_files = _files(model, genes.windows, rows)
    findings += of_files
    if not any(finding.level == "warning" for finding in findings):
        findings.insert(0, Finding("good", "Nothing in genes and files calls for a warning."))
    told = "all windows" if len(rows) == n else f"{len(rows):,} windows drawn at random"
    caption = f"Files, and what they hold in {told}."
    columns = [
        "channel",
        "file",
        "bases with a value (%)",
        "of these zero (%)",
        "median",
        "maximum",
    ]
    return [
        ("checks", findings),
        ("table", Table(caption, columns, files, frozenset({1}))),
    ]


def split_parts(genes: Genes, held_out_by: str) -> list[tuple[str, Any]]:
    """Tell which chromosomes the model has seen, and check that windows do not overlap.

    Parameters
    ----------
    genes : Genes
        All of them.
    held_out_by : str
        How test genes were chosen, in words.

    Returns
    -------
    list of (kind, part)
        For the template.
    """
    roles = {"training": genes.train, "validation": genes.validation, "test": genes.test}
    chroms = genes.loci["chrom"].astype(str).to_numpy()
    rows = [
        [chrom, *(number(int((mask & (chroms == chrom)).sum())) for mask in roles.values())]
        for chrom in dict.fromkeys(chroms)
    ]
    rows.append(["all", *(number(int(mask.sum())) for mask in roles.values())])
    findings = []
    if genes.test.any():
        train, test = np.flatnonzero(~genes.test), np.flatnonzero(genes.test)
        over = overlapping_rows(genes.windows, train, test, genes.windows.length)
        findings.append(
            Finding("good", "No window of a training gene shares a base with one of a test gene.")
            if not len(over)
            else Finding(
                "warning",
                f"{len(over):,} of {len(train):,} windows of training genes overlap those of test "
                "genes, so that accuracy is told too high. Hold out whole chromosomes.",
            )
        )
    else:
        findings.append(
            Finding(
                "warning",
                "No genes were held out. All figures below are of genes that the model was "
                "trained on, and say nothing of others. Fit with --test-chroms.",
            )
        )
    if not genes.validation.any():
        findings.append(
            Finding("note", "No genes were held out for validation: stages ran to their end.")
        )
    caption = f"Genes by chromosome and by what they were used for. {held_out_by}"
    return [("checks", findings), ("table", Table(caption, ["chromosome", *roles], rows))]


def _gene_findings(genes: Genes, target: str) -> Iterator[Finding]:
    loci, windows, n = genes.loci, genes.windows, len(genes.loci)
    yield Finding(
        "note",
        f"{n:,} genes, chromosomes: {loci['chrom'].nunique():,}, windows of "
        f"{windows.length:,} bp around the TSS; {target} from {genes.measured.min():.3g} to "
        f"{genes.measured.max():.3g}, median {np.median(genes.measured):.3g}.",
    )
    same = loci.duplicated(
        [c for c in ("chrom", "tss", "strand", "cell_type") if c in loci.columns]
    )
    if same.any():
        yield Finding(
            "note",
            f"{int(same.sum()):,} genes have the chromosome, TSS and strand of another one: they "
            "have the same window.",
        )
    if loci.index.has_duplicates and "cell_type" not in loci.columns:
        yield Finding(
            "warning",
            f"{int(loci.index.duplicated().sum()):,} names of genes occur more than once.",
        )
    sizes = windows.chrom_sizes
    if sizes:
        ends = loci["chrom"].astype(str).map(sizes).fillna(np.inf).to_numpy(np.float64)
        off = (windows.starts < 0) | (windows.starts + windows.length > ends)
        if off.any():
            yield Finding(
                "note",
                f"{int(off.sum()):,} windows ({off.mean():.1%}) run off the end of their "
                "chromosome; bases beyond it are zero in every channel.",
            )
    if np.ptp(genes.measured) <= _FLAT * max(1.0, float(np.abs(genes.measured).max())):
        yield Finding("warning", f"{target} is the same for all genes: there is nothing to learn.")
    zeros = float((genes.measured == 0).mean())
    if zeros > 0.2:
        yield Finding("note", f"{target} is 0 for {zeros:.0%} of the genes.")
    skew = float(pd.Series(genes.measured).skew()) if n > 2 else 0.0
    if skew > 3:
        yield Finding(
            "warning",
            f"{target} has a long tail (skewness {skew:.1f}): a few genes decide the error. Is it "
            "on a logarithmic scale?",
        )


def _files(
    model: Pipeline, windows: Windows, rows: NDArray[np.intp]
) -> tuple[list[list[str]], list[Finding]]:
    table, findings = [], []
    for _, step in model.steps[:-1]:
        params = {} if step is None or isinstance(step, str) else step.get_params(deep=False)
        alias = params.get("chrom_alias")
        if params.get("fasta") is not None:
            reader = FastaReader(params["fasta"], alias)
            codes = [reader.codes(i.chrom, i.start, i.end) for i in _intervals(windows, rows)]
            known = float(np.mean(np.concatenate(codes) != PADDING_CODE))
            table.append(["sequence", _size(reader.path), f"{100 * known:.3g}", *_NONE])
            if known < 1 - _SPARSE:
                findings.append(
                    Finding(
                        "warning",
                        f"{1 - known:.0%} of the bases of the windows are not A, C, G or T. Is "
                        "the FASTA masked, or of another assembly?",
                    )
                )
        for name, files in (params.get("tracks") or {}).items():
            by_cell = files if isinstance(files, Mapping) else {None: files}
            for cell, path in by_cell.items():
                label = name if cell is None else f"{name}, {cell}"
                line, found = _track(BigWigReader(path, alias), label, cell, windows, rows)
                table.append(line)
                findings += found
    return table, findings


def _track(
    reader: BigWigReader, label: str, cell: Any, windows: Windows, rows: NDArray[np.intp]
) -> tuple[list[str], list[Finding]]:
    found: list[Finding] = []
    wanted = [i for i in _intervals(windows, rows) if cell is None or i.cell_type == str(cell)]
    absent = {i.chrom for i in wanted} - set(reader.chrom_sizes)
    if absent:
        found.append(
            Finding(
                "warning",
                f"{label} has no data on {', '.join(sorted(absent))}: its windows there count as "
                "not covered.",
            )
        )
    read = [
        np.full(i.end - i.start, np.nan, np.float32)
        if i.chrom in absent
        else reader.values(i.chrom, i.start, i.end)
        for i in wanted
    ]
    values = np.concatenate(read) if read else np.empty(0, np.float32)
    held = values[np.isfinite(values)]
    covered = len(held) / max(len(values), 1)
    numbers = _NONE
    if len(held):
        numbers = [
            f"{100 * float((held == 0).mean()):.3g}",
            number(float(np.median(held))),
            number(float(held.max())),
        ]
    if covered < _SPARSE:
        found.append(
            Finding(
                "note" if covered else "warning",
                f"{label} has a value for {covered:.1%} of the bases. Where zeros of counts are "
                "not stored this is as it should be; where they are, it is not.",
            )
        )
    elif float(np.ptp(held)) == 0.0:
        found.append(Finding("warning", f"{label} has one and the same value everywhere."))
    return [label, _size(reader.path), f"{100 * covered:.3g}", *numbers], found


def _intervals(windows: Windows, rows: NDArray[np.intp]) -> Iterator[Any]:
    return (windows.interval(int(row)) for row in rows)


def _size(path: Path) -> str:
    return f"{path} ({path.stat().st_size / 1e6:,.1f} MB)"
