"""The BatchNorm layer that this package trains: an attribute, not a call argument, selects the statistics."""

import math
from typing import Any

import keras
import tensorflow as tf

from finetune.batchnorm import renorm, replicas
from finetune.batchnorm.subject import Statistics

SWITCHES = ("statistics", "updates", "unbiased", "renormalise", "zero_debias", "run_steps")
"""The entries of a layer's config that Keras's own layer does not have."""


class BatchNorm(keras.layers.BatchNormalization):  # type: ignore[misc]
    """Keras's layer, with separate switches for what `training` and `trainable` decide together in Keras.

    statistics: the statistics that normalise in a training step, `batch` or `moving`.
    updates: whether a training step updates the moving statistics (only with `batch`).
    trainable: whether gamma and beta train. Unlike in Keras 3 it does not affect the statistics.
    unbiased: the moving variance averages n/(n-1) times the batch variance, n = batch x height x width, as
        TensorFlow's fused op and therefore slim does. Keras 3 averages the batch variance itself.
    momentum: Keras's name for the decay, the share of the old moving value that is kept.
    renormalise: batch renormalisation (Ioffe 2017, arXiv 1702.03275). A training batch is normalised by its own
        statistics and corrected towards the moving ones, within limits that open over the course of `run_steps`
        (`renorm.limits`). The moving average is that of sigma, not of the variance. It has no effect without `batch`
        statistics, nor in inference or evaluation. Keras's own `renorm` has a second set of averages and no schedule.
    zero_debias: the moving mean forgets its initial value at the first update, as with slim's
        `batch_norm(zero_debias_moving_mean=True)`. It is the mean of the batches so far, weighted by the decay
        (TensorFlow's `assign_moving_average(zero_debias=True)`). The moving variance keeps its initial value.
    run_steps: length of the run in training steps, over which the schedule of `renormalise` extends.
    across_replicas: in a training step on several replicas (`tf.distribute`), batch statistics are those of the global
        batch. Without it, each replica normalises by its own share. The moving statistics then average the mean over
        replicas of what each would contribute, so that they are the same on all replicas.

    `renormalise` and `zero_debias` need a counter of training steps, `local_step`. It belongs to `variables`, because a
    resumed run needs it, but not to `weights`, because files of weights do not have it.

    Outside a training step the moving statistics normalise, unless `evaluation` is `batch`. Then each batch is
    normalised by its own statistics, nothing is updated, and `moments` holds the statistics that were used. All
    switches are read when a step is traced: a change takes effect in the next trace only.

    The fused op makes a ResNet-50 step 10 to 20 % faster than Keras's own arithmetic on a CPU. In inference it lets the
    graph optimizer fold the normalisation into the convolution.
    """

    def __init__(
        self,
        *,
        statistics: Statistics = "batch",
        updates: bool = True,
        unbiased: bool = False,
        renormalise: bool = False,
        zero_debias: bool = False,
        run_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.statistics = statistics
        self.updates = updates
        self.unbiased = unbiased
        self.renormalise = renormalise
        self.zero_debias = zero_debias
        self.run_steps = run_steps
        self.across_replicas = False
        self.local_step: keras.Variable | None = None
        self.evaluation: Statistics = "moving"
        self.moments: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None

    def build(self, input_shape: Any) -> None:
        """The variables of Keras's layer, and the step counter if one is needed."""
        super().build(input_shape)
        if self.renormalise or self.zero_debias:
            self.local_step = self.add_weight(
                name="local_step", shape=(), dtype="int64", initializer="zeros", trainable=False
            )

    @property
    def weights(self) -> list[keras.Variable]:
        """The weights of Keras's layer: gamma, beta and the moving statistics."""
        return [variable for variable in super().weights if variable is not self.local_step]

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise float `[batch, ..., channels]`; the shape is kept."""
        x = tf.convert_to_tensor(inputs)
        if x.shape.rank != 4:
            x = tf.reshape(x, [-1, 1, 1, x.shape[-1]])
        if training and self.statistics == "batch":
            outputs = self._trained(x)
        elif not training and self.evaluation == "batch":
            outputs = self._measured(x)
        else:
            outputs, _, _ = self._fused(x, batch=False)
        return outputs if x is inputs else tf.reshape(outputs, tf.shape(inputs))

    def _trained(self, x: tf.Tensor) -> tf.Tensor:
        """The outputs of a training step; updates the moving statistics and counts the step."""
        n = _values_per_channel(x)
        if self.across_replicas and replicas.count() > 1:
            n *= replicas.count()
            outputs, mean, population = self._synchronised(x)
            variance = population * (n / tf.maximum(n - 1.0, 1.0))
        else:
            outputs, mean, variance = self._fused(x, batch=True, affine=not self.renormalise)
            population = variance * ((n - 1.0) / tf.maximum(n, 1.0))
        if self.renormalise:
            outputs = self._corrected(outputs, mean, population)
        if self.updates:
            fed = variance if self.unbiased else population
            if not self.across_replicas:
                mean, fed, population = replicas.mean([mean, fed, population])
            self._move(mean, fed, population)
        if self.local_step is not None:
            self.local_step.assign(self.local_step.value + 1)
        return outputs

    def _fused(self, x: tf.Tensor, *, batch: bool, affine: bool = True) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Outputs, batch mean, and batch variance times n/(n-1). Without `affine`, gamma is 1 and beta 0."""
        empty = tf.zeros([0], tf.float32)
        op = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.gamma.value if self.scale and affine else tf.ones([x.shape[-1]], tf.float32),
            offset=self.beta.value if self.center and affine else tf.zeros([x.shape[-1]], tf.float32),
            mean=empty if batch else tf.convert_to_tensor(self.moving_mean.value),
            variance=empty if batch else tf.convert_to_tensor(self.moving_variance.value),
            epsilon=self.epsilon,
            is_training=batch,
        )
        return op.y, op.batch_mean, op.batch_variance

    def _synchronised(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Outputs, and mean and population variance of the global batch. Gradients pass through all of them.

        The fused op cannot be used: it has no gradient for statistics that are passed to it.
        """
        values = tf.cast(x, tf.float32)
        mean, population = replicas.moments(values)
        scale = self.gamma.value if self.scale and not self.renormalise else None
        offset = self.beta.value if self.center and not self.renormalise else None
        outputs = tf.nn.batch_normalization(values, mean, population, offset, scale, self.epsilon)
        return tf.cast(outputs, x.dtype), mean, population

    def _corrected(self, normalised: tf.Tensor, mean: tf.Tensor, population: tf.Tensor) -> tf.Tensor:
        """Batch renormalisation of values normalised by the batch, before the moving statistics are updated."""
        assert self.local_step is not None
        r, d = renorm.correction(
            (mean, tf.sqrt(population + self.epsilon)),
            (tf.identity(self.moving_mean.value), tf.sqrt(self.moving_variance.value + self.epsilon)),
            renorm.limits(self.local_step.value, self.run_steps),
        )
        gamma = self.gamma.value if self.scale else 1.0
        beta = self.beta.value if self.center else 0.0
        return normalised * tf.cast(r * gamma, normalised.dtype) + tf.cast(d * gamma + beta, normalised.dtype)

    def _move(self, mean: tf.Tensor, fed: tf.Tensor, population: tf.Tensor) -> None:
        """One update of the moving statistics: they average the variance `fed`; `population` is that of the batch."""
        decay = self.momentum
        keep, take = self._mean_shares()
        self.moving_mean.assign(self.moving_mean.value * keep + mean * take)
        if self.renormalise:
            # The paper averages sigma, which includes epsilon. The stored variance is the one that gives this sigma.
            sigma = tf.sqrt(self.moving_variance.value + self.epsilon) * decay
            sigma += tf.sqrt(population + self.epsilon) * (1.0 - decay)
            self.moving_variance.assign(tf.maximum(sigma * sigma - self.epsilon, 0.0))
        else:
            self.moving_variance.assign(self.moving_variance.value * decay + fed * (1.0 - decay))

    def _mean_shares(self) -> tuple[Any, Any]:
        """The shares of the old moving mean and of the batch's in the new one."""
        if not self.zero_debias:
            return self.momentum, 1.0 - self.momentum
        assert self.local_step is not None
        # (1 - d) / (1 - d^t) at the t-th update: exactly 1 at the first. In float32, 1 - 0.9997 has four digits.
        t = tf.cast(self.local_step.value + 1, tf.float64)
        take = tf.cast((1.0 - self.momentum) / -tf.math.expm1(t * math.log(self.momentum)), tf.float32)
        return 1.0 - take, take

    def _measured(self, x: tf.Tensor) -> tf.Tensor:
        """Normalise by batch statistics, and keep them within 1e-6 of float64, exact enough to pool from.

        Around the fused op's mean nothing cancels. Only a row of pixels is summed in float32, with an error below
        1e-6, which falls further in the float64 sum over rows. Casting whole feature maps to float64 would cost three
        times the forward pass of a MobileNet.
        """
        outputs, mean, _ = self._fused(x, batch=True)
        centred = tf.cast(x, tf.float32) - mean
        n = _values_per_channel(x)
        shift, square = (
            tf.reduce_sum(tf.cast(tf.reduce_sum(values, axis=2), tf.float64), axis=[0, 1]) / tf.cast(n, tf.float64)
            for values in (centred, centred * centred)
        )
        self.moments = (tf.cast(mean, tf.float64) + shift, square - shift * shift, n)
        return outputs

    def get_config(self) -> dict[str, Any]:
        """The config of Keras's layer, and the switches."""
        return {**super().get_config(), **{name: getattr(self, name) for name in SWITCHES}}


def _values_per_channel(x: tf.Tensor) -> tf.Tensor:
    """N = batch x height x width, as float32."""
    return tf.cast(tf.size(x) / x.shape[-1], tf.float32)
