"""Windows whose track gives each base its own coordinate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from regmask_sk.windows import Windows


def make_windows(rows: list[tuple[str, int, str]], length: int, **kwargs: object) -> Windows:
    loci = pd.DataFrame(rows, columns=["chrom", "tss", "strand"])
    loci.index = pd.Index([f"g{i}" for i in range(len(rows))], name="gene")
    return Windows(loci, length=length, **kwargs)


class Positions:
    """A track that gives each base its own coordinate."""

    channel_names = ("other", "position")
    readers = ()

    def read(self, interval: object) -> np.ndarray:
        return np.arange(interval.start, interval.end, dtype=np.float32)[np.newaxis]

    def reverse(self, raw: np.ndarray) -> np.ndarray:
        return raw[:, ::-1]

    def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
        return raw

    def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
        out[0], out[1] = 0, compact[0]
