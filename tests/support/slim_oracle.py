"""The reference for slim networks: tf_slim itself, in a TF1 graph, with random weights and statistics."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from finetune.inference import reference


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
    images: np.ndarray, *, outputs: int, is_training: bool = False, seed: int = 0, **arguments: Any
) -> SlimRun:
    """Run slim's ResNet v1 on float32 `[batch, height, width, 3]`; `arguments` are a catalogue row's."""
    return _oracle("resnet_v1", images, outputs, is_training, seed, arguments)


def resnet_v2(
    images: np.ndarray, *, outputs: int, is_training: bool = False, seed: int = 0, **arguments: Any
) -> SlimRun:
    """Run slim's ResNet v2, as above."""
    return _oracle("resnet_v2", images, outputs, is_training, seed, arguments)


def inception(
    name: str, images: np.ndarray, *, outputs: int, is_training: bool = False, seed: int = 0, **arguments: Any
) -> SlimRun:
    """Run slim's `inception_v1`, `inception_v2` or `inception_v3` on float32 `[batch, height, width, 3]`, undropped.

    `arguments` are the function's own: `scope`, `depth_multiplier`, `create_aux_logits`, …
    """
    arguments = {"create_aux_logits": True, **arguments} if name == "inception_v3" else arguments
    return _oracle(name, images, outputs, is_training, seed, arguments)


def vgg(
    images: np.ndarray, *, outputs: int, is_training: bool = False, seed: int = 0, divisor: int = 1, **arguments: Any
) -> SlimRun:
    """Run slim's `vgg_16` or `vgg_19`, undropped, with a `divisor`-th of the channels in every layer but the logits.

    slim has no thinner one: its own function runs, and the convolution that it calls makes fewer channels. Where it
    gives a map of logits, for images of more than 224 px, they and the features are averaged over their places.
    """
    if divisor == 1:
        return _oracle("vgg", images, outputs, is_training, seed, arguments)
    from tf_slim.nets import vgg as nets

    def conv2d(inputs: Any, channels: int, *given: Any, **named: Any) -> Any:
        if named["scope"] != "fc8":
            channels //= divisor
        return nets.layers_lib.conv2d(inputs, channels, *given, **named)

    conv2d._key_op = nets.layers_lib.conv2d._key_op  # slim's arg_scope knows it by this
    with mock.patch.object(nets, "layers", SimpleNamespace(conv2d=conv2d)):
        return _oracle("vgg", images, outputs, is_training, seed, arguments)


def _oracle(
    family: str, images: np.ndarray, outputs: int, is_training: bool, seed: int, arguments: dict[str, Any]
) -> SlimRun:
    with reference.tf1_graph():
        placeholder = tf.compat.v1.placeholder(tf.float32, images.shape)
        logits = reference.slim_logits(family, placeholder, outputs, is_training=is_training, **arguments)
        return _run(placeholder, images, logits, seed)


def _run(placeholder: tf.Tensor, images: np.ndarray, logits: tf.Tensor, seed: int) -> SlimRun:
    features = reference.before_logits(logits)
    model = tf.compat.v1.global_variables()
    values = random_variables({v.op.name: v.shape.as_list() for v in model}, seed)
    with tf.compat.v1.Session() as session:
        # All at once: a session prunes the whole graph anew for every different fetch.
        initial = {variable.initializer.inputs[1]: values[variable.op.name] for variable in model}
        session.run([variable.initializer for variable in model], initial)
        run = session.run([features, logits], {placeholder: images})
    # VGG has maps of features and logits; all other networks have one place.
    return SlimRun(values, *(array.reshape(len(images), -1, array.shape[-1]).mean(axis=1) for array in run))


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
