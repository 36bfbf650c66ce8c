"""A network that can be evaluated under either kind of statistics: an adopted Keras model, a TF1 graph and so on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

Statistics = Literal["batch", "moving"]

Snapshot = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Layer name -> (moving mean, moving variance), float32 `[channels]`."""

Forward = Callable[[Any], tuple[Any, Sequence[tuple[Any, Any, Any]]]]
"""Preprocessed images `[batch, ...]` to logits `[batch, outputs]` (see `finetune.batchnorm.scores`) and, under batch
statistics, those of each BN layer's inputs: (mean, population variance, N) in the order of `Subject.layers`, float64
where the precision matters."""


@dataclass(frozen=True)
class BNInfo:
    """A BN layer of a subject. `name` is the key of its statistics, unique in the subject.

    gamma, beta: copies, float `[channels]`; None where the layer has none or they are not known.
    initial: what mean and variance start from; initial_gamma: what gamma does. NaN where it is no single number.
    """

    name: str
    epsilon: float
    gamma: np.ndarray | None = field(default=None, compare=False, repr=False)
    beta: np.ndarray | None = field(default=None, compare=False, repr=False)
    initial: tuple[float, float] = (0.0, 1.0)
    initial_gamma: float = 1.0


class Runnable(Protocol):
    """A network without dropout whose BN layers can be run under batch or moving statistics."""

    def forward(self, statistics: Statistics) -> Forward:
        """The network normalising by `statistics`. Calling it never updates anything."""

    @property
    def per_label(self) -> bool:
        """Whether each logit is a yes or no of its own, through a sigmoid, and not part of a softmax."""
        return False


class Subject(Runnable, Protocol):
    """A `Runnable` with known BN layers, whose moving statistics can be read and written (in memory only)."""

    @property
    def name(self) -> str:
        """The name used in messages."""

    @property
    def outputs(self) -> int:
        """Number of logits, which are classes."""

    @property
    def softmax(self) -> bool:
        """Whether the logits are known to be of one softmax, so that an image cannot have several labels."""
        return False

    @property
    def layers(self) -> Sequence[BNInfo]:
        """Every BN layer, from the input to the output."""

    @property
    def batch_size(self) -> int | None:
        """The only number of images that `forward` takes at once, None where it takes any."""
        return None

    @property
    def takes_pixels(self) -> bool:
        """Whether `forward` takes whole numbers from 0 to 255 and prepares them itself."""
        return False

    @property
    def kernels(self) -> Mapping[str, np.ndarray]:
        """The weights of other layers below the last BN layer, by layer and kind (`conv1/kernel`); empty where these
        are not known."""
        return {}

    def snapshot(self) -> Snapshot:
        """A copy of every moving statistic."""

    def restore(self, saved: Snapshot) -> None:
        """Make `saved` the moving statistics."""


@contextmanager
def kept(subject: Subject) -> Iterator[None]:
    """Restores the moving statistics at the end, also after an error or Ctrl-C."""
    saved = subject.snapshot()
    try:
        yield
    finally:
        subject.restore(saved)
