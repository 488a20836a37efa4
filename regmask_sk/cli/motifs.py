"""``regmask motifs``: sites of motifs in elements, and their enrichment."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from regmask_sk._files import beside_of, sync_folder, write_whole
from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.genes import read_genes
from regmask_sk.cli.messages import say
from regmask_sk.cli.shared_options import LOCI_OPTIONS
from regmask_sk.cli.values import pairs_of

_PARAMETERS = ("p_value", "n_shuffled", "n_matched", "position_tolerance", "gc_tolerance")
_SHOWN = 5  # motifs named on stderr


def run_motifs(args: argparse.Namespace) -> None:
    """Do what ``regmask motifs`` promises.

    Parameters
    ----------
    args : argparse.Namespace
        The command's options.
    """
    if args.background and "matched" in args.background and args.loci is None:
        raise ValueError("--background matched needs --loci FILE, the genes that places are near")
    files = [path for path in (args.out, args.sites) if path is not None]
    if len({path.absolute() for path in files}) < len(files):
        raise ValueError("--out and --sites name one file; give each its own")
    for path in files:
        check_free(path, args.force)
        check_writable(path.parent)

    from regmask_sk.genome import FastaReader
    from regmask_sk.loci import read_regions
    from regmask_sk.motifs import iter_motif_sites, motif_enrichment, read_motifs

    try:
        motifs = read_motifs(args.motifs, file_format=args.motif_format)
    except ValueError as error:
        raise ValueError(str(error).replace("file_format", "--motif-format")) from error
    elements = read_regions(args.elements)
    reader = FastaReader(args.fasta, pairs_of(args.chrom_alias, "--chrom-alias") or None)
    loci = None
    if args.loci is not None:
        loci = read_genes(args, {name: getattr(args, name) for name in LOCI_OPTIONS}, None)
    say(args, f"{len(motifs)} motifs in {len(elements)} elements")
    options: dict[str, Any] = {
        name: getattr(args, name) for name in _PARAMETERS if getattr(args, name) is not None
    }
    table = motif_enrichment(
        elements,
        reader,
        motifs,
        loci=loci,
        background=args.background,
        random_state=args.seed,
        **options,
    )
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
    if args.sites is not None:
        found = {"p_value": args.p_value} if args.p_value is not None else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of short motifs, said before
            parts = iter_motif_sites(elements, reader, motifs, **found)
        n_sites = _write_parts(args.sites, parts)
        say(args, f"wrote {n_sites} sites to {args.sites}")
    write_whole(args.out, table.to_csv(sep="\t", index=False, na_rep="nan"))
    for name, part in table.groupby("background", sort=False):
        more = part.loc[part["q_value"] <= 0.05, "motif"].tolist()
        say(
            args, f"{name}: {len(more)} of {len(part)} motifs at 5 % false discoveries{_some(more)}"
        )
    say(args, f"wrote {args.out}")


def _some(names: Sequence[str]) -> str:
    return "".join(
        [": ", ", ".join(names[:_SHOWN]), " ..." * (len(names) > _SHOWN)] if names else []
    )


def _write_parts(path: Path, parts: Iterator[pd.DataFrame]) -> int:
    """Write tables one after the other as one file, whole or not at all."""
    beside = beside_of(path)
    n_rows = 0
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            for number, part in enumerate(parts):
                part.to_csv(file, sep="\t", index=False, header=number == 0)
                n_rows += len(part)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return n_rows
