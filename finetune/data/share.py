"""The share of one of several workers in the same batches."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Share:
    """The share of worker `index` (from 0) of `of` workers."""

    index: int = 0
    of: int = 1

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """The worker's part of a training batch `[batch]`. Parts are equal and in the workers' order.

        Raises ValueError if the batch cannot be divided equally.
        """
        if len(chosen) % self.of:
            raise ValueError(f"a batch of {len(chosen)} has no {self.of} equal parts")
        size = len(chosen) // self.of
        return chosen[self.index * size : (self.index + 1) * size]

    def numbers(self, batches: range) -> range:
        """The worker's batches of an evaluation: every `of`-th one, or none if there are fewer batches than workers."""
        return batches[self.index :: self.of]


WHOLE = Share()
