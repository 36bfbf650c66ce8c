"""What the outputs of a classifier are: how they become logits of classes, and whether each is a label of its own.

One unit scores class 1 against class 0: its logit z is the pair [0, z], whose softmax is the sigmoid of z and whose
cross-entropy is the binary one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

SUMS = "its outputs lie in [0, 1] and sum to 1 on every image: they are read as probabilities"
_LEAST = 1e-7
"""The least probability that counts: Keras's own, `keras.backend.epsilon()`."""


@dataclass(frozen=True)
class Scores:
    """units: number of outputs. probabilities: whether they went through their softmax or sigmoid already.

    per_label: several units are several sigmoids, a yes or no for each class, and not a softmax over them. softmax:
    they are known to be of one softmax, and not only read so.
    """

    units: int
    probabilities: bool = False
    per_label: bool = False
    softmax: bool = False

    @property
    def classes(self) -> int:
        """Number of logits: as many as units, two for a single one."""
        return max(self.units, 2)

    def logits(self, outputs: Any) -> Any:
        """Outputs `[batch, units]` as logits `[batch, classes]`, of one softmax or of a sigmoid for each class."""
        if self.probabilities:
            outputs = tf.clip_by_value(outputs, _LEAST, 1 - _LEAST)
            odds = self.per_label or self.units == 1
            outputs = tf.math.log(outputs) - (tf.math.log1p(-outputs) if odds else 0.0)
        return tf.concat([tf.zeros_like(outputs), outputs], axis=-1) if self.units == 1 else outputs

    @property
    def words(self) -> str:
        """What a user must know of them; "" for a softmax over classes."""
        if self.units == 1:
            return "one output: the score of class 1, the second class of the data"
        what = f"{self.units} independent sigmoids: of one class an image, the largest is predicted"
        return what if self.per_label else ""


class ByScores:
    """What follows from the `scores` of a subject."""

    scores: Any

    @property
    def per_label(self) -> bool:
        """Whether each logit is a yes or no of its own."""
        return bool(self.scores.per_label)

    @property
    def softmax(self) -> bool:
        """Whether the logits are known to be of one softmax."""
        return bool(self.scores.softmax)


def sum_to_one(outputs: Any) -> bool:
    """Whether each row of `outputs` `[batch, units]` is a distribution over classes, which no logits are by chance."""
    values = np.asarray(outputs, np.float64)
    return bool(np.all((values >= 0) & (values <= 1)) and np.all(np.abs(values.sum(axis=-1) - 1) < 1e-3))
