"""An opened file of weights: names and shapes at once, arrays when asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, opened but not read.

    `shapes` keeps the file's own order. `read(name)` returns one array, so that a large checkpoint never
    lies in memory twice. `kind` is `slim-v1`, `slim-v2`, `savedmodel`, `keras-h5`, `keras-weights-h5` or `keras-zip`.
    `layers` maps names to the layer's own name where a file has it beside the name (`keras-weights-h5`).
    `places` maps names to the data sets of an HDF5 file, or to the keys of an object-based TF2 checkpoint.
    `keys` maps names to the file's own where `aliases` has given a variable another one; `absent` are names that are
    not in the file and read as initial values; `remarks` say both to people.
    """

    path: Path
    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray] = field(repr=False, compare=False)
    sha256: str = ""
    layers: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    absent: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
