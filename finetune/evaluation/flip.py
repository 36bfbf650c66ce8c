"""Test-time flip: the class probabilities of an image and of its mirror image are averaged."""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from finetune.batchnorm.subject import Forward, Runnable, Statistics


@dataclass(frozen=True)
class Mirrored:
    """`subject` with test-time flip. Its logits are log((p + q) / 2): p is the softmax of the image's logits, q that of
    its mirror image's. So anything that scores logits scores the averaged probabilities.

    The two passes are two batches: under batch statistics each is normalised by its own. The BN statistics that
    `forward` returns are those of the images themselves. Mirroring preprocessed pixels equals preprocessing mirrored
    pixels if every pixel is scaled by its channel alone. All preprocessings do so, except possibly a custom one.
    """

    subject: Runnable

    def forward(self, statistics: Statistics) -> Forward:
        """As the subject's `forward`, run twice per batch."""
        run = self.subject.forward(statistics)

        def both(images: Any) -> Any:
            logits, moments = run(images)
            mirrored, _ = run(tf.reverse(images, axis=[2]))
            own, other = tf.nn.log_softmax(logits), tf.nn.log_softmax(mirrored)
            # log(e^a + e^b) without overflow, and without loss of digits where one of the two is certain.
            return tf.math.reduce_logsumexp(tf.stack([own, other]), axis=0) - tf.math.log(2.0), moments

        return both
