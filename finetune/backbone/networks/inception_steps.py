"""Inception networks as tables: what a step is, and the graph a row of steps makes.

Source: tf_slim/nets/inception_v1.py to inception_v3.py, tensorflow/models research/slim/nets/inception_v4.py and
inception_resnet_v2.py. slim's names for the steps follow no rule (a 3x3
convolution may be called `Conv2d_1a_1x1`), so a table spells them out.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import keras

from finetune.backbone.networks.network import Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d

MIN_DEPTH = 16
"""slim's least channels of a convolution where a multiplier below 1 would leave fewer."""


class Conv(NamedTuple):
    """Convolution, BatchNorm and activation. `size` is the kernel's side, or its (height, width)."""

    name: str
    filters: int
    size: int | tuple[int, int]
    stride: int = 1
    padding: Literal["same", "valid"] = "same"


class Pool(NamedTuple):
    """Maximum or average over windows of `size` x `size`; an average counts no padding."""

    name: str
    kind: Literal["max", "average"]
    size: int = 3
    stride: int = 1
    padding: Literal["same", "valid"] = "same"


class Fork(NamedTuple):
    """Convolutions side by side on one input, concatenated in this order."""

    convs: tuple[Conv, ...]


class Mixed(NamedTuple):
    """An inception module: branches on one input, `Branch_0` first, concatenated in this order."""

    name: str
    branches: tuple[tuple[Conv | Pool | Fork, ...], ...]


class Residual(NamedTuple):
    """Branches whose concatenation, brought to the input's channels and scaled, is added to the input."""

    name: str
    branches: tuple[tuple[Conv, ...], ...]
    scale: float
    activate: bool = True


class Repeat(NamedTuple):
    """Steps one after the other below a scope of their own, and one stage."""

    name: str
    steps: tuple[Residual, ...]


Step = Conv | Pool | Fork | Mixed | Residual | Repeat


def apply(
    x: keras.KerasTensor, steps: Sequence[Step], scope: str, args: ArgScope, depth_multiplier: float = 1.0
) -> keras.KerasTensor:
    """`[batch, height, width, channels]` through the steps one after the other.

    Their layers are named `scope.<name>`; `depth_multiplier` scales every convolution's channels, down to `MIN_DEPTH`.
    """
    for step in steps:
        match step:
            case Conv(name, filters, size, stride, padding):
                depth = max(int(filters * depth_multiplier), MIN_DEPTH)
                x = conv2d(x, depth, size, f"{scope}.{name}", args, stride=stride, padding=padding)
            case Pool(name, kind, size, stride, padding):
                layer = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}[kind]
                x = layer(size, strides=stride, padding=padding, name=f"{scope}.{name}")(x)
            case Fork(convs):
                ends = [apply(x, (conv,), scope, args, depth_multiplier) for conv in convs]
                x = keras.layers.Concatenate(name=f"{scope}.concat")(ends)
            case Mixed(name, branches):
                ends = [
                    apply(x, branch, f"{scope}.{name}.Branch_{index}", args, depth_multiplier)
                    for index, branch in enumerate(branches)
                ]
                x = keras.layers.Concatenate(name=f"{scope}.{name}")(ends)
            case Residual():
                x = _residual(x, step, f"{scope}.{step.name}", args)
            case Repeat(name, inner):
                x = apply(x, inner, f"{scope}.{name}", args, depth_multiplier)
    return x


def _residual(x: keras.KerasTensor, step: Residual, scope: str, args: ArgScope) -> keras.KerasTensor:
    """The shape is kept; the layer called `scope` is the block's output."""
    ends = [apply(x, branch, f"{scope}.Branch_{index}", args) for index, branch in enumerate(step.branches)]
    up = keras.layers.Concatenate(name=f"{scope}.concat")(ends)
    up = conv2d(up, x.shape[-1], 1, f"{scope}.Conv2d_1x1", args, after="bias")
    up = keras.layers.Rescaling(step.scale, name=f"{scope}.scale")(up)
    x = keras.layers.Add(name=f"{scope}.add" if step.activate else scope)([x, up])
    return keras.layers.Activation(args.activation, name=scope)(x) if step.activate else x


def stages(steps: Sequence[Step], scope: str, args: ArgScope) -> list[Stage]:
    """A stage for every step with weights, called like slim's end point; a pool belongs to the step before it."""
    found: list[Stage] = []
    for step in steps:
        match step:
            case Conv(name):
                found.append(Stage(name, f"{scope}.{name}.{args.activation}"))
            case Mixed(name) | Residual(name):
                found.append(Stage(name, f"{scope}.{name}"))
            case Repeat(name, inner):
                found.append(Stage(name, f"{scope}.{name}.{inner[-1].name}"))
            case Pool(name):
                found[-1] = Stage(found[-1].name, f"{scope}.{name}")
    return found
