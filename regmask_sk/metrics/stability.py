"""How alike are the masks of several fits: over seeds, and over the folds of the training genes.

What only one fit opens is noise. Masks of any fits of one method agree by their position alone
(the promoter, the place where elements usually lie), so agreement is reported beside that of
masks at the same positions of other genes.

References
----------
Nogueira, Sechidis and Brown, "On the stability of feature selection algorithms", JMLR 18 (2018):
why overlap is corrected for chance. Meinshausen and Bühlmann, "Stability selection", JRSS B 72
(2010): selection frequencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv

from regmask_sk.metrics._checks import free_columns
from regmask_sk.metrics._reading import open_estimator
from regmask_sk.metrics.regression import pearson
from regmask_sk.metrics.selection import draw_seed, top_share


def named_masks(
    masks: Mapping[Any, ArrayLike] | Sequence[ArrayLike] | NDArray[Any], least: int
) -> dict[Any, NDArray[np.floating]]:
    """Masks of several fits by name, checked.

    Parameters
    ----------
    masks : mapping to, or sequence of, arrays of shape (n_genes, length)
        Masks of the same genes; a sequence is numbered from 0.
    least : int
        Number of fits that there must be.

    Returns
    -------
    dict of ndarray
        Of equal shapes, finite.

    Raises
    ------
    ValueError
        If there are too few fits, shapes differ, or a value is NaN or infinite.
    """
    named = dict(masks) if isinstance(masks, Mapping) else dict(enumerate(masks))
    if len(named) < least:
        raise ValueError(f"masks has {len(named)} fits; expected the masks of at least {least}.")
    arrays = {name: np.asarray(given) for name, given in named.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"masks has arrays of shapes {sorted(shapes)}; expected one shape (n_genes, length), "
            "the same genes in the same order from every fit."
        )
    for name, array in arrays.items():
        if array.dtype != np.bool_ and not np.isfinite(array).all():
            raise ValueError(f"masks[{name!r}] holds NaN or infinite values; expected finite ones.")
    return arrays


def mask_stability(
    masks: Mapping[Any, ArrayLike] | Sequence[ArrayLike],
    *,
    share: float | None = None,
    block_size: int = 1,
    exclude: slice | ArrayLike | None = None,
    random_state: int | None = 0,
) -> pd.DataFrame:
    """Compare the masks of every two fits.

    Parameters
    ----------
    masks : mapping to, or sequence of, array-like of shape (n_genes, length)
        Masks or attributions of the same genes by two or more fits, such as
        :func:`masks_over_fits` gives.
    share : float, optional
        Share of each window, the bases with the largest values, whose overlap is compared; needed
        for attributions. By default the bases with a mask of at least 0.5.
    block_size : int, default=1
        Base pairs that are kept or left together; with `share`.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns left out, such as the promoter, on which all fits agree because they must.
    random_state : int or None, default=0
        Seed of the order of equal scores, and of the genes compared for chance.

    Returns
    -------
    pandas.DataFrame
        One row a pair of fits: ``first`` and ``second``, their names; ``pearson`` over all bases;
        ``pearson_gene``, the mean over genes of the correlation along the window;
        ``pearson_position``, the mean over columns of the correlation over genes, to which what
        all genes have in common adds nothing; ``jaccard``, bases kept by both over bases kept by
        either, the mean over genes; ``jaccard_other_genes``, the same when the second fit's masks
        are dealt out to other genes: what position alone gives; ``jaccard_chance``, what two
        random sets of these sizes give, ``ab / (a + b - ab)`` for shares *a* and *b*. What is not
        defined (constant masks, nothing kept) is left out of means, and NaN where nothing is
        left.

    Raises
    ------
    ValueError
        If there are fewer than two fits, shapes differ, values are not finite, or a parameter is
        out of range.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = np.repeat(rng.random((20, 10)) < 0.2, 5, axis=1)
    >>> fits = [0.6 * truth + 0.5 * rng.random(truth.shape) for _ in range(2)]
    >>> table = mask_stability(fits, share=0.2)
    >>> table[["jaccard", "jaccard_other_genes", "jaccard_chance"]].round(2)
       jaccard  jaccard_other_genes  jaccard_chance
    0      0.5                 0.13            0.11
    """
    named = named_masks(masks, 2)
    n_genes, length = next(iter(named.values())).shape
    free = free_columns(exclude, length)
    seed = draw_seed(random_state)
    kept = {
        name: kept_bases(array, free, share, block_size, seed + number)
        for number, (name, array) in enumerate(named.items())
    }
    ring = np.random.default_rng(seed).permutation(n_genes)
    others = np.empty_like(ring)
    others[ring] = np.roll(ring, 1)
    rows = []
    for first, second in combinations(named, 2):
        a, b = (named[name][:, free].astype(np.float64) for name in (first, second))
        chosen, rival = kept[first], kept[second]
        share_a, share_b = chosen.mean(), rival.mean()
        rows.append(
            {
                "first": first,
                "second": second,
                "pearson": pearson(a.ravel(), b.ravel()),
                "pearson_gene": _mean([pearson(x, y) for x, y in zip(a, b, strict=True)]),
                "pearson_position": _mean([pearson(x, y) for x, y in zip(a.T, b.T, strict=True)]),
                "jaccard": _jaccard(chosen, rival),
                "jaccard_other_genes": _jaccard(chosen, rival[others]) if n_genes > 1 else np.nan,
                "jaccard_chance": _chance(float(share_a), float(share_b)),
            }
        )
    return pd.DataFrame(rows)


def kept_bases(
    masks: NDArray[Any],
    free: NDArray[np.bool_],
    share: float | None,
    block_size: int,
    seed: int,
) -> NDArray[np.bool_]:
    """Kept bases among the free columns."""
    if share is not None:
        chosen = top_share(masks, share, block_size=block_size, exclude=~free, random_state=seed)
    elif masks.dtype == np.bool_:
        chosen = masks
    elif masks.min() < 0 or masks.max() > 1:
        raise ValueError(
            f"masks has values from {masks.min():.3g} to {masks.max():.3g}; expected masks in "
            "[0, 1]. Give share to compare the bases with the largest values of attributions."
        )
    else:
        chosen = masks >= 0.5
    return chosen[:, free]


def _jaccard(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    both, either = (a & b).sum(axis=1), (a | b).sum(axis=1)
    some = either > 0
    return float((both[some] / either[some]).mean()) if some.any() else float("nan")


def _chance(a: float, b: float) -> float:
    return a * b / (a + b - a * b) if a + b > 0 else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def masks_over_fits(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    cv: Any = None,
    evaluate: Any = None,
    groups: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> dict[tuple[int, int], NDArray[np.float32]]:
    """Fit an estimator with several seeds, and on several folds, and give the masks of each.

    Parameters
    ----------
    estimator : estimator
        With masks as its ``transform``, or a pipeline that ends in such. It is cloned; each
        parameter ``random_state`` of it and of its steps is set to the seed.
    X : DataFrame, Windows or ndarray
        Training genes.
    y : array-like of shape (n_genes,) or (n_genes, n_outputs)
        Measured expression.
    seeds : sequence of int, default=(0, 1, 2)
        Seeds.
    cv : splitter or iterable of (train, test), optional
        Splits; each fit is trained on the training rows of one. By default all rows.
    evaluate : DataFrame, Windows or ndarray, optional
        Genes whose masks are given; best genes that no fit has seen. By default `X`.
    groups : array-like of shape (n_genes,), optional
        Groups for the splitter.
    n_jobs : int, optional
        Fits at a time, in processes.

    Returns
    -------
    dict of (int, int) to ndarray of shape (n_evaluated, length), float32
        Masks by seed and by number of the split (0 without `cv`).

    Raises
    ------
    TypeError
        If the estimator has no ``transform``.
    ValueError
        If there is no seed, or one occurs twice, or the estimator has no ``random_state``.

    Notes
    -----
    All masks are in memory: 4 bytes for each base of each window and fit.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import RegMaskRegressor
    >>> X = np.random.default_rng(0).normal(size=(20, 2, 32)).astype("float32")
    >>> model = RegMaskRegressor(resolution=4, sparsity=0.3, max_epochs=1)
    >>> masks = masks_over_fits(model, X, X[:, 0, :8].sum(axis=1), seeds=[0, 1])
    >>> {fit: array.shape for fit, array in masks.items()}
    {(0, 0): (20, 32), (1, 0): (20, 32)}
    """
    if not hasattr(estimator, "transform"):
        raise TypeError(
            f"estimator is a {type(estimator).__name__} without transform; expected one that "
            "gives masks, such as RegMaskRegressor, or a pipeline that ends in it."
        )
    if not len(seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}; expected one or more distinct integers.")
    names = [
        name
        for name in estimator.get_params(deep=True)
        if name == "random_state" or name.endswith("__random_state")
    ]
    if not names:
        raise ValueError(
            f"{type(estimator).__name__} has no parameter random_state: all fits would be alike."
        )
    n_rows = int(X.shape[0])
    splits = [np.arange(n_rows)] if cv is None else _training_rows(cv, X, y, groups)
    shown = X if evaluate is None else evaluate
    fits = [(int(seed), number) for seed in seeds for number in range(len(splits))]
    run = delayed(_masks_of_fit)
    found = Parallel(n_jobs=n_jobs)(
        run(
            clone(estimator).set_params(**dict.fromkeys(names, seed)),
            X,
            y,
            splits[number],
            shown,
        )
        for seed, number in fits
    )
    return dict(zip(fits, found, strict=True))


def _training_rows(
    cv: Any, X: Any, y: ArrayLike, groups: ArrayLike | None
) -> list[NDArray[np.intp]]:
    return [train for train, _ in check_cv(cv).split(X, y, groups)]


def _masks_of_fit(
    estimator: Any, X: Any, y: ArrayLike, rows: NDArray[np.intp], shown: Any
) -> NDArray[np.float32]:
    part = X.iloc[rows] if hasattr(X, "iloc") else X[rows]
    opened = open_estimator(estimator.fit(part, np.asarray(y)[rows]), shown)
    given = opened.windows
    flat = isinstance(given, np.ndarray) and opened.flat
    masks = np.asarray(opened.model.transform(given[:, 0] if flat else given), dtype=np.float32)
    expected = (int(given.shape[0]), int(given.shape[-1]))
    if masks.shape != expected:
        raise TypeError(
            f"{type(opened.model).__name__}.transform gives shape {masks.shape}; expected masks of "
            f"shape {expected}."
        )
    return masks
