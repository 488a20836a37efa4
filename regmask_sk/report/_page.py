"""The page: tables, pictures as data, and the template that they go into."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Finding(NamedTuple):
    """What a check found.

    Attributes
    ----------
    level : {"good", "note", "warning"}
        How grave it is.
    text : str
        One sentence, and what to do about it.
    """

    level: Literal["good", "note", "warning"]
    text: str


class Table(NamedTuple):
    """A table as it is shown.

    Attributes
    ----------
    caption : str
        What it shows.
    columns : sequence of str
        Headings.
    rows : sequence of sequences of str
        Cells, as text. Those of the first column are headings of their rows.
    texts : frozenset of int
        Columns, beside the first, that hold words and not numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: frozenset[int] = frozenset()


class Picture(NamedTuple):
    """A picture in the page.

    Attributes
    ----------
    source : str
        A data URI.
    alt : str
        What it shows, for those who do not see it.
    caption : str
        What is written below.
    """

    source: str
    alt: str
    caption: str


def picture(
    draw: Callable[[Axes], Any], *, size: tuple[float, float], alt: str, caption: str
) -> Picture:
    """Draw a picture into a data URI; the same input gives the same bytes.

    Parameters
    ----------
    draw : callable
        Draws on the axes that it is given.
    size : (width, height)
        In inches.
    alt, caption : str
        As in :class:`Picture`.

    Returns
    -------
    Picture
        An SVG whose letters are outlines, so that it needs no font.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    made = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "regmask"}):
        figure.savefig(made, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    data = base64.b64encode(made.getvalue()).decode("ascii")
    return Picture(f"data:image/svg+xml;base64,{data}", alt, caption)


def number(value: Any, digits: int = 3) -> str:
    """Write a number for a table.

    Parameters
    ----------
    value : float, int or None
        The number.
    digits : int, default=3
        Significant digits of one that is not whole.

    Returns
    -------
    str
        With thousands separated; ``n/a`` for what is not defined.

    Examples
    --------
    >>> number(12_345), number(0.12345), number(0.5), number(None), number(-1234.5)
    ('12,345', '0.123', '0.500', 'n/a', '-1,234')
    """
    if value is None or not np.isfinite(value):
        return "n/a"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def render(content: dict[str, Any]) -> str:
    """Fill the template; whatever comes from data is escaped.

    Parameters
    ----------
    content : dict
        What the template asks for.

    Returns
    -------
    str
        The page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("regmask_sk.report", package_path="."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(content) + "\n"
