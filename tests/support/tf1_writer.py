"""Writes TF1 graphs as people have them: built, trained and saved by TensorFlow's own API, in a process of its own.

    TF_USE_LEGACY_KERAS=1 python tf1_writer.py DIRECTORY KIND...

DIRECTORY holds `data.npz` (uint8 images, labels). Of each kind it then has KIND/model.ckpt-STEPS with its .meta and
KIND/truth.npz: the logits that the graph's own session gives on the test images, batch by batch, in both modes.
"""

import logging
import os
import sys
import warnings
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
warnings.simplefilter("ignore")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf_slim as slim  # noqa: E402
from tf_keras.src import legacy_tf_layers  # noqa: E402
from tf_keras.src.legacy_tf_layers import normalization  # noqa: E402

sys.modules["tf_keras.legacy_tf_layers"] = legacy_tf_layers
sys.modules["tf_keras.legacy_tf_layers.normalization"] = normalization
tf.get_logger().setLevel(logging.ERROR)
v1 = tf.compat.v1
STEPS = 100


def layers_network(x, training, *, fused, momentum):
    for channels, strides in ((8, 2), (16, 2)):
        x = v1.layers.conv2d(x, channels, 3, strides=strides, use_bias=False)
        x = v1.layers.batch_normalization(x, training=training, fused=fused, momentum=momentum)
        x = tf.nn.relu(x)
    return v1.layers.dense(tf.reduce_mean(x, [1, 2]), 10)


def loss_of(logits, labels):
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def inception(images):
    return images.astype(np.float32) / 127.5 - 1


def layers():
    """tf.layers with tf.cond as it is since TensorFlow 2 (If), and the forgotten UPDATE_OPS."""
    x, y = v1.placeholder(tf.float32, [None, 32, 32, 3], "x"), v1.placeholder(tf.int64, [None], "y")
    training = v1.placeholder(tf.bool, [], "is_training")
    logits = layers_network(x, training, fused=True, momentum=0.99)
    step = v1.train.get_or_create_global_step()
    train_op = v1.train.AdamOptimizer(5e-3).minimize(loss_of(logits, y), global_step=step)
    return x, y, logits, train_op, {training: True}, {training: False}, inception


def layers_updates():
    """tf.layers as in TensorFlow 1: Switch and Merge, reference variables, with its updates run."""
    x, y = v1.placeholder(tf.float32, [None, 32, 32, 3], "x"), v1.placeholder(tf.int64, [None], "y")
    training = v1.placeholder_with_default(False, [], "is_training")
    logits = layers_network(x, training, fused=False, momentum=0.9)
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        train_op = v1.train.AdamOptimizer(5e-3).minimize(loss_of(logits, y))
    return x, y, logits, train_op, {training: True}, {training: False}, inception


def slim_network(x, training, keep_prob):
    parameters = {"is_training": training, "decay": 0.95, "scale": True}
    with slim.arg_scope([slim.conv2d], normalizer_fn=slim.batch_norm, normalizer_params=parameters):
        x = slim.conv2d(x, 8, 3, stride=2, scope="conv1")
        x = slim.conv2d(x, 16, 3, stride=2, scope="conv2")
    x = slim.dropout(tf.reduce_mean(x, [1, 2], keepdims=True), keep_prob, is_training=training)
    x = slim.conv2d(x, 10, 1, activation_fn=None, scope="logits")
    return tf.squeeze(x, [1, 2], name="SpatialSqueeze")


def slim_minimize():
    """slim with plain minimize, and dropout by a placeholder."""
    x, y = v1.placeholder(tf.float32, [None, 32, 32, 3], "images"), v1.placeholder(tf.int64, [None], "labels")
    training, keep = v1.placeholder(tf.bool, [], "training"), v1.placeholder(tf.float32, name="keep_prob")
    logits = slim_network(x, training, keep)
    slim.softmax(logits, scope="Predictions")
    train_op = v1.train.AdamOptimizer(5e-3).minimize(loss_of(logits, y))
    return x, y, logits, train_op, {training: True, keep: 1.0}, {training: False, keep: 1.0}, inception


def slim_averaged():
    """slim with its own train op, which runs the updates, and moving averages of the weights."""
    x, y = v1.placeholder(tf.float32, [None, 32, 32, 3], "images"), v1.placeholder(tf.int64, [None], "labels")
    training = v1.placeholder(tf.bool, [], "training")
    logits = slim_network(x, training, 1.0)
    step = v1.train.get_or_create_global_step()
    averages = tf.train.ExponentialMovingAverage(0.98, step)
    v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, averages.apply(v1.trainable_variables()))
    train_op = slim.learning.create_train_op(loss_of(logits, y), v1.train.AdamOptimizer(5e-3))
    return x, y, logits, train_op, {training: True}, {training: False}, inception


def by_hand():
    """Rows as CIFAR-10 stores them, always 100 of them; tf.nn.moments and an average of them, as in a hundred blogs."""
    x, y = v1.placeholder(tf.float32, [100, 3072], "x"), v1.placeholder(tf.int64, [100], "y")
    training = v1.placeholder(tf.bool, name="phase_train")

    def batch_norm(inputs, scope):
        with v1.variable_scope(scope):
            beta = v1.get_variable("beta", [inputs.shape[-1]], initializer=v1.zeros_initializer())
            gamma = v1.get_variable("gamma", [inputs.shape[-1]], initializer=v1.ones_initializer())
            mean, variance = tf.nn.moments(inputs, [0, 1, 2], name="moments")
            average = tf.train.ExponentialMovingAverage(decay=0.99)

            def updated():
                with tf.control_dependencies([average.apply([mean, variance])]):
                    return tf.identity(mean), tf.identity(variance)

            used = tf.cond(training, updated, lambda: (average.average(mean), average.average(variance)))
            return tf.nn.batch_normalization(inputs, *used, beta, gamma, 1e-3)

    h = tf.transpose(tf.reshape(x, [-1, 3, 32, 32]), [0, 2, 3, 1])
    for index, channels in enumerate((8, 16)):
        kernel = v1.get_variable(f"kernel{index}", [3, 3, h.shape[-1], channels])
        h = tf.nn.relu(batch_norm(tf.nn.conv2d(h, kernel, 2, "SAME"), f"bn{index}"))
    logits = tf.matmul(tf.reduce_mean(h, [1, 2]), v1.get_variable("weights", [16, 10]), name="logits")
    train_op = v1.train.AdamOptimizer(5e-3).minimize(loss_of(logits, y))

    def rows(images):
        return images.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float32) / 255

    return x, y, logits, train_op, {training: True}, {training: False}, rows


KINDS = {
    "layers": (layers, False),
    "layers-updates": (layers_updates, True),
    "slim": (slim_minimize, False),
    "slim-averaged": (slim_averaged, True),
    "by-hand": (by_hand, True),
}


def write(directory, kind, data):
    build, as_in_tf1 = KINDS[kind]
    (v1.disable_control_flow_v2 if as_in_tf1 else v1.enable_control_flow_v2)()
    (v1.disable_resource_variables if as_in_tf1 else v1.enable_resource_variables)()
    images, labels, tested = data["train_images"], data["train_labels"], data["test_images"]
    rng, size = np.random.default_rng(0), int(data["batch_size"])
    with tf.Graph().as_default():
        v1.set_random_seed(0)
        x, y, logits, train_op, true, false, prepare = build()
        moving = [v for v in v1.global_variables() if "moving_" in v.op.name or "moments" in v.op.name]
        given = [v1.placeholder(v.dtype.base_dtype, v.shape) for v in moving]
        put_back = [v1.assign(v, value) for v, value in zip(moving, given, strict=True)]
        saver = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            for _ in range(STEPS):
                chosen = rng.integers(0, len(images), size)
                session.run(train_op, {x: prepare(images[chosen]), y: labels[chosen], **true})
            saver.save(session, str(directory / kind / "model.ckpt"), global_step=STEPS)
            before = session.run(moving)
            truth = {}
            for name, feed in (("false", false), ("true", true)):
                batches = []
                for start in range(0, len(tested), size):
                    begin = min(start, len(tested) - size)  # a full batch, as the evaluation takes it
                    batch = session.run(logits, {x: prepare(tested[begin : begin + size]), **feed})
                    batches.append(batch[start - begin :])
                    session.run(put_back, dict(zip(given, before, strict=True)))  # a graph may update as it runs
                truth[name] = np.concatenate(batches)
    np.savez(directory / kind / "truth.npz", **truth)


def main():
    directory = Path(sys.argv[1])
    data = dict(np.load(directory / "data.npz"))
    for kind in sys.argv[2:]:
        (directory / kind).mkdir()
        write(directory, kind, data)


if __name__ == "__main__":
    main()
