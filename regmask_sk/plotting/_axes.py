"""What all displays share: colours, axes to draw on, and long arrays cut to what can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart under the common kinds of colour blindness. The mask and
# what comes from it are vermilion, known elements bluish green, the TSS black; tracks take the
# rest in turn.
MASK, KNOWN, TSS = "#D55E00", "#009E73", "#000000"
DATA, PALE = "#0072B2", "0.6"
TRACKS = ("#0072B2", "#56B4E9", "#CC79A7", "#E69F00")
BASES = {"A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00"}
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)))
# Beyond this many base pairs a scale in kilobases is easier to read.
_KILOBASES = 5_000


def need_matplotlib(who: str) -> None:
    """Say how to install matplotlib, where it is missing.

    Parameters
    ----------
    who : str
        What needs it.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'{who} needs matplotlib. Install it: pip install "regmask_sk[plot]"'
        ) from error


def axes_or_new(ax: Axes | None, who: str, size: tuple[float, float]) -> Axes:
    """Give the axes to draw on: those given, or a new figure's.

    Parameters
    ----------
    ax : matplotlib Axes or None
        Given by the user.
    who : str
        Name of the display, for the error.
    size : (width, height)
        Of a new figure, in inches.

    Returns
    -------
    Axes
        To draw on.
    """
    need_matplotlib(who)
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")[1]


def panels_in(
    ax: Axes, *, rows: Sequence[float] = (1.0,), columns: Sequence[float] = (1.0,)
) -> list[Axes]:
    """Divide the place of one axes among several.

    Parameters
    ----------
    ax : matplotlib Axes
        Gives its place away; it is made invisible.
    rows, columns : sequence of float
        Relative heights of the rows, widths of the columns. Panels of one column share their
        x axis, those of one row their y axis.

    Returns
    -------
    list of Axes
        From left to right, from top to bottom.

    Raises
    ------
    ValueError
        If the axes were not made as a part of a grid.
    """
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            "ax has no place in a grid that could be divided among panels. Make it with "
            "figure.subplots() or pyplot.subplots(), not with figure.add_axes()."
        )
    ax.set_axis_off()
    grid = place.subgridspec(
        len(rows), len(columns), height_ratios=list(rows), width_ratios=list(columns)
    )
    made = grid.subplots(
        sharex="col" if len(rows) > 1 else False,
        sharey="row" if len(columns) > 1 else False,
        squeeze=False,
    )
    return made.ravel().tolist()


def bare(ax: Axes, *hidden: str) -> None:
    """Hide the upper and the right edge of axes, and others that are named."""
    ax.spines[["top", "right", *hidden]].set_visible(False)


def binned(
    values: NDArray[Any], n_most: int, reduce: Callable[..., Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cut a long array to what a panel can show.

    Parameters
    ----------
    values : ndarray of shape (..., length)
        One value a base along the last axis.
    n_most : int
        The most bins.
    reduce : callable
        ``reduce(array, axis=...)`` makes one value of a bin's.

    Returns
    -------
    edges : ndarray of shape (n_bins + 1,), int64
        First columns of the bins, and the end of the last one, which may be narrower.
    reduced : ndarray of shape (..., n_bins)
        One value a bin.

    Examples
    --------
    >>> edges, means = binned(np.array([1.0, 3.0, 5.0, 5.0, 8.0]), 3, np.mean)
    >>> edges.tolist(), means.tolist()
    ([0, 2, 4, 5], [2.0, 5.0, 8.0])
    """
    length = values.shape[-1]
    width = -(-length // n_most)
    n_whole = length // width
    shape = (*values.shape[:-1], n_whole, width)
    reduced = reduce(values[..., : n_whole * width].reshape(shape), axis=-1)
    edges = np.arange(n_whole + 1, dtype=np.int64) * width
    if n_whole * width < length:
        last = reduce(values[..., n_whole * width :], axis=-1)
        reduced = np.concatenate([reduced, np.asarray(last)[..., np.newaxis]], axis=-1)
        edges = np.append(edges, length)
    return edges, np.asarray(reduced, dtype=np.float64)


def distance_unit(length: int) -> tuple[float, str]:
    """Give base pairs a unit of the axis has, and its name.

    Parameters
    ----------
    length : int
        Base pairs that are shown.

    Returns
    -------
    (float, str)
        ``(1.0, "bp")``, or ``(1000.0, "kb")`` for long windows.

    Examples
    --------
    >>> distance_unit(2_000), distance_unit(200_000)
    ((1.0, 'bp'), (1000.0, 'kb'))
    """
    return (1000.0, "kb") if length > _KILOBASES else (1.0, "bp")


def with_unit(label: str, unit: str | None) -> str:
    """Write a label with its unit in brackets, where there is one.

    Parameters
    ----------
    label : str
        What is shown.
    unit : str or None
        Its unit.

    Returns
    -------
    str
        Of both.

    Examples
    --------
    >>> with_unit("expression", "log2 TPM"), with_unit("mask", None)
    ('expression (log2 TPM)', 'mask')
    """
    return label if unit is None else f"{label} ({unit})"
