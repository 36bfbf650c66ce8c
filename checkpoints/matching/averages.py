"""Moving averages of weights, as `tf.train.ExponentialMovingAverage` leaves them in a checkpoint beside the weights."""

from dataclasses import dataclass, replace

import numpy as np

from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint

SUFFIX = "/ExponentialMovingAverage"


@dataclass(frozen=True)
class Averaged:
    """A checkpoint in which every variable reads as its average, where the file has one.

    replaced: the variables read from their average; without: those that have none, such as statistics that were not
    among the averaged variables.
    """

    checkpoint: Checkpoint
    replaced: tuple[str, ...]
    without: tuple[str, ...]

    def place(self, name: str) -> str:
        """The name under which the file keeps what `name` reads as."""
        return name + SUFFIX if name in self.replaced else name


def averaged(opened: Checkpoint) -> Averaged:
    """`opened` with averages in place of weights. Raises CheckpointError where it has none."""
    names = [name for name in opened.shapes if not name.endswith(SUFFIX)]
    replaced = tuple(name for name in names if name + SUFFIX in opened.shapes)
    if not replaced:
        raise CheckpointError(
            f"{opened.path} holds no moving averages of weights: expected variables called ...{SUFFIX}; leave out --ema"
        )

    def read(name: str) -> np.ndarray:
        return opened.read(name + SUFFIX if name in replaced else name)

    without = tuple(name for name in names if name not in replaced)
    return Averaged(replace(opened, read=read), replaced, without)
