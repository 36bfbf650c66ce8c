"""The reference for slim networks: tf_slim itself, in a TF1 graph, with random weights and statistics."""

import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import tensorflow as tf


@dataclass(frozen=True)
class SlimRun:
    """What tf_slim made of the images.

    variables: every model variable by its checkpoint name.
    features: float32 `[batch, channels]`, pooled.   logits: float32 `[batch, outputs]`.
    """

    variables: dict[str, np.ndarray]
    features: np.ndarray
    logits: np.ndarray


def resnet_v1(
    images: np.ndarray,
    *,
    scope: str,
    units: Sequence[int],
    outputs: int,
    width: int = 64,
    stem: str = "imagenet",
    is_training: bool = False,
    seed: int = 0,
) -> SlimRun:
    """Run slim's ResNet v1 on float32 `[batch, height, width, 3]`.

    A width of 64 with slim's own stem is `tf_slim.nets.resnet_v1.resnet_v1` whole; that function has no narrower or
    smaller stem, so for others the stem is put in front from slim's layers.
    """
    mend()
    import tf_slim as slim
    from tf_slim.nets import resnet_utils
    from tf_slim.nets import resnet_v1 as nets

    blocks = [
        nets.resnet_v1_block(f"block{i}", width * 2 ** (i - 1), count, stride=1 if i == len(units) else 2)
        for i, count in enumerate(units, start=1)
    ]
    own_stem = width == 64 and stem == "imagenet"
    with _tf1():
        net = placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
        with slim.arg_scope(nets.resnet_arg_scope()):
            if not own_stem:
                with tf.compat.v1.variable_scope(scope), slim.arg_scope([slim.batch_norm], is_training=is_training):
                    if stem == "small":
                        net = slim.conv2d(net, width, 3, scope="conv1")
                    else:
                        net = resnet_utils.conv2d_same(net, width, 7, stride=2, scope="conv1")
                        net = slim.max_pool2d(net, [3, 3], stride=2, scope="pool1")
            logits, end_points = nets.resnet_v1(
                net, blocks, outputs, is_training, include_root_block=own_stem, scope=scope
            )
        features = tf.reduce_mean(end_points[f"{scope}/block{len(units)}"], [1, 2])
        return _run(placeholder, images, features, tf.squeeze(logits, [1, 2]), seed)


def mend() -> None:
    """Let `slim.batch_norm` find the module that tf_keras moved (facts of tf_slim 1.1.0 with TensorFlow 2.21)."""
    from tf_keras.src import legacy_tf_layers
    from tf_keras.src.legacy_tf_layers import normalization

    name = "tf_keras.legacy_tf_layers"
    modules: dict[str, types.ModuleType] = {name: legacy_tf_layers, f"{name}.normalization": normalization}
    for module, source in modules.items():
        sys.modules.setdefault(module, source)


@contextmanager
def _tf1() -> Iterator[None]:
    """A graph of its own, and TF1's tensors: compared by identity, they hash twice as fast in slim's many sets."""
    tf.compat.v1.disable_tensor_equality()
    try:
        with warnings.catch_warnings(), tf.Graph().as_default():
            warnings.simplefilter("ignore")  # tf_slim calls what TensorFlow deprecates
            yield
    finally:
        tf.compat.v1.enable_tensor_equality()


def _run(placeholder: tf.Tensor, images: np.ndarray, features: tf.Tensor, logits: tf.Tensor, seed: int) -> SlimRun:
    rng = np.random.default_rng(seed)
    model = tf.compat.v1.global_variables()
    values = {v.op.name: _random(v.op.name, v.shape.as_list(), rng) for v in model}
    with tf.compat.v1.Session() as session:
        # All at once: a session prunes the whole graph anew for every different fetch.
        initial = {variable.initializer.inputs[1]: values[variable.op.name] for variable in model}
        session.run([variable.initializer for variable in model], initial)
        run = session.run([features, logits], {placeholder: images})
    return SlimRun(values, *run)


def _random(name: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """Far from the initial values, so that a swap shows; gamma keeps 152 layers from drowning beta in growth."""
    kind = name.rsplit("/", 1)[-1]
    if kind == "weights":
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    elif kind == "moving_variance":
        value = rng.uniform(0.5, 1.5, shape)
    elif kind == "gamma":
        value = rng.uniform(0.25, 0.75, shape)
    else:
        value = rng.normal(0, 0.1, shape)
    return value.astype(np.float32)
