"""Small TF1 graphs built here and now, with random weights and statistics, and what their own session says of them."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


@dataclass(frozen=True)
class Form:
    """What a builder gives: the images' tensor, the logits, feeds of both modes, how images lie, images at once."""

    x: tf.Tensor
    logits: tf.Tensor
    true: dict
    false: dict
    lay: object = staticmethod(lambda images: images)


@dataclass(frozen=True)
class Saved:
    """The .meta, the images `[8, 16, 16, 3]`, and the session's own logits in both modes."""

    meta: Path
    images: np.ndarray
    true: np.ndarray
    false: np.ndarray


@contextmanager
def control_flow(*, v2):
    """`tf.cond` as If nodes, or as Switch and Merge with reference variables."""
    flow, resources = v1.control_flow_v2_enabled(), v1.resource_variables_enabled()
    (v1.enable_control_flow_v2 if v2 else v1.disable_control_flow_v2)()
    (v1.enable_resource_variables if v2 else v1.disable_resource_variables)()
    try:
        yield
    finally:
        (v1.enable_control_flow_v2 if flow else v1.disable_control_flow_v2)()
        (v1.enable_resource_variables if resources else v1.disable_resource_variables)()


def save(directory, build, *, v2=True, run=True, pixels=False, version=v1.train.SaverDef.V2, shape=(16, 16, 3)):
    """Build a graph, give it random variables, save it; with `run`, ask its session for both modes."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, *shape)).astype(np.float32)
    if pixels:
        images = np.clip(np.rint(images * 60 + 120), 0, 255).astype(np.float32)
    answers = {}
    with control_flow(v2=v2), tf.Graph().as_default():
        form = build()
        saver = v1.train.Saver(write_version=version)
        variables = v1.global_variables()
        with v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
            values = {v.op.name: random_value(v, rng) for v in variables}

            def fill():
                assigned = {v.initializer.inputs[1]: values[v.op.name] for v in variables}
                session.run([v.initializer for v in variables], assigned)

            fill()
            saver.save(session, str(directory / "model.ckpt-7"))
            for mode in ("true", "false") if run else ():
                answers[mode] = session.run(form.logits, {form.x: form.lay(images), **getattr(form, mode)})
                fill()
    return Saved(directory / "model.ckpt-7.meta", images, answers.get("true"), answers.get("false"))


@dataclass(frozen=True)
class Pair:
    """A program with `is_training` a Python bool: the .meta of its graph for training, written by it, and of its graph
    for tests, with one checkpoint; the images `[8, 16, 16, 3]`, and what the sessions of either give."""

    training: Path
    testing: Path
    checkpoint: Path
    images: np.ndarray
    true: np.ndarray
    false: np.ndarray


def save_both(directory, build, *, v2=False):
    """Save `build(training)` -> (images, logits) for True and for False, with the same random variables."""
    rng = np.random.default_rng(0)
    given = rng.normal(size=(8, 16, 16, 3)).astype(np.float32)
    values, answers = {}, []
    for training in (True, False):
        with control_flow(v2=v2), tf.Graph().as_default():
            x, logits = build(training)
            saver = v1.train.Saver()
            with v1.Session() as session:
                variables = v1.global_variables()
                for variable in variables:
                    values.setdefault(variable.op.name, random_value(variable, rng))
                assigned = {v.initializer.inputs[1]: values[v.op.name] for v in variables}
                if training:
                    session.run([v.initializer for v in variables], assigned)
                    saver.save(session, str(directory / "model.ckpt-7"))
                else:
                    saver.restore(session, str(directory / "model.ckpt-7"))
                    saver.export_meta_graph(str(directory / "test.meta"))
                answers.append(session.run(logits, {x: given}))
    checkpoint = directory / "model.ckpt-7"
    return Pair(directory / "model.ckpt-7.meta", directory / "test.meta", checkpoint, given, *answers)


def random_value(variable, rng):
    name, shape = variable.op.name, variable.shape.as_list()
    positive = any(part in name for part in ("var", "Squeeze_1", "gamma"))
    if variable.dtype.base_dtype.is_integer or "step" in name:
        return np.full(shape, 7, variable.dtype.base_dtype.as_numpy_dtype)
    return rng.uniform(0.5, 1.5, shape) if positive else rng.normal(0, 0.3, shape)


def images(shape=(None, 16, 16, 3), dtype=tf.float32):
    return v1.placeholder(dtype, shape, name="x")


def switch(name="is_training"):
    return v1.placeholder(tf.bool, [], name=name)


def conv(x, name, data_format="NHWC"):
    depth = x.shape[1 if data_format == "NCHW" else 3]
    kernel = v1.get_variable(f"{name}/kernel", [3, 3, depth, 6])
    return tf.nn.conv2d(x, kernel, 1, "SAME", data_format=data_format)


def arrays(name, channels, *names):
    return [v1.get_variable(f"{name}/{each}", [channels], trainable=each in ("gamma", "beta")) for each in names]


def fused(x, training, name, data_format="NHWC"):
    """tf.nn.fused_batch_norm under tf.cond."""
    channels = x.shape[1 if data_format == "NCHW" else 3]
    gamma, beta, mean, variance = arrays(name, channels, "gamma", "beta", "moving_mean", "moving_variance")
    options = {"epsilon": 1e-3, "data_format": data_format}
    return tf.cond(
        training,
        lambda: v1.nn.fused_batch_norm(x, gamma, beta, **options)[0],
        lambda: v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, is_training=False, **options)[0],
    )


def head(x, classes=3):
    """Global pooling, a matrix, and the loss of the labels `y`."""
    x = tf.reduce_mean(x, [1, 2]) if x.shape.rank == 4 else x
    logits = tf.matmul(x, v1.get_variable("weights", [x.shape[-1], classes]), name="logits")
    labels = v1.placeholder(tf.int64, [None], name="y")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    return logits, loss


def training_graph():
    """A graph for training, without a switch: averages of moments in a queue's images, a dropout, a train op."""
    x, h = v1.train.batch([tf.zeros([16, 16, 3]), tf.zeros([])], 8)[0], None
    for name in "ab":
        gamma, beta, mean, variance = arrays(name, 6, "gamma", "beta", "pop_mean", "pop_var")
        h = conv(x if h is None else h, name)
        m, v = tf.nn.moments(h, [0, 1, 2])
        with tf.control_dependencies(
            [v1.assign(mean, mean * 0.9 + m * 0.1), v1.assign_sub(variance, 0.1 * (variance - v))]
        ):
            h = tf.nn.relu(tf.nn.batch_normalization(h, m, v, beta, gamma, 1e-3))
    logits, loss = head(tf.nn.dropout(h, 0.5))
    v1.train.AdamOptimizer().minimize(loss)
    return Form(x, logits, {}, {})


def network(x=None, training=None, between=lambda x: x):
    """Two convolutions with fused BatchNorm; `between` them, what a test is about."""
    x = images() if x is None else x
    training = switch() if training is None else training
    h = tf.nn.relu(fused(conv(x, "a"), training, "a"))
    h = tf.nn.relu(fused(conv(between(h), "b"), training, "b"))
    logits, _ = head(h)
    return Form(x, logits, {training: True}, {training: False})
