"""A mask fixed from peaks, and the predictor of RegMask under it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from regmask_sk._base import WindowArray
from regmask_sk._model import promoter_window
from regmask_sk._sources import RawTrack, SignalSource
from regmask_sk.baselines._fixed_mask import FixedMaskRegressor
from regmask_sk.baselines._peak_masks import CalledPeaks, FindPeaks, PeakMasks, RegionPeaks
from regmask_sk.peaks import call_peaks
from regmask_sk.windows import Windows


class PeakMaskRegressor(FixedMaskRegressor):
    """Predict expression from the peaks of a window and its promoter, and nothing else.

    The mask is not learned: it opens the bases of peaks, such as those of accessible chromatin,
    and the promoter. The predictor is that of ``RegMaskRegressor``, trained under these masks.
    ``predict`` gives expression, ``transform`` the masks.

    Parameters
    ----------
    peaks : path-like, DataFrame or None, default=None
        Regions of the genome, BED or narrowPeak file or table with columns ``chrom``, ``start``
        and ``end`` (0-based, half-open) and, where `sparsity` is a number, ``score``. For
        `Windows` only; read by ``fit``. None calls peaks on `track`.
    track : str or int, default="atac"
        Where `peaks` is None: the track of ``SignalChannels`` on which the peaks of each window
        are called. Scaled tracks are first turned back into the values of their file. Where X is
        an array, the index of the channel, which must hold raw values. The test is one of counts:
        see `scale`, and :func:`regmask_sk.peaks.call_peaks`.
    sparsity : float or None, default=None
        None keeps all peaks. A number keeps at most that share of each window's bases, promoter
        included: peaks with the largest scores first, of the last of them the bases nearest to
        its summit (its middle where `peaks` are given).
    promoter_length : int or "auto", default="auto"
        Width in base pairs of the window around the TSS that every mask keeps. ``"auto"`` is a
        twentieth of the window, at most 2,000 bp.
    bandwidth, background, q_value, p_value, scale, min_width, merge_gap
        As in :func:`regmask_sk.peaks.call_peaks`, where `peaks` is None. A local background that
        is wider than the window stops at its ends.
    backbone : str or type, default="conv"
        Body of the predictor, as in ``RegMaskRegressor``.
    resolution : int, default=16
        Base pairs that a token of the body stands for. The mask is fixed base by base.
    d_model, n_layers, dropout, checkpointing
        As in ``RegMaskRegressor``.
    covariates, reverse_complement, loss, max_epochs, patience, batch_size, learning_rate, \
            weight_decay, gradient_clip, ema_decay, validation_chroms, validation_fraction, \
            warm_start, n_workers, device, amp, accelerate, random_state, verbose
        As in ``RegMaskRegressor``.

    Attributes
    ----------
    net_ : WindowNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, seconds``.
    peaks_ : dict of str to ndarray of shape (n, 2), or None
        By chromosome, start and end of `peaks` as ``fit`` read them, sorted and merged.
    peak_scores_ : dict of str to ndarray of shape (n,), or None
        Their scores, where `sparsity` is a number.
    promoter_columns_ : slice
        Columns of the mask that are always kept.
    channel_names_in_, n_features_in_, target_mean_, target_scale_, covariate_mean_, \
            covariate_scale_, device_, scan_backend_, n_processes_
        As in ``RegMaskRegressor``.

    See Also
    --------
    PositionMaskRegressor : The control that knows where elements usually lie, and no more.

    Notes
    -----
    Signed tracks have no peaks in this sense, and are refused: 2-D input that is not a table of
    counts, such as scikit-learn's own checks give, is too.

    References
    ----------
    Zhang et al., "Model-based analysis of ChIP-Seq (MACS)", Genome Biology 9:R137 (2008).
    Su et al., ICLR 2025: masks from peaks as a baseline of a learned mask.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import PeakMaskRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.poisson(0.1, size=(40, 1, 200)).astype("float32")
    >>> X[:, 0, 20:40] += rng.poisson(4, size=(40, 20))
    >>> model = PeakMaskRegressor(
    ...     track=0, bandwidth=11, min_width=10, resolution=8, max_epochs=2, random_state=0
    ... )
    >>> masks = model.fit(X, X[:, 0, 20:40].sum(axis=1)).transform(X)
    >>> bool(masks[:, 20:40].mean() > 0.9), bool(masks[:, 50:90].mean() < 0.1)
    (True, True)
    """

    _kept_attributes: ClassVar[tuple[str, ...]] = (
        *FixedMaskRegressor._kept_attributes,
        "peaks_",
        "peak_scores_",
        "promoter_columns_",
    )

    _optional_parameters: ClassVar[tuple[str, ...]] = ("sparsity",)

    peaks_: dict[str, NDArray[np.int64]] | None
    peak_scores_: dict[str, NDArray[np.float64]] | None

    def __init__(
        self,
        *,
        peaks: str | os.PathLike[str] | pd.DataFrame | None = None,
        track: str | int = "atac",
        sparsity: float | None = None,
        promoter_length: int | Literal["auto"] = "auto",
        bandwidth: int = 150,
        background: Sequence[int] = (5_000, 10_000),
        q_value: float = 0.05,
        p_value: float | None = None,
        scale: float = 1.0,
        min_width: int = 150,
        merge_gap: int = 50,
        backbone: str | type[nn.Module] = "conv",
        resolution: int = 16,
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        checkpointing: bool = False,
        covariates: Sequence[str] = (),
        reverse_complement: Literal["none", "augment", "ph", "ps"] = "none",
        loss: Literal["squared_error", "huber"] = "squared_error",
        max_epochs: int = 30,
        patience: int = 15,
        batch_size: int | Literal["auto"] = 32,
        learning_rate: float = 0.003,
        weight_decay: float = 0.01,
        gradient_clip: float = 1.0,
        ema_decay: float = 0.994,
        validation_chroms: Sequence[str] | None = None,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        n_workers: int = 0,
        device: str = "auto",
        amp: bool | Literal["auto"] = "auto",
        accelerate: bool = False,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            resolution=resolution,
            d_model=d_model,
            n_layers=n_layers,
            dropout=dropout,
            checkpointing=checkpointing,
            covariates=covariates,
            reverse_complement=reverse_complement,
            loss=loss,
            max_epochs=max_epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
            validation_chroms=validation_chroms,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            n_workers=n_workers,
            device=device,
            amp=amp,
            accelerate=accelerate,
            random_state=random_state,
            verbose=verbose,
        )
        self.peaks = peaks
        self.track = track
        self.sparsity = sparsity
        self.promoter_length = promoter_length
        self.bandwidth = bandwidth
        self.background = background
        self.q_value = q_value
        self.p_value = p_value
        self.scale = scale
        self.min_width = min_width
        self.merge_gap = merge_gap

    def _note_windows(self, X: WindowArray) -> None:
        """Place the promoter, read the peaks, and refuse what no peaks can be called on."""
        largest = 1.0 if self.sparsity is None else self.sparsity
        columns = promoter_window(self.n_features_in_, self.promoter_length, largest)
        self.promoter_columns_ = slice(*columns)
        self.peaks_ = self.peak_scores_ = None
        if self.peaks is None:
            call_peaks([0.0], **self._call_options())  # checks them, before any training
        else:
            read = RegionPeaks.read(self.peaks, scored=self.sparsity is not None)
            if isinstance(X, Windows) and not set(read.regions) & set(X.loci["chrom"]):
                raise ValueError(
                    f"peaks shares no chromosome with X: it has {sorted(read.regions)[:8]}, X has "
                    f"{sorted(set(X.loci['chrom']))[:8]}. Name chromosomes alike."
                )
            self.peaks_ = dict(read.regions)
            self.peak_scores_ = None if read.scores is None else dict(read.scores)

    def _call_options(self) -> dict[str, Any]:
        names = (
            "bandwidth", "background", "q_value", "p_value", "scale", "min_width", "merge_gap",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def _masks(self, X: WindowArray) -> PeakMasks:
        promoter = (self.promoter_columns_.start, self.promoter_columns_.stop)
        most = None if self.sparsity is None else round(self.sparsity * self.n_features_in_)
        return PeakMasks(self._find_peaks(X), promoter, most)

    def _find_peaks(self, X: WindowArray) -> FindPeaks:
        if self.peaks_ is not None:
            if not isinstance(X, Windows):
                raise ValueError(
                    "peaks are given in coordinates of the genome, but X is an array. Pass Windows "
                    "(from TSSWindows), or peaks=None to call them on a track."
                )
            return RegionPeaks(self.peaks_, self.peak_scores_)
        if not isinstance(X, Windows):
            n_channels = int(X.shape[1])
            if isinstance(self.track, str) or not 0 <= self.track < n_channels:
                raise ValueError(
                    f"track={self.track!r}, but X is an array of {n_channels} channels without "
                    f"names. Give the index of a channel of raw counts, 0 to {n_channels - 1}, or "
                    "pass Windows."
                )
            return CalledPeaks(RawTrack(int(self.track)), self._call_options())
        sources = {
            name: source
            for source in X.sources
            if isinstance(source, SignalSource)
            for name in source.tracks
        }
        if not isinstance(self.track, str) or self.track not in sources:
            raise ValueError(
                f"track={self.track!r} is not among the tracks of X, {list(sources)}. Name one of "
                "them, add it with SignalChannels, or give peaks."
            )
        source = sources[self.track]
        scales = {} if source.scales is None else source.scales[self.track]
        if any(learned["center"] != 0.0 for learned in scales.values()):
            raise ValueError(
                f"track={self.track!r} has negative values: peaks are called on counts. Name a "
                "track of counts or coverage, or give peaks."
            )
        return CalledPeaks(RawTrack.of(X, self.track), self._call_options())
