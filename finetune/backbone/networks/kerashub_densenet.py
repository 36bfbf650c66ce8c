"""The DenseNets of KerasHub's presets, with KerasHub's layer names.

Source: Huang et al. 2016 (arXiv:1608.06993); keras_hub/src/models/densenet/densenet_backbone.py of KerasHub 0.32. It
pads as TensorFlow's SAME does, unlike `keras.applications`. tests/networks/test_kerashub.py compares the two.
"""

from collections.abc import Sequence

import keras

from finetune.backbone.networks.kerashub_resnet import finish
from finetune.backbone.networks.network import Network, Stage

_WIDTH = 64
"""Channels of the first convolution."""


def build(
    image_size: tuple[int | None, int | None],
    outputs: int | None,
    *,
    repeats: Sequence[int],
    growth: int = 32,
    compression: float = 0.5,
    channels: int = 3,
) -> Network:
    """Build a DenseNet: `[batch, height, width, channels]` to pooled features, or to logits `[batch, outputs]`.

    repeats: dense layers in each stack; each adds `growth` channels. The transition behind a stack, which belongs to
    its stage, keeps the share `compression` of them and halves the map.
    """
    images = keras.Input((*image_size, channels), name="images")
    x = keras.layers.Conv2D(_WIDTH, 7, strides=2, padding="same", use_bias=False, name="conv1_conv")(images)
    x = _norm_relu(x, "conv1_bn", "conv1_relu")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="pool1")(x)
    stages = [Stage("conv1", "pool1")]
    for number, count in enumerate(repeats, start=1):
        for layer in range(1, count + 1):
            x = _dense_layer(x, growth, f"stack{number}_block{layer}")
        if number < len(repeats):
            name = f"transition{number}"
            x = _norm_conv(x, int(x.shape[-1] * compression), 1, name)
            x = keras.layers.AveragePooling2D(2, name=f"{name}_pool")(x)
            stages.append(Stage(f"stack{number}", f"{name}_pool"))
    x = _norm_relu(x, "bn", "relu")
    stages.append(Stage(f"stack{len(repeats)}", "relu"))
    return finish(images, x, outputs, stages, name="densenet")


def _dense_layer(x: keras.KerasTensor, growth: int, name: str) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, height, width, channels + growth]`, the input first."""
    new = _norm_conv(x, 4 * growth, 1, f"{name}_1")
    new = _norm_conv(new, growth, 3, f"{name}_2")
    return keras.layers.Concatenate(name=f"{name}_concat")([x, new])


def _norm_conv(x: keras.KerasTensor, width: int, side: int, name: str) -> keras.KerasTensor:
    """BatchNorm, ReLU, convolution: `[batch, height, width, channels]` to `[batch, height, width, width]`."""
    x = _norm_relu(x, f"{name}_bn", f"{name}_relu")
    return keras.layers.Conv2D(width, side, padding="same", use_bias=False, name=f"{name}_conv")(x)


def _norm_relu(x: keras.KerasTensor, norm: str, relu: str) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(epsilon=1.001e-5, name=norm)(x)
    return keras.layers.Activation("relu", name=relu)(x)
