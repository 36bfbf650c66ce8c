"""Batch renormalisation: against the paper's algorithm in NumPy float64, and against TensorFlow's own layer."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from finetune.batchnorm.layer import BatchNorm, limits

SHAPE, EPSILON, DECAY = (4, 5, 3, 6), 1e-3, 0.9
FULLY_OPEN = 40_000
"""A step of the paper's schedule at which r is clipped to [1/3, 3] and d to [-5, 5]."""


def images(seed: int) -> np.ndarray:
    """Channels from hardly spread to widely, off zero by a different amount in each batch: some r and d are clipped."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(0.05, 8, SHAPE[-1])
    return (rng.normal(0.5 * seed, 1, SHAPE) * spread + rng.normal(0, 1, SHAPE[-1])).astype(np.float32)


def layer(*, step: int = FULLY_OPEN, shape=SHAPE, **switches) -> BatchNorm:
    """Ours with random gamma, beta and moving statistics, at a step of the schedule."""
    made = BatchNorm(momentum=DECAY, epsilon=EPSILON, **{"renormalise": True, **switches})
    made.build(shape)
    rng = np.random.default_rng(1)
    for variable in made.weights:
        variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    if made.local_step is not None:
        made.local_step.assign(step)
    return made


class Paper:
    """Algorithm 1 and the gradients of section 3 in float64, `[values, channels]`."""

    def __init__(self, ours: BatchNorm, r_max: float = 3.0, d_max: float = 5.0) -> None:
        self.gamma, self.beta = (np.asarray(array, np.float64) for array in (ours.gamma, ours.beta))
        self.mean = np.asarray(ours.moving_mean, np.float64)
        self.sigma = np.sqrt(np.asarray(ours.moving_variance, np.float64) + EPSILON)
        self.r_max, self.d_max = r_max, d_max

    def train(self, x: np.ndarray) -> np.ndarray:
        self.x = x.astype(np.float64).reshape(-1, x.shape[-1])
        self.batch_mean = self.x.mean(0)
        self.batch_sigma = np.sqrt(EPSILON + ((self.x - self.batch_mean) ** 2).mean(0))
        self.r = np.clip(self.batch_sigma / self.sigma, 1 / self.r_max, self.r_max)
        self.d = np.clip((self.batch_mean - self.mean) / self.sigma, -self.d_max, self.d_max)
        self.normalised = (self.x - self.batch_mean) / self.batch_sigma * self.r + self.d
        self.mean = self.mean + (1 - DECAY) * (self.batch_mean - self.mean)
        self.sigma = self.sigma + (1 - DECAY) * (self.batch_sigma - self.sigma)
        return (self.gamma * self.normalised + self.beta).reshape(x.shape)

    def gradients(self, dy: np.ndarray) -> list[np.ndarray]:
        """Of x, gamma and beta, given that of the outputs."""
        shape, dy = dy.shape, dy.astype(np.float64).reshape(-1, dy.shape[-1])
        m, centred = len(dy), self.x - self.batch_mean
        normalised = dy * self.gamma
        sigma = (normalised * centred * -self.r / self.batch_sigma**2).sum(0)
        mean = (normalised * -self.r / self.batch_sigma).sum(0)
        dx = normalised * self.r / self.batch_sigma + sigma * centred / (m * self.batch_sigma) + mean / m
        return [dx.reshape(shape), (dy * self.normalised).sum(0), dy.sum(0)]


def test_forward_gradients_and_updates_are_the_papers():
    ours = layer()
    paper = Paper(ours)
    clipped = 0
    for seed in range(4):
        x, dy = tf.constant(images(seed)), np.random.default_rng(10 + seed).normal(size=SHAPE).astype(np.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = ours(x, training=True)
            loss = tf.reduce_sum(outputs * dy)
        found = tape.gradient(loss, [x, ours.gamma.value, ours.beta.value])
        np.testing.assert_allclose(outputs, paper.train(images(seed)), rtol=2e-5, atol=2e-5)
        for ours_, theirs in zip(found, paper.gradients(dy), strict=True):
            np.testing.assert_allclose(ours_, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
        np.testing.assert_allclose(ours.moving_mean, paper.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.sqrt(np.asarray(ours.moving_variance) + EPSILON), paper.sigma, rtol=1e-5)
        clipped += np.sum(paper.r >= 3) + np.sum(paper.r <= 1 / 3)
        assert np.any((paper.r > 1 / 3) & (paper.r < 3)), "everything is clipped: the test shows nothing"
        assert np.any(paper.d != 0)
    assert clipped > 0


def test_inference_is_by_the_moving_statistics_alone():
    ours = layer()
    plain = layer(renormalise=False)
    for statistics in ("moving", "batch"):
        ours.evaluation = plain.evaluation = statistics
        np.testing.assert_array_equal(ours(images(0), training=False), plain(images(0), training=False))
    assert int(ours.local_step) == FULLY_OPEN


@pytest.mark.parametrize(("scale", "center"), [(False, True), (True, False), (False, False)])
def test_without_gamma_or_beta(scale, center):
    ours, both = (layer(scale=one, center=other) for one, other in ((scale, center), (True, True)))
    both.gamma.assign(np.array(ours.gamma) if scale else np.ones(SHAPE[-1]))
    both.beta.assign(np.array(ours.beta) if center else np.zeros(SHAPE[-1]))
    both.moving_mean.assign(ours.moving_mean)
    both.moving_variance.assign(ours.moving_variance)
    np.testing.assert_allclose(ours(images(1), training=True), both(images(1), training=True), rtol=1e-6)


def test_rank_two():
    ours, flat = layer(), layer(shape=(60, SHAPE[-1]))
    outputs, rows = ours(images(2), training=True), flat(images(2).reshape(60, -1), training=True)
    np.testing.assert_allclose(rows, tf.reshape(outputs, [60, -1]), rtol=1e-5, atol=1e-5)


def test_the_papers_schedule():
    steps = [0, 5_000, 15_000, 22_500, 25_000, 40_000, 10**6]
    found = [[float(bound) for bound in limits(tf.constant(step, tf.int64), None)] for step in steps]
    expected = [(1, 0), (1, 0), (1 + 2 * 10 / 35, 2.5), (2, 4.375), (1 + 2 * 20 / 35, 5), (3, 5), (3, 5)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_short_run_has_the_whole_schedule():
    found = np.array([[float(b) for b in limits(tf.constant(step), 240)] for step in range(240)])
    assert found[:31].tolist() == [[1, 0]] * 31
    assert (found[31] > [1, 0]).all()
    assert found[149, 1] < 5
    assert found[150:, 1].tolist() == [5] * 90
    assert 2.98 < found[239, 0] < 3
    assert (np.diff(found, axis=0) >= 0).all()


def test_plain_batchnorm_before_the_limits_open():
    ours, plain = layer(step=0, run_steps=1000), layer(renormalise=False)
    np.testing.assert_allclose(ours(images(1), training=True), plain(images(1), training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.moving_mean, plain.moving_mean)
    assert int(ours.local_step) == 1


def test_one_value_per_channel_is_finite():
    ours = BatchNorm(renormalise=True, momentum=DECAY)
    assert np.isfinite(ours(np.ones((1, 1, 1, 4), np.float32), training=True)).all()
    assert all(np.isfinite(variable).all() for variable in ours.weights)


# tf.layers is of tf_keras, which is chosen when TensorFlow is imported: hence a process of its own.
TF_LAYERS = """
import sys
import numpy as np
import tensorflow as tf

given = np.load(sys.argv[1])
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    x = tf.compat.v1.placeholder(tf.float32, given["x"].shape[1:])
    layer = tf.compat.v1.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-3, renorm=True, renorm_momentum=0.9,
        renorm_clipping={"rmin": 1 / 3, "rmax": 3.0, "dmax": 5.0},
    )
    y = layer(x, training=True)
    gradients = tf.gradients(tf.reduce_sum(y * given["dy"]), [x, layer.gamma, layer.beta])
    session.run(tf.compat.v1.global_variables_initializer())
    sigma = np.sqrt(given["moving_variance"] + 1e-3)
    for variable, value in [
        (layer.gamma, given["gamma"]), (layer.beta, given["beta"]), (layer.moving_mean, given["moving_mean"]),
        (layer.moving_variance, given["moving_variance"]), (layer.moving_stddev, sigma),
        (layer.renorm_mean, given["moving_mean"]), (layer.renorm_stddev, sigma),
    ]:
        variable.load(value.astype(np.float32), session)
    rows = []
    for batch in given["x"]:
        out = session.run([y, gradients, layer.updates], {x: batch})
        rows.append([out[0], *out[1], *session.run([layer.moving_mean, layer.moving_variance])])
names = ["y", "dx", "dgamma", "dbeta", "moving_mean", "moving_variance"]
np.savez(sys.argv[2], **{name: np.stack([row[i] for row in rows]) for i, name in enumerate(names)})
"""


@pytest.mark.slow
def test_tensorflows_own_layer_does_the_same(tmp_path):
    ours = layer()
    x = np.stack([images(seed) for seed in range(3)])
    dy = np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)
    weights = {variable.name: np.array(variable) for variable in ours.weights}
    np.savez(tmp_path / "given.npz", x=x, dy=dy, **weights)
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TF_LAYERS, str(tmp_path / "given.npz"), str(tmp_path / "theirs.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "theirs.npz")
    for index, batch in enumerate(x):
        inputs = tf.constant(batch)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = ours(inputs, training=True)
            loss = tf.reduce_sum(outputs * dy)
        gradients = tape.gradient(loss, [inputs, ours.gamma.value, ours.beta.value])
        found = [outputs, *gradients, ours.moving_mean, ours.moving_variance]
        names = ("y", "dx", "dgamma", "dbeta", "moving_mean", "moving_variance")
        for name, value in zip(names, found, strict=True):
            expected = theirs[name][index]
            np.testing.assert_allclose(value, expected, atol=2e-5 * np.abs(expected).max(), err_msg=f"{name} {index}")
