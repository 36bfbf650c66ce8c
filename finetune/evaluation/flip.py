"""Test-time flip: an image and its mirror image are looked at, and their probabilities averaged."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics, Subject


class Mirrored:
    """`subject` with test-time flip: its logits are log((p + q) / 2), p and q the softmax of the image's logits and of
    its mirror image's, so that what scores logits scores the averaged probabilities.

    The two passes are two batches: with batch statistics each is normalised by its own. What BN layers saw is reported
    of the images themselves. Preprocessed pixels are mirrored, which is the same as preprocessing mirrored ones
    wherever a pixel is scaled by its channel alone, as by every preprocessing but possibly one of your own.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    @property
    def name(self) -> str:
        """The subject's."""
        return self._subject.name

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self._subject.outputs

    @property
    def layers(self) -> Sequence[BNInfo]:
        """The subject's."""
        return self._subject.layers

    def forward(self, statistics: Statistics) -> Forward:
        """As the subject's, twice."""
        run = self._subject.forward(statistics)

        def both(images: Any) -> Any:
            logits, moments = run(images)
            mirrored, _ = run(tf.reverse(images, axis=[2]))
            own, other = tf.nn.log_softmax(logits), tf.nn.log_softmax(mirrored)
            # log(e^a + e^b) without overflow: nothing is lost where one of the two is certain.
            return tf.math.reduce_logsumexp(tf.stack([own, other]), axis=0) - tf.math.log(2.0), moments

        return both

    def snapshot(self) -> Snapshot:
        """The subject's."""
        return self._subject.snapshot()

    def restore(self, saved: Snapshot) -> None:
        """The subject's."""
        self._subject.restore(saved)
