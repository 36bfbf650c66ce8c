"""The mean of several sets of weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class MeanWeights:
    """The mean of the values of each variable, by its path, over the `count` sets added so far.

    Values are summed in float64. A float32 value has 24 bits, so a sum of equal ones is exact, and their mean is that
    value to the bit: frozen layers stay what they are.
    """

    sums: dict[str, np.ndarray] = field(default_factory=dict)
    count: int = 0

    @classmethod
    def of(cls, every: Iterable[Mapping[str, np.ndarray]]) -> "MeanWeights":
        """The mean of all of `every`, which have the same paths and shapes."""
        mean = cls()
        for values in every:
            mean.add(values)
        return mean

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Count one more set."""
        self.count += 1
        for path, value in values.items():
            self.sums[path] = self.sums.get(path, 0.0) + value.astype(np.float64)

    def mean(self) -> dict[str, np.ndarray]:
        """Float64; to be rounded to the type of each variable."""
        return {path: total / self.count for path, total in self.sums.items()}
