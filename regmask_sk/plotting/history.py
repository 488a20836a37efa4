"""The history of a training: losses and the share of bases kept, epoch by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from sklearn.pipeline import Pipeline

from regmask_sk.plotting._axes import DATA, MASK, axes_or_new, bare, panels_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Stages that take less than this share of the epochs have their name upright.
_NARROW = 0.16
_ROWS = (("train", MASK, "s", (0, (4, 2))), ("valid", DATA, "o", "-"))


class HistoryDisplay:
    """Losses of training and validation genes and the share of bases kept, stage by stage.

    Make one with :meth:`from_estimator` or :meth:`from_history`.

    Parameters
    ----------
    history : DataFrame
        One row an epoch: ``epoch``, ``train_loss``, and where there are such ``stage``,
        ``valid_loss``, ``train_kept``, ``valid_kept``.

    Attributes
    ----------
    ax_ : Axes
        The panel of losses.
    axes_ : dict of str to Axes
        ``loss``, and ``kept`` where the history has shares of bases.
    figure_ : Figure or SubFigure
        Theirs.

    Notes
    -----
    Losses are in units of the standardised target. Those of different stages are not of one kind:
    the predictor is trained under random masks, the generator against the predictor and under a
    budget that falls, so that lines are broken between stages and only epochs of a stage compare.

    Examples
    --------
    >>> history = pd.DataFrame(
    ...     {"epoch": [1, 2], "stage": ["predictor", "generator"], "train_loss": [1.0, 0.5]}
    ... )
    >>> display = HistoryDisplay.from_history(history)
    >>> [text.get_text() for text in display.ax_.texts]
    ['predictor', 'generator']
    """

    def __init__(self, history: pd.DataFrame) -> None:
        missing = [name for name in ("epoch", "train_loss") if name not in history.columns]
        if missing or history.empty:
            raise ValueError(
                f"history has {len(history)} rows and lacks the columns {missing}; expected one "
                "row an epoch, as history_ of a fitted estimator and history.tsv have them."
            )
        self.history = history

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None) -> HistoryDisplay:
        """Draw the ``history_`` of a fitted estimator.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted, with ``history_`` (the last step of a pipeline).
        ax : matplotlib Axes, optional
            Its place is divided among the panels; a new figure by default.

        Returns
        -------
        HistoryDisplay
            Drawn.
        """
        model = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        return cls.from_history(model.history_, ax=ax)

    @classmethod
    def from_history(cls, history: pd.DataFrame, *, ax: Axes | None = None) -> HistoryDisplay:
        """Draw a table of epochs, such as ``history.tsv`` of ``regmask fit``.

        Parameters
        ----------
        history : DataFrame
            One row an epoch.
        ax : matplotlib Axes, optional
            Its place is divided among the panels; a new figure by default.

        Returns
        -------
        HistoryDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the table has no rows, or lacks ``epoch`` or ``train_loss``.
        """
        return cls(history).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> HistoryDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place is divided among the panels; a new figure by default.

        Returns
        -------
        HistoryDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        labels = {
            "loss": "loss (units of the\nstandardised target)",
            "kept": "share of\nbases kept",
        }
        names = [
            name
            for name in labels
            if any(f"{rows}_{name}" in self.history.columns for rows, *_ in _ROWS)
        ]
        ax = axes_or_new(ax, "HistoryDisplay", (6.4, 2.2 + 1.3 * len(names)))
        panels = panels_in(ax, rows=[1.6, 1.0][: len(names)])
        self.axes_ = dict(zip(names, panels, strict=True))
        for name, panel in self.axes_.items():
            self._draw(panel, name)
            panel.set_ylabel(labels[name])
            # Room for the names of the stages above the losses.
            panel.set_ylim(0, 1.05 if name == "kept" else 1.12 * panel.get_ylim()[1])
            bare(panel)
        self._mark_stages(panels)
        first, last = (float(self.history["epoch"].iloc[at]) for at in (0, -1))
        panels[-1].set(xlim=(first - 0.5, last + 0.5), xlabel="epoch")
        panels[-1].locator_params(axis="x", integer=True)
        panels[0].figure.align_ylabels(panels)
        self.ax_, self.figure_ = panels[0], panels[0].figure
        return self

    def _stages(self) -> list[tuple[str, pd.DataFrame]]:
        if "stage" not in self.history.columns:
            return [("", self.history)]
        # Runs, not names: a path of budgets enters the same stage again and again.
        stages = self.history["stage"].astype(str)
        runs = (stages != stages.shift()).cumsum()
        return [(str(rows["stage"].iloc[0]), rows) for _, rows in self.history.groupby(runs)]

    def _draw(self, panel: Axes, name: str) -> None:
        for rows, colour, marker, dashes in _ROWS:
            column = f"{rows}_{name}"
            if column not in self.history.columns or self.history[column].isna().all():
                continue
            label = "training" if rows == "train" else "validation"
            for number, (_, epochs) in enumerate(self._stages()):
                panel.plot(
                    epochs["epoch"], epochs[column], color=colour, linestyle=dashes,
                    marker=marker, markersize=3, linewidth=1.2,
                    label=label if number == 0 else "_",
                )  # fmt: skip
        if name == "loss":
            # Above the panel: inside, it would lie on the lines of some history or other.
            panel.legend(
                frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0),
                borderaxespad=0.2,
            )  # fmt: skip

    def _mark_stages(self, panels: list[Axes]) -> None:
        total = len(self.history)
        for number, (name, epochs) in enumerate(self._stages()):
            first, last = epochs["epoch"].iloc[[0, -1]]
            for panel in panels:
                if number % 2:
                    panel.axvspan(first - 0.5, last + 0.5, color="0.94", linewidth=0, zorder=0)
            upright = len(epochs) < _NARROW * total
            panels[0].text(
                (first + last) / 2, 0.97, name, transform=panels[0].get_xaxis_transform(),
                ha="center", va="top", rotation=90 if upright else 0, color="0.35",
                fontsize="small", parse_math=False,
            )  # fmt: skip
