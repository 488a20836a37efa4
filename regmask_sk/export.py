"""Write masks to bigWig, BED and npz, a batch of genes at a time.

Genes are taken in genomic order. A rolling buffer holds the stretch of the current chromosome
that a later window may still change and hands on what lies before it, so that memory is bounded by
one batch of masks and one window, whatever the number of genes. (Closing a bigWig, pyBigWig adds
about 15 bytes for each interval of the chromosome that has most, for the zoom levels.)

Coordinates in the bigWig and the BED are genomic, 0-based and half-open; masks of minus-strand
genes are turned back, and what runs off a chromosome is cut off. Chromosomes are sorted by name
as bytes (the order of ``LC_ALL=C sort``), which genome browsers and bedtools expect.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from regmask_sk._files import beside_of, sync_folder
from regmask_sk._mask_files import BedLines, BigWigTrack, Element, NpzRows

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

Combine = Literal["max", "mean"]

# A straight-through gate may leave [0, 1] by a rounding error; anything more is not a mask.
_SLACK = 1e-5


class MaskTransformer(Protocol):
    """What :func:`export_masks` needs of an estimator."""

    def transform(self, X: Windows) -> Any:
        """Return the masks of ``X``, shape (n_genes, length)."""


class ExportedMasks(NamedTuple):
    """What :func:`export_masks` wrote.

    Attributes
    ----------
    bigwig, bed, npz : Path or None
        The files; None for those not asked for.
    n_genes : int
        Number of windows whose masks were computed.
    n_elements : int
        Number of elements called; 0 where no BED file was asked for.
    mask_fraction : float
        Mean of all masks over all columns: the share of bases kept.
    """

    bigwig: Path | None
    bed: Path | None
    npz: Path | None
    n_genes: int
    n_elements: int
    mask_fraction: float


def call_elements(
    mask: ArrayLike, *, threshold: float = 0.5, min_width: int = 20, merge_gap: int = 50
) -> list[tuple[int, int]]:
    """Call the elements of one mask: runs of bases at or above a threshold.

    Parameters
    ----------
    mask : array-like of shape (length,)
        One mask, values in [0, 1].
    threshold : float, default=0.5
        A base belongs to an element if its mask is at least this.
    min_width : int, default=20
        Elements narrower than this many base pairs, after merging, are dropped.
    merge_gap : int, default=50
        Runs at most this many base pairs apart are merged, and the gap joins the element.

    Returns
    -------
    list of (int, int)
        Start and end of each element as columns of `mask`, 0-based and half-open, in order.

    Raises
    ------
    ValueError
        If `mask` is not one-dimensional and finite, or a parameter is out of range.

    See Also
    --------
    gene_elements : The same in genomic coordinates.

    Examples
    --------
    >>> mask = [0.9, 0.9, 0.1, 0.9, 0.0, 0.0, 0.0, 0.9]
    >>> call_elements(mask, threshold=0.5, min_width=2, merge_gap=1)
    [(0, 4)]
    """
    _check_calling(threshold, min_width, merge_gap)
    values = np.asarray(mask)
    if values.dtype.kind != "f":  # float32 stays: 0.7 is a smaller number in it
        values = values.astype(np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(
            f"mask has shape {values.shape}; expected one vector of finite values. Call once per "
            "gene."
        )
    edges = np.flatnonzero(np.diff(values >= threshold, prepend=False, append=False))
    gaps = edges[1:-1].reshape(-1, 2)
    wide_gaps = gaps[gaps[:, 1] - gaps[:, 0] > merge_gap]
    elements = np.concatenate((edges[:1], wide_gaps.ravel(), edges[-1:])).reshape(-1, 2)
    return [(start, end) for start, end in elements.tolist() if end - start >= min_width]


def _check_calling(threshold: float, min_width: int, merge_gap: int) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; expected a mask value in (0, 1].")
    if min_width < 1:
        raise ValueError(f"min_width is {min_width}; expected at least 1 base pair.")
    if merge_gap < 0:
        raise ValueError(f"merge_gap is {merge_gap}; expected 0 or more base pairs.")


def gene_elements(
    windows: Windows,
    row: int,
    mask: ArrayLike,
    *,
    threshold: float = 0.5,
    min_width: int = 20,
    merge_gap: int = 50,
    chrom_sizes: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Call the elements of one gene in genomic coordinates, as :func:`export_masks` writes them.

    Parameters
    ----------
    windows : Windows
        The loci.
    row : int
        Row of the gene in `windows`.
    mask : array-like of shape (length,)
        Its mask in gene orientation, as ``transform`` gives it.
    threshold, min_width, merge_gap
        As in :func:`call_elements`.
    chrom_sizes : mapping of str to int, optional
        Chromosome sizes in base pairs. By default those of the sources of `windows`.

    Returns
    -------
    pandas.DataFrame
        Columns ``chrom``, ``start``, ``end`` (0-based, half-open), ``name`` (the gene),
        ``score`` (see :func:`export_masks`) and ``strand``.

    Raises
    ------
    ValueError
        If the mask does not fit the window, or the chromosome's size is not known.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [500], "strand": ["-"]}, index=["g"])
    >>> mask = np.zeros(200)
    >>> mask[:50] = 0.8
    >>> gene_elements(Windows(loci, length=200), 0, mask, chrom_sizes={"chr1": 600})
      chrom  start  end name  score strand
    0  chr1    551  600    g    800      -
    """
    one = windows[np.array([row])]
    masks = _check_masks(np.asarray(mask)[np.newaxis], one)
    chrom, strand = one.loci["chrom"].iloc[0], one.loci["strand"].iloc[0]
    size = _check_sizes(one, chrom_sizes)[chrom]
    start, values = _on_chromosome(masks[0], int(one.starts[0]), bool(one.reversed[0]), size)
    calls = call_elements(values, threshold=threshold, min_width=min_width, merge_gap=merge_gap)
    elements = _scored(calls, values, start, str(one.loci.index[0]), strand)
    table = pd.DataFrame(elements, columns=list(Element._fields))
    table.insert(0, "chrom", chrom)
    return table


def export_masks(
    estimator: MaskTransformer,
    windows: Windows,
    *,
    bigwig: str | os.PathLike[str] | None = None,
    bed: str | os.PathLike[str] | None = None,
    npz: str | os.PathLike[str] | None = None,
    threshold: float = 0.5,
    min_width: int = 20,
    merge_gap: int = 50,
    combine: Combine = "max",
    batch_size: int = 64,
    chrom_sizes: Mapping[str, int] | None = None,
    overwrite: bool = False,
    verbose: int = 0,
) -> ExportedMasks:
    r"""Compute the masks of all windows batch by batch and write them to files.

    Each file is written beside its final place and moved there when all are complete, so that a
    run that fails or is interrupted leaves none behind, and none half written.

    Parameters
    ----------
    estimator : object with ``transform``
        A fitted estimator whose ``transform(windows)`` gives masks of shape (n_genes, length).
    windows : Windows
        The loci to export, with the channels that `estimator` was fitted on.
    bigwig : path, optional
        Masks along the genome. Where windows overlap, the masks are combined base by base under
        the rule of `combine`. Bases of a window are written even where the mask is 0; bases of
        no window have no value. A run of equal values is one interval.
    bed : path, optional
        Elements in BED6, called on each gene's own mask before any combination, so that
        overlapping elements of two genes are two lines. Sorted by chromosome, start, end and
        name. The score is the mean mask over the element times 1000, rounded, 0 to 1000.
    npz : path, optional
        Masks gene by gene, neither turned nor combined nor cut, for :func:`numpy.load`:
        ``masks`` (n_genes, length) float32 in *gene* orientation, and for each row ``gene``,
        ``chrom``, ``tss`` and ``start`` (0-based), ``strand`` and ``reversed``, and
        ``cell_type`` where the loci have it; rows in the order of `windows`. If ``reversed``,
        column *j* is genomic position ``start + length - 1 - j``, else ``start + j``. A temporary
        file of the uncompressed size is needed beside it while it is written.
    threshold, min_width, merge_gap
        How elements are called: :func:`call_elements`.
    combine : {"max", "mean"}, default="max"
        How the bigWig combines the masks of overlapping windows: the greatest one ("some gene
        uses this base"), or their mean.
    batch_size : int, default=64
        Windows handed to `estimator` at once.
    chrom_sizes : mapping of str to int, optional
        Chromosome sizes in base pairs. By default those of the FASTA and bigWig files behind the
        channels of `windows`.
    overwrite : bool, default=False
        Replace files that exist.
    verbose : int, default=0
        Above 0, show a progress bar on stderr.

    Returns
    -------
    ExportedMasks
        The paths and a summary.

    Raises
    ------
    FileExistsError
        If a file exists and `overwrite` is False.
    ValueError
        If no file is asked for, a parameter is out of range, there are no windows, chromosome
        sizes are unknown or contradict each other, loci of several cell types would share one
        bigWig or BED, or the estimator returns something other than masks in [0, 1].

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> class HalfOpen:
    ...     def transform(self, X):
    ...         return np.tile([1.0, 0.0], (len(X), X.length // 2))
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [30], "strand": ["+"]}, index=["g"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export_masks(
    ...         HalfOpen(), Windows(loci, length=4), bed=Path(folder, "elements.bed"),
    ...         min_width=1, merge_gap=0, chrom_sizes={"chr1": 100},
    ...     )
    ...     print(written.bed.read_text().replace("\t", " "), end="")
    chr1 28 29 g 1000 +
    chr1 30 31 g 1000 +
    >>> written.mask_fraction
    0.5
    """
    targets = _check_targets({"bigwig": bigwig, "bed": bed, "npz": npz}, windows, overwrite)
    _check_calling(threshold, min_width, merge_gap)
    if combine not in ("max", "mean"):
        raise ValueError(f"combine is {combine!r}; expected 'max' or 'mean'.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    if len(windows) == 0:
        raise ValueError("windows has no rows; expected at least one gene.")
    genomic = "bigwig" in targets or "bed" in targets
    sizes = _check_sizes(windows, chrom_sizes) if genomic else {}
    if genomic:
        _check_tracks(windows)

    names = windows.loci.index.astype(str)
    chroms = windows.loci["chrom"].to_numpy().astype(str)
    strands = windows.loci["strand"].to_numpy().astype(str)
    starts, reverse = windows.starts, windows.reversed
    order = np.lexsort((starts, chroms))
    kept = 0.0
    track = lines = rows = None
    with _written_beside(targets) as paths, ExitStack() as stack:
        if "bigwig" in paths:
            track = stack.enter_context(
                BigWigTrack(paths["bigwig"], sizes, windows.length, combine)
            )
        if "bed" in paths:
            lines = stack.enter_context(BedLines(paths["bed"]))
        if "npz" in paths:
            rows = stack.enter_context(
                NpzRows(paths["npz"], (len(windows), windows.length), _row_columns(windows))
            )
        bar = stack.enter_context(
            tqdm(total=len(windows), desc="masks", unit="gene", disable=verbose <= 0)
        )
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            part = windows[batch]
            masks = _check_masks(np.asarray(estimator.transform(part)), part)
            kept += float(masks.sum(dtype=np.float64))
            bar.update(len(batch))
            if rows is not None:
                rows.write(batch, masks)
            if not genomic:
                continue
            for row, mask in zip(batch, masks, strict=True):
                chrom = chroms[row]
                start, values = _on_chromosome(mask, starts[row], reverse[row], sizes[chrom])
                if track is not None:
                    track.add(chrom, start, values)
                if lines is not None:
                    calls = call_elements(
                        values, threshold=threshold, min_width=min_width, merge_gap=merge_gap
                    )
                    lines.add(chrom, start, _scored(calls, values, start, names[row], strands[row]))
    return ExportedMasks(
        bigwig=targets.get("bigwig"),
        bed=targets.get("bed"),
        npz=targets.get("npz"),
        n_genes=len(windows),
        n_elements=0 if lines is None else lines.n_written,
        mask_fraction=kept / (len(windows) * windows.length),
    )


def _check_targets(
    given: Mapping[str, str | os.PathLike[str] | None], windows: Windows, overwrite: bool
) -> dict[str, Path]:
    targets = {name: Path(path) for name, path in given.items() if path is not None}
    if not targets:
        raise ValueError("no file is asked for. Give at least one of bigwig, bed and npz.")
    if len({path.resolve() for path in targets.values()}) < len(targets):
        raise ValueError(f"two outputs share one path: {targets}. Give each its own.")
    inputs = {Path(reader.path).resolve() for reader in windows.readers}
    for name, path in targets.items():
        if path.resolve() in inputs:
            raise ValueError(f"{name}: {path} is a file that windows reads. Name another file.")
        if name == "bed" and path.suffix == ".gz":
            raise ValueError(
                f"bed is {str(path)!r}, and plain text is written. Leave out the .gz and compress "
                "the file with bgzip, which tabix and browsers need."
            )
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{name}: the folder {path.parent} does not exist. Create it.")
        if path.is_dir():
            raise IsADirectoryError(f"{name}: {path} is a folder; expected the name of a file.")
        if path.exists() and not overwrite:
            raise FileExistsError(
                f"{name}: {path} exists. Pass overwrite=True to replace it, or name another file."
            )
    return targets


def _check_sizes(windows: Windows, chrom_sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Return the chromosome sizes, sorted by name as bytes, that hold for all windows."""
    sizes: dict[str, int] = {}
    tables = (
        [reader.chrom_sizes for reader in windows.readers] if chrom_sizes is None else [chrom_sizes]
    )
    for table in tables:
        for chrom, size in table.items():
            if sizes.setdefault(chrom, int(size)) != size:
                raise ValueError(
                    f"the sources of windows disagree on the size of {chrom}: {sizes[chrom]} and "
                    f"{size} bp. Use files of one assembly, or pass chrom_sizes."
                )
    missing = sorted(set(windows.loci["chrom"]) - set(sizes))
    if missing:
        raise ValueError(
            f"chrom_sizes has no size for {missing[:5]}; known are {sorted(sizes)[:5]}. Pass "
            "chrom_sizes={name: base pairs} with every chromosome of the loci."
        )
    ends = np.array([sizes[chrom] for chrom in windows.loci["chrom"]])
    off = windows.loci["tss"].to_numpy(dtype=np.int64) >= ends
    if off.any():
        genes = list(windows.loci.index[off][:5])
        raise ValueError(
            f"{int(off.sum())} genes have a TSS past the end of their chromosome, the first "
            f"{genes}. Use loci and chrom_sizes of one assembly."
        )
    return dict(sorted(sizes.items(), key=lambda item: item[0].encode()))


def _check_tracks(windows: Windows) -> None:
    if "cell_type" in windows.loci.columns and windows.loci["cell_type"].nunique() > 1:
        kinds = sorted(map(str, windows.loci["cell_type"].unique()))
        raise ValueError(
            f"loci holds several cell types, {kinds[:5]}, and one bigWig or BED would mix their "
            "masks. Export each alone: windows[windows.loci['cell_type'] == name]."
        )
    names = windows.loci.index.astype(str)
    broken = names[names.str.contains(r"[\t\n\r]", regex=True)]
    if len(broken):
        raise ValueError(
            f"{len(broken)} gene names hold a tab or a line break, which BED cannot; the first is "
            f"{broken[0]!r}. Rename them in the index of loci."
        )


def _check_masks(masks: NDArray[Any], windows: Windows) -> NDArray[np.floating]:
    """Return masks of the right shape, clipped to [0, 1] where only rounding left it."""
    expected = (len(windows), windows.length)
    if masks.shape != expected or masks.dtype.kind not in "fbiu":
        raise ValueError(
            f"the masks have shape {masks.shape} and dtype {masks.dtype}; expected numbers of "
            f"shape {expected}. Use an estimator whose transform gives one mask a gene."
        )
    if masks.dtype.kind != "f":
        masks = masks.astype(np.float32)
    low, high = masks.min(initial=0.0), masks.max(initial=1.0)
    # Written so that NaN fails too.
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise ValueError(
            f"the masks range from {low} to {high}; expected [0, 1]. Use an estimator whose "
            "transform gives masks, and check that its training did not diverge."
        )
    return np.clip(masks, 0.0, 1.0)


def _on_chromosome(
    mask: NDArray[np.floating], start: int, reverse: bool, size: int
) -> tuple[int, NDArray[np.floating]]:
    """Turn a mask to genomic orientation and cut off what lies off the chromosome."""
    start = int(start)
    values = mask[::-1] if reverse else mask
    first, last = max(0, -start), min(len(mask), size - start)
    return start + first, values[first:last]


def _scored(
    calls: Sequence[tuple[int, int]],
    values: NDArray[np.floating],
    offset: int,
    name: str,
    strand: str,
) -> list[Element]:
    return [
        Element(
            start=offset + start,
            end=offset + end,
            name=name,
            score=round(1000 * float(values[start:end].mean(dtype=np.float64))),
            strand=strand,
        )
        for start, end in calls
    ]


def _row_columns(windows: Windows) -> dict[str, NDArray[Any]]:
    loci = windows.loci
    cells = {}
    if "cell_type" in loci.columns:
        cells["cell_type"] = loci["cell_type"].to_numpy().astype(np.str_)
    return {
        **cells,
        "gene": loci.index.to_numpy().astype(np.str_),
        "chrom": loci["chrom"].to_numpy().astype(np.str_),
        "tss": loci["tss"].to_numpy(dtype=np.int64),
        "strand": loci["strand"].to_numpy().astype(np.str_),
        "start": windows.starts,
        "reversed": windows.reversed,
    }


@contextmanager
def _written_beside(targets: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """Give temporary paths next to the targets; move all into place, or leave nothing."""
    paths = {name: beside_of(path) for name, path in targets.items()}
    try:
        yield paths
        for name, path in paths.items():
            os.replace(path, targets[name])
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)
    for folder in {path.parent for path in targets.values()}:
        sync_folder(folder)
