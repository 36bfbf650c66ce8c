"""The ResNets of KerasHub's presets: v1, v2 (pre-activation) and vd, with KerasHub's layer names.

Source: He et al. 2015 and 2016 (arXiv:1512.03385, 1603.05027), He et al. 2018 for vd (arXiv:1812.01187, figure 2);
keras_hub/src/models/resnet/resnet_backbone.py of KerasHub 0.32. As there, a convolution of stride 2 pads both sides
alike, and the 3x3 convolution of a bottleneck has the stride. tests/networks/test_kerashub.py compares the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from finetune.backbone.networks.network import Network, Stage

BLOCKS = {
    "basic_block": (False, False),
    "bottleneck_block": (True, False),
    "basic_block_vd": (False, True),
    "bottleneck_block_vd": (True, True),
}
"""`block_type` of a preset -> (whether its blocks are bottlenecks, whether their shortcuts pool before a convolution of
stride 1: "vd")."""


@dataclass(frozen=True)
class _Form:
    """What all blocks of a network share. `pre`: BatchNorm and ReLU are in front of a convolution."""

    bottleneck: bool
    vd: bool
    pre: bool


def build(
    image_size: tuple[int | None, int | None],
    outputs: int | None,
    *,
    stem: Sequence[tuple[int, int]],
    stacks: Sequence[tuple[int, int, int]],
    block_type: str,
    pre: bool,
    channels: int = 3,
) -> Network:
    """Build a ResNet: `[batch, height, width, channels]` to pooled features, or to logits `[batch, outputs]`.

    stem: (filters, side of the kernel) of each convolution in front of the first pool; the first has stride 2.
    stacks: (filters, blocks, stride of the first block) of each stack; a bottleneck ends in four times its filters.
    block_type: a key of `BLOCKS`. pre: whether it is a v2.
    """
    form = _Form(*BLOCKS[block_type], pre)
    images = keras.Input((*image_size, channels), name="images")
    x = _pooled_stem(images, stem, form)
    stages = [Stage("conv1", x._keras_history.operation.name)]
    for number, (filters, blocks, stride) in enumerate(stacks):
        for block in range(blocks):
            first = block == 0
            # In the first stack of basic blocks the map keeps its size and its channels.
            shortcut = first and (block_type != "basic_block" or number > 0)
            name = f"stack{number}_block{block}"
            x = _block(x, filters, stride if first else 1, shortcut, form, name)
        stages.append(Stage(f"stack{number}", f"{name}_out"))
    if form.pre:
        x = _norm_relu(x, "post")
    return finish(images, x, outputs, stages, name="resnet")


def finish(
    images: keras.KerasTensor, x: keras.KerasTensor, outputs: int | None, stages: Sequence[Stage], *, name: str
) -> Network:
    """The network from `images` to the last map `x`: with KerasHub's pooling and, given `outputs`, its logits."""
    x = keras.layers.GlobalAveragePooling2D(name="pooler")(x)
    if outputs is not None:
        x = keras.layers.Dense(outputs, name="predictions")(x)
    return Network(keras.Model(images, x, name=name), "", tuple(stages))


def _pooled_stem(x: keras.KerasTensor, stem: Sequence[tuple[int, int]], form: _Form) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, height / 4, width / 4, filters]`."""
    for index, (filters, side) in enumerate(stem, start=1):
        if index == 1:
            x = keras.layers.ZeroPadding2D((side - 1) // 2, name="conv1_pad")(x)
        x = keras.layers.Conv2D(
            filters,
            side,
            strides=2 if index == 1 else 1,
            padding="valid" if index == 1 else "same",
            use_bias=False,
            name=f"conv{index}_conv",
        )(x)
        if not (form.pre and index == len(stem)):
            x = _norm_relu(x, f"conv{index}")
    if form.pre:
        # The values may be negative, so zeros at the border would count. KerasHub pads by minus infinity, which no
        # layer of Keras does but a pool of stride 1 with SAME. Every second of its values are those of the pool.
        x = keras.layers.MaxPooling2D(3, strides=1, padding="same", name="pool1_pool")(x)
        return keras.layers.MaxPooling2D(1, strides=2, name="pool1_stride")(x)
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name="pool1_pool")(x)


def _block(
    x: keras.KerasTensor, filters: int, stride: int, convolved: bool, form: _Form, name: str
) -> keras.KerasTensor:
    """A residual block: `[batch, height, width, channels]` to `[batch, height / stride, width / stride, width]`.

    convolved: whether the shortcut is a 1x1 convolution.
    """
    plan = [(1, filters, 1), (3, filters, stride), (1, 4 * filters, 1)]
    if not form.bottleneck:
        plan = [(3, filters, stride), (3, filters, 1)]
    inner = _norm_relu(x, f"{name}_pre_activation") if form.pre else x
    shortcut = _shortcut(inner, plan[-1][1], stride, form, name) if convolved else x
    for index, (side, width, step) in enumerate(plan, start=1):
        inner = _conv(inner, width, side, step, f"{name}_{index}")
        if index < len(plan):
            inner = _norm_relu(inner, f"{name}_{index}")
    if form.pre:
        return keras.layers.Add(name=f"{name}_out")([shortcut, inner])
    inner = _norm(inner, f"{name}_{len(plan)}")
    x = keras.layers.Add(name=f"{name}_add")([shortcut, inner])
    return keras.layers.Activation("relu", name=f"{name}_out")(x)


def _shortcut(x: keras.KerasTensor, width: int, stride: int, form: _Form, name: str) -> keras.KerasTensor:
    if form.vd and stride > 1:
        x = keras.layers.AveragePooling2D(2, strides=stride, padding="same", name=f"{name}_0_pool")(x)
    x = keras.layers.Conv2D(width, 1, strides=1 if form.vd else stride, use_bias=False, name=f"{name}_0_conv")(x)
    return x if form.pre else _norm(x, f"{name}_0")


def _conv(x: keras.KerasTensor, width: int, side: int, stride: int, name: str) -> keras.KerasTensor:
    padding = "same"
    if stride > 1:
        x, padding = keras.layers.ZeroPadding2D((side - 1) // 2, name=f"{name}_pad")(x), "valid"
    return keras.layers.Conv2D(width, side, strides=stride, padding=padding, use_bias=False, name=f"{name}_conv")(x)


def _norm_relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.Activation("relu", name=f"{name}_relu")(_norm(x, name))


def _norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    return keras.layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}_bn")(x)
