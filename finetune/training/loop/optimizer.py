"""Keras's and slim's optimizers and schedules, without decay of BatchNorm and biases, and with learning rates by layer.

An update is one pass over each variable, by TensorFlow's fused op. Keras's own updates take several passes.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.config import RunConfig
from finetune.training.loop.loss_scale import LossScale


class _ByVariable:
    """A learning rate and a weight decay for each variable; an optimizer of Keras has one of each.

    rates: the factor of each variable's learning rate, by its path; 1 where there is none. shrinking: the weight decay.
    It shrinks a kernel by its own rate times the decay before the update, as Keras does; biases, gamma and beta, the
    variables of rank one, do not shrink: that would not simplify the model. Keras evaluates the schedule of the
    learning rate again for each variable that shrinks, in every step. l2: of an L2 loss, `l2 * sum(kernel**2) / 2`,
    whose gradient is added to a kernel's own. scaled: whether it has a `loss_scale`, for steps in float16.
    """

    def __init__(
        self, rates: Mapping[str, float], shrinking: float | None, l2: float | None, *, scaled: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._rates, self._shrinking, self._l2, self._scaled = rates, shrinking, l2, scaled
        self.loss_scale: LossScale | None = None

    def build(self, variables: list[Any]) -> None:
        """As Keras's; keeps each variable's rate."""
        self._own_rates = [self._rates.get(variable.path, 1.0) for variable in variables]
        self.loss_scale = LossScale(self) if self._scaled else None
        super().build(variables)  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's update, at its own rate. `variable` is TensorFlow's own here, which has no path."""
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = tf.cast(learning_rate, variable.dtype) * self._own_rates[index]
        if self._l2 and len(variable.shape) >= 2:
            gradient = gradient + self._l2 * tf.cast(variable, gradient.dtype)
        if self._shrinking and len(variable.shape) >= 2:
            variable.assign_sub(variable * self._shrinking * rate)
        self._one_pass(index, variable.handle, rate, tf.cast(gradient, variable.dtype))  # type: ignore[attr-defined]


class SGD(_ByVariable, keras.optimizers.SGD):  # type: ignore[misc]
    """Keras's SGD with momentum, to the bit."""

    def _one_pass(self, index: int, variable: Any, rate: Any, gradient: Any) -> None:
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable,
            accum=self.momentums[index].value.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum, gradient.dtype),
            use_nesterov=self.nesterov,
        )


class AdamW(_ByVariable, keras.optimizers.Adam):  # type: ignore[misc]
    """Keras's AdamW, to rounding."""

    def _one_pass(self, index: int, variable: Any, rate: Any, gradient: Any) -> None:
        step = tf.cast(self.iterations.value + 1, gradient.dtype)
        first, second = (tf.constant(beta, gradient.dtype) for beta in (self.beta_1, self.beta_2))
        tf.raw_ops.ResourceApplyAdam(
            var=variable,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(first, step),
            beta2_power=tf.pow(second, step),
            lr=rate,
            beta1=first,
            beta2=second,
            epsilon=tf.constant(self.epsilon, gradient.dtype),
            grad=gradient,
        )


class Momentum(_ByVariable, keras.optimizers.SGD):  # type: ignore[misc]
    """TensorFlow 1's MomentumOptimizer, to the bit: the learning rate is no part of what accumulates."""

    def _one_pass(self, index: int, variable: Any, rate: Any, gradient: Any) -> None:
        tf.raw_ops.ResourceApplyMomentum(
            var=variable,
            accum=self.momentums[index].value.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum, gradient.dtype),
        )


class RMSProp(_ByVariable, keras.optimizers.RMSprop):  # type: ignore[misc]
    """TensorFlow 1's RMSPropOptimizer, to the bit: epsilon is under the root, and mean squares start at 1."""

    def build(self, variables: list[Any]) -> None:
        """As Keras's, with mean squares of 1."""
        super().build(variables)
        for mean_square in self._velocities:
            mean_square.assign(tf.ones_like(mean_square.value))

    def _one_pass(self, index: int, variable: Any, rate: Any, gradient: Any) -> None:
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable,
            ms=self._velocities[index].value.handle,
            mom=self._momentums[index].value.handle,
            lr=rate,
            rho=tf.constant(self.rho, gradient.dtype),
            momentum=tf.constant(self.momentum, gradient.dtype),
            epsilon=tf.constant(self.epsilon, gradient.dtype),
            grad=gradient,
        )


_KINDS: dict[str, tuple[type[_ByVariable], dict[str, Any]]] = {
    "sgd": (SGD, {"momentum": 0.9, "nesterov": True}),
    "adamw": (AdamW, {}),
    "momentum": (Momentum, {"momentum": 0.9}),
    "rmsprop": (RMSProp, {"rho": 0.9, "momentum": 0.9, "epsilon": 1.0}),
}
"""Each optimizer with its settings; those of the last two are the defaults of slim's train_image_classifier.py."""


def build(
    config: RunConfig,
    variables: list[Any],
    *,
    steps: int,
    per_epoch: int = 1,
    rates: Mapping[str, float] | None = None,
) -> Any:
    """The optimizer of a completed config, built for `variables` and a run of `steps` updates, `per_epoch` in an epoch.

    With `ema` it also keeps an average of every variable, from the first update on, among its own variables.
    `rates` multiplies the learning rate of each variable by its path; with None or an empty mapping all are equal.
    """
    common: dict[str, Any] = {"learning_rate": _schedule(config, steps, per_epoch), "global_clipnorm": config.clip_norm}
    if config.ema is not None:
        common |= {"use_ema": True, "ema_momentum": config.ema}
    kind, settings = _KINDS[config.optimizer]
    scaled = config.precision == "float16"
    optimizer: Any = kind(rates or {}, config.weight_decay, config.l2, scaled=scaled, **common, **settings)
    optimizer.build(variables)
    return optimizer


def averages(optimizer: keras.optimizers.Optimizer, variables: list[Any]) -> dict[str, np.ndarray]:
    """The averaged value of each variable by its path, from an optimizer with `ema`; the variables are unchanged."""
    last = [np.array(variable) for variable in variables]
    try:
        optimizer.finalize_variable_values(variables)
        return {variable.path: np.array(variable) for variable in variables}
    finally:
        for variable, value in zip(variables, last, strict=True):
            variable.assign(value)


def _schedule(config: RunConfig, steps: int, per_epoch: int) -> Any:
    if config.schedule == "constant":
        return config.learning_rate
    decay_steps = int(per_epoch * (config.decay_epochs or 2))
    if config.schedule == "exponential":
        return keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate, max(decay_steps, 1), config.decay_factor, staircase=True
        )
    if config.schedule == "polynomial":
        until = max(decay_steps, 1) if config.decay_epochs else steps
        return keras.optimizers.schedules.PolynomialDecay(config.learning_rate, until, config.end_learning_rate)
    warmup = round(config.warmup * steps)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, decay_steps=steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(steps - warmup, 1), warmup_target=config.learning_rate, warmup_steps=warmup
    )
