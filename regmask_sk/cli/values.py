"""Values of options: what an option accepts, and what it says of anything else."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def _checked(
    cast: Callable[[str], Any], accepts: Callable[[Any], bool], expected: str
) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = cast(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"is {text!r}, expected {expected}")
        return value

    return parse


count = _checked(int, lambda n: n >= 1, "a whole number, 1 or more")
natural = _checked(int, lambda n: n >= 0, "a whole number, 0 or more")
share = _checked(float, lambda f: 0 < f < 1, "a share between 0 and 1, such as 0.1")
unit = _checked(float, lambda f: 0 <= f <= 1, "a number from 0 to 1")
non_negative = _checked(float, lambda f: 0 <= f < float("inf"), "a number, 0 or above")
positive = _checked(float, lambda f: 0 < f < float("inf"), "a number above 0")


def _or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


length_or_auto = _checked(
    _or_auto, lambda n: n == "auto" or n >= 0, "a whole number, 0 or more, or auto"
)
count_or_auto = _checked(
    _or_auto, lambda n: n == "auto" or n >= 1, "a whole number, 1 or more, or auto"
)


def two_shares(text: str) -> tuple[float, float]:
    """Accept LOW:HIGH, two shares."""
    low, colon, high = text.partition(":")
    try:
        values = float(low), float(high)
    except ValueError:
        values = 0.0, 0.0
    if not (colon and 0.0 < values[0] < values[1] <= 1.0):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected LOW:HIGH, such as 0.05:0.3")
    return values


def searched(text: str) -> tuple[str, list[int] | list[float] | list[str], bool]:
    """Accept NAME=LOW:HIGH or NAME=A,B,C: name, values, whether they are the ends of a range."""
    name, values = _pair(text)
    between = ":" in values
    words = values.split(":" if between else ",")
    read: list[int] | list[float] | list[str] = words
    for kind in (int, float):
        try:
            read = [kind(word) for word in words]
            break
        except ValueError:
            continue
    if len(words) < 2 or (between and (len(words) != 2 or isinstance(read[0], str))):
        raise argparse.ArgumentTypeError(
            f"is {text!r}, expected NAME=LOW:HIGH with two numbers, or NAME=A,B,C"
        )
    if between and not float(words[0]) < float(words[1]):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected LOW to be less than HIGH")
    return name.replace("-", "_"), read, between


def name_list(text: str) -> list[str]:
    """Accept names parted by commas."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected names parted by commas: A,B")
    return names


def existing_file(text: str) -> str:
    """Accept a file that is there."""
    if not os.path.exists(text):
        raise argparse.ArgumentTypeError(f"{text} does not exist; check the path")
    if os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file")
    return text


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected NAME=VALUE with both sides")
    return name, value


def named_file(text: str) -> tuple[str, str]:
    """Accept NAME=FILE, a file that is there."""
    name, path = _pair(text)
    return name, existing_file(path)


def pairs_of(items: Sequence[str] | None, option: str) -> dict[str, str]:
    """Read ``A=B`` items, or files of two columns, into a dict.

    Parameters
    ----------
    items : sequence of str or None
        What stood after the option.
    option : str
        The option, for errors.

    Returns
    -------
    dict of str to str
        A to B.

    Raises
    ------
    ValueError
        If an item is neither, or one A has two different B.

    Examples
    --------
    >>> pairs_of(["I=chrI", "II=chrII"], "--chrom-alias")
    {'I': 'chrI', 'II': 'chrII'}
    """
    pairs: list[tuple[str, str]] = []
    for item in items or ():
        if "=" in item:
            try:
                pairs.append(_pair(item))
            except argparse.ArgumentTypeError as error:
                raise ValueError(f"{option}: {error}") from None
        elif os.path.isfile(item):
            try:
                text = Path(item).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"{option}: {item} cannot be read as text ({error}); give a file of two "
                    "columns, A <tab> B"
                ) from error
            rows = [line.split("\t") for line in text.splitlines()]
            rows = [row for row in rows if row[0].strip() and not row[0].startswith("#")]
            if any(len(row) != 2 for row in rows):
                raise ValueError(f"{option}: {item} has lines without two columns, A <tab> B")
            pairs.extend((a.strip(), b.strip()) for a, b in rows)
        else:
            raise ValueError(f"{option}: {item!r} is neither A=B nor a file of two columns")
    result: dict[str, str] = {}
    for a, b in pairs:
        if result.setdefault(a, b) != b:
            raise ValueError(f"{option}: {a!r} is given both {result[a]!r} and {b!r}; keep one")
    return result


def tracks_of(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Gather the files of ``--track``.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Name, or ``NAME@CELL`` for one cell type, and path.

    Returns
    -------
    dict
        Name to path, or name to cell type to path, as `SignalChannels` takes them.

    Raises
    ------
    ValueError
        If a name is given twice.

    Examples
    --------
    >>> tracks_of([("atac", "a.bw"), ("k27@liver", "l.bw"), ("k27@brain", "b.bw")])
    {'atac': 'a.bw', 'k27': {'liver': 'l.bw', 'brain': 'b.bw'}}
    """
    tracks: dict[str, Any] = {}
    for name, path in pairs:
        track, at, cell = name.partition("@")
        if at:
            cells = tracks.setdefault(track, {})
            if not isinstance(cells, dict) or cell in cells:
                raise ValueError(f"--track: {name!r} is given twice; keep one")
            cells[cell] = path
        elif track in tracks:
            raise ValueError(f"--track: {name!r} is given twice; keep one")
        else:
            tracks[track] = path
    return tracks
