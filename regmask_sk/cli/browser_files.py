"""What ``regmask mask`` writes for genome browsers, beside the masks."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.messages import say

if TYPE_CHECKING:
    import pandas as pd


def browser_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of browser files.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of ``regmask mask``.
    """
    group = parser.add_argument_group("genome browsers")
    group.add_argument(
        "--igv",
        type=Path,
        metavar="XML",
        help="a session of IGV with the files of --bigwig and --bed, and the tracks of the model",
    )
    group.add_argument(
        "--hub",
        type=Path,
        metavar="DIR",
        help="a track hub of the UCSC browser with copies of them; needs --bigwig, --genome and "
        "--email",
    )
    group.add_argument(
        "--genome",
        metavar="NAME",
        help="the browser's name of the assembly, such as hg38 (for --igv by default the FASTA of "
        "the model)",
    )
    group.add_argument("--email", metavar="ADDRESS", help="of the hub; the browser demands one")


def check_browser_files(args: argparse.Namespace) -> None:
    """Refuse, before any masks are computed, what cannot be written after them."""
    if args.igv is not None:
        if args.bigwig is None and args.bed is None:
            raise ValueError("--igv shows the files of --bigwig and --bed; give one of them")
        if args.igv.suffix != ".xml":
            raise ValueError(f"--igv: {args.igv} does not end in .xml, as sessions of IGV do")
        check_free(args.igv, args.force)
        check_writable(args.igv.parent)
    if args.hub is not None:
        missing = [f"--{name}" for name in ("bigwig", "genome", "email") if not getattr(args, name)]
        if missing:
            raise ValueError(f"--hub needs {' and '.join(missing)} too")
        check_free(args.hub / "hub.txt", args.force)
        check_writable(args.hub)


def write_browser_files(args: argparse.Namespace, model: Any, loci: pd.DataFrame) -> None:
    """Write the session and the hub that were asked for.

    Parameters
    ----------
    args : argparse.Namespace
        Of ``regmask mask``, whose files are written.
    model : Pipeline
        Its steps name the FASTA and the tracks.
    loci : DataFrame
        The genes; the session opens at the first one.
    """
    if args.igv is None and args.hub is None:
        return
    from regmask_sk.browser import write_igv_session, write_track_hub

    fasta, signals = _files_of(model, loci)
    shown = {"masks": args.bigwig, "elements": args.bed, "signals": signals}
    if args.igv is not None:
        gene = loci.iloc[0]
        reach = int(model[0].get_params()["length"]) // 2
        first = max(0, int(gene["tss"]) - reach)
        args.igv.parent.mkdir(parents=True, exist_ok=True)
        write_igv_session(
            args.igv,
            genome=args.genome or fasta,
            locus=(str(gene["chrom"]), first, int(gene["tss"]) + reach),
            overwrite=args.force,
            **shown,
        )
        say(args, f"wrote {args.igv}")
    if args.hub is not None:
        hub = write_track_hub(
            args.hub, genome=args.genome, email=args.email, overwrite=args.force, **shown
        )
        say(args, f"wrote {hub.hub}")


def _files_of(model: Any, loci: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """Give the FASTA of a pipeline, and its tracks; of several cell types, those of the loci."""
    fasta = ""
    signals: dict[str, Any] = {}
    for _, step in model.steps[:-1]:
        params = {} if isinstance(step, str) else step.get_params(deep=False)
        fasta = os.fspath(params.get("fasta") or fasta)
        for name, files in (params.get("tracks") or {}).items():
            # Masks of several cell types are not written as one bigWig.
            of_cell = files[str(loci["cell_type"].iloc[0])] if isinstance(files, Mapping) else files
            signals[name] = of_cell
    return fasta, signals
