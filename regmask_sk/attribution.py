"""Attributions of a fitted network: what each base adds to a prediction, by five methods.

They are the usual alternative to a mask, and what a mask is to be compared with: scores that are
computed after training, from any network, one window at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from regmask_sk._attribution_methods import Baseline, Method, Work
from regmask_sk._explained import (
    Explained,
    MaskUse,
    baseline_like,
    check_baseline,
    plain_float32,
)
from regmask_sk.windows import Windows

__all__ = ["attribute", "attribution_batches", "completeness_gap"]


def attribute(
    estimator: Any,
    X: Windows | ArrayLike,
    method: Method = "saliency",
    *,
    baseline: Baseline = "uniform",
    mask: MaskUse = "model",
    output: int = 0,
    per_channel: bool = False,
    n_steps: int = 50,
    width: int | None = None,
    step: int | None = None,
    columns: slice | None = None,
    batch_size: int | None = None,
) -> NDArray[np.float32]:
    """Score the bases of windows by what they add to the prediction of a fitted network.

    Parameters
    ----------
    estimator : RegMaskRegressor, BackboneRegressor or EnformerRegressor
        Fitted. Of a pipeline pass the last step.
    X : Windows, array of shape (n, channels, length) or of shape (n, length)
        As ``estimator.predict`` takes it; of a pipeline ``pipeline[:-1].transform(loci)``.
    method : {"saliency", "integrated_gradients", "deeplift", "mutagenesis", "occlusion"}, \
            default="saliency"
        ``"saliency"``: gradient times the difference from the baseline. With
        ``baseline="zero"`` that is gradient times input; with ``"uniform"`` the gradient over
        the four bases is first centred (Majdandzic et al., 2023).
        ``"integrated_gradients"``: the mean gradient on the straight line from the baseline,
        times the difference, by captum (extra ``attribution``).
        ``"deeplift"``: multipliers of every operation, by the Rescale rule; see Notes.
        ``"mutagenesis"``: every base in turn becomes the three others. Exact, and
        ``3 * length`` predictions a window.
        ``"occlusion"``: every stretch of `width` bases in turn becomes the baseline's:
        ``length / step`` predictions a window.
    baseline : {"uniform", "zero"} or array, default="uniform"
        What windows are compared with. ``"uniform"``: each base a quarter of A, C, G and T,
        tracks 0 (no signal, after scaling). ``"zero"``: no bases either. Channels of coverage
        (``NAME_covered``) are as in X with both. Or an array of shape (channels,), (channels,
        length) or (n, channels, length), such as shuffled windows. ``"mutagenesis"`` has none.
    mask : {"model", "fixed", "open"}, default="model"
        Which mask a RegMaskRegressor has for altered windows. ``"model"``: that which it gives
        the altered window, as ``predict`` does; scores are those of ``predict``. ``"fixed"``:
        that of the window in X, so that scores are those of the predictor alone. ``"open"``: one
        that keeps all but the bases that are closed in any case, as if there were no mask.
    output : int, default=0
        Which target, where y has several.
    per_channel : bool, default=False
        Whether to give the score of each channel by itself; see Returns.
    n_steps : int, default=50
        Points on the line of ``"integrated_gradients"`` (Gauss-Legendre).
    width, step : int or None, default=None
        Base pairs of a stretch of ``"occlusion"``, and from the start of one to that of the next,
        at most `width`. None stands for the estimator's ``resolution``, and for `width`.
    columns : slice or None, default=None
        Columns to alter with ``"mutagenesis"`` and ``"occlusion"``, for long windows; the scores
        of the others are NaN. The step of the slice must be 1.
    batch_size : int or None, default=None
        Windows that pass through the network at once; None for the estimator's. In batches of
        the estimator's size X is read, whatever this is.

    Returns
    -------
    ndarray of shape (n, length), float32
        In the direction of the gene, column by column as masks are, in the unit of y: above 0
        where what is there raises the prediction. For ``"saliency"``,
        ``"integrated_gradients"`` and ``"deeplift"`` the sum over channels; for
        ``"mutagenesis"`` minus the mean change over the three other bases, 0 at unknown bases;
        for ``"occlusion"`` the fall of the prediction without the stretch, the mean over the
        stretches that hold the base.
    ndarray of shape (n, channels, length), float32
        With `per_channel`. ``"mutagenesis"``: the change of the prediction with this base in
        place of the one that is there, 0 for that one and in tracks. ``"occlusion"``: the
        sequence is occluded by itself, with its score in the channel of the base that is there,
        and each track by itself; they do not add up to the score of all together. Channels of
        coverage have 0.

    Raises
    ------
    TypeError
        If the estimator is no network of this package.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If a parameter is out of range; if X does not have the channels and the length of fit; if
        ``"mutagenesis"`` finds no channels A, C, G and T; if a method needs a gradient where there
        is none: masks of 0 and 1 that follow the window (``mask="hard"`` or ``"topk"`` of the
        estimator with ``mask="model"`` here) and the body ``"codon"``; or if ``"deeplift"`` has
        no rule for the body (``"mamba"``, ``"caduceus"``).
    ImportError
        If captum is needed and not installed.

    See Also
    --------
    attribution_batches : The same batch by batch, for results that do not fit into memory.
    completeness_gap : How far scores are from adding up to what they explain.

    Notes
    -----
    Covariates, and the regions that masks close or open, are held at what they are.

    A fitted mask is the mean of its gates, so that nothing is sampled here. A mask of 0 and 1 is
    a step: its gradient is 0 wherever it has one, and the line from a baseline crosses steps
    that no gradient sees. Such an estimator is attributed with ``mask="fixed"`` or ``"open"``,
    with ``set_params(mask="soft")``, or by altering the windows.

    DeepLIFT is computed by rules of this package (``regmask_sk._deeplift``): those of captum and
    tangermeme know modules such as ``nn.ReLU``, and take gates, products with a mask and
    attention for linear. On networks of such modules the numbers agree with theirs. The sum of
    scores is checked, and what misses it by more than 1e-4 of what is attributed is an error.

    On CUDA predictions here are float32 throughout, whatever the estimator's ``amp``, and without
    the TensorFloat-32 that torch convolves in by default.

    References
    ----------
    Simonyan, Vedaldi, Zisserman, "Deep inside convolutional networks", 2014: saliency.
    Majdandzic, Rajesh, Koo, "Correcting gradient-based interpretations of deep neural networks
    for genomics", Genome Biology 24 (2023).
    Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017.
    Shrikumar, Greenside, Kundaje, "Learning important features through propagating activation
    differences", ICML 2017: DeepLIFT.
    Zhou, Troyanskaya, "Predicting effects of noncoding variants with deep learning-based
    sequence model", Nature Methods 12 (2015): in-silico mutagenesis.
    Zeiler, Fergus, "Visualizing and understanding convolutional networks", ECCV 2014: occlusion.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import BackboneRegressor, attribute
    >>> X = np.random.default_rng(0).normal(size=(20, 2, 32)).astype("float32")
    >>> model = BackboneRegressor(resolution=4, max_epochs=1, random_state=0)
    >>> model.fit(X, X[:, 0, :8].sum(axis=1))
    BackboneRegressor(...)
    >>> attribute(model, X[:3], "occlusion", per_channel=True).shape
    (3, 2, 32)
    """
    batches = attribution_batches(
        estimator,
        X,
        method,
        baseline=baseline,
        mask=mask,
        output=output,
        per_channel=per_channel,
        n_steps=n_steps,
        width=width,
        step=step,
        columns=columns,
        batch_size=batch_size,
    )
    n = int(X.shape[0]) if hasattr(X, "shape") else len(np.asarray(X))
    scores: NDArray[np.float32] | None = None
    start = 0
    for found in batches:
        if scores is None:
            scores = np.empty((n, *found.shape[1:]), np.float32)
        scores[start : start + len(found)] = found
        start += len(found)
    assert scores is not None  # X has a row at least, or it was refused
    return scores


def attribution_batches(
    estimator: Any,
    X: Windows | ArrayLike,
    method: Method = "saliency",
    *,
    baseline: Baseline = "uniform",
    mask: MaskUse = "model",
    output: int = 0,
    per_channel: bool = False,
    n_steps: int = 50,
    width: int | None = None,
    step: int | None = None,
    columns: slice | None = None,
    batch_size: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Score the bases of windows, a batch of windows at a time.

    Parameters
    ----------
    estimator, X, method, baseline, mask, output, per_channel, n_steps, width, step, columns, \
            batch_size
        As in :func:`attribute`.

    Returns
    -------
    iterator of ndarray of shape (batch, length) or (batch, channels, length), float32
        The rows of :func:`attribute`, in order. Memory does not grow with the number of windows.

    Raises
    ------
    TypeError, ValueError, ImportError
        As :func:`attribute`, at once.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import BackboneRegressor, attribution_batches
    >>> X = np.random.default_rng(0).normal(size=(20, 2, 32)).astype("float32")
    >>> model = BackboneRegressor(resolution=4, max_epochs=1, batch_size=8, random_state=0)
    >>> batches = attribution_batches(model.fit(X, X[:, 0, :8].sum(axis=1)), X)
    >>> [len(batch) for batch in batches]
    [8, 8, 4]
    """
    work = Work(
        estimator,
        X,
        method,
        baseline=baseline,
        mask=mask,
        output=output,
        per_channel=per_channel,
        n_steps=n_steps,
        width=width,
        step=step,
        columns=columns,
        batch_size=batch_size,
    )
    return (work.scores(batch) for batch in work.explained.batches())


def completeness_gap(
    estimator: Any,
    X: Windows | ArrayLike,
    scores: ArrayLike,
    *,
    baseline: Baseline = "uniform",
    mask: MaskUse = "model",
    output: int = 0,
) -> NDArray[np.float64]:
    """Tell by how much the scores of each window miss what they should add up to.

    Scores of ``"integrated_gradients"`` and ``"deeplift"`` add up to the difference of the
    prediction from that of the baseline (the axiom of completeness). A gap that is not small
    says that `n_steps` is too low, or that the gradient does not see all that the network does.

    Parameters
    ----------
    estimator, X, baseline, mask, output
        As in the call of :func:`attribute` that gave the scores.
    scores : array of shape (n, length) or (n, channels, length)
        What it gave.

    Returns
    -------
    ndarray of shape (n,), float64
        ``f(x) - f(baseline)`` minus the sum of a window's scores, in the unit of y.

    Raises
    ------
    TypeError, ValueError
        As :func:`attribute`, or if `scores` has another number of rows than X.

    References
    ----------
    Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import BackboneRegressor, attribute, completeness_gap
    >>> X = np.random.default_rng(0).normal(size=(20, 2, 32)).astype("float32")
    >>> model = BackboneRegressor(resolution=4, max_epochs=1, random_state=0)
    >>> scores = attribute(model.fit(X, X[:, 0, :8].sum(axis=1)), X, "deeplift")
    >>> bool(abs(completeness_gap(model, X, scores)).max() < 1e-4)
    True
    """
    explained = Explained(estimator, X, mask=mask, output=output)
    given = np.asarray(scores)
    if given.ndim not in (2, 3) or len(given) != explained.shape[0]:
        raise ValueError(
            f"scores has shape {given.shape}; expected {explained.shape[0]} rows, one a window of "
            "X, as attribute gives them."
        )
    checked = check_baseline(baseline, explained.shape)
    change = np.empty(len(given))
    with torch.no_grad(), plain_float32():
        for x, held, rows in explained.batches():
            base = baseline_like(x, rows, explained.channels, checked)
            found = explained(x, held).double() - explained(base, held).double()
            change[rows] = found.cpu().numpy()
    return change - given.reshape(len(given), -1).sum(axis=1, dtype=np.float64)
