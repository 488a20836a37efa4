"""A path of budgets: one training, then each smaller budget from the one before."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Integral

from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils import check_scalar

from regmask_sk._model import promoter_window
from regmask_sk.regressor import RegMaskRegressor
from regmask_sk.windows import Windows


def sparsity_path(
    estimator: RegMaskRegressor,
    X: Windows | ArrayLike,
    y: ArrayLike,
    sparsities: Sequence[float],
    *,
    epochs: int = 1,
    sample_weight: ArrayLike | None = None,
    groups: ArrayLike | None = None,
) -> list[RegMaskRegressor]:
    """Fit one estimator for each share of bases to keep, the smaller ones from the larger.

    The first fit, at the largest share, is an ordinary one. From there each smaller budget
    takes `epochs` more of the generator's stage, in which the share falls from the last
    budget to the next, and as many of fine-tuning. A path of ten budgets thus costs little
    more than one fit, and its masks are nested more closely than those of ten fits.

    Parameters
    ----------
    estimator : RegMaskRegressor
        With ``training="decoupled"``; it is cloned, not fitted. For a pipeline, transform
        the loci with its other steps first, and pass its last one.
    X, y, sample_weight, groups
        As in ``RegMaskRegressor.fit``.
    sparsities : sequence of float
        Shares of bases to keep, promoter included; distinct, in any order.
    epochs : int, default=1
        Epochs of either stage that each smaller budget takes. Where the estimator has
        ``finetune_epochs=0`` there is no fine-tuning, and all share one predictor.

    Returns
    -------
    list of RegMaskRegressor
        One fitted estimator for each of `sparsities`, in their order, each with its own
        weights. ``history_`` has the epochs of the whole path up to it.

    Raises
    ------
    ValueError
        If the training is joint, a share is out of range, given twice, or less than the
        promoter window, or X and y are malformed: before any training.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import RegMaskRegressor, sparsity_path
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> model = RegMaskRegressor(resolution=4, max_epochs=2, random_state=0)
    >>> path = sparsity_path(model, X, X[:, 0, :8].sum(axis=1), [0.4, 0.2])
    >>> [round(float(fitted.transform(X).mean()), 1) for fitted in path]
    [0.4, 0.2]
    """
    if estimator.training != "decoupled":
        raise ValueError(
            f"sparsity_path needs training='decoupled', but the estimator has "
            f"training={estimator.training!r}, whose prior decides what is kept. Fit it for "
            "several values of prior_mean or kl_weight instead."
        )
    check_scalar(epochs, "epochs", Integral, min_val=1)
    budgets = [float(share) for share in sparsities]
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(
            f"sparsities={list(sparsities)}; expected one or more distinct shares of bases to keep."
        )
    for share in (min(budgets), max(budgets)):
        probe = clone(estimator).set_params(sparsity=share, warm_start=False)
        probe._begin(X, y, sample_weight, groups, reset=True)
        promoter_window(probe.n_features_in_, probe.promoter_length, share)

    descending = sorted(budgets, reverse=True)
    fitted = clone(estimator).set_params(sparsity=descending[0], warm_start=False)
    fitted.fit(X, y, sample_weight=sample_weight, groups=groups)
    path = {descending[0]: fitted}
    for share in descending[1:]:
        fitted = copy.deepcopy(fitted)
        fitted._fit_next_budget(X, y, sample_weight, groups, sparsity=share, epochs=epochs)
        path[share] = fitted
    return [path[share] for share in budgets]
