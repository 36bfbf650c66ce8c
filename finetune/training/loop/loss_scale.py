"""Dynamic loss scaling for float16: gradients below 6e-8, the smallest number of float16, would become zero.

Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2, with the rule and the numbers of Keras's `LossScaleOptimizer`.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from finetune.batchnorm.surgery import bn_layers

INITIAL = 2.0**15
GROWTH_STEPS = 2_000
"""So many finite steps after the last change, the scale is doubled. A step that is not finite halves it."""
_LARGEST = 2.0**120
"""Where all gradients are zero, doubling would end in infinity, which halving cannot leave."""


class LossScale:
    """The scale, with its counters, among the variables of `optimizer`: saved, resumed and replaced with these.

    value: what the loss is multiplied by, float32. finite_steps: since its last change. skipped_steps: in all.
    """

    def __init__(self, optimizer: Any) -> None:
        start = keras.initializers.Constant(INITIAL)
        self.value = optimizer.add_variable((), initializer=start, dtype="float32", name="loss_scale")
        self.finite_steps = optimizer.add_variable((), dtype="int64", name="finite_steps")
        self.skipped_steps = optimizer.add_variable((), dtype="int64", name="skipped_steps")

    def step(self, gradients: list[Any], apply: Callable[[list[Any]], None], kept: "Statistics", loss: Any) -> None:
        """Call `apply` with the unscaled gradients, or skip the step where a scaled one is not finite.

        The same where `loss`, which is not scaled, or a moving statistic is not finite. A skipped step leaves weights,
        moving statistics, the optimizer's averages and its count of steps as they were.
        """
        checked = [one for one in gradients if one is not None] + [loss, *kept.current()]
        finite = tf.reduce_all(tf.stack([tf.reduce_all(tf.math.is_finite(one)) for one in checked]))
        scale = tf.identity(self.value.value)

        def applied() -> tf.Tensor:
            apply([None if one is None else one / scale for one in gradients])
            full = self.finite_steps.value + 1 >= GROWTH_STEPS
            self.value.assign(tf.where(full, tf.minimum(scale * 2.0, _LARGEST), scale))
            self.finite_steps.assign(tf.where(full, tf.zeros([], tf.int64), self.finite_steps.value + 1))
            return tf.constant(0)

        def skipped() -> tf.Tensor:
            kept.put_back()
            self.value.assign(scale / 2.0)
            self.finite_steps.assign(tf.zeros([], tf.int64))
            self.skipped_steps.assign(self.skipped_steps.value + 1)
            return tf.constant(0)

        tf.cond(finite, applied, skipped)


class Statistics:
    """The variables of a model's BatchNorm layers that its forward pass in a training step changes, as they were."""

    def __init__(self, model: keras.Model) -> None:
        layers = [layer for layer in bn_layers(model) if layer.statistics == "batch"]
        self._moving = [one for layer in layers if layer.updates for one in (layer.moving_mean, layer.moving_variance)]
        counters = [layer.local_step for layer in layers if layer.local_step is not None]
        self._before = [(one, tf.identity(one.value)) for one in (*self._moving, *counters)]

    def current(self) -> list[tf.Tensor]:
        """The moving statistics as they are."""
        return [tf.identity(one.value) for one in self._moving]

    def put_back(self) -> None:
        """Undo what the forward pass did."""
        for variable, value in self._before:
            variable.assign(value)
