"""A Keras 2 model whose BatchNorm Keras 3 does not have, as a `Subject`: it is run by Keras 2 itself."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import tensorflow as tf

from finetune.batchnorm.live import LiveSubject, Moments, normalisations, note
from finetune.batchnorm.scores import Scores

_IMAGES = 64
"""About how many images are run at once, where ghost batches ask for a multiple of their size."""


class LegacySubject(LiveSubject):
    """A model of Keras 2. Under batch statistics it is what Keras 2 computes in training, without dropout.

    So `renorm` corrects towards the moving statistics, and `virtual_batch_size` normalises ghost batches, for which
    `batch_size` is a multiple of their size. `output` is the number of the output that is meant, `scores` what it is.
    `shape` is that of an image, where the model has no inputs that say it.
    """

    def __init__(
        self, model: Any, scores: Scores, *, output: int = 0, shape: Sequence[int | None] | None = None
    ) -> None:
        ghosts = [size for layer in normalisations(model) if (size := getattr(layer, "virtual_batch_size", None))]
        least = math.lcm(*ghosts) if ghosts else 0
        batch_size = least * max(1, round(_IMAGES / least)) if least else None
        super().__init__(model, scores, shape or model.inputs[0].shape[1:], output=output, batch_size=batch_size)

    def _in_training(self, layer: Any, moments: Moments) -> AbstractContextManager[None]:
        return _in_training(layer, moments)


@contextmanager
def _in_training(layer: Any, moments: Moments) -> Iterator[None]:
    """While it is traced, the layer is as in training, without updates, and its inputs' moments are noted."""
    call = layer.call

    def measured(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
        note(layer, inputs, layer.axis[0] - (layer.virtual_batch_size is not None), moments)
        return call(inputs, training=True)

    def kept(variable: Any, *_: Any) -> tf.Tensor:
        return tf.convert_to_tensor(variable)

    replaced = {"call": measured, "_assign_moving_average": kept, "_assign_new_value": kept, "trainable": True}
    before = {name: getattr(layer, name) for name in replaced}
    try:
        for name, value in replaced.items():
            setattr(layer, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(layer, name, value)
