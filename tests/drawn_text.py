"""Where the words of a figure are, to find those that are clipped or lie on each other."""

from __future__ import annotations

from typing import Any


def words(figure: Any) -> list[tuple[str, Any]]:
    """Each visible text of a figure, and its box in pixels."""
    figure.draw_without_rendering()
    texts = []
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes._right_title, *axes.texts]
        if axes.get_legend() is not None:
            texts += [axes.get_legend().get_title(), *axes.get_legend().get_texts()]
        if not axes.axison:
            continue
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            texts.append(axis.label)
            low, high = sorted(limits)
            # Ticks past the limits have a place too, but are not drawn.
            texts += [
                label
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high
                for label in (tick.label1, tick.label2)
            ]
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


def assert_readable(figure: Any) -> None:
    """No text runs off the figure, none lies on another."""
    found = words(figure)
    canvas = figure.bbox
    for i, (text, box) in enumerate(found):
        assert canvas.x0 - 1 <= box.x0 < box.x1 <= canvas.x1 + 1, f"{text!r} is clipped"
        assert canvas.y0 - 1 <= box.y0 < box.y1 <= canvas.y1 + 1, f"{text!r} is clipped"
        for other, there in found[i + 1 :]:
            lying = box.shrunk(0.96, 0.8).overlaps(there.shrunk(0.96, 0.8))
            assert not lying, f"{text!r} lies on {other!r}"
