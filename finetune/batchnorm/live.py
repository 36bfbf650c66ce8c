"""A model that somebody else holds, as a `Subject`: it is measured in place, because it cannot be cloned.

Its own layers run, and it keeps its weights and its state. While a function is traced, its BatchNorm layers are made to
normalise by their batch; the trace keeps that, and the layers do not.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.scores import Scores
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics, Subject
from finetune.batchnorm.surgery import initial_gamma, initial_statistics
from finetune.errors import FinetuneError

Moments = dict[int, tuple[Any, Any, Any]]
"""Of each layer's inputs, by the layer's id: (mean, population variance, N), noted while a function is traced."""
InTraining = Callable[[Any, Moments], AbstractContextManager[None]]
"""Makes a layer normalise by its batch, without updates, and note its inputs' moments."""


def normalisations(model: Any) -> list[Any]:
    """The BatchNormalization layers of a model of Keras 2 or 3, also those of models in it."""
    return [layer for layer in model._flatten_layers() if hasattr(layer, "moving_mean")]


class LiveSubject(Subject):
    """`model` of Keras 3 or 2, run by its own layers on images of `shape`, `[height, width, channels]` or any other.

    scores: what its outputs are. output: the number of the one that is meant. batch_size: the only number of images
    that it takes at once. Raises FinetuneError where a BatchNormalization is called more than once.
    """

    def __init__(
        self,
        model: Any,
        scores: Scores,
        shape: Sequence[int | None],
        *,
        output: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.model = model
        self._scores, self._output, self._batch_size = scores, output, batch_size
        self._shape = tuple(shape)
        self._layers = normalisations(model)
        moments: Moments = {}
        if self._layers:
            self._traced("batch", moments)
        seen = list(moments)
        self._layers = sorted((one for one in self._layers if id(one) in seen), key=lambda one: seen.index(id(one)))
        count = Counter[str]()
        self._names = []
        for layer in self._layers:
            self._names.append(layer.name if not count[layer.name] else f"{layer.name}_{count[layer.name]}")
            count[layer.name] += 1

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
    def softmax(self) -> bool:
        """Whether the logits are known to be of one softmax."""
        return self._scores.softmax

    @property
    def batch_size(self) -> int | None:
        """As it was given."""
        return self._batch_size

    @property
    def layers(self) -> list[BNInfo]:
        """In the order in which the model calls them."""
        return [
            BNInfo(
                name,
                float(layer.epsilon),
                gamma=np.asarray(layer.gamma).reshape(-1) if layer.scale else None,
                beta=np.asarray(layer.beta).reshape(-1) if layer.center else None,
                initial=initial_statistics(layer),
                initial_gamma=initial_gamma(layer),
            )
            for name, layer in zip(self._names, self._layers, strict=True)
        ]

    def forward(self, statistics: Statistics) -> Forward:
        """The model on `[batch, *shape]`, without dropout and updates; traced immediately."""
        return self._traced(statistics, {})

    def _traced(self, statistics: Statistics, moments: Moments) -> Forward:
        """`forward`; `moments` is filled in the order of the calls."""

        def run(images: tf.Tensor) -> tuple[tf.Tensor, list[Any]]:
            outputs = tf.nest.flatten(self.model(images, training=False))[self._output]
            outputs = tf.reshape(tf.cast(outputs, tf.float32), [-1, self._scores.units])
            return self._scores.logits(outputs), [moments[id(one)] for one in self._layers if id(one) in moments]

        shape = [self._batch_size if statistics == "batch" else None, *self._shape]
        traced = tf.function(run, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)
        with ExitStack() as stack:
            for layer in self._layers if statistics == "batch" else []:
                stack.enter_context(self._in_training(layer, moments))
            return traced.get_concrete_function()  # type: ignore[no-any-return]

    def _in_training(self, layer: Any, moments: Moments) -> AbstractContextManager[None]:
        """What makes a layer normalise by its batch; here, one of Keras 3."""
        return batch_statistics(layer, moments)

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
def batch_statistics(layer: Any, moments: Moments) -> Iterator[None]:
    """While it is traced, a layer of Keras 3 normalises by its batch, whatever it is called with."""

    def measured(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        values = keras.ops.cast(inputs, "float32")
        mean, variance = layer._moments(values, mask)
        outputs = keras.ops.batch_normalization(
            values,
            mean,
            variance,
            layer.axis,
            offset=layer.beta if layer.center else None,
            scale=layer.gamma if layer.scale else None,
            epsilon=layer.epsilon,
        )
        note(layer, inputs, layer.axis, moments)
        return keras.ops.cast(outputs, layer.compute_dtype)

    # Keras's own __setattr__ would look for variables in the function.
    object.__setattr__(layer, "call", measured)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


def note(layer: Any, inputs: Any, axis: int, moments: Moments) -> None:
    """Note the moments of a layer's inputs, in float64. FinetuneError where it was called before."""
    if id(layer) in moments:
        raise FinetuneError(
            f"BatchNormalization '{layer.name}' is used at several places of the model: its statistics are of none of "
            "them, which finetune does not handle; use a layer of its own at each place"
        )
    values = tf.cast(inputs, tf.float64)
    axis %= len(inputs.shape)
    mean, variance = tf.nn.moments(values, [one for one in range(len(inputs.shape)) if one != axis])
    moments[id(layer)] = mean, variance, tf.cast(tf.size(inputs) / inputs.shape[axis], tf.float32)
