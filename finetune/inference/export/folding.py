"""Fold BatchNorm in an inference graph: into the weights of the layer before, or into one multiply-add.

With moving statistics BatchNorm is `y = x * scale + shift` per channel, `scale = gamma / sqrt(variance + epsilon)`,
`shift = beta - mean * scale` (Ioffe & Szegedy 2015, arXiv 1502.03167, algorithm 2). After a convolution or a dense
layer without activation, the two are that layer with other weights. This is exact but for one rounding to float32.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.module_parts import Module
from finetune.batchnorm.surgery import copy_weights

_KERNELS = {
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "Dense": "kernel",
    "Conv2DTranspose": "kernel",
    "DepthwiseConv2D": "kernel",
    "SeparableConv2D": "pointwise_kernel",
}
"""Layers that are linear in the channels of their outputs, and the variable whose axis these channels are."""


@dataclass(frozen=True, eq=False)
class Folded:
    """`model` has no BatchNormalization except those in `left`, by name. into_weights: how many are folded into the
    layer before. multiply_adds: how many became one multiplication and one addition."""

    model: keras.Model
    into_weights: int
    multiply_adds: int
    left: tuple[str, ...] = ()

    def summary(self) -> str:
        """The counts in words."""
        if not self.into_weights + self.multiply_adds + len(self.left):
            return "no BatchNorm to fold"
        parts = [f"{self.into_weights} BatchNorm folded into the weights before them"]
        parts += [f"{self.multiply_adds} made one multiply-add"] if self.multiply_adds else []
        parts += [f"{len(self.left)} left as they are"] if self.left else []
        return ", ".join(parts)


def affine(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scale, shift), float64 `[channels]`, of a BatchNormalization under its moving statistics."""
    mean, variance = (np.asarray(one, np.float64) for one in (layer.moving_mean, layer.moving_variance))
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * np.asarray(layer.gamma, np.float64)
    shift = -mean * scale
    if layer.center:
        shift = shift + np.asarray(layer.beta, np.float64)
    return scale, shift


def folded_weights(
    kind: str, kernel: np.ndarray, bias: np.ndarray | None, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(kernel, bias), float64, of the layer that computes `layer(x) * scale + shift`.

    `kind` is the layer's class. The outputs' channels are the kernel's last axis, but for Conv2DTranspose
    (`[height, width, out, in]`) and DepthwiseConv2D (`[height, width, in, multiplier]`, output `in * multiplier + m`).
    """
    exact = np.asarray(kernel, np.float64)
    shapes = {"DepthwiseConv2D": exact.shape[2:], "Conv2DTranspose": (-1, 1)}
    factors = scale.reshape(shapes.get(kind, (-1,)))
    before = np.zeros_like(shift) if bias is None else np.asarray(bias, np.float64)
    return exact * factors, before * scale + shift


def fold(model: keras.Model) -> Folded:
    """A copy of a flat model of stock layers for inference, with as few BatchNorm layers as possible.

    A layer that is used in several places, or whose output goes anywhere except into the BatchNorm, keeps its weights;
    the BatchNorm becomes a multiply-add. BatchNorm over another axis than the last is not folded.
    """
    consumers = _consumers(model)
    norms = [one for one in model.operations if isinstance(one, keras.layers.BatchNormalization)]
    into: dict[str, Any] = {}  # name of the layer before -> the BatchNorm folded into it
    alone: dict[str, Any] = {}
    left = []
    for norm in norms:
        tensor = norm._inbound_nodes[0].input_tensors[0]
        before = tensor._keras_history.operation
        if norm.axis not in (-1, len(tensor.shape) - 1) or not type(norm).__module__.startswith("keras."):
            left.append(norm.name)
        elif len(norm._inbound_nodes) == 1 and before is not None and _takes(before, model, consumers):
            into[before.name] = norm
        else:
            alone[norm.name] = norm
    gone = {norm.name for norm in into.values()}
    made: dict[int, Any] = {}

    def called(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.name in gone:
            return args[0]
        if operation.name in alone:
            scale, shift = (value.tolist() for value in affine(operation))
            return keras.layers.Rescaling(scale, shift, name=operation.name)(args[0])
        if id(operation) in made:
            return made[id(operation)](*args, **kwargs)
        norm = into.get(operation.name)
        copy = operation  # a Hub module is used as it is
        if not isinstance(operation, Module):
            config = operation.get_config()
            copy = type(operation).from_config({**config, "use_bias": True} if norm is not None else config)
        made[id(operation)] = copy
        result = copy(*args, **kwargs)
        if norm is not None:
            _assign(operation, copy, norm)
        elif copy is not operation and isinstance(operation, keras.layers.Layer):
            copy_weights(operation, copy)
        return result

    inputs = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name=model.inputs[0].name)
    outputs = model._run_through_graph([inputs], call_fn=called)
    return Folded(keras.Model(inputs, outputs, name=model.name), len(gone), len(alone), tuple(left))


def _assign(old: Any, new: Any, norm: Any) -> None:
    """Set the weights of the layer `new` to those of `old`, with the BatchNorm `norm` folded into them."""
    kind = type(old).__name__
    name = _KERNELS[kind]
    bias = old.bias if old.use_bias else None
    kernel, shift = folded_weights(kind, np.asarray(getattr(old, name)), bias, *affine(norm))
    if kind == "SeparableConv2D":
        new.depthwise_kernel.assign(old.depthwise_kernel)
    getattr(new, name).assign(kernel.astype(np.float32))
    new.bias.assign(shift.astype(np.float32))


def _takes(layer: Any, model: keras.Model, consumers: Counter[int]) -> bool:
    """Whether the BatchNorm after a layer can be folded into its weights."""
    return (
        type(layer).__name__ in _KERNELS
        and type(layer).__module__.startswith("keras.")
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", "channels_last") == "channels_last"
        and len(layer._inbound_nodes) == 1
        and consumers[id(layer)] == 1
        and all(layer is not tensor._keras_history.operation for tensor in model.outputs)
    )


def _consumers(model: keras.Model) -> Counter[int]:
    """`id` of an operation -> the number of places where its output is used."""
    return Counter(
        id(tensor._keras_history.operation)
        for operation in model.operations
        for node in operation._inbound_nodes
        for tensor in node.input_tensors
    )
