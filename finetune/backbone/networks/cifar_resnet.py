"""Residual networks of basic blocks for images of about 32 px: a 3x3 stem that keeps the size, no max-pool.

Source: He et al. 2015 (arXiv:1512.03385). Two forms, which differ in the shortcuts of units that change the shape:

- `pad` (the paper's option A, for CIFAR-10 in section 4.2): average-pooled and filled up with channels of zeros on both
  sides, without a parameter; tensorflow/models tutorials/image/cifar10_estimator/model_base.py, `_residual_v1`.
- `project` (option B): 1x1 convolution with BatchNorm; kuangliu/pytorch-cifar models/resnet.py, the usual "ResNet-18
  for CIFAR".

Layers are named as slim names them. tests/networks/test_cifar_networks.py holds the outputs against the sources'
operations in float64, and the numbers of parameters against published ones.
"""

from collections.abc import Sequence
from typing import Literal

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, conv2d_same, finish

ARGS = ArgScope(decay=0.9, epsilon=1e-5, gamma=True, activation="relu", initializer=keras.initializers.HeNormal)


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    scope: str,
    units: Sequence[int] = (2, 3, 2),
    width: int = 32,
    shortcut: Literal["pad", "project"] = "pad",
) -> Network:
    """Build a basic-block ResNet: `[batch, height, width, 3]` to features `[batch, width * 2^(blocks - 1)]`.

    units: residual units in each block. Every block but the first halves the map, rounded up, and doubles the channels.
    width: channels of the first convolution and of block1.
    """
    images = keras.Input((*image_size, 3), name="images")
    x = conv2d(images, width, 3, f"{scope}.conv1", ARGS)
    stages = [Stage("conv1", f"{scope}.conv1.relu")]
    for block, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            name = f"{scope}.block{block}.unit_{unit}"
            stride = 2 if unit == 1 and block > 1 else 1
            x = _unit(x, width * 2 ** (block - 1), stride, shortcut, name)
        stages.append(Stage(f"block{block}", name))
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=("pool", "logits"))


def _unit(x: keras.KerasTensor, depth: int, stride: int, shortcut: str, name: str) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), depth]`."""
    kept = x
    if x.shape[-1] != depth and shortcut == "project":
        kept = conv2d(x, depth, 1, f"{name}.shortcut", ARGS, stride=stride, after="norm")
    elif x.shape[-1] != depth:
        kept = _padded(x, depth, stride, f"{name}.shortcut")
    x = conv2d_same(x, depth, 3, f"{name}.conv1", ARGS, stride=stride)
    x = conv2d(x, depth, 3, f"{name}.conv2", ARGS, after="norm")
    x = keras.layers.Add(name=f"{name}.add")([kept, x])
    return keras.layers.Activation("relu", name=name)(x)


def _padded(x: keras.KerasTensor, depth: int, stride: int, name: str) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), depth]`."""
    x = keras.layers.AveragePooling2D(stride, strides=stride, padding="same", name=f"{name}.pool")(x)
    before = (depth - x.shape[-1]) // 2
    after = depth - x.shape[-1] - before
    # With `channels_first` the stock layer pads axes 2 and 3; here the last axis holds the channels.
    pad = keras.layers.ZeroPadding2D(((0, 0), (before, after)), data_format="channels_first", name=name)
    return pad(x)
