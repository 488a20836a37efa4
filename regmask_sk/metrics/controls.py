"""The two controls that a mask must beat: the track itself, and the position alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from regmask_sk.ops.positions import position_only_mask as position_only_mask

if TYPE_CHECKING:
    from regmask_sk.windows import Windows


def smoothed_track(
    windows: Windows, channel: str, *, width: int = 200
) -> Iterator[NDArray[np.float32]]:
    """Smooth one channel of every window: the control "the track itself is the mask".

    Windows are read one at a time, so that memory does not grow with the number of genes. The
    result is a score of bases, not a mask in [0, 1]: it serves the ranking measures below.

    Parameters
    ----------
    windows : Windows
        The loci and their channels.
    channel : str
        Name of the channel, one of ``windows.channel_names``.
    width : int, default=200
        Width of the moving average in base pairs. At the edges of the window the mean is over
        the bases that lie inside it.

    Yields
    ------
    ndarray of shape (length,), float32
        The smoothed channel of each window in turn, in gene orientation.

    Raises
    ------
    ValueError
        If the channel is not among the windows', or `width` is not positive.

    See Also
    --------
    position_only_mask : The other control.

    Examples
    --------
    >>> import numpy as np
    >>> class OneTrack:
    ...     channel_names = ("DNase",)
    ...     def __len__(self): return 1
    ...     def __getitem__(self, row): return np.array([[0, 0, 3, 0, 0]], dtype="float32")
    >>> next(smoothed_track(OneTrack(), "DNase", width=3))
    array([0., 1., 1., 1., 0.], dtype=float32)
    """
    names = tuple(windows.channel_names)
    if channel not in names:
        raise ValueError(
            f"channel {channel!r} is not among the channels of windows, {names}. "
            "Name one of these, or add the track with SignalChannels."
        )
    if width < 1:
        raise ValueError(f"width is {width}; expected a positive number of base pairs.")
    return _smooth_rows(windows, names.index(channel), int(width))


def _smooth_rows(windows: Windows, channel: int, width: int) -> Iterator[NDArray[np.float32]]:
    for row in range(len(windows)):
        values = np.asarray(windows[row][channel], dtype=np.float64)
        total = uniform_filter1d(values, width, mode="constant")
        inside = uniform_filter1d(np.ones_like(values), width, mode="constant")
        yield (total / inside).astype(np.float32)
