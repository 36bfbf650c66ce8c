"""The BatchNorm layer that this package trains: an attribute, not a call argument, selects the statistics."""

import math
from typing import Any

import keras
import tensorflow as tf

from finetune.batchnorm.subject import Statistics

SWITCHES = ("statistics", "updates", "unbiased", "renormalise", "zero_debias", "run_steps")
"""The entries of a layer's config that Keras's own layer does not have."""

R_MAX, D_MAX = 3.0, 5.0
"""Limits of batch renormalisation's r and d at the end of the schedule: r in [1/3, 3], d in [-5, 5] (section 4 of Ioffe
2017, arXiv 1702.03275)."""

HOLD, D_OPEN, R_OPEN = 5_000, 25_000, 40_000
"""The paper's schedule in steps (section 4). Up to HOLD it is plain BatchNorm, r = 1 and d = 0. Then the limits open
linearly: those of d until D_OPEN, those of r until R_OPEN."""


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
        (`limits`). The moving average is that of sigma, not of the variance. It has no effect without `batch`
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
        if self.across_replicas and _replicas() > 1:
            n *= _replicas()
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
                mean, fed, population = _mean_of_replicas([mean, fed, population])
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
        mean, population = _moments_of_replicas(values)
        scale = self.gamma.value if self.scale and not self.renormalise else None
        offset = self.beta.value if self.center and not self.renormalise else None
        outputs = tf.nn.batch_normalization(values, mean, population, offset, scale, self.epsilon)
        return tf.cast(outputs, x.dtype), mean, population

    def _corrected(self, normalised: tf.Tensor, mean: tf.Tensor, population: tf.Tensor) -> tf.Tensor:
        """Batch renormalisation of values normalised by the batch, before the moving statistics are updated."""
        assert self.local_step is not None
        r, d = correction(
            (mean, tf.sqrt(population + self.epsilon)),
            (tf.identity(self.moving_mean.value), tf.sqrt(self.moving_variance.value + self.epsilon)),
            limits(self.local_step.value, self.run_steps),
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


def limits(step: tf.Tensor, steps: int | None) -> tuple[tf.Tensor, tf.Tensor]:
    """(r_max, d_max), float32 scalars, at training step `step`, an integer from 0.

    `steps` is the length of the run, to which the paper's schedule is scaled: no correction in the first eighth, the
    full limits for d after five eighths and for r at the end. With the paper's own steps (None), a run of a few
    thousand steps would have no correction. Opening the limits within a third of a run was no better, because the
    weights then still change faster than the averages follow: `cifar_resnet` on 2,000 CIFAR-10 images at 16 px, one
    seed, reached 25.9 % against 28.0 % in 116 steps of batch 64, and 28.1 % against 28.8 % in 948 steps of batch 8.
    """
    scale = 1.0 if steps is None else steps / R_OPEN
    now = tf.cast(step, tf.float32)

    def opened(until: int) -> tf.Tensor:
        return tf.clip_by_value((now - HOLD * scale) / ((until - HOLD) * scale), 0.0, 1.0)

    return 1.0 + (R_MAX - 1.0) * opened(R_OPEN), D_MAX * opened(D_OPEN)


def correction(
    batch: tuple[tf.Tensor, tf.Tensor], moving: tuple[tf.Tensor, tf.Tensor], bounds: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """(r, d), float32 `[channels]`, by algorithm 1 of Ioffe 2017. No gradient passes through them.

    The corrected value is `(x - mean_B) / sigma_B * r + d`. So training and inference compute nearly the same even if
    batches are small.

    batch, moving: mean and sigma `[channels]` of the batch and of the moving averages; sigma = sqrt(variance + epsilon)
    bounds: (r_max, d_max): r is clipped to [1/r_max, r_max], d to [-d_max, d_max].
    """
    (mean, sigma), (moving_mean, moving_sigma), (r_max, d_max) = batch, moving, bounds
    r = tf.clip_by_value(sigma / moving_sigma, 1.0 / r_max, r_max)
    d = tf.clip_by_value((mean - moving_mean) / moving_sigma, -d_max, d_max)
    return tf.stop_gradient(r), tf.stop_gradient(d)


def _replicas() -> int:
    """Number of replicas of the step that is being traced, each with an equal share of the batch; 1 outside a step."""
    context = tf.distribute.get_replica_context()
    return int(context.num_replicas_in_sync) if context else 1


def _mean_of_replicas(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Each of `values`, averaged over the replicas. No gradient is needed."""
    if _replicas() == 1:
        return values
    reduced = tf.distribute.get_replica_context().all_reduce(
        tf.distribute.ReduceOp.SUM, [value / _replicas() for value in values]
    )
    return list(reduced)


def _moments_of_replicas(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and population variance `[channels]` of float32 `[share, height, width, channels]` over all replicas.

    As "cross-GPU BatchNorm" (Peng et al. 2018, MegDet, section 3.3), except that the replicas exchange means and
    variances instead of sums and squares. The variance of the whole follows by the parallel formula (Chan, Golub &
    LeVeque 1979); `E[x^2] - E[x]^2` would cancel in float32. There is one exchange in each direction.
    """
    own = tf.stack(tf.nn.moments(values, [0, 1, 2]))
    context = tf.distribute.get_replica_context()
    row = tf.one_hot(context.replica_id_in_sync_group, _replicas())
    # A sum in which every replica fills its own row is a gather. Its gradient is again a sum over replicas.
    rows = context.all_reduce(tf.distribute.ReduceOp.SUM, row[:, None, None] * own)
    means, variances = rows[:, 0], rows[:, 1]
    whole = tf.reduce_mean(means, axis=0)
    return whole, tf.reduce_mean(variances + tf.square(means - whole), axis=0)
