"""Keras's optimizers and schedules, without weight decay on BatchNorm and biases, and with learning rates by layer.

An update is one pass over each variable, by TensorFlow's fused op. Keras's own updates take several passes.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.config import RunConfig


class _ByVariable:
    """A learning rate and a weight decay for each variable; an optimizer of Keras has one of each.

    rates: the factor of each variable's learning rate, by its path; 1 where there is none. shrinking: the weight decay.
    It shrinks a kernel by its own rate times the decay before the update, as Keras does; biases, gamma and beta, the
    variables of rank one, do not shrink: that would not simplify the model. Keras evaluates the schedule of the
    learning rate again for each variable that shrinks, in every step.
    """

    def __init__(self, rates: Mapping[str, float], shrinking: float | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._rates, self._shrinking = rates, shrinking

    def build(self, variables: list[Any]) -> None:
        """As Keras's; keeps each variable's rate."""
        self._own_rates = [self._rates.get(variable.path, 1.0) for variable in variables]
        super().build(variables)  # type: ignore[misc]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One variable's update, at its own rate. `variable` is TensorFlow's own here, which has no path."""
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = tf.cast(learning_rate, variable.dtype) * self._own_rates[index]
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


def build(
    config: RunConfig, variables: list[Any], *, steps: int, rates: Mapping[str, float] | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer of a completed config, built for `variables` and a run of `steps` updates.

    With `ema` it also keeps an average of every variable, from the first update on, among its own variables.
    `rates` multiplies the learning rate of each variable by its path; with None or an empty mapping all are equal.
    """
    common: dict[str, Any] = {"learning_rate": _schedule(config, steps), "global_clipnorm": config.clip_norm}
    if config.ema is not None:
        common |= {"use_ema": True, "ema_momentum": config.ema}
    kind = SGD if config.optimizer == "sgd" else AdamW
    if kind is SGD:
        common |= {"momentum": 0.9, "nesterov": True}
    optimizer = kind(rates or {}, config.weight_decay, **common)
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


def _schedule(config: RunConfig, steps: int) -> Any:
    if config.schedule == "constant":
        return config.learning_rate
    warmup = round(config.warmup * steps)
    if warmup == 0:
        return keras.optimizers.schedules.CosineDecay(config.learning_rate, decay_steps=steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(steps - warmup, 1), warmup_target=config.learning_rate, warmup_steps=warmup
    )
