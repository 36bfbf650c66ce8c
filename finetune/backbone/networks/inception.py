"""Inception networks as tables: what a step is, and the graph a row of steps makes.

Source: tf_slim/nets/inception_v1.py to inception_v3.py, tensorflow/models research/slim/nets/inception_v4.py and
inception_resnet_v2.py. slim's names for the steps follow no rule, so a table spells them out. The dropout in front of
slim's logits is not built: it only acts in training, and the head trained here is another.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, finish

MIN_DEPTH = 16
"""slim's least channels of a convolution where a multiplier below 1 would leave fewer."""


class Conv(NamedTuple):
    """Convolution, BatchNorm and activation.

    size: (height, width) of the kernel. None takes them from the end of the name, `Conv2d_0b_1x7`.
    """

    name: str
    filters: int
    stride: int = 1
    padding: Literal["same", "valid"] = "same"
    size: tuple[int, int] | None = None


class Separable(NamedTuple):
    """Depthwise and pointwise convolution of stride 2, a bias and activation, but no BatchNorm."""

    name: str
    filters: int
    size: int


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


Chain = tuple[Conv | Pool | Fork, ...]
"""Steps of one branch, one after the other."""


class Mixed:
    """An inception module: branches on one input, `Branch_0` first, concatenated in this order."""

    __match_args__ = ("name", "branches")

    def __init__(self, name: str, *branches: Chain) -> None:
        self.name, self.branches = name, branches


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


Step = Conv | Separable | Pool | Fork | Mixed | Residual | Repeat

AVERAGE = Pool("AvgPool_0a_3x3", "average")
HALVE = Pool("MaxPool_1a_3x3", "max", stride=2, padding="valid")


def convs(*channels: tuple[str, int]) -> tuple[Conv, ...]:
    """Convolutions one after the other: for each, its name without `Conv2d_`, and its channels."""
    return tuple(Conv(f"Conv2d_{name}", filters) for name, filters in channels)


def halving(filters: int, name: str = "Conv2d_1a_3x3") -> Conv:
    """A 3x3 convolution of stride 2 without padding; slim and its checkpoints call some of them 1x1."""
    return Conv(name, filters, stride=2, padding="valid", size=(3, 3))


STEM = (
    halving(32),
    Conv("Conv2d_2a_3x3", 32, padding="valid"),
    Conv("Conv2d_2b_3x3", 64),
    HALVE._replace(name="MaxPool_3a_3x3"),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, padding="valid"),
    HALVE._replace(name="MaxPool_5a_3x3"),
)
"""From the images to the first inception module of v3 and of Inception-ResNet v2."""


def network(
    image_size: tuple[int, int],
    outputs: int | None,
    steps: Sequence[Step],
    *,
    scope: str,
    initializer: Callable[[], keras.initializers.Initializer] = keras.initializers.HeNormal,
    depth_multiplier: float = 1.0,
    head: tuple[str, str] = ("AvgPool_1a", "Conv2d_1c_1x1"),
    fully_connected: bool = False,
) -> Network:
    """The network of a table: `[batch, height, width, 3]` to features, or with `outputs` to logits.

    initializer: of the convolutions' weights; slim's default is HeNormal.
    depth_multiplier: scales every convolution's channels, down to `MIN_DEPTH`.
    head: slim's names of pooling and logits.
    """
    args = ArgScope(decay=0.9997, epsilon=1e-3, gamma=False, activation="relu", initializer=initializer)
    images = keras.Input((*image_size, 3), name="images")
    x = _apply(images, steps, scope, args, depth_multiplier)
    stages = _stages(steps, scope, args)
    pool, logits = head
    names = (f"Logits.{pool}", f"Logits.{logits}")
    return finish(images, x, outputs, args, scope=scope, stages=stages, head=names, fully_connected=fully_connected)


def _apply(
    x: keras.KerasTensor, steps: Sequence[Step], scope: str, args: ArgScope, multiplier: float
) -> keras.KerasTensor:
    """`[batch, height, width, channels]` through the steps one after the other. Their layers are `scope.<name>`."""
    for step in steps:
        match step:
            case Conv(name, filters, stride, padding, size):
                depth = max(int(filters * multiplier), MIN_DEPTH)
                height, width = size or map(int, name.rpartition("_")[2].split("x"))
                x = conv2d(x, depth, (height, width), f"{scope}.{name}", args, stride=stride, padding=padding)
            case Separable(name, filters, size):
                depth = max(int(filters * multiplier), MIN_DEPTH)
                middle = min(depth // 3, 8)  # slim keeps its middle no wider than its end
                options = {"strides": 2, "padding": "same", "depth_multiplier": middle, "activation": args.activation}
                x = keras.layers.SeparableConv2D(depth, size, **options, name=f"{scope}.{name}")(x)
            case Pool(name, kind, size, stride, padding):
                layer = {"max": keras.layers.MaxPooling2D, "average": keras.layers.AveragePooling2D}[kind]
                x = layer(size, strides=stride, padding=padding, name=f"{scope}.{name}")(x)
            case Fork(forked):
                ends = [_apply(x, (conv,), scope, args, multiplier) for conv in forked]
                x = keras.layers.Concatenate(name=f"{scope}.concat")(ends)
            case Mixed(name, branches):
                ends = _branches(x, branches, f"{scope}.{name}", args, multiplier)
                x = keras.layers.Concatenate(name=f"{scope}.{name}")(ends)
            case Residual():
                x = _residual(x, step, f"{scope}.{step.name}", args, multiplier)
            case Repeat(name, inner):
                x = _apply(x, inner, f"{scope}.{name}", args, multiplier)
    return x


def _branches(
    x: keras.KerasTensor, branches: Sequence[Sequence[Step]], scope: str, args: ArgScope, multiplier: float
) -> list[keras.KerasTensor]:
    """The output of every branch on `x`."""
    return [_apply(x, branch, f"{scope}.Branch_{index}", args, multiplier) for index, branch in enumerate(branches)]


def _residual(x: keras.KerasTensor, step: Residual, scope: str, args: ArgScope, multiplier: float) -> keras.KerasTensor:
    """The shape is kept; the layer called `scope` is the block's output."""
    ends = _branches(x, step.branches, scope, args, multiplier)
    up = keras.layers.Concatenate(name=f"{scope}.concat")(ends)
    up = conv2d(up, x.shape[-1], 1, f"{scope}.Conv2d_1x1", args, after="bias")
    up = keras.layers.Rescaling(step.scale, name=f"{scope}.scale")(up)
    x = keras.layers.Add(name=f"{scope}.add" if step.activate else scope)([x, up])
    return keras.layers.Activation(args.activation, name=scope)(x) if step.activate else x


def _stages(steps: Sequence[Step], scope: str, args: ArgScope) -> list[Stage]:
    """A stage for every step with weights, called like slim's end point; a pool belongs to the step before it."""
    found: list[Stage] = []
    for step in steps:
        match step:
            case Conv(name):
                found.append(Stage(name, f"{scope}.{name}.{args.activation}"))
            case Separable(name) | Mixed(name) | Residual(name):
                found.append(Stage(name, f"{scope}.{name}"))
            case Repeat(name, inner):
                found.append(Stage(name, f"{scope}.{name}.{inner[-1].name}"))
            case Pool(name):
                found[-1] = Stage(found[-1].name, f"{scope}.{name}")
    return found
