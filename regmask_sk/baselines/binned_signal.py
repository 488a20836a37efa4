"""A linear (or any scikit-learn) model on signals averaged in bins, and on k-mer counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from regmask_sk._base import SEQUENCE_CHANNELS, WindowArray, WindowEstimator

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

# 4**8 = 65,536 counts a gene: beyond it the table outgrows the windows themselves.
_MAX_KMER = 8


class BinnedSignalRegressor(RegressorMixin, WindowEstimator):
    """Regress expression on the mean signal of each bin of the window.

    The plain baseline: every signal channel is averaged in bins of `bin_size` bases from the
    first column of the window (so bins keep their distance to the TSS, in gene orientation),
    k-mers of the sequence are counted on request, all features are standardised and handed to
    `estimator`. Windows are read one at a time; only the table of features is held.

    Parameters
    ----------
    estimator : estimator, optional
        A scikit-learn regressor of 2-D features. By default
        ``RidgeCV(alphas=numpy.logspace(-1, 6, 15))``, which chooses the penalty by leave-one-out
        error on the training rows.
    bin_size : int, default=50
        Width of a bin in base pairs. A last, narrower bin takes what remains of the window.
    kmer_size : int, default=0
        Length of the k-mers counted on the strand of the gene, at most 8; 0 counts none. A k-mer
        that holds an N, or runs off the chromosome, is not counted. Needs the channels A, C, G
        and T.
    covariates : sequence of str, default=()
        Numeric columns of the loci table that join the features. For `Windows` only.

    Attributes
    ----------
    model_ : Pipeline
        The fitted scaler and estimator.
    channel_names_in_ : tuple of str or None
        Names of the channels seen in ``fit``; None where `X` was an array.
    n_channels_in_ : int
        Number of channels seen in ``fit``.
    n_features_in_ : int
        Length of the windows seen in ``fit``, in base pairs.
    feature_names_ : ndarray of shape (n_binned_features,), str
        Name of each feature: ``DNase_bin3`` is the fourth bin from the window's first column.
        Covariates come last.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2, 100))
    >>> y = X[:, 1, 40:60].mean(axis=1)
    >>> model = BinnedSignalRegressor(bin_size=20).fit(X, y)
    >>> round(model.score(X, y), 2)
    1.0
    >>> str(model.feature_names_[np.abs(model.model_[-1].coef_).argmax()])
    'channel1_bin2'
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        bin_size: int = 50,
        kmer_size: int = 0,
        covariates: Sequence[str] = (),
    ) -> None:
        self.estimator = estimator
        self.bin_size = bin_size
        self.kmer_size = kmer_size
        self.covariates = covariates

    def fit(self, X: Windows | ArrayLike, y: ArrayLike) -> BinnedSignalRegressor:
        """Bin the windows and fit the estimator.

        Parameters
        ----------
        X : Windows, or array-like of shape (n_genes, n_channels, length) or (n_genes, length)
            Windows in gene orientation; a 2-D array is one channel. Without names every channel
            is a signal.
        y : array-like of shape (n_genes,) or (n_genes, n_outputs)
            Measured expression.

        Returns
        -------
        BinnedSignalRegressor
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, there is neither a signal channel nor a k-mer to
            count, a covariate is missing, or `X` or `y` holds NaN or infinity.
        """
        if self.bin_size < 1:
            raise ValueError(f"bin_size is {self.bin_size}; expected at least 1 base pair.")
        if not 0 <= self.kmer_size <= _MAX_KMER:
            raise ValueError(f"kmer_size is {self.kmer_size}; expected 0 to {_MAX_KMER}.")
        windows = self._check_windows(X, reset=True)
        targets = self._check_targets(windows, y)
        self.feature_names_ = self._feature_names()
        estimator = (
            RidgeCV(alphas=np.logspace(-1, 6, 15))
            if self.estimator is None
            else clone(self.estimator)
        )
        self.model_: Pipeline = make_pipeline(StandardScaler(), estimator)
        # Sent on in the shape in which y came, so that predictions come back in it.
        self.model_.fit(self._features(windows), targets.reshape(np.asarray(y).shape))
        return self

    def predict(self, X: Windows | ArrayLike) -> NDArray[np.float64]:
        """Predict expression.

        Parameters
        ----------
        X : Windows or array-like
            Windows with the channels and the length seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_genes,) or (n_genes, n_outputs)
            Predicted expression, in the units of ``y``.

        Raises
        ------
        ValueError
            If the channels, their order or the length differ from those seen in ``fit``.
        """
        check_is_fitted(self)
        windows = self._check_windows(X, reset=False)
        return np.asarray(self.model_.predict(self._features(windows)), dtype=np.float64)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that several outputs are welcome, as they are to the ridge."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _channels(self) -> list[str]:
        if self.channel_names_in_ is None:
            return [f"channel{i}" for i in range(self.n_channels_in_)]
        return list(self.channel_names_in_)

    def _roles(self) -> tuple[list[int], list[int]]:
        """Return the indices of the signal channels, and of A, C, G, T where k-mers are counted."""
        names = self._channels()
        signals = [i for i, name in enumerate(names) if name not in SEQUENCE_CHANNELS]
        if self.kmer_size == 0:
            if not signals:
                raise ValueError(
                    f"X has no signal channel, only {names}, and kmer_size is 0. Add tracks with "
                    "SignalChannels, or count k-mers."
                )
            return signals, []
        missing = [base for base in SEQUENCE_CHANNELS if base not in names]
        if missing:
            raise ValueError(
                f"kmer_size is {self.kmer_size}, and X lacks the channels {missing}: it has "
                f"{names}. Add SequenceChannels, or set kmer_size=0."
            )
        if self.kmer_size > self.n_features_in_:
            raise ValueError(
                f"kmer_size is {self.kmer_size}, more than the windows' {self.n_features_in_} bp."
            )
        return signals, [names.index(base) for base in SEQUENCE_CHANNELS]

    def _feature_names(self) -> NDArray[np.object_]:
        signals, bases = self._roles()
        names = self._channels()
        n_bins = -(-self.n_features_in_ // self.bin_size)
        binned = [f"{names[i]}_bin{j}" for i in signals for j in range(n_bins)]
        kmers = ["kmer_" + "".join(k) for k in product(SEQUENCE_CHANNELS, repeat=self.kmer_size)]
        return np.array([*binned, *(kmers if bases else []), *self.covariates], dtype=object)

    def _features(self, X: WindowArray) -> NDArray[np.floating]:
        signals, bases = self._roles()
        edges = np.arange(0, self.n_features_in_, self.bin_size)
        widths = np.diff(edges, append=self.n_features_in_)
        features = np.empty((X.shape[0], len(self.feature_names_)))
        n_binned = len(signals) * len(edges)
        known = self._covariate_table(X, self.covariates)
        features[:, features.shape[1] - known.shape[1] :] = known
        kmers = slice(n_binned, features.shape[1] - known.shape[1])
        for row in range(X.shape[0]):
            window = np.asarray(X[row])
            # Summed in double: the error of a float32 sum grows with the width of the bin.
            totals = np.add.reduceat(window[signals], edges, axis=1, dtype=np.float64)
            features[row, :n_binned] = (totals / widths).ravel()
            if bases:
                features[row, kmers] = _count_kmers(window[bases], self.kmer_size)
        return features


def _count_kmers(one_hot: NDArray[np.floating], size: int) -> NDArray[np.int64]:
    """Count the k-mers of a one-hot sequence, in the order of their base-4 codes."""
    known = np.asarray(one_hot.any(axis=0))
    codes = np.asarray(one_hot.argmax(axis=0))
    n = one_hot.shape[1] - size + 1
    kmers = np.zeros(n, dtype=np.int64)
    complete = np.ones(n, dtype=bool)
    for offset in range(size):
        kmers = kmers * 4 + codes[offset : offset + n]
        complete &= known[offset : offset + n]
    return np.asarray(np.bincount(kmers[complete], minlength=4**size))
