"""EPInformer: expression from the promoter and its candidate elements, as an estimator."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils import Tags, check_scalar
from sklearn.utils.validation import check_is_fitted

from regmask_sk._base import WindowArray
from regmask_sk._batches import Placement
from regmask_sk._regions import Regions
from regmask_sk.baselines._elements import ElementFinder, element_finder, genomic
from regmask_sk.baselines._epinformer_network import FEATURES, LEAST_FRAME, EPInformerModel
from regmask_sk.baselines._rival import RivalRegressor
from regmask_sk.windows import Windows

_LOOKED_AT = 256  # windows from which the scale of activities is learned


class _Scored(NamedTuple):
    """The elements of one window, nearest first, and what the network makes of them."""

    columns: NDArray[np.int64]
    features: NDArray[np.float64]
    attention: NDArray[np.float64]

    @property
    def score(self) -> NDArray[np.float64]:
        """Attention times activity times contact."""
        return self.attention * self.features[:, 1] * self.features[:, 2]


class EPInformerRegressor(TransformerMixin, RivalRegressor):
    """Predict expression from the sequences of the promoter and of candidate elements.

    Candidates are the peaks of accessibility around the TSS. A convolutional network reads each
    in a frame of its own, with its distance to the TSS, its activity and its contact with it;
    the promoter attends to them, and its token is read out with the covariates. ``predict``
    gives expression, ``transform`` the elements' scores on their bases, `element_scores` a table
    of the elements.

    X must be `Windows` with the channels A, C, G and T and a named track: arrays are refused.

    Parameters
    ----------
    track : str or None, default=None
        Channel with the accessibility. None takes the only one that is not sequence.
    peaks : path-like, DataFrame or None, default=None
        Candidate elements: a BED or narrowPeak file, or a table with columns ``chrom``,
        ``start`` and ``end``, 0-based and half-open; overlapping ones are merged. None calls the
        peaks of `track` in each window with :func:`regmask_sk.peaks.call_peaks`, which needs
        counts or coverage.
    peak_scale : float, default=1.0
        Where peaks are called, what one count adds up to in the units of the track's file: 1 for
        cuts, the mean length of fragments for their coverage; as `scale` of ``call_peaks``.
    activity_tracks : sequence of str or None, default=None
        Channels whose sums over an element make its activity, by their geometric mean; None
        takes `track` alone. Published: H3K27ac and DNase. Tracks that ``SignalChannels`` has
        scaled are brought back to the units of their files first.
    contact : str or None, default=None
        Channel whose mean over an element is its contact with the TSS. None takes the power law
        of the activity-by-contact model, ``(max(distance, 5000) / 1000) ** -0.87``.
    element_features : sequence of str, default=("distance", "activity", "contact")
        Which of the three join the sequence of an element. Scores have activity and contact in
        any case.
    max_elements : int, default=60
        The most elements a gene may have; the nearest are taken.
    max_distance : int, default=100000
        Largest distance in base pairs from the TSS to the middle of an element. In shorter
        windows the elements are those inside, cut off at the ends.
    promoter_length : int, default=2000
        Base pairs around the TSS that are the promoter. Elements have their middle outside.
    frame_length : int, default=2000
        Width in base pairs of the frame that a sequence is put into the middle of, at least 416
        and `promoter_length`. Of longer elements the middle is read.
    n_filters : int, default=256
        Channels of the first convolution, a multiple of 8; the others have a half to an eighth
        of them. A quarter of them takes about an eighth of the time.
    d_model : int, default=64
        Width of a token, a multiple of ``n_filters / 8`` and of `n_heads`.
    n_layers, n_heads : int, default=3, 4
        Layers of attention, and heads in each.
    covariates, reverse_complement, loss, max_epochs, patience, batch_size, learning_rate, \
            weight_decay, gradient_clip, ema_decay, validation_chroms, validation_fraction, \
            warm_start, n_workers, device, amp, accelerate, random_state, verbose
        As in ``RegMaskRegressor``. Batch, learning rate, decay and loss are the published ones
        by default. `reverse_complement` is ``"none"`` or ``"augment"``.

    Attributes
    ----------
    net_ : WindowNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, seconds``.
    peaks_ : dict of str to ndarray of shape (n, 2), or None
        Start and end of the given peaks on each chromosome, merged.
    activity_scale_ : float
        Mean activity of the elements of up to 256 windows of fit, in the tracks' units; the
        network reads activities as multiples of it.
    channel_names_in_, n_features_in_, target_mean_, target_scale_, covariate_mean_, \
            covariate_scale_, device_
        As in ``RegMaskRegressor``.

    Notes
    -----
    The defaults are the published network: 447,149 parameters with 9 covariates before the
    features of the elements join, as in print, and 447,341 with the three of them. On one
    core a training step takes about 0.06 s for each promoter and element, and 0.008 s with
    ``n_filters=64``, the size to take for long windows on a CPU. Elements score by the attention
    that the promoter pays them in the last layer, mean over the heads, times activity times
    contact.

    What differs from the published model: activities are scaled by their mean; batch
    normalisation sees only frames that hold an element or promoter; covariates and targets are
    standardised; the encoder is not trained on activities beforehand; sequences are read in the
    direction of the gene.

    References
    ----------
    Lin et al., "EPInformer", Nature Communications (2026), doi:10.1038/s41467-026-70535-8.
    Fulco et al., Nature Genetics 51:1664 (2019): activity and contact.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.pipeline import make_pipeline
    >>> from regmask_sk import SequenceChannels, SignalChannels, TSSWindows, simulate_genome
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     data = simulate_genome(folder, n_genes=24)
    ...     model = EPInformerRegressor(
    ...         track="atac", peaks=data.elements, promoter_length=96, frame_length=416,
    ...         n_filters=16, max_epochs=1, random_state=0, device="cpu",
    ...     )
    ...     pipeline = make_pipeline(
    ...         TSSWindows(1_024), SequenceChannels(data.fasta), SignalChannels(data.tracks), model
    ...     ).fit(data.loci, data.loci["expression"])
    ...     pipeline.transform(data.loci).shape
    (24, 1024)
    """

    _kept_attributes: ClassVar[tuple[str, ...]] = (
        *RivalRegressor._kept_attributes,
        "peaks_",
        "activity_scale_",
    )
    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "element_features", "frame_length", "n_filters", "d_model", "n_layers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        track: str | None = None,
        peaks: str | os.PathLike[str] | pd.DataFrame | None = None,
        peak_scale: float = 1.0,
        activity_tracks: Sequence[str] | None = None,
        contact: str | None = None,
        element_features: Sequence[str] = FEATURES,
        max_elements: int = 60,
        max_distance: int = 100_000,
        promoter_length: int = 2000,
        frame_length: int = 2000,
        n_filters: int = 256,
        d_model: int = 64,
        n_layers: int = 3,
        n_heads: int = 4,
        covariates: Sequence[str] = (),
        reverse_complement: Literal["none", "augment", "ph", "ps"] = "none",
        loss: Literal["squared_error", "huber"] = "huber",
        max_epochs: int = 30,
        patience: int = 15,
        batch_size: int | Literal["auto"] = 16,
        learning_rate: float = 0.0005,
        weight_decay: float = 1e-6,
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
        self.track = track
        self.peaks = peaks
        self.peak_scale = peak_scale
        self.activity_tracks = activity_tracks
        self.contact = contact
        self.element_features = element_features
        self.max_elements = max_elements
        self.max_distance = max_distance
        self.promoter_length = promoter_length
        self.frame_length = frame_length
        self.n_filters = n_filters
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what the estimator can do."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    # -- fitting -------------------------------------------------------------------

    def _note_windows(self, X: WindowArray) -> None:
        self._check_own_parameters()
        found = None
        if self.peaks is not None:
            found = dict(Regions.read(self.peaks, "peaks").by_chrom)
            if isinstance(X, Windows) and not set(found) & set(X.loci["chrom"]):
                raise ValueError(
                    f"peaks shares no chromosome with X: it has {sorted(found)[:8]}, X has "
                    f"{sorted(set(X.loci['chrom']))[:8]}. Name chromosomes alike, or leave peaks "
                    "out."
                )
        goes_on = self.warm_start and hasattr(self, "net_")
        self.peaks_ = found
        finder = self._finder(X)
        if not goes_on:  # the network knows the scale of the first fit
            self.activity_scale_ = self._typical_activity(cast(Windows, X), finder)

    def _check_own_parameters(self) -> None:
        check_scalar(
            self.peak_scale, "peak_scale", Real, min_val=0.0, max_val=np.inf,
            include_boundaries="neither",
        )  # fmt: skip
        check_scalar(self.promoter_length, "promoter_length", Integral, min_val=1)
        check_scalar(self.frame_length, "frame_length", Integral, min_val=LEAST_FRAME)
        if self.promoter_length > self.frame_length:
            raise ValueError(
                f"promoter_length={self.promoter_length} does not fit into "
                f"frame_length={self.frame_length}. Shorten it, or widen the frame."
            )
        if self.n_layers < 1:
            raise ValueError("n_layers=0 leaves no attention to elements; expected at least 1.")
        eighth = self.n_filters // 8
        if self.n_filters % 8 or self.d_model % eighth or self.d_model % self.n_heads:
            raise ValueError(
                f"n_filters={self.n_filters}, d_model={self.d_model} and n_heads={self.n_heads} "
                "do not go together: n_filters must be a multiple of 8, and d_model one of "
                "n_filters / 8 and of n_heads. The published sizes are 256, 64 and 4."
            )
        features = list(self.element_features)
        if isinstance(self.element_features, str) or set(features) - set(FEATURES):
            raise ValueError(
                f"element_features={self.element_features!r}; expected a sequence of names among "
                f"{FEATURES}."
            )
        if self.reverse_complement not in ("none", "augment"):
            raise ValueError(
                f"reverse_complement={self.reverse_complement!r} is for bodies that read whole "
                "windows; EPInformerRegressor reads frames of elements. Set 'augment' or 'none'."
            )

    def _typical_activity(self, X: Windows, finder: ElementFinder) -> float:
        """Mean activity of the elements of some windows; 1 where there are none."""
        rows = range(0, len(X), -(-len(X) // _LOOKED_AT))
        found = [finder.find(X.read(row), _placement(X, row)).features[:, 1] for row in rows]
        activity = np.concatenate(found)
        if not len(activity):
            warnings.warn(
                f"none of {len(rows)} windows of {X.length} bp has a candidate element more than "
                f"{self.promoter_length / 2:g} bp from the TSS: only promoters are read. Lengthen "
                "the windows, shorten promoter_length, or give peaks.",
                UserWarning,
                stacklevel=4,
            )
        return float(activity.mean()) if activity.any() else 1.0

    def _dataset_options(self, X: WindowArray) -> dict[str, Any]:
        return {"extras": self._finder(X)}

    def _finder(self, X: WindowArray) -> ElementFinder:
        return element_finder(
            X,
            track=self.track,
            activity_tracks=self.activity_tracks,
            contact=self.contact,
            peaks=None if self.peaks_ is None else Regions(self.peaks_),
            peak_scale=self.peak_scale,
            max_elements=self.max_elements,
            max_distance=self.max_distance,
            promoter_length=self.promoter_length,
            frame_length=self.frame_length,
        )

    def _make_module(self, n_outputs: int) -> EPInformerModel:
        return EPInformerModel(
            n_outputs,
            len(self.covariate_mean_),
            frame_length=self.frame_length,
            n_filters=self.n_filters,
            d_model=self.d_model,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            features=[i for i, name in enumerate(FEATURES) if name in self.element_features],
            activity_scale=self.activity_scale_,
        )

    # -- reading the fitted estimator --------------------------------------------------

    def transform(self, X: Windows) -> NDArray[np.float32]:
        """Scores of the elements on their bases.

        Parameters
        ----------
        X : Windows of shape (n, channels, length)
            Windows with the channels and the length of fit.

        Returns
        -------
        ndarray of shape (n, length), float32
            Attention times activity times contact of each element on its bases, as a share of
            the largest of its gene, so in [0, 1]; 0 elsewhere, in the promoter too. Columns are
            those of masks: ``length // 2`` is the TSS.
        """
        check_is_fitted(self, "net_")
        windows = self._check_windows(X, reset=False)
        scores = np.zeros((len(windows), self.n_features_in_), np.float32)
        for row, scored in zip(scores, self._scored(windows), strict=True):
            largest = scored.score.max(initial=0.0)
            if largest > 0.0:
                for (first, last), score in zip(scored.columns, scored.score, strict=True):
                    row[first:last] = score / largest
        return scores

    def element_scores(self, X: Windows) -> pd.DataFrame:
        """List the elements of each gene with what makes their scores.

        Parameters
        ----------
        X : Windows of shape (n, channels, length)
            Windows with the channels and the length of fit.

        Returns
        -------
        DataFrame
            One row an element, those of a gene together and nearest first. Columns: ``gene``,
            the row of the loci table; ``chrom``, ``start``, ``end``, 0-based and half-open;
            ``distance`` in base pairs from the TSS to the middle; ``activity`` in the units of
            the tracks; ``contact``; ``attention`` that the promoter pays it in the last layer,
            mean over the heads; ``score``, the product of the last three.
        """
        check_is_fitted(self, "net_")
        windows = cast(Windows, self._check_windows(X, reset=False))
        scored = list(self._scored(windows))
        rows = np.repeat(np.arange(len(scored)), [len(one.columns) for one in scored])
        places = []
        for row, one in enumerate(scored):
            placement = _placement(windows, row)
            places.append(placement.start + genomic(one.columns, placement))
        start, end = np.concatenate(places).T
        features = np.concatenate([one.features for one in scored]).T
        genes = windows.loci.iloc[rows]
        return pd.DataFrame(
            {
                "gene": genes.index.to_numpy(),
                "chrom": genes["chrom"].to_numpy(),
                "start": start,
                "end": end,
                **dict(zip(FEATURES, features, strict=True)),
                "attention": np.concatenate([one.attention for one in scored]),
                "score": np.concatenate([one.score for one in scored]),
            }
        )

    @torch.no_grad()
    def _scored(self, X: WindowArray) -> Iterator[_Scored]:
        """Give the elements of one window after the other."""
        module = cast(EPInformerModel, self.net_.ready_module.eval())
        names = ("covariates", "frames", "features", "present")
        for inputs, n_rows in self.net_.filled_batches(self._dataset(X)):
            with self.net_.autocast():
                _, attention = module.attend(*(inputs[name] for name in names))
            for row in range(n_rows):
                # The first token is the promoter's.
                n_found = int(inputs["present"][row].sum())
                columns, features, paid = (
                    values[row, 1:n_found].cpu().numpy()
                    for values in (inputs["columns"], inputs["features"], attention)
                )
                yield _Scored(columns, features.astype(np.float64), paid.astype(np.float64))


def _placement(X: Windows, row: int) -> Placement:
    chrom, start, end, cell_type, *_ = X.interval(row)
    return Placement(chrom, start, end, bool(X.reversed[row]), cell_type)
