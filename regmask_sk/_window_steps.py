"""What the transformers that give ``Windows`` share."""

from __future__ import annotations

import os
from typing import Any

from sklearn.base import BaseEstimator, TransformerMixin

from regmask_sk.windows import Windows

PathLike = str | os.PathLike[str]


class WindowsTransformer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """What the transformers share: their output stays ``Windows``."""

    def set_output(self, *, transform: str | None = None) -> Any:
        """Do nothing: the output is ``Windows``, whichever container is asked for.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, optional
            Ignored.

        Returns
        -------
        self
            The transformer.
        """
        return self

    def _check_windows(self, X: Any) -> Windows:
        if not isinstance(X, Windows):
            raise TypeError(
                f"X is a {type(X).__name__}; {type(self).__name__} expects Windows. Put TSSWindows "
                "before it in the pipeline."
            )
        return X
