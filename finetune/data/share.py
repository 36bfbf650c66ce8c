"""What one worker of several takes of the same batches."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Share:
    """Worker `index` (from 0) `of` so many."""

    index: int = 0
    of: int = 1

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Its part of a training batch `[batch]`, the parts equal and in the workers' order.

        ValueError where the batch does not divide.
        """
        if len(chosen) % self.of:
            raise ValueError(f"a batch of {len(chosen)} has no {self.of} equal parts")
        size = len(chosen) // self.of
        return chosen[self.index * size : (self.index + 1) * size]

    def numbers(self, batches: range) -> range:
        """Its batches of an evaluation, whole ones, every `of`-th; none where there are fewer batches than workers."""
        return batches[self.index :: self.of]


WHOLE = Share()
