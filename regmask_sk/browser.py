"""Masks, elements and tracks in genome browsers: an IGV session, and a UCSC track hub.

Paths in both are relative, so that a folder can be moved or served as a whole. Masks are shown
from 0 to 1, tracks on a scale that follows the view. Colours are those of Okabe and Ito, which
colour-blind readers tell apart.

A hub takes binary files only, and no library at hand writes a bigBed with its columns named. A
hub therefore shows elements as a bigWig of their scores, and has the BED file beside it.

References
----------
Robinson et al., "Integrative Genomics Viewer", Nature Biotechnology 29:24 (2011).
Raney et al., "Track data hubs enable visualization of user-defined genome-wide annotations on the
UCSC Genome Browser", Bioinformatics 30:1003 (2014); settings: "Hub Track Database Definition".
"""

from __future__ import annotations

import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyBigWig

from regmask_sk._files import beside_of, write_whole
from regmask_sk.genome import BigWigReader
from regmask_sk.loci import read_regions

_MASK_COLOR, _ELEMENT_COLOR = "0,114,178", "213,94,0"
_SIGNAL_COLORS = ("0,158,115", "230,159,0", "86,180,233", "204,121,167", "0,0,0")
_SHORT, _LONG = 17, 80  # characters of a label that the UCSC browser shows

_Path = str | os.PathLike[str]


class TrackHub(NamedTuple):
    """What :func:`write_track_hub` wrote.

    Attributes
    ----------
    hub, genomes, track_db : Path
        ``hub.txt``, whose address the browser is given, ``genomes.txt`` and ``trackDb.txt``.
    data : tuple of Path
        The files with the data, copies or links.
    """

    hub: Path
    genomes: Path
    track_db: Path
    data: tuple[Path, ...]


def write_igv_session(
    path: _Path,
    *,
    genome: _Path,
    masks: _Path | None = None,
    elements: _Path | None = None,
    signals: Mapping[str, _Path] | None = None,
    locus: tuple[str, int, int] | None = None,
    overwrite: bool = False,
) -> Path:
    r"""Write a session file of IGV, the desktop program: File, Open Session.

    Parameters
    ----------
    path : path-like
        Session to write, ``.xml``. Files are named relative to its folder.
    genome : str or path-like
        Name of a genome that IGV knows, such as ``"sacCer3"``, or an indexed FASTA file. What is
        the path of a file is taken for one.
    masks : path-like, optional
        The bigWig of :func:`regmask_sk.export_masks`, shown from 0 to 1.
    elements : path-like, optional
        Its BED file.
    signals : mapping of str to path-like, optional
        Name to bigWig file of further tracks, each on a scale that follows the view.
    locus : (str, int, int), optional
        Chromosome, start and end (0-based, half-open) to show first.
    overwrite : bool, default=False
        Replace a session that exists.

    Returns
    -------
    Path
        The session file.

    Raises
    ------
    FileNotFoundError
        If a file, or the folder of `path`, does not exist.
    FileExistsError
        If `path` exists and `overwrite` is False.
    ValueError
        If there is nothing to show, or `path` does not end in ``.xml``.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bed = Path(folder, "elements.bed")
    ...     _ = bed.write_text("chr1\\t5\\t9\\n")
    ...     session = write_igv_session(Path(folder, "igv.xml"), genome="hg38", elements=bed)
    ...     print(ET.parse(session).find("Resources/Resource").attrib)
    {'path': 'elements.bed'}
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(f"path is {str(path)!r}; expected a name that ends in .xml, as IGV does.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {path.parent} does not exist. Create it.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"path: {path} exists. Pass overwrite=True to replace it.")
    tracks = _check_tracks(masks, elements, signals)
    root = path.parent.resolve()
    is_file = os.path.isfile(genome)
    session = ET.Element(
        "Session",
        genome=_relative(Path(genome), root) if is_file else str(genome),
        hasGeneTrack=str(not is_file).lower(),  # a FASTA file has no genes
        hasSequenceTrack="true",
        version="8",
    )
    if locus is not None:
        chrom, start, end = locus
        session.set("locus", f"{chrom}:{start + 1}-{end}")  # IGV counts from 1
    resources = ET.SubElement(session, "Resources")
    panels = {
        name: ET.SubElement(session, "Panel", name=name, height="400", width="1200")
        for name in ("DataPanel", "FeaturePanel")
    }
    for track in tracks:
        name = _relative(track.path, root)
        ET.SubElement(resources, "Resource", path=name)
        shown = {"id": name, "name": track.name, "color": track.color, "visible": "true"}
        if track.kind == "elements":
            ET.SubElement(
                panels["FeaturePanel"],
                "Track",
                shown,
                clazz="org.broad.igv.track.FeatureTrack",
                displayMode="EXPANDED",
            )
            continue
        fixed = track.kind == "masks"
        node = ET.SubElement(
            panels["DataPanel"],
            "Track",
            shown,
            clazz="org.broad.igv.track.DataSourceTrack",
            autoScale=str(not fixed).lower(),
            renderer="BAR_CHART",
            windowFunction="mean",
            height="60",
        )
        if fixed:
            ET.SubElement(
                node, "DataRange", minimum="0.0", baseline="0.0", maximum="1.0", type="LINEAR"
            )
    ET.indent(session)
    content: bytes = ET.tostring(session, encoding="UTF-8", xml_declaration=True)
    write_whole(path, content + b"\n")
    return path


def write_track_hub(
    folder: _Path,
    *,
    genome: str,
    email: str,
    masks: _Path,
    elements: _Path | None = None,
    signals: Mapping[str, _Path] | None = None,
    name: str = "regmask",
    label: str = "Masks of regmask_sk",
    copy: bool = True,
    overwrite: bool = False,
) -> TrackHub:
    r"""Write a track hub for the UCSC Genome Browser.

    Put the folder on a web server that answers requests for parts of files, and give the address
    of its ``hub.txt`` to the browser: My Data, Track Hubs, Connected Hubs.

    Parameters
    ----------
    folder : path-like
        Folder of the hub; made where it does not exist. ``hub.txt`` is written last: where it is,
        the hub is whole.
    genome : str
        UCSC's name of the assembly, such as ``"hg38"`` or ``"sacCer3"``. Chromosomes must have
        UCSC's names.
    email : str
        Whom to ask about the hub; the browser demands one.
    masks : path-like
        The bigWig of :func:`regmask_sk.export_masks`, shown from 0 to 1.
    elements : path-like, optional
        Its BED file. A hub takes no BED: elements are shown as a bigWig of their scores over
        1000, the greater one where elements overlap. The BED itself is put beside it, to be
        loaded as a custom track, or made a bigBed with UCSC's ``bedToBigBed``.
    signals : mapping of str to path-like, optional
        Name to bigWig file of further tracks, each on a scale that follows the view.
    name : str, default="regmask"
        The hub's identifier: letters, digits and underscores, beginning with a letter.
    label : str, default="Masks of regmask_sk"
        Its label.
    copy : bool, default=True
        Copy the files; otherwise link to them, which the web server must be allowed to follow.
    overwrite : bool, default=False
        Replace a hub that exists.

    Returns
    -------
    TrackHub
        The files.

    Raises
    ------
    FileNotFoundError
        If a file does not exist.
    FileExistsError
        If there is a hub in `folder` and `overwrite` is False.
    ValueError
        If a name, label or address is not as the browser takes it, or elements lie off the
        chromosomes of `masks`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "masks.bw")
    ...     with pyBigWig.open(str(path), "w") as file:
    ...         file.addHeader([("chr1", 100)])
    ...         file.addEntries(["chr1"], [10], ends=[20], values=[0.5])
    ...     hub = write_track_hub(
    ...         Path(folder, "hub"), genome="hg38", email="me@example.org", masks=path
    ...     )
    ...     print(hub.genomes.read_text(), end="")
    genome hg38
    trackDb hg38/trackDb.txt
    """
    folder = Path(folder)
    for word, value in (("genome", genome), ("name", name)):
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.]*", value):
            raise ValueError(
                f"{word} is {value!r}; expected letters, digits and underscores, a letter first."
            )
    if not re.fullmatch(r"\S+@\S+", email):
        raise ValueError(f"email is {email!r}; expected an address, which the browser demands.")
    hub = folder / "hub.txt"
    if hub.exists() and not overwrite:
        raise FileExistsError(f"folder: {hub} exists. Pass overwrite=True to replace the hub.")
    tracks = _check_tracks(masks, elements, signals)
    sizes = BigWigReader(masks).chrom_sizes

    place = folder / genome
    place.mkdir(parents=True, exist_ok=True)
    hub.unlink(missing_ok=True)  # it comes back when all is new
    data: list[Path] = []
    stanzas = []
    keys: set[str] = set()
    for number, track in enumerate(tracks):
        key = _key(track.name, keys)
        if track.kind == "elements":
            data.append(_put(track.path, place / f"{key}.bed", copy))
            data.append(_write_scores(track.path, place / f"{key}.bw", sizes))
        else:
            data.append(_put(track.path, place / f"{key}.bw", copy))
        fixed = track.kind != "signal"
        stanzas.append(
            _stanza(
                track=key,
                type="bigWig" + " 0 1" * fixed,
                bigDataUrl=f"{key}.bw",
                shortLabel=_line(track.name)[:_SHORT],
                longLabel=_line(f"{track.name} ({label})")[:_LONG],
                visibility="full",
                color=track.color,
                autoScale="off" if fixed else "on",
                **({"viewLimits": "0:1"} if fixed else {"alwaysZero": "on"}),
                maxHeightPixels="100:50:8",
                priority=str(number + 1),
            )
        )
    track_db, genomes = place / "trackDb.txt", folder / "genomes.txt"
    write_whole(track_db, "\n".join(stanzas))
    write_whole(genomes, _stanza(genome=genome, trackDb=f"{genome}/trackDb.txt"))
    write_whole(
        hub,
        _stanza(
            hub=name,
            shortLabel=_line(label)[:_SHORT],
            longLabel=_line(label)[:_LONG],
            genomesFile="genomes.txt",
            email=email,
        ),
    )
    return TrackHub(hub, genomes, track_db, tuple(data))


class _Track(NamedTuple):
    kind: str  # masks, elements, signal
    name: str
    path: Path
    color: str


def _check_tracks(
    masks: _Path | None, elements: _Path | None, signals: Mapping[str, _Path] | None
) -> list[_Track]:
    tracks = []
    if masks is not None:
        tracks.append(_Track("masks", "mask", Path(masks), _MASK_COLOR))
    if elements is not None:
        tracks.append(_Track("elements", "elements", Path(elements), _ELEMENT_COLOR))
    for number, (name, path) in enumerate((signals or {}).items()):
        color = _SIGNAL_COLORS[number % len(_SIGNAL_COLORS)]
        tracks.append(_Track("signal", str(name), Path(path), color))
    if not tracks:
        raise ValueError("there is nothing to show. Give masks, elements or signals.")
    for track in tracks:
        if not track.path.is_file():
            raise FileNotFoundError(f"{track.name}: {track.path} does not exist. Check the path.")
    return tracks


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path.resolve(), root)).as_posix()


def _line(text: str) -> str:
    return " ".join(text.split())


def _stanza(**settings: str) -> str:
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def _key(name: str, taken: set[str]) -> str:
    """Name a track in the letters that the browser takes, unlike any before."""
    key = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "track"
    key = key if key[0].isalpha() else f"track_{key}"
    number = 1
    unique = key
    while unique.lower() in taken:  # folders of some systems do not tell A from a
        number += 1
        unique = f"{key}_{number}"
    taken.add(unique.lower())
    return unique


def _put(source: Path, target: Path, copy: bool) -> Path:
    """Copy a file, or link to it, whole or not at all."""
    if source.resolve() == target.resolve():
        return target
    beside = beside_of(target)
    try:
        if copy:
            shutil.copyfile(source, beside)
        else:
            beside.symlink_to(_relative(source, target.parent.resolve()))
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def _write_scores(bed: Path, target: Path, sizes: Mapping[str, int]) -> Path:
    """Write the scores of elements as a bigWig."""
    table = read_regions(bed)
    known = np.array([sizes.get(chrom, -1) for chrom in table["chrom"]])
    off = table["end"].to_numpy() > known
    if off.any():
        row = table[off].iloc[0]
        raise ValueError(
            f"elements: {int(off.sum())} lie off the chromosomes of masks, the first at "
            f"{row['chrom']}:{row['start']}-{row['end']}. Give files of one export."
        )
    scores = pd.Series(1.0, table.index)  # of a BED file without scores
    if "score" in table:
        scores = pd.to_numeric(table["score"], errors="coerce") / 1000
    wrong = ~scores.between(0.0, 1.0)
    if wrong.any():
        raise ValueError(
            f"elements: {int(wrong.sum())} scores of {bed} are no numbers from 0 to 1000, the "
            f"first {str(table['score'][wrong].iloc[0])!r}. Correct the fifth column."
        )
    beside = beside_of(target)
    try:
        with pyBigWig.open(str(beside), "w") as file:
            file.addHeader(list(sizes.items()))
            for chrom in sizes:
                rows = table["chrom"] == chrom
                starts, ends, values = _greatest(table[rows], scores[rows].to_numpy())
                if len(starts):
                    file.addEntries([chrom] * len(starts), starts, ends=ends, values=values)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def _greatest(
    table: pd.DataFrame, scores: Iterable[float]
) -> tuple[list[int], list[int], list[float]]:
    """Give stretches without overlaps, each with the greatest score of the elements over it."""
    edges = np.unique(table[["start", "end"]].to_numpy(dtype=np.int64))
    best = np.full(max(len(edges) - 1, 0), np.nan)
    first = np.searchsorted(edges, table["start"])
    last = np.searchsorted(edges, table["end"])
    for a, b, score in zip(first, last, scores, strict=True):
        best[a:b] = np.fmax(best[a:b], score)
    covered = ~np.isnan(best)
    return edges[:-1][covered].tolist(), edges[1:][covered].tolist(), best[covered].tolist()
