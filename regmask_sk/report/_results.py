"""The parts of a report on the model: history, accuracy beside plain baselines, masks."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyRegressor

from regmask_sk._base import SEQUENCE_CHANNELS
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor
from regmask_sk.export import gene_elements
from regmask_sk.metrics import regression_metrics
from regmask_sk.plotting.heatmap import MaskHeatmapDisplay
from regmask_sk.plotting.history import HistoryDisplay
from regmask_sk.plotting.locus import LocusDisplay
from regmask_sk.plotting.predictions import PredictionDisplay
from regmask_sk.plotting.profile import MaskProfileDisplay
from regmask_sk.report._data import Genes
from regmask_sk.report._page import Finding, Picture, Table, number, picture

_SCORES = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "r2": "R²",
}
_MOST_BINS = 200  # of a track, for the ridge
_KMERS = 4
_LETTERS = 120  # bp of a picture that shows the sequence
_AGREE = 1e-4  # of the standard deviation, by which predictions may differ between machines


def history_parts(history: pd.DataFrame | None) -> list[tuple[str, Any]]:
    """Tell how the training went, stage by stage.

    Parameters
    ----------
    history : DataFrame or None
        ``history_`` of the model.

    Returns
    -------
    list of (kind, part)
        For the template.
    """
    if history is None or history.empty:
        return [("text", "The model keeps no history of its training.")]
    display = HistoryDisplay(history)
    rows = [
        [
            stage or "training",
            number(len(epochs)),
            number(float(epochs["seconds"].sum())) if "seconds" in epochs else number(None),
            *(
                number(float(epochs[name].iloc[-1])) if name in epochs else number(None)
                for name in ("train_loss", "valid_loss", "valid_kept")
            ),
        ]
        for stage, epochs in display._stages()
    ]
    columns = ["stage", "epochs", "seconds", "last training loss", "last validation loss",
               "last share kept"]  # fmt: skip
    shown = picture(
        lambda ax: display.plot(ax=ax),
        size=(7.6, 4.6 if "train_kept" in history else 3.2),
        alt=f"Losses of training and validation genes over {len(history)} epochs, stage by stage.",
        caption="Losses, in units of the standardised target, and the share of bases kept. Losses "
        "of different stages are not of one kind; compare epochs of a stage only.",
    )
    return [("picture", shown), ("table", Table("Stages of the training.", columns, rows))]


def accuracy_parts(
    genes: Genes,
    model: Any,
    predicted: NDArray[np.float64],
    *,
    baselines: bool,
    unit: str | None,
    earlier: pd.DataFrame | None,
) -> tuple[list[tuple[str, Any]], pd.DataFrame]:
    """Score the model and plain baselines on the same genes.

    Parameters
    ----------
    genes : Genes
        All of them.
    model : regressor
        Its covariates go to the baselines too.
    predicted : ndarray
        Its predictions of ``genes.scored``.
    baselines : bool
        Whether to fit them.
    unit : str or None
        Of expression.
    earlier : DataFrame or None
        Predictions that were written when the model was fitted, index ``gene``.

    Returns
    -------
    parts : list of (kind, part)
        For the template.
    scores : DataFrame
        One row an estimator, the model first.
    """
    scored = genes.scored
    measured = genes.measured[scored]
    found = {"this model": regression_metrics(measured, predicted)}
    if baselines:
        for name, guess in _baselines(genes, model).items():
            found[name] = regression_metrics(measured, guess)
    scores = pd.DataFrame(found).T
    rows = [[name, *(number(row[key]) for key in _SCORES)] for name, row in scores.iterrows()]
    which = "test genes" if genes.test.any() else "training genes, none being held out"
    caption = f"Scores of {len(scored):,} {which}."
    if baselines:
        caption += " The baselines are fitted on all genes that are not of the test."
    parts: list[tuple[str, Any]] = [
        ("checks", _accuracy_findings(genes, predicted, scores, earlier)),
        ("table", Table(caption, ["estimator", *_SCORES.values()], rows)),
        (
            "picture",
            picture(
                lambda ax: PredictionDisplay.from_predictions(
                    measured, predicted, unit=unit, ax=ax
                ),
                size=(4.8, 4.8),
                alt=f"Predicted against measured expression of {len(scored)} genes; Pearson "
                f"correlation {number(found['this model']['pearson'])}.",
                caption="Predicted against measured expression. The dashed line is a perfect "
                "prediction.",
            ),
        ),
    ]
    return parts, scores


def _baselines(genes: Genes, model: Any) -> dict[str, NDArray[np.float64]]:
    """Predictions of the mean, and of a ridge on binned tracks, or on k-mers without tracks."""
    train, scored = np.flatnonzero(~genes.test), genes.scored
    y = genes.measured[train]
    mean = DummyRegressor().fit(np.zeros((len(train), 1)), y)
    found = {"mean of the training genes": mean.predict(np.zeros((len(scored), 1)))}
    names = genes.windows.channel_names
    has_tracks = any(name not in SEQUENCE_CHANNELS for name in names)
    width = max(50, -(-genes.windows.length // _MOST_BINS))
    ridge = BinnedSignalRegressor(
        bin_size=width,
        kmer_size=0 if has_tracks else _KMERS,
        covariates=tuple(model.get_params(deep=False).get("covariates") or ()),
    )
    label = f"ridge on tracks in bins of {width} bp" if has_tracks else f"ridge on {_KMERS}-mers"
    ridge.fit(genes.windows[train], y)
    found[label] = ridge.predict(genes.windows[scored])
    return found


def _accuracy_findings(
    genes: Genes,
    predicted: NDArray[np.float64],
    scores: pd.DataFrame,
    earlier: pd.DataFrame | None,
) -> list[Finding]:
    found = []
    if len(scores) > 1 and genes.test.any():
        best = scores.iloc[1:]["mse"].astype(float).idxmin()
        better = float(scores["mse"].iloc[0]) < float(scores.loc[best, "mse"])
        found.append(
            Finding("good", f"The model has less squared error than every baseline ({best} next).")
            if better
            else Finding(
                "warning",
                f"The model has no less squared error than {best}. Its masks explain predictions "
                "that a plain model makes as well.",
            )
        )
    if earlier is not None and genes.test.any():
        now = pd.Series(predicted, index=genes.loci.index[genes.scored].astype(str))
        before = earlier["predicted"]
        both = now.index.intersection(before.index)
        if not now.index.has_duplicates and not before.index.has_duplicates and len(both):
            apart = np.abs(now[both].to_numpy() - before[both].to_numpy(np.float64)).max()
            limit = _AGREE * max(float(np.std(genes.measured)), 1e-12)
            found.append(
                Finding(
                    "good",
                    f"Predictions of {len(both):,} genes are those that the fit has written.",
                )
                if apart <= limit and len(both) == len(now) == len(before)
                else Finding(
                    "warning",
                    f"Predictions are not those that the fit has written: {len(both):,} genes in "
                    f"common of {len(now):,} and {len(before):,}, the greatest difference "
                    f"{apart:.3g}. Have the loci, the values or the genome files changed?",
                )
            )
    return found


def mask_parts(
    genes: Genes,
    model: Any,
    rows: NDArray[np.intp],
    masks: NDArray[Any],
    *,
    unit: str | None,
    named: list[int],
    drawing: dict[str, Any],
    calling: dict[str, Any],
) -> list[tuple[str, Any]]:
    """Show masks: their mean profile, a heat map, and single loci.

    Parameters
    ----------
    genes : Genes
        All of them.
    model : estimator
        For the promoter window.
    rows : ndarray of int
        Rows of the genes whose masks are shown.
    masks : ndarray of shape (len(rows), length)
        Their masks.
    unit : str or None
        Of expression.
    named : list of int
        Places in `rows` of the loci to draw.
    drawing : dict
        ``known`` and ``genes`` of the pictures of loci.
    calling : dict
        Options of :func:`regmask_sk.gene_elements`.

    Returns
    -------
    list of (kind, part)
        For the template.
    """
    y = genes.measured[rows]
    outside = np.ones(masks.shape[1], dtype=bool)
    outside[getattr(model, "promoter_columns_", slice(0, 0))] = False
    of = "test" if genes.test.any() else "training"
    which = f"{len(rows):,} {of} genes"
    if len(rows) < len(genes.scored):
        which += f", drawn at random of {len(genes.scored):,}"
    mean = masks.mean(axis=0, dtype=np.float64)
    kept = f"Masks of {which} keep {mean.mean():.1%} of the bases, "
    kept += f"{mean[outside].mean():.1%} of those outside of the promoter window."
    parts: list[tuple[str, Any]] = [
        ("text", kept),
        (
            "picture",
            picture(
                lambda ax: MaskProfileDisplay.from_predictions(masks, y, unit=unit, ax=ax),
                size=(8.0, 3.6),
                alt="Mean mask by distance to the TSS, a line for each quarter of the genes by "
                "expression.",
                caption="Mean mask around the TSS, in the direction of the gene, by measured "
                "expression. Bands are one standard error of the mean over genes.",
            ),
        ),
        (
            "picture",
            picture(
                lambda ax: MaskHeatmapDisplay.from_predictions(
                    masks, y, sorted_by="measured expression", ax=ax
                ),
                size=(7.0, 4.6),
                alt="Heat map of masks, a row a gene, sorted by measured expression.",
                caption="Masks of single genes, in the direction of the gene.",
            ),
        ),
    ]
    for place in named:
        locus = _Locus(genes, model, int(rows[place]), masks[place], drawing, calling)
        parts.append(("picture", locus.whole()))
        if place == named[0] and "A" in genes.windows.channel_names:
            parts += [("picture", zoomed) for zoomed in locus.strongest()]
    return parts


class _Locus:
    """Pictures of one gene's mask."""

    def __init__(
        self,
        genes: Genes,
        model: Any,
        row: int,
        mask: NDArray[Any],
        drawing: dict[str, Any],
        calling: dict[str, Any],
    ) -> None:
        self.window = genes.windows[[row]]
        self.name, self.level = str(genes.loci.index[row]), float(genes.measured[row])
        self.mask, self.model = mask, model
        self.elements = gene_elements(self.window, 0, mask, **calling)
        self.options = {"threshold": calling["threshold"], "elements": self.elements, **drawing}
        self.band = ""
        if "return_std" in inspect.signature(model.transform).parameters:
            self.options["std"] = model.transform(self.window, return_std=True)[1][0]
            self.band = " The band is one standard deviation of the gates."
        names = self.window.channel_names
        self.n_panels = len([name for name in names if name not in SEQUENCE_CHANNELS])

    def whole(self) -> Picture:
        """Draw the window."""
        return self._draw(
            f"Tracks and mask of {self.name} along the genome, with {len(self.elements)} called "
            "elements.",
            f"{self.name}, measured expression {number(self.level)}. Tracks as the model reads "
            f"them, scaled; the dashed line is the threshold of elements.{self.band}",
        )

    def strongest(self) -> list[Picture]:
        """Draw the sequence in the most open element outside of the promoter, if there is one."""
        inside = np.zeros(self.window.length, dtype=bool)
        inside[getattr(self.model, "promoter_columns_", slice(0, 0))] = True
        if self.window.reversed[0]:
            inside = inside[::-1]
        _, first, last, *_ = self.window.interval(0)
        outside = [
            element
            for element in self.elements.itertuples()
            if not inside[element.start - first : element.end - first].any()
        ]
        if not outside:
            return []
        element = max(outside, key=lambda each: each.score)
        middle = (element.start + element.end) // 2
        start = max(min(middle - _LETTERS // 2, last - _LETTERS), first, 0)
        region = (start, min(start + _LETTERS, last))
        place = f"{element.chrom}:{element.start + 1:,}-{element.end:,}"
        return [
            self._draw(
                f"Sequence, tracks and mask of {self.name} around {place}.",
                f"The sequence around {place}, the most open element of {self.name} outside of the "
                f"promoter window; letters are as high as the mask.{self.band}",
                region=region,
            )
        ]

    def _draw(self, alt: str, caption: str, **more: Any) -> Picture:
        return picture(
            lambda ax: LocusDisplay.from_predictions(
                self.window, 0, self.mask, ax=ax, **self.options, **more
            ),
            size=(8.0, 2.6 + 0.85 * self.n_panels),
            alt=alt,
            caption=caption,
        )
