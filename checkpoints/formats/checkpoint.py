"""An opened file of weights: names and shapes at once, arrays when asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from checkpoints.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, opened but not read.

    `shapes` keeps the file's own order. `read(name)` returns one array, so that a large checkpoint never
    lies in memory twice. `kind` is `slim-v1`, `slim-v2`, `savedmodel`, `keras-h5`, `keras-weights-h5` or `keras-zip`.
    `layers` maps names to the layer's own name where a file has it beside the name (`keras-weights-h5`).
    """

    path: Path
    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray] = field(repr=False, compare=False)
    sha256: str = ""
    layers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


_EMA = "/ExponentialMovingAverage"
"""`tf.train.ExponentialMovingAverage` leaves the moving averages of weights in a checkpoint under these names."""


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
        return name + _EMA if name in self.replaced else name


def averaged(opened: Checkpoint) -> Averaged:
    """`opened` with averages in place of weights. Raises CheckpointError where it has none."""
    names = [name for name in opened.shapes if not name.endswith(_EMA)]
    replaced = tuple(name for name in names if name + _EMA in opened.shapes)
    if not replaced:
        raise CheckpointError(
            f"{opened.path} holds no moving averages of weights: expected variables called ...{_EMA}; leave out --ema"
        )

    def read(name: str) -> np.ndarray:
        return opened.read(name + _EMA if name in replaced else name)

    without = tuple(name for name in names if name not in replaced)
    return Averaged(replace(opened, read=read), replaced, without)
