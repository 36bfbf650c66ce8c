"""Measure a model's BatchNorm statistics over images, pool them exactly, and write them to its moving averages.

"Precise BN" (Wu & Johnson 2021, arXiv 2105.07576) is the mean and variance of each layer's inputs over many images,
with the weights fixed. While a layer is measured, the layers below it normalise by batch statistics, as they did in
training. The result depends on the batch size only through these layers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.scores import Scores
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics, Subject
from finetune.batchnorm.surgery import bn_layers, initial_gamma, initial_statistics, is_bn, parts


@dataclass(frozen=True)
class Moments:
    """Pooled statistics of one layer's inputs: float64 `[channels]`, population variance, over `count` values.

    batches: the number of batches they come from. between: the variance of the batches' means, which is part of
    `variance`, float64 `[channels]`.
    """

    count: float
    mean: np.ndarray
    variance: np.ndarray
    batches: int = 1
    between: np.ndarray | float = 0.0

    @property
    def batch_spread(self) -> np.ndarray:
        """Standard deviation of one batch's mean, `[channels]`; NaN if there was only one batch."""
        if self.batches < 2:
            return np.full_like(self.mean, np.nan)
        spread: np.ndarray = np.sqrt(np.maximum(self.between, 0.0) * (self.batches / (self.batches - 1)))
        return spread

    def merge(self, other: "Moments") -> "Moments":
        """The statistics of both samples together, by the parallel formula (Chan, Golub & LeVeque 1979).

        It stays exact where `E[x^2] - E[x]^2` cancels.
        """
        count = self.count + other.count
        mine, others = self.count / count, other.count / count
        delta = other.mean - self.mean
        apart = delta**2 * mine * others
        return Moments(
            count,
            mean=self.mean + delta * others,
            variance=self.variance * mine + other.variance * others + apart,
            batches=self.batches + other.batches,
            between=self.between * mine + other.between * others + apart,
        )


class KerasSubject(Subject):
    """A Keras model made by `surgery.adopt`, as a `Subject`; `scores` says what its outputs are, if not logits."""

    def __init__(self, model: keras.Model, scores: Scores | None = None) -> None:
        self._model = model
        self._scores = scores

    @property
    def model(self) -> keras.Model:
        """The model itself."""
        return self._model

    @property
    def scores(self) -> Scores | None:
        """What its outputs are, if not logits."""
        return self._scores

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self._model.name)

    @property
    def outputs(self) -> int:
        """Number of logits."""
        return self._scores.classes if self._scores else int(self._model.output_shape[-1])

    @property
    def per_label(self) -> bool:
        """Whether each logit is a yes or no of its own."""
        return self._scores is not None and self._scores.per_label

    @property
    def softmax(self) -> bool:
        """Whether the logits are known to be of one softmax."""
        return self._scores is not None and self._scores.softmax

    @property
    def layers(self) -> list[BNInfo]:
        """In the order of `bn_layers(model)`."""
        return [
            BNInfo(
                layer.name,
                float(layer.epsilon),
                gamma=np.array(layer.gamma) if getattr(layer, "scale", False) else None,
                beta=np.array(layer.beta) if getattr(layer, "center", False) else None,
                initial=initial_statistics(layer),
                initial_gamma=initial_gamma(layer),
            )
            for layer in bn_layers(self._model)
        ]

    @property
    def kernels(self) -> dict[str, np.ndarray]:
        """Of the layers before the last BN layer, in the model's order."""
        layers = parts(self._model)
        last = max((number for number, layer in enumerate(layers) if is_bn(layer)), default=0)
        return {
            f"{layer.name}/{variable.name}": np.array(variable)
            for layer in layers[:last]
            if not is_bn(layer)
            for variable in layer.weights
        }

    def forward(self, statistics: Statistics) -> Forward:
        """The model on `[batch, height, width, 3]`, without dropout and updates; traced immediately."""
        return forward(self._model, statistics, scores=self._scores)

    def snapshot(self) -> Snapshot:
        """A copy of every moving statistic."""
        layers = bn_layers(self._model)
        return {layer.name: (np.array(layer.moving_mean), np.array(layer.moving_variance)) for layer in layers}

    def restore(self, saved: Snapshot) -> None:
        """Make a `snapshot` the moving statistics."""
        for layer in bn_layers(self._model):
            mean, variance = saved[layer.name]
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)


def forward(
    model: keras.Model, statistics: Statistics, *, moments: bool = True, scores: Scores | None = None
) -> Forward:
    """The model without dropout and updates, normalising by `statistics`; traced immediately.

    It takes preprocessed images `[batch, height, width, 3]` and returns logits and, with `batch`, each BN layer's
    (mean, population variance, N) in the order of `bn_layers(model)`. `moments=False` leaves these out, which is
    cheaper. `scores` says what the outputs are, if not logits.
    """
    layers = bn_layers(model)

    def run(images: tf.Tensor) -> tuple[tf.Tensor, list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]:
        outputs = model(images, training=False)
        logits = scores.logits(outputs) if scores else outputs
        return logits, [layer.moments for layer in layers if layer.moments is not None] if moments else []

    signature = [tf.TensorSpec([None, *model.input_shape[1:]], tf.float32)]
    traced = tf.function(run, input_signature=signature, autograph=False)
    try:
        for layer in layers:
            layer.evaluation = statistics
        return traced.get_concrete_function()  # type: ignore[no-any-return]
    finally:
        # The attribute is read only while tracing. It is reset so that no other trace sees it.
        for layer in layers:
            layer.evaluation, layer.moments = "moving", None


def pool(batches: Iterable[Iterable[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]]) -> list[Moments]:
    """Pool each layer's (mean, population variance, N) of every batch over all batches, in float64."""
    pooled: list[Moments] = []
    for batch in batches:
        measured = [
            Moments(float(n), np.asarray(mean, np.float64), np.asarray(variance, np.float64))
            for mean, variance, n in batch
        ]
        pooled = [old.merge(new) for old, new in zip(pooled, measured, strict=True)] if pooled else measured
    return pooled


def write_moving(subject: Subject, pooled: list[Moments]) -> None:
    """Make pooled statistics the moving statistics."""
    float32 = [(one.mean.astype(np.float32), one.variance.astype(np.float32)) for one in pooled]
    subject.restore({layer.name: pair for layer, pair in zip(subject.layers, float32, strict=True)})


def recalibrate(subject: Subject, images: Iterable[tf.Tensor]) -> list[Moments]:
    """Measure over `images` (preprocessed batches), make the result the moving statistics, and return it."""
    measure = subject.forward("batch")
    pooled = pool(measure(batch)[1] for batch in images)
    write_moving(subject, pooled)
    return pooled
