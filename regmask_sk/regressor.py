"""``RegMaskRegressor``: expression, and the mask of what drives it, as an estimator."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Literal, NamedTuple, overload

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags, check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import nn

from regmask_sk._base import MaskTransformer, WindowArray
from regmask_sk._fitting import MaskedFit
from regmask_sk._plan import Stage
from regmask_sk._turns import own_random_numbers
from regmask_sk.distributions import DistributionName
from regmask_sk.generator import Evidence
from regmask_sk.losses import Continuity
from regmask_sk.windows import Windows


class MaskMoments(NamedTuple):
    """Masks, and the standard deviations of their gates.

    Attributes
    ----------
    mask, std : ndarray of shape (n, length), float32
        Column by column as ``RegMaskRegressor.transform`` gives them.
    """

    mask: NDArray[np.float32]
    std: NDArray[np.float32]


class RegMaskRegressor(MaskTransformer, MaskedFit):
    """Predict expression from the few bases of a window that drive it.

    A *generator* reads the window and gives every stretch of bases a gate (`resolution` and
    `mask_resolution` say how long these are); a *predictor* sees only what the gates keep.
    ``predict`` gives expression, ``transform`` gives the masks.

    Parameters
    ----------
    backbone : str or type, default="conv"
        Body of the generator and of the predictor: a short name of
        ``regmask_sk.backbones.BACKBONES``, or a class with the same interface.
    mask : {"soft", "hard", "topk"}, default="soft"
        How gates become a mask: their mean in [0, 1]; 0 or 1; or 1 for as many of the
        most open gates of each window as `sparsity` allows. A fitted decoupled estimator
        can be read in each of the three ways: ``set_params(mask=...)`` after ``fit``.
    training : {"decoupled", "joint"}, default="decoupled"
        ``"decoupled"`` trains the predictor under random masks, then the generator
        against it, then the predictor under the generator's masks mixed with random
        ones. ``"joint"`` is the published objective (Su et al., 2025): both together,
        with sampled gates and their divergence from a prior.
    gate_distribution : {"auto", "beta", "kumaraswamy", "hard_concrete", "relaxed_bernoulli"}, \
            default="auto"
        Family of the gates' distribution. ``"auto"`` is ``"relaxed_bernoulli"`` for decoupled
        and ``"beta"`` for joint training.
    evidence : {"learned", "seq2exp-soft", "seq2exp-hard"}, default="learned"
        How the tracks enter jointly trained Beta gates: scaled, with learned weights and
        offsets, or raw, by the published formulas
        (:func:`regmask_sk.ops.evidence.seq2exp_gates`). These need `Windows` with the tracks
        H3K27ac, DNase and Hi-C, in this order, of ``SignalChannels(scaling="none")``. Beside
        ``"seq2exp-soft"`` the paper has ``prior_mean=0.1, prior_concentration=100``, beside
        ``"seq2exp-hard"`` ``prior_mean=0.45, prior_concentration=0.2222, mask="hard"``, and
        ``kl_weight=0.01, loss="huber"`` with both. They are not set by themselves.
    sparsity : float, default=0.1
        Share of the bases to keep, promoter included; the mean over the training rows
        of a decoupled fit, the share of each window for ``mask="topk"``. Joint training
        is governed by `kl_weight` and `prior_mean` in its place.
    promoter_length : int or "auto", default="auto"
        Width in base pairs of the window around the TSS that every mask keeps. ``"auto"``
        is a twentieth of the window, at most 2,000 bp.
    closed_regions, open_regions : path-like, DataFrame or None, default=None
        Regions of the genome, BED file or table with columns ``chrom``, ``start`` and ``end``
        (0-based, half-open), whose bases every mask closes, such as a blacklist, or opens, such
        as elements that are known. Open regions go before closed ones, and the promoter window
        before both. Such bases count in `sparsity` as what they are. For `Windows` only; read
        by ``fit``. What is off the chromosome is closed as well.
    resolution : int, default=16
        Base pairs that a token of the bodies stands for, and a gate of the mask, unless
        `mask_resolution` says otherwise; an eighth of the window where that is less.
    mask_resolution : int or None, default=None
        Base pairs that a gate of the mask stands for, a divisor of `resolution`; 1 gives masks
        base by base from bodies that run on few tokens. The generator's tokens are then joined
        to a small convolution of the window at this grain. ``None`` takes `resolution`.
    covariates : sequence of str, default=()
        Numeric columns of the loci table that join the predictor's head, standardised.
    reverse_complement : {"none", "augment", "ph", "ps"}, default="none"
        What the model makes of the opposite strand, for windows in which the direction of
        transcription means nothing. ``"augment"`` turns every other training window to it.
        ``"ph"`` (post-hoc conjoining) does so too, and a fitted model averages what it reads
        on either strand. ``"ps"`` (parameter sharing) reads both strands with the same
        weights, in training and after. With the last two the mask of a turned window is the
        turned mask and its prediction the same, to rounding (Schiff et al., 2024).
    d_model : int, default=64
        Width of the bodies.
    n_layers : int, default=4
        Number of layers of each body.
    dropout : float, default=0.1
        Dropout probability.
    checkpointing : bool, default=False
        Whether the bodies compute their layers a second time in the backward pass in place of
        keeping what is between them: less memory for more time, for long windows. Bodies
        that cannot (``"conv"``, ``"codon"``) refuse it.
    continuity_weight : float or None, default=None
        Weight of the penalty that keeps elements in one piece; ``None`` takes 0.1 in
        decoupled training, and 0 in joint training, whose published objective has none.
    continuity : {"difference", "transitions"}, default="difference"
        What it weighs: the mean absolute difference of neighbouring gates' means, or the
        expected share of neighbours that differ when each is sampled by itself. The latter
        also makes undecided gates pay.
    gate_correlation : float, default=0.0
        Length scale in base pairs over which gates are sampled together in training: gates
        ``d`` apart have normal scores with the correlation ``exp(-d**2 / (2 * scale**2))``,
        each with the distribution that it has by itself. 0 samples them independently.
    kl_weight, prior_mean, prior_concentration : float, default=0.05, 0.1, 10.0
        Joint training only: weight of the divergence from the sparsity prior, and the
        mean and concentration (sum of both parameters) of that Beta distribution. For
        hard concrete and relaxed Bernoulli gates the prior is Bernoulli(`prior_mean`).
    loss : {"squared_error", "huber"}, default="squared_error"
        Regression loss on the standardised target.
    max_epochs : int, default=30
        Epochs of the predictor's stage, or of joint training.
    generator_epochs, finetune_epochs : int or None, default=None
        Epochs of the two later stages of decoupled training; ``None`` takes a third
        of `max_epochs` for each. ``finetune_epochs=0`` leaves the last stage out.
    patience : int, default=15
        Epochs without a better validation loss after which a stage ends. They are counted
        only once the stage predicts better than a constant.
    batch_size : int or "auto", default=32
        Windows a step, those of all processes together. ``"auto"`` takes the default where
        memory allows, and otherwise the largest power of two whose estimate
        (:meth:`estimate_memory`) fits in 60 % of the memory that is free when the fit begins:
        the same on the same machine with as much memory free.
    learning_rate : float, default=0.003
        Peak of the one-cycle schedule of each stage (AdamW).
    weight_decay : float, default=0.01
        Decoupled weight decay.
    gradient_clip : float, default=1.0
        Largest norm of the gradient.
    ema_decay : float, default=0.994
        Decay, a step, of the exponential moving average of the weights, with which
        stages are judged and end.
    validation_chroms : sequence of str or None, default=None
        Chromosomes held out of training to judge epochs by.
    validation_fraction : float, default=0.1
        Without `validation_chroms`: share of the chromosomes (of the rows, where X is an
        array and ``fit`` is given no `groups`) held out for that; 0 for none.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last fit.
    n_workers : int, default=0
        Loader processes; 0 reads in this process.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    amp : bool or "auto", default="auto"
        bfloat16 autocast; ``"auto"`` uses it on CUDA, and where `accelerate` is true and the
        launcher was told ``--mixed_precision bf16``. The mask stays in float32.
    accelerate : bool, default=False
        Whether the processes that ``accelerate launch`` or ``torchrun`` started share a fit
        (extra ``accelerate``), each on a GPU of its own, or on the CPU where `device` says so.
        All train one model: `batch_size` is that of all together. One process alone fits as
        without.
    random_state : int, RandomState or None, default=None
        The same integer gives the same bits on CPU with the same number of threads; on CUDA the
        same numbers to rounding, and after ``torch.use_deterministic_algorithms(True)`` the
        same bits.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    net_ : RegMaskNet
        The skorch net; ``net_.module_`` is the torch model.
    history_ : DataFrame
        One row an epoch: ``epoch, stage, train_loss, valid_loss, train_kept,
        valid_kept, seconds``. Losses are in units of the standardised target.
    channel_names_in_ : tuple of str or None
        Channels of X at fit; ``None`` for arrays.
    n_features_in_ : int
        Window length in base pairs.
    promoter_columns_ : slice
        Columns of the mask that are always kept.
    closed_regions_, open_regions_ : dict of str to ndarray of shape (n, 2), or None
        By chromosome, start and end of the regions as ``fit`` read them, sorted and merged;
        None where there are none.
    target_mean_, target_scale_ : ndarray of shape (n_outputs,)
        Standardisation of y, from the training rows.
    covariate_mean_, covariate_scale_ : ndarray of shape (n_covariates,)
        Standardisation of the covariates, from the training rows.
    device_ : str
        Device that the fit ran on.
    batch_size_ : int
        Windows a step, those of ``predict`` and ``transform`` included.
    scan_backend_ : str or None
        What computes the scans of the bodies that have any; see
        :func:`regmask_sk.ops.selective_scan.scan_backend`.

    References
    ----------
    Su, Yu, Zhi, Ji. "Learning to discover regulatory elements for gene expression
    prediction", ICLR 2025 (arXiv 2502.13991): the joint objective.
    Jethani, Sudarshan, Aphinyanaphongs, Ranganath. "Have we learned to explain?",
    AISTATS 2021: why masks of joint training may encode the prediction.
    Schiff, Kao, Gokaslan, Dao, Gu, Kuleshov. "Caduceus: bi-directional equivariant
    long-range DNA sequence modeling", ICML 2024: symmetry of the two strands.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import RegMaskRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> model = RegMaskRegressor(resolution=8, sparsity=0.25, max_epochs=2, random_state=0)
    >>> model.fit(X, X[:, 0, :8].sum(axis=1)).transform(X).shape
    (40, 64)
    """

    def __init__(
        self,
        *,
        backbone: str | type[nn.Module] = "conv",
        mask: Literal["soft", "hard", "topk"] = "soft",
        training: Literal["decoupled", "joint"] = "decoupled",
        gate_distribution: DistributionName | Literal["auto"] = "auto",
        evidence: Evidence = "learned",
        sparsity: float = 0.1,
        promoter_length: int | Literal["auto"] = "auto",
        closed_regions: str | os.PathLike[str] | pd.DataFrame | None = None,
        open_regions: str | os.PathLike[str] | pd.DataFrame | None = None,
        resolution: int = 16,
        mask_resolution: int | None = None,
        covariates: Sequence[str] = (),
        reverse_complement: Literal["none", "augment", "ph", "ps"] = "none",
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        checkpointing: bool = False,
        continuity_weight: float | None = None,
        continuity: Continuity = "difference",
        gate_correlation: float = 0.0,
        kl_weight: float = 0.05,
        prior_mean: float = 0.1,
        prior_concentration: float = 10.0,
        loss: Literal["squared_error", "huber"] = "squared_error",
        max_epochs: int = 30,
        generator_epochs: int | None = None,
        finetune_epochs: int | None = None,
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
        self.backbone = backbone
        self.mask = mask
        self.training = training
        self.gate_distribution = gate_distribution
        self.evidence = evidence
        self.sparsity = sparsity
        self.promoter_length = promoter_length
        self.closed_regions = closed_regions
        self.open_regions = open_regions
        self.resolution = resolution
        self.mask_resolution = mask_resolution
        self.covariates = covariates
        self.reverse_complement = reverse_complement
        self.d_model = d_model
        self.n_layers = n_layers
        self.dropout = dropout
        self.checkpointing = checkpointing
        self.continuity_weight = continuity_weight
        self.continuity = continuity
        self.gate_correlation = gate_correlation
        self.kl_weight = kl_weight
        self.prior_mean = prior_mean
        self.prior_concentration = prior_concentration
        self.loss = loss
        self.max_epochs = max_epochs
        self.generator_epochs = generator_epochs
        self.finetune_epochs = finetune_epochs
        self.patience = patience
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.ema_decay = ema_decay
        self.validation_chroms = validation_chroms
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.n_workers = n_workers
        self.device = device
        self.amp = amp
        self.accelerate = accelerate
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what the estimator can do."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    # -- fitting -------------------------------------------------------------------

    def _fit_next_budget(
        self,
        X: Windows | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
        *,
        sparsity: float,
        epochs: int,
    ) -> None:
        """Go on from a fit at a larger budget to a smaller one; see ``sparsity_path``."""
        last, self.sparsity = self.sparsity, sparsity
        data = self._begin(X, y, sample_weight, groups, reset=False)
        plan: tuple[Stage, ...] = (Stage("generator", epochs), Stage("finetune", epochs))
        if self.finetune_epochs == 0:  # the predictor is never to see the generator's masks
            plan = plan[:1]
        self._build_from_last(data, plan)
        self.net_.settings = replace(self.net_.settings, start_share=last)
        self._train(data)

    # -- reading the fitted estimator --------------------------------------------------

    @overload
    def transform(
        self, X: Windows | ArrayLike, return_std: Literal[False] = ...
    ) -> NDArray[np.float32]: ...
    @overload
    def transform(self, X: Windows | ArrayLike, return_std: Literal[True]) -> MaskMoments: ...
    def transform(
        self, X: Windows | ArrayLike, return_std: bool = False
    ) -> NDArray[np.float32] | MaskMoments:
        """Masks of the windows.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.
        return_std : bool, default=False
            Whether to give the gates' standard deviations as well.

        Returns
        -------
        ndarray of shape (n, length), float32
            In [0, 1]. Column ``length // 2`` is the TSS; for a plus-strand gene, and for
            windows that are not stranded, column *j* is the base ``start + j``.
        MaskMoments
            Only if `return_std` is True: ``(mask, std)``, both of shape (n, length). ``std`` is
            the standard deviation of each base's gate (for relaxed Bernoulli gates that of the
            0/1 gate which they relax), whatever the kind of mask; 0 where a mask is fixed.

        Notes
        -----
        The masks of many long windows do not fit into memory: 18,377 windows of 200 kb
        take 14.7 GB. ``regmask_sk.export_masks`` streams them to files.
        """
        check_is_fitted(self, "net_")
        windows = self._check_windows(X, reset=False)
        masks = np.empty((int(windows.shape[0]), self.n_features_in_), np.float32)
        stds = np.empty_like(masks) if return_std else None
        start = 0
        with self._memory_explained("transform", X):
            for mask, std in self.net_.mask_batches(self._dataset(windows), self.mask):
                rows = slice(start, start + len(mask))
                masks[rows] = mask.numpy()
                if stds is not None:
                    stds[rows] = std.numpy()
                start = rows.stop
        return masks if stds is None else MaskMoments(masks, stds)

    def predict_samples(
        self,
        X: Windows | ArrayLike,
        n_samples: int = 20,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[np.float64]:
        """Predict under masks whose gates are sampled from their distributions.

        The spread over the samples tells how far a prediction hangs on gates that are not
        decided. It is no confidence interval of the expression: what the networks do not know
        is not in it.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.
        n_samples : int, default=20
            Masks a window.
        random_state : int, RandomState or None, default=None
            Seed of the samples; the same integer gives the same samples on the same device.

        Returns
        -------
        ndarray of shape (n, n_samples) or (n, n_samples, n_outputs)
            In the unit of y. Sampled gates become masks as `mask` says: as they are (relaxed
            Bernoulli gates are 0 or 1), cut at 1/2, or the largest of them. `gate_correlation`
            holds as it does in training.

        Examples
        --------
        >>> import numpy as np
        >>> from regmask_sk import RegMaskRegressor
        >>> X = np.random.default_rng(0).normal(size=(20, 2, 32)).astype("float32")
        >>> model = RegMaskRegressor(resolution=4, sparsity=0.3, max_epochs=1, random_state=0)
        >>> model.fit(X, X[:, 0, :8].sum(axis=1)).predict_samples(X, 5, random_state=0).shape
        (20, 5)
        """
        check_is_fitted(self, "net_")
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        windows = self._check_windows(X, reset=False)
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        with self._memory_explained("predict_samples", X), own_random_numbers(seed):
            drawn = self.net_.sample_batches(self._dataset(windows), self.mask, n_samples)
            return self._to_target_unit(list(drawn))

    def predict_masked(self, X: Windows | ArrayLike, masks: ArrayLike) -> NDArray[np.float64]:
        """Predict with the same predictor under masks that are given.

        What the predictor makes of a mask that the generator did not choose (a track, a
        position-only mask, a random one) tells what a mask is worth.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.
        masks : array of shape (n, length) or (length,)
            In [0, 1], column by column as :meth:`transform` gives them; one mask for all
            windows, or one a window. The promoter is kept only where the mask keeps it.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
            In the unit of y.
        """
        check_is_fitted(self, "net_")
        windows = self._check_windows(X, reset=False)
        given = np.asarray(masks)
        shape = (int(windows.shape[0]), self.n_features_in_)
        if given.shape not in (shape, shape[1:]):
            raise ValueError(
                f"masks has shape {given.shape}; expected {shape}, one mask a window, or "
                f"{shape[1:]}, one for all."
            )
        if not (np.isfinite(given).all() and given.min() >= 0.0 and given.max() <= 1.0):
            raise ValueError("masks must lie in [0, 1]; found values outside, or missing ones.")
        # Taken as they are: no region is closed or opened in them.
        dataset = self._dataset(windows, masks=np.broadcast_to(given, shape), forced=None)
        with self._memory_explained("predict_masked", X):
            return self._to_target_unit(list(self.net_.predict_batches(dataset, self.mask)))

    def _read_predictions(self, X: WindowArray) -> Iterator[torch.Tensor]:
        return self.net_.predict_batches(self._dataset(X), self.mask)
