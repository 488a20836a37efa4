"""Genes and their exons from an annotation, for pictures of loci."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pandas as pd

from regmask_sk._text_files import read_annotation

_BOXES = ("exon", "CDS")


def read_gene_models(
    path: str | os.PathLike[str], *, name_attribute: str | None = None, feature: str = "gene"
) -> pd.DataFrame:
    r"""Read genes and their exons from a GTF or GFF3 file.

    Parameters
    ----------
    path : str or path-like
        The file, plain or compressed with gzip; GFF3 if its name ends in ``.gff``, ``.gff3`` or
        one of these and ``.gz``, else GTF.
    name_attribute : str, optional
        Attribute with the name that is shown, such as ``"gene_name"``; by default ``gene_id`` in
        GTF and ``ID`` in GFF3.
    feature : str, default="gene"
        Rows that are genes.

    Returns
    -------
    pandas.DataFrame
        ``chrom``, ``start``, ``end`` (0-based, half-open), ``strand``, ``name`` and ``feature``:
        `feature` for genes, and rows of ``exon`` or, in files without these, ``CDS``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is not as expected, there is no row of `feature`, or a gene has no such
        attribute.

    Examples
    --------
    >>> import tempfile
    >>> lines = ["gene\t11\t90", "exon\t11\t30", "exon\t61\t90"]
    >>> text = "".join(f'chr1\tx\t{line}\t.\t+\t.\tgene_id "g";\n' for line in lines)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "genes.gtf")
    ...     _ = path.write_text(text)
    ...     print(read_gene_models(path))
      chrom  start  end strand name feature
    0  chr1     10   90      +    g    gene
    1  chr1     10   30      +    g    exon
    2  chr1     60   90      +    g    exon
    """
    file = Path(path)
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    kind: Literal["gtf", "gff3"] = "gff3" if {".gff", ".gff3"} & set(suffixes[-1:]) else "gtf"
    tables = [_rows(file, kind, feature, name_attribute)]
    for boxes in _BOXES:
        try:
            # In GFF3 exons name their transcript; which gene they belong to, their place tells.
            part = _rows(file, kind, boxes, "Parent" if kind == "gff3" else "gene_id")
        except ValueError as error:
            if "has no rows of feature" not in str(error):
                raise
            continue
        tables.append(part)
        break
    return pd.concat(tables, ignore_index=True)


def _rows(
    path: Path, kind: Literal["gtf", "gff3"], feature: str, attribute: str | None
) -> pd.DataFrame:
    table = read_annotation(path, kind, feature, attribute)
    table = table.rename(columns={"gene": "name"}).assign(feature=feature)
    return table[["chrom", "start", "end", "strand", "name", "feature"]]
