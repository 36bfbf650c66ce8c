"""The Xceptions of KerasHub's presets, with KerasHub's layer names.

Source: Chollet 2016 (arXiv:1610.02357); keras_hub/src/models/xception/xception_backbone.py of KerasHub 0.32.
tests/networks/test_kerashub.py compares the two.
"""

from collections.abc import Sequence
from typing import Literal

import keras

from finetune.backbone.networks.kerashub_resnet import finish
from finetune.backbone.networks.network import Network, Stage

Relu = Literal["behind", "in front", "in front, but of the first"]
"""Where a block's separable convolutions have their ReLU."""


def build(
    image_size: tuple[int | None, int | None],
    outputs: int | None,
    *,
    blocks: Sequence[tuple[Sequence[int], bool]],
    channels: int = 3,
) -> Network:
    """Build an Xception: `[batch, height, width, channels]` to pooled features, or to logits `[batch, outputs]`.

    blocks: (filters of each convolution, whether a pool halves the map) of each block, at least two. The first has
    plain convolutions, of which the first has stride 2; all others separable ones. All but the first and the last have
    a shortcut around them.
    """
    images = keras.Input((*image_size, channels), name="images")
    x, stages = images, []
    for number, (filters, pooled) in enumerate(blocks, start=1):
        name = f"block{number}"
        if number == 1:
            x = _plain(x, filters, name)
        elif number == len(blocks):
            x = _separable(x, filters, name, "behind")
        else:
            before = x
            x = _separable(x, filters, name, "in front, but of the first" if number == 2 else "in front")
        if pooled:
            x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{name}_pool")(x)
        if 1 < number < len(blocks):
            x = keras.layers.Add(name=f"{name}_residual_add")([x, _shortcut(before, x.shape[-1], name)])
        stages.append(Stage(name, x._keras_history.operation.name))
    return finish(images, x, outputs, stages, name="xception")


def _plain(x: keras.KerasTensor, filters: Sequence[int], name: str) -> keras.KerasTensor:
    """Convolutions without padding, each with BatchNorm and ReLU."""
    for index, width in enumerate(filters, start=1):
        place = f"{name}_conv{index}"
        x = keras.layers.Conv2D(width, 3, strides=2 if index == 1 else 1, use_bias=False, name=place)(x)
        x = keras.layers.Activation("relu", name=f"{place}_act")(_norm(x, place))
    return x


def _separable(x: keras.KerasTensor, filters: Sequence[int], name: str, relu: Relu) -> keras.KerasTensor:
    """Separable convolutions, each with BatchNorm and ReLU."""
    for index, width in enumerate(filters, start=1):
        place = f"{name}_sepconv{index}"
        if relu == "in front" or (relu != "behind" and index > 1):
            x = keras.layers.Activation("relu", name=f"{place}_act")(x)
        x = keras.layers.SeparableConv2D(width, 3, padding="same", use_bias=False, name=place)(x)
        x = _norm(x, place)
        if relu == "behind":
            x = keras.layers.Activation("relu", name=f"{place}_act")(x)
    return x


def _shortcut(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """`x` itself where it has `width` channels, else its 1x1 convolution of stride 2: such a block pools."""
    if x.shape[-1] == width:
        return x
    place = f"{name}_residual"
    x = keras.layers.Conv2D(width, 1, strides=2, padding="same", use_bias=False, name=f"{place}_conv")(x)
    return _norm(x, place)


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.BatchNormalization(name=f"{name}_bn")(x)
