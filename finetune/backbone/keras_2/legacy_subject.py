"""A Keras 2 model whose BatchNorm Keras 3 does not have, as a `Subject`: it is run by Keras 2 itself."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.backbone.keras_2.in_place import normalisations
from finetune.batchnorm.scores import Scores
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics, Subject

_IMAGES = 64
"""About how many images are run at once, where ghost batches ask for a multiple of their size."""


class LegacySubject(Subject):
    """A model of `open_legacy`. Under batch statistics it is what Keras 2 computes in training, without dropout.

    So `renorm` corrects towards the moving statistics, and `virtual_batch_size` normalises ghost batches, for which
    `batch_size` is a multiple of their size. `output` is the number of the output that is meant, `scores` what it is.
    """

    def __init__(self, model: Any, scores: Scores, *, output: int = 0) -> None:
        self.model = model
        self._scores, self._output = scores, output
        self._layers = normalisations(model)
        count = Counter[str]()
        self._names = []
        for layer in self._layers:
            self._names.append(layer.name if not count[layer.name] else f"{layer.name}_{count[layer.name]}")
            count[layer.name] += 1
        ghosts = [size for layer in self._layers if (size := getattr(layer, "virtual_batch_size", None))]
        least = math.lcm(*ghosts) if ghosts else 0
        self._batch_size = least * max(1, round(_IMAGES / least)) if least else None

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.model.name)

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self._scores.classes

    @property
    def per_label(self) -> bool:
        """Whether each logit is a yes or no of its own."""
        return self._scores.per_label

    @property
    def batch_size(self) -> int | None:
        """A multiple of the ghost batches' size; None where there are none."""
        return self._batch_size

    @property
    def layers(self) -> list[BNInfo]:
        """In the model's order."""
        return [
            BNInfo(
                name,
                float(layer.epsilon),
                gamma=np.asarray(layer.gamma).reshape(-1) if layer.scale else None,
                beta=np.asarray(layer.beta).reshape(-1) if layer.center else None,
            )
            for name, layer in zip(self._names, self._layers, strict=True)
        ]

    def forward(self, statistics: Statistics) -> Forward:
        """The model on `[batch, height, width, channels]`, without dropout and updates; traced immediately."""
        moments: dict[int, Any] = {}

        def run(images: tf.Tensor) -> tuple[tf.Tensor, list[Any]]:
            outputs = tf.nest.flatten(self.model(images, training=False))[self._output]
            measured = [moments[id(layer)] for layer in self._layers] if statistics == "batch" else []
            outputs = tf.reshape(tf.cast(outputs, tf.float32), [-1, self._scores.units])
            return self._scores.logits(outputs), measured

        shape = [self._batch_size if statistics == "batch" else None, *self.model.inputs[0].shape[1:]]
        traced = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
        with ExitStack() as stack:
            for layer in self._layers if statistics == "batch" else []:
                stack.enter_context(_in_training(layer, moments))
            return traced.get_concrete_function()  # type: ignore[no-any-return]

    def snapshot(self) -> Snapshot:
        """A copy of every moving statistic, `[channels]`."""
        return {
            name: (np.array(layer.moving_mean).reshape(-1), np.array(layer.moving_variance).reshape(-1))
            for name, layer in zip(self._names, self._layers, strict=True)
        }

    def restore(self, saved: Snapshot) -> None:
        """Make `saved` the moving statistics."""
        for name, layer in zip(self._names, self._layers, strict=True):
            mean, variance = (value.reshape(layer.moving_mean.shape) for value in saved[name])
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)


@contextmanager
def _in_training(layer: Any, moments: dict[int, Any]) -> Iterator[None]:
    """While it is traced, the layer is as in training, without updates, and its inputs' moments are noted."""
    call = layer.call

    def measured(inputs: tf.Tensor, **_: Any) -> tf.Tensor:
        values = tf.cast(inputs, tf.float64)
        axis = layer.axis[0] - (layer.virtual_batch_size is not None)
        mean, variance = tf.nn.moments(values, [one for one in range(len(inputs.shape)) if one != axis])
        moments[id(layer)] = mean, variance, tf.cast(tf.size(inputs) / inputs.shape[axis], tf.float32)
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
