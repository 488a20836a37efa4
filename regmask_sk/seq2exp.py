"""The human expression data of Su et al. (2025), in the layout in which they are published."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from regmask_sk._contact_maps import TABLE_COLUMNS, tables_to_cooler
from regmask_sk._text_files import header_of, read_columns
from regmask_sk.contacts import ContactChannel
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.genome import BigWigReader, FastaReader
from regmask_sk.loci import check_loci
from regmask_sk.regressor import RegMaskRegressor

FASTA = "hg38/hg38.ml.fa"
#: The tables and tracks are in this folder of the root.
FOLDER = "promo_enhan_inter"
EXPRESSION = "GM12878_K562_18377_gene_expr_fromXpresso.csv"
FOLDS = "leave_chrom_out_crossvalidation_split_18377genes.csv"
#: Features of the messenger RNA in `EXPRESSION`: lengths as z-scores of their logarithm, shares
#: of G and C, exon junctions a kilobase of the open reading frame.
RNA_FEATURES = (
    "UTR5LEN_log10zscore", "CDSLEN_log10zscore", "INTRONLEN_log10zscore", "UTR3LEN_log10zscore",
    "UTR5GC", "CDSGC", "UTR3GC", "ORFEXONDENSITY",
)  # fmt: skip
#: Reads per million within 1 kb of the TSS, in the gene list of the activity-by-contact model.
PROMOTER_SIGNALS = ("H3K27ac.RPM.TSS1Kb", "DHS.RPM.TSS1Kb")
_PARTS = ("train", "valid", "test")
_CONTACT_BIN = 5_000  # bp
_CAGE_REACH = 192  # bp on either side of the TSS: three bins of 128 bp


class _CellType(NamedTuple):
    """Where the data of a cell type are, below `FOLDER`."""

    h3k27ac: str
    dnase: str
    genes: str
    gene_names: str  # what the gene list's column "name" holds, a column of `FOLDS`
    cage: str | None  # a bigWig; without one expression is a column of `EXPRESSION`


CELL_TYPES = {
    "K562": _CellType(
        "H3K27ac/K562/ENCFF465GBD.bigWig",
        "DNase-seq/K562/ENCFF414OGC.bigWig",
        "K562_DNase_ENCFF257HEE_hic_4DNFITUOMFUQ_1MB_ABC_nominated/"
        "DNase_ENCFF257HEE_Neighborhoods/GeneList.txt",
        "ENSID",
        None,
    ),
    "GM12878": _CellType(
        "H3K27ac/GM12878/ENCFF798KYP.bigWig",
        "DNase-seq/GM12878/ENCFF960FMM.bigWig",
        "GM12878_DNase_ENCFF020WZB_hic_4DNFI1UEG1HD_1MB_ABC_nominated/"
        "DNase_ENCFF020WZB_Neighborhoods/GeneList.txt",
        "ENSID",
        None,
    ),
    "H1": _CellType(
        "H3K27ac/H1/ENCFF771GNB.bigWig",
        "DNase-seq/H1/ENCFF232GUZ.bigWig",
        "H1_ABC/Neighborhoods/GeneList.txt",
        "Gene name",
        "CAGE/H1/H1_CAGE_CNhs13964.bw",
    ),
}


@dataclass(frozen=True, eq=False)
class Seq2ExpData:
    """What :func:`load_seq2exp` read.

    Attributes
    ----------
    loci : DataFrame
        Index ``gene`` (Ensembl identifiers); ``chrom, tss, strand``; ``gene_name``; the
        covariates that there are; ``fold_1`` to ``fold_12`` and ``fold_enformer``, each
        ``"train"``, ``"valid"`` or ``"test"``.
    y : Series
        ``log10(x + 1)`` of the CAGE signal x in three bins of 128 bp at the TSS.
    pipeline : Pipeline
        Windows, sequence, H3K27ac and DNase, contact to the TSS where a contact map was given,
        and a ``RegMaskRegressor`` with the covariates, which stops early by the chromosomes that
        the fold validates on. Not fitted.
    covariates : tuple of str
        The covariates that there are, of the published nine.
    contacts : dict of str to Path
        Table of Hi-C contacts of each chromosome that has one: ``bin1, bin2`` (of 5 kb) and
        ``hic_contact``.
    fasta : Path
        The genome.
    fold : str
        The fold of `pipeline` and, by default, of :meth:`split`.
    """

    loci: pd.DataFrame
    y: pd.Series
    pipeline: Pipeline
    covariates: tuple[str, ...]
    contacts: dict[str, Path]
    fasta: Path
    fold: str

    def write_contacts(self, path: str | os.PathLike[str]) -> None:
        """Write the tables of Hi-C contacts as one cooler file, for ``load_seq2exp(contacts=)``.

        Parameters
        ----------
        path : path-like
            File to write, ``.cool``; moved into place when it is complete.

        Raises
        ------
        ImportError
            If the package cooler is not installed (``pip install regmask_sk[contacts]``).
        FileExistsError
            If there is such a file.
        ValueError
            If the data have no tables of contacts, or one of them is malformed.
        """
        if not self.contacts:
            raise ValueError(
                f"there are no tables of contacts, {FOLDER}/HiC/CELL/hic_contacts_CHROM.csv, of "
                "which a contact map could be made."
            )
        sizes = FastaReader(self.fasta).chrom_sizes
        tables_to_cooler(self.contacts, path, chrom_sizes=sizes, bin_size=_CONTACT_BIN)

    def split(
        self, fold: int | str | None = None
    ) -> dict[str, tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Give a fold as ``compare`` takes it.

        Parameters
        ----------
        fold : int or str, optional
            1 to 12 or ``"enformer"``; that of the loading by default.

        Returns
        -------
        dict of str to (train, test)
            One split, rows by position. The validation genes are among those to train on:
            networks hold them out by ``validation_chroms``, other estimators use them.
        """
        name = self.fold if fold is None else f"fold_{fold}"
        part = _fold_column(self.loci, name)
        return {name: (np.flatnonzero(part != "test"), np.flatnonzero(part == "test"))}


def load_seq2exp(
    root: str | os.PathLike[str],
    cell_type: str = "K562",
    *,
    fold: int | str = 11,
    length: int = 200_000,
    contacts: str | os.PathLike[str] | None = None,
) -> Seq2ExpData:
    """Read the published benchmark of Seq2Exp from its folder, and check it.

    Parameters
    ----------
    root : path-like
        The data's folder. It holds ``hg38/hg38.ml.fa`` and, in ``promo_enhan_inter/``, the tables
        of expression and of folds, the gene list of the activity-by-contact model, and the bigWig
        files, under their published names; ``HiC/CELL/hic_contacts_CHROM.csv`` where there are.
    cell_type : {"K562", "GM12878", "H1"}, default="K562"
        Cell type.
    fold : int or str, default=11
        1 to 12, or ``"enformer"``. Published results are of fold 11: chr3 and chr21 validate,
        chr22 and chrX test.
    length : int, default=200_000
        Width of the windows in base pairs.
    contacts : path-like, optional
        Contact map of the cell type, a cooler file as :meth:`Seq2ExpData.write_contacts` makes it
        of the published tables. With it the contact of each base with the TSS is the third
        signal, ``"Hi-C"``: ``log10(1 + contact)``, 0 where the map has none.

    Returns
    -------
    Seq2ExpData
        Loci, expression and a pipeline that is ready to be fitted.

    Raises
    ------
    FileNotFoundError
        If files are missing; all of them are named.
    ValueError
        If a table lacks a column or holds something else than expected, or a parameter is none
        of those above.

    Warns
    -----
    UserWarning
        If genes of the folds are left out, because another table lacks them.

    Notes
    -----
    As published, windows are not turned to the gene's strand, and every model is given nine
    covariates, of which one, the promoter's activity ``sqrt(H3K27ac * DNase)``, is made of tracks:
    a model "without signals" is not without it. Unlike there, tracks are scaled
    (``SignalChannels``), and no constant is added to contacts.

    References
    ----------
    Su et al., "Learning to discover regulatory elements for gene expression prediction", ICLR
    2025. Lin et al., "EPInformer", 2026: expression, folds and gene lists.

    Examples
    --------
    >>> load_seq2exp("no-such-folder")
    Traceback (most recent call last):
    ...
    FileNotFoundError: no-such-folder lacks 6 files of the published layout: hg38/hg38.ml.fa, ...
    """
    if cell_type not in CELL_TYPES:
        raise ValueError(f"cell_type is {cell_type!r}; expected one of {list(CELL_TYPES)}.")
    cell, base = CELL_TYPES[cell_type], Path(root)
    tables = base / FOLDER
    _check_files(base, cell)
    folds = _read(tables / FOLDS, ",", ["ENSID", "chrom", "Gene name"]).set_index("ENSID")
    name = f"fold_{fold}"
    expression = _read(tables / EXPRESSION, ",", ["ENSID"]).set_index("ENSID")
    genes = _gene_list(tables / cell.genes)
    for path, table in ((FOLDS, folds), (EXPRESSION, expression)):
        _refuse_repeats(table, tables / path)
    column = None if cell.cage is not None else f"{cell_type}_CAGE_128*3_sum"
    _require_columns(expression, [] if column is None else [column], tables / EXPRESSION)

    names = folds.index if cell.gene_names == "ENSID" else folds[cell.gene_names]
    keep = names.isin(genes.index) & folds.index.isin(expression.index)
    loci = _loci(folds[keep], genes.loc[names[keep]], tables / cell.genes)
    part = _fold_column(loci, name)
    expression = expression.loc[loci.index]
    covariates = _add_covariates(loci, expression, genes.loc[names[keep]])
    raw = expression[column] if column is not None else _cage(loci, tables / str(cell.cage))
    y = _logarithm(raw, cell_type, loci.index)
    if not keep.all():
        lost = folds.index[~keep]
        warnings.warn(
            f"{len(lost)} of {len(folds)} genes of {FOLDS} are left out, because {EXPRESSION} or "
            f"the gene list of {cell_type} lacks them, such as {', '.join(lost[:5])}.",
            UserWarning,
            stacklevel=2,
        )
    steps: list[tuple[str, Any]] = [
        ("windows", TSSWindows(length, stranded=False)),
        ("sequence", SequenceChannels(base / FASTA)),
        (
            "signal",
            SignalChannels({"H3K27ac": tables / cell.h3k27ac, "DNase": tables / cell.dnase}),
        ),
    ]
    if contacts is not None:
        hic = ContactChannel(contacts, balance=False, scaling="log1p", missing="zero", name="Hi-C")
        steps.append(("contact", hic))
    validating = sorted(set(loci["chrom"][part == "valid"]))
    model = RegMaskRegressor(covariates=covariates, validation_chroms=validating)
    return Seq2ExpData(
        loci,
        y,
        Pipeline([*steps, ("model", model)]),
        covariates,
        _contacts(tables / "HiC" / cell_type, sorted(set(loci["chrom"]))),
        base / FASTA,
        name,
    )


def _check_files(root: Path, cell: _CellType) -> None:
    below = [EXPRESSION, FOLDS, cell.genes, cell.h3k27ac, cell.dnase, cell.cage]
    names = [FASTA, *(f"{FOLDER}/{name}" for name in below if name is not None)]
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{root} lacks {len(missing)} files of the published layout: {', '.join(missing)}. "
            "Check the path: it is that of the folder that holds hg38/ and promo_enhan_inter/."
        )


def _read(path: Path, separator: str, texts: list[str]) -> pd.DataFrame:
    # A first column without a name, a row number that pandas wrote, is left alone.
    found = header_of(path, separator)
    missing = [name for name in texts if name not in found]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {found[:30]}.")
    return read_columns(path, separator, texts)


def _require_columns(table: pd.DataFrame, names: list[str], path: Path) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(table.columns[:30])}.")


def _refuse_repeats(table: pd.DataFrame, path: Path) -> None:
    twice = table.index[table.index.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{path} has {len(twice)} genes more than once, such as {', '.join(twice[:5])}; "
            "expected one row each."
        )


def _gene_list(path: Path) -> pd.DataFrame:
    table = _read(path, "\t", ["name", "chr", "strand"])
    _require_columns(table, ["tss"], path)
    table = table.set_index("name")
    _refuse_repeats(table, path)
    return table


def _loci(folds: pd.DataFrame, genes: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Put places and folds together, and check that they speak of the same chromosomes."""
    if folds.empty:
        raise ValueError(
            f"no gene of {FOLDS} is in {path} and in {EXPRESSION}; expected the same names."
        )
    chrom = genes["chr"].to_numpy(dtype=object)
    told = "chr" + folds["chrom"].str.removeprefix("chr").to_numpy(dtype=object)
    if (chrom != told).any():
        row = int(np.flatnonzero(chrom != told)[0])
        raise ValueError(
            f"{int((chrom != told).sum())} genes lie on another chromosome in {path} than in "
            f"{FOLDS}, the first {folds.index[row]}: {chrom[row]} and {told[row]}."
        )
    columns = [name for name in folds.columns if name.startswith("fold_")]
    loci = pd.DataFrame(
        {
            "chrom": chrom.tolist(),
            "tss": pd.to_numeric(genes["tss"]).to_numpy(),
            "strand": genes["strand"].tolist(),
            "gene_name": folds["Gene name"].tolist(),
            **{name: folds[name].tolist() for name in columns},
        },
        index=pd.Index(folds.index.tolist(), name="gene"),
    )
    try:
        check_loci(loci)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return loci


def _fold_column(loci: pd.DataFrame, name: str) -> NDArray[Any]:
    known = [column for column in loci.columns if column.startswith("fold_")]
    if name not in known:
        raise ValueError(
            f"fold is {name.removeprefix('fold_')!r}; expected one of "
            f"{[column.removeprefix('fold_') for column in known]}."
        )
    part = loci[name].to_numpy(dtype=object)
    found = set(part)
    if found != set(_PARTS):
        raise ValueError(
            f"column {name!r} of {FOLDS} holds {sorted(map(str, found))} for the genes that are "
            f"kept; expected {list(_PARTS)}, each for some."
        )
    chroms = loci["chrom"].to_numpy(dtype=object)
    both = sorted(set(chroms[part == "valid"]) & set(chroms[part != "valid"]))
    if both and name != "fold_enformer":  # whose parts are regions
        raise ValueError(
            f"column {name!r} of {FOLDS} has genes of {', '.join(both)} in several parts; expected "
            "whole chromosomes."
        )
    return part


def _add_covariates(
    loci: pd.DataFrame, expression: pd.DataFrame, genes: pd.DataFrame
) -> tuple[str, ...]:
    names = [name for name in RNA_FEATURES if name in expression.columns]
    for name in names:
        loci[name] = pd.to_numeric(expression[name]).to_numpy(np.float64)
    if set(PROMOTER_SIGNALS) <= set(genes.columns):
        signals = genes[list(PROMOTER_SIGNALS)].apply(pd.to_numeric).to_numpy(np.float64)
        loci["PromoterActivity"] = np.sqrt(signals.prod(axis=1))
        names.append("PromoterActivity")
    bad = loci[names].isna()
    if bad.any(axis=None):
        gene, name = bad.stack().idxmax()
        raise ValueError(
            f"covariates are missing for {int(bad.any(axis=1).sum())} genes, the first {name} of "
            f"{gene}. Fill them in, or take the column out of its table."
        )
    return tuple(names)


def _cage(loci: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    """Sum the CAGE signal at each TSS; bases without a value count as 0."""
    reader = BigWigReader(path)
    places = zip(loci["chrom"], loci["tss"], strict=True)
    return np.array(
        [
            np.nansum(reader.values(chrom, tss - _CAGE_REACH, tss + _CAGE_REACH), dtype=np.float64)
            for chrom, tss in places
        ]
    )


def _logarithm(raw: Any, cell_type: str, genes: pd.Index) -> pd.Series:
    values = np.asarray(pd.to_numeric(raw), dtype=np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise ValueError(
            f"CAGE of {cell_type} is missing or negative for {int(wrong.sum())} genes, such as "
            f"{', '.join(genes[wrong][:5])}. Leave those genes out of {FOLDS}."
        )
    return pd.Series(np.log10(values + 1), index=genes, name="expression")


def _contacts(folder: Path, chroms: list[str]) -> dict[str, Path]:
    found = {}
    for chrom in chroms:
        path = folder / f"hic_contacts_{chrom}.csv"
        if path.is_file():
            columns = header_of(path, ",")
            missing = [name for name in TABLE_COLUMNS if name not in columns]
            if missing:
                raise ValueError(f"{path} lacks the columns {missing}; it has {columns}.")
            found[chrom] = path
    return found
