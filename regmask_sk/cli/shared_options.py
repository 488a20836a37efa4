"""Options that several commands have: genes, files, windows; and the parser of them all."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from regmask_sk.cli.values import count, existing_file, name_list, named_file, natural

# Options that say how loci are read; a model remembers those of its fit.
LOCI_OPTIONS = (
    "loci_format", "tss_base", "name_column", "chrom_column", "tss_column", "strand_column",
    "allow_unstranded", "feature", "name_attribute",
)  # fmt: skip


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with no usage before it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}; see {self.prog} --help\n")


def loci_options(
    parser: argparse.ArgumentParser, columns_from: str, *, required: bool = True
) -> None:
    """Add the options that say which genes, and how their file is read.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command.
    columns_from : str
        Where names of columns come from when they are not given.
    required : bool, default=True
        Whether ``--loci`` must be given.
    """
    group = parser.add_argument_group(f"loci (columns and base: {columns_from})")
    group.add_argument(
        "--loci",
        type=existing_file,
        required=required,
        metavar="FILE",
        help="the genes: TSV or CSV with the columns gene, chrom, tss, strand; BED6; GTF or GFF3 "
        "(each may be gzipped)",
    )
    group.add_argument("--loci-format", choices=("auto", "table", "bed", "gtf", "gff3"))
    group.add_argument(
        "--tss-base",
        type=int,
        choices=(0, 1),
        help="whether the tss column of a table counts from 0 (the default) or from 1; BED, GTF "
        "and GFF3 have their own rules",
    )
    for column, meaning in (
        ("name", "gene names"),
        ("chrom", "chromosomes"),
        ("tss", "transcription start sites"),
        ("strand", "strands"),
    ):
        group.add_argument(
            f"--{column}-column", metavar="COLUMN", help=f"of a table, its {meaning}"
        )
    group.add_argument("--feature", help='rows of GTF and GFF3 to read (default "gene")')
    group.add_argument(
        "--name-attribute",
        metavar="NAME",
        help="attribute of GTF and GFF3 that names the gene (default gene_id, in GFF3 ID)",
    )
    group.add_argument(
        "--allow-unstranded",
        action="store_true",
        default=None,
        help='accept the strand ".", read as plus',
    )
    group.add_argument(
        "--blacklist",
        type=existing_file,
        metavar="BED",
        help="regions, named as the loci are; a gene whose TSS lies in one is left out, and fit "
        "reads the tracks in them as not covered",
    )
    group.add_argument(
        "--exclude-chroms",
        type=name_list,
        metavar="A,B",
        help="leave out, and count, the genes on these chromosomes",
    )
    group.add_argument(
        "--values",
        type=existing_file,
        metavar="FILE",
        help="TSV or CSV of further columns (targets, covariates) by gene name, its first column; "
        "joined to the loci, as BED, GTF and GFF3 have none",
    )
    group.add_argument(
        "--drop-missing",
        action="store_true",
        help="leave out, and count, genes that --values or the target column has no value for",
    )


def common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument(
        "--force", action="store_true", help="replace files and models that are there"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show progress bars even where stderr is a file"
    )
    parser.add_argument("--n-threads", type=count, metavar="N", help="CPU threads for the networks")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def genome_options(
    parser: argparse.ArgumentParser, *, required: bool = True
) -> argparse._ArgumentGroup:
    """Add the options that say what is predicted, and from which files.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command.
    required : bool, default=True
        Whether target and FASTA must be given.

    Returns
    -------
    argparse group
        Theirs, for more of the kind.
    """
    data = parser.add_argument_group("data")
    data.add_argument(
        "--target",
        required=required,
        metavar="COLUMN",
        help="numeric column of the loci to predict",
    )
    data.add_argument(
        "--fasta", type=existing_file, required=required, metavar="FILE", help="plain or bgzip"
    )
    data.add_argument(
        "--track",
        type=named_file,
        nargs="+",
        action="extend",
        metavar="NAME=FILE",
        help="bigWig tracks; NAME@CELL=FILE, once for each value of the loci's cell_type column, "
        "for tracks that differ by cell type; without any, the sequence alone is read",
    )
    data.add_argument(
        "--chrom-alias",
        nargs="+",
        action="extend",
        metavar="A=B",
        help="chromosome A of the loci is B in the FASTA and the tracks; or a file of two "
        "columns, A and B, parted by a tab",
    )
    data.add_argument(
        "--scaling", choices=("robust", "none"), help="of the tracks, learnt from training genes"
    )
    data.add_argument(
        "--missing",
        choices=("zero", "mask", "error"),
        help="bases that a track does not cover: read as 0, the same plus a channel that tells "
        "them, or an error",
    )
    data.add_argument(
        "--cache",
        default="auto",
        metavar="DIR",
        help='keep windows that were read: in this folder, in "memory", or not at all ("none"); '
        'default "auto": in memory where they take less than 2 GiB there',
    )
    data.add_argument(
        "--cache-dtype",
        choices=("float16", "float32"),
        help="of tracks in the folder of --cache: half the disk, to 0.05 %% of a value, or to the "
        "bit; default float16",
    )
    data.add_argument(
        "--cache-max-bytes",
        type=count,
        metavar="N",
        help="the most that --cache may take; default 8 GiB in memory, in a folder what the disk "
        "has left",
    )
    data.add_argument(
        "--covariate",
        nargs="+",
        action="extend",
        metavar="COLUMN",
        help="numeric columns of the loci that join the prediction",
    )
    return data


def window_options(group: argparse._ArgumentGroup, *, required: bool = True) -> None:
    """Add the options that say which window around a TSS is read."""
    group.add_argument(
        "--length", type=count, required=required, metavar="N", help="bp of the window around a TSS"
    )
    group.add_argument("--jitter", type=natural, metavar="N", help="bp of shifts in training")
    group.add_argument(
        "--unstranded", action="store_true", help="windows of minus-strand genes are not turned"
    )
