"""Slim's optimizers, L2 loss and schedules, step by step against TensorFlow 1's own in a session."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune.config import RunConfig
from finetune.training.loop.optimizer import build

v1 = tf.compat.v1
GRADIENTS = np.random.default_rng(0).normal(0, 1, (12, 3, 2)).astype(np.float32)
START = np.random.default_rng(1).normal(0, 1, (3, 2)).astype(np.float32)
PER_EPOCH = 3


def config(**settings: Any) -> RunConfig:
    return RunConfig("resnet_v1_demo", learning_rate=0.1, weight_decay=0.0, epochs=4, **settings)


def of_tensorflow_1(optimizer: Any, rate: Any, l2: float) -> np.ndarray:
    """The values after each step, `[steps, 3, 2]`. optimizer, rate: makers of the optimizer and its learning rate."""
    with v1.Graph().as_default(), v1.Session() as session:
        weights = v1.get_variable("weights", initializer=v1.constant(START))
        gradient = v1.placeholder(tf.float32, START.shape)
        step = v1.train.get_or_create_global_step()
        loss = v1.reduce_sum(gradient * weights) + l2 * v1.nn.l2_loss(weights)
        train = optimizer(rate(step)).minimize(loss, global_step=step)
        session.run(v1.global_variables_initializer())
        values = []
        for one in GRADIENTS:
            session.run(train, {gradient: one})
            values.append(session.run(weights))
        return np.stack(values)


def of_this_package(settings: RunConfig) -> np.ndarray:
    variable = keras.Variable(START, name="kernel")
    optimizer = build(settings, [variable], steps=len(GRADIENTS), per_epoch=PER_EPOCH)
    values = []
    for one in GRADIENTS:
        optimizer.apply([tf.constant(one)], [variable])
        values.append(np.array(variable))
    return np.stack(values)


OPTIMIZERS: dict[Any, Any] = {
    "rmsprop": lambda rate: v1.train.RMSPropOptimizer(rate, decay=0.9, momentum=0.9, epsilon=1.0),
    "momentum": lambda rate: v1.train.MomentumOptimizer(rate, momentum=0.9),
}
SCHEDULES: dict[Any, Any] = {
    "constant": lambda step: 0.1,
    "exponential": lambda step: v1.train.exponential_decay(0.1, step, 2 * PER_EPOCH, 0.94, staircase=True),
    "polynomial": lambda step: v1.train.polynomial_decay(0.1, step, len(GRADIENTS), 1e-4, power=1.0, cycle=False),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_step_is_that_of_slims_training(optimizer: Any, schedule: Any) -> None:
    expected = of_tensorflow_1(OPTIMIZERS[optimizer], SCHEDULES[schedule], 0.01)
    found = of_this_package(config(optimizer=optimizer, schedule=schedule, l2=0.01))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_the_decay_of_a_polynomial_ends_where_it_is_told() -> None:
    expected = of_tensorflow_1(
        OPTIMIZERS["momentum"], lambda step: v1.train.polynomial_decay(0.1, step, 2 * PER_EPOCH, 0.01), 0.0
    )
    given = config(optimizer="momentum", schedule="polynomial", decay_epochs=2.0, end_learning_rate=0.01, l2=0.0)
    np.testing.assert_allclose(of_this_package(given), expected, rtol=2e-6, atol=2e-6)


def test_an_l2_loss_spares_biases_and_batchnorm() -> None:
    variable = keras.Variable(np.ones(4, np.float32), name="gamma")
    optimizer = build(config(optimizer="momentum", schedule="constant", l2=0.5), [variable], steps=1)
    optimizer.apply([tf.zeros(4)], [variable])
    np.testing.assert_array_equal(variable, np.ones(4))
