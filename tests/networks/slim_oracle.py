"""The reference for slim networks: tf_slim itself, in a TF1 graph, with random weights and statistics."""

import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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

    def own_stem(net: tf.Tensor) -> tf.Tensor:
        if stem == "small":
            return slim.conv2d(net, width, 3, scope="conv1")
        net = resnet_utils.conv2d_same(net, width, 7, stride=2, scope="conv1")
        return slim.max_pool2d(net, [3, 3], stride=2, scope="pool1")

    blocks = _blocks(nets.resnet_v1_block, units, width)
    stem_of_slim = width == 64 and stem == "imagenet"
    with _tf1(), slim.arg_scope(nets.resnet_arg_scope(weight_decay=0.0)):
        placeholder, net = _stem(images, scope, None if stem_of_slim else own_stem, is_training)
        logits, _ = nets.resnet_v1(net, blocks, outputs, is_training, include_root_block=stem_of_slim, scope=scope)
        return _run(placeholder, images, logits, seed)


def resnet_v2(
    images: np.ndarray,
    *,
    scope: str,
    units: Sequence[int],
    outputs: int,
    width: int = 64,
    is_training: bool = False,
    seed: int = 0,
) -> SlimRun:
    """Run slim's ResNet v2 on float32 `[batch, height, width, 3]`; its own stem only at a width of 64, as above."""
    mend()
    import tf_slim as slim
    from tf_slim.nets import resnet_utils
    from tf_slim.nets import resnet_v2 as nets

    def own_stem(net: tf.Tensor) -> tf.Tensor:
        with slim.arg_scope([slim.conv2d], activation_fn=None, normalizer_fn=None):
            net = resnet_utils.conv2d_same(net, width, 7, stride=2, scope="conv1")
        return slim.max_pool2d(net, [3, 3], stride=2, scope="pool1")

    blocks = _blocks(nets.resnet_v2_block, units, width)
    with _tf1(), slim.arg_scope(nets.resnet_arg_scope(weight_decay=0.0)):
        placeholder, net = _stem(images, scope, None if width == 64 else own_stem, is_training)
        logits, _ = nets.resnet_v2(net, blocks, outputs, is_training, include_root_block=width == 64, scope=scope)
        return _run(placeholder, images, logits, seed)


def inception(
    name: str, images: np.ndarray, *, outputs: int, is_training: bool = False, seed: int = 0, **arguments: Any
) -> SlimRun:
    """Run slim's `inception_v1`, `inception_v2` or `inception_v3` on float32 `[batch, height, width, 3]`, undropped.

    `arguments` are the function's own: `scope`, `depth_multiplier`, `create_aux_logits`, …
    """
    mend()
    import tf_slim as slim
    from tf_slim.nets import inception as nets

    with _tf1(), slim.arg_scope(getattr(nets, f"{name}_arg_scope")(weight_decay=0.0)):
        placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
        logits, _ = getattr(nets, name)(placeholder, outputs, is_training, dropout_keep_prob=1.0, **arguments)
        return _run(placeholder, images, logits, seed)


def _blocks(block: Callable[..., Any], units: Sequence[int], width: int) -> list[Any]:
    return [
        block(f"block{i}", width * 2 ** (i - 1), count, stride=1 if i == len(units) else 2)
        for i, count in enumerate(units, start=1)
    ]


def _stem(
    images: np.ndarray, scope: str, stem: Callable[[tf.Tensor], tf.Tensor] | None, is_training: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """A placeholder for the images, and what `stem` makes of it under `scope`: the placeholder itself without one."""
    import tf_slim as slim

    placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
    if stem is None:
        return placeholder, placeholder
    with tf.compat.v1.variable_scope(scope), slim.arg_scope([slim.batch_norm], is_training=is_training):
        return placeholder, stem(placeholder)


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


def _run(placeholder: tf.Tensor, images: np.ndarray, logits: tf.Tensor, seed: int) -> SlimRun:
    features = logits
    while features.op.type != "Conv2D":  # the logits' own convolution: before it lie the bias and the squeezing
        features = features.op.inputs[0]
    features = features.op.inputs[0]
    model = tf.compat.v1.global_variables()
    values = random_variables({v.op.name: v.shape.as_list() for v in model}, seed)
    with tf.compat.v1.Session() as session:
        # All at once: a session prunes the whole graph anew for every different fetch.
        initial = {variable.initializer.inputs[1]: values[variable.op.name] for variable in model}
        session.run([variable.initializer for variable in model], initial)
        run = session.run([features, logits], {placeholder: images})
    return SlimRun(values, *(array.reshape(len(images), -1) for array in run))


def random_variables(shapes: dict[str, list[int]], seed: int) -> dict[str, np.ndarray]:
    """Values by slim's names: the same for the same names, in whatever order they come."""
    rng = np.random.default_rng(seed)
    return {name: _random(name, shapes[name], rng) for name in sorted(shapes)}


def _random(name: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    """Far from the initial values, so that a swap shows; gamma keeps 152 layers from drowning beta in growth."""
    kind = name.rsplit("/", 1)[-1]
    if kind.endswith("weights"):
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    elif kind == "moving_variance":
        value = rng.uniform(0.5, 1.5, shape)
    elif kind == "gamma":
        value = rng.uniform(0.25, 0.75, shape)
    else:
        value = rng.normal(0, 0.1, shape)
    return value.astype(np.float32)
