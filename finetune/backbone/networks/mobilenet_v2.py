"""MobileNet v2 with slim's names.

Source: Sandler et al. 2018 (arXiv:1801.04381), tensorflow/models research/slim/nets/mobilenet/mobilenet_v2.py and
conv_blocks.py, with `finegrain_classification_mode`: the last convolution keeps its channels in narrow networks. The
dropout in front of slim's logits is not built: it only acts in training, and the head trained here is another.
"""

from functools import partial

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, depthwise_conv2d, finish

ARGS = ArgScope(
    decay=0.997,
    epsilon=1e-3,
    gamma=True,
    activation="relu6",
    initializer=partial(keras.initializers.TruncatedNormal, stddev=0.09),
)

BLOCKS = (
    # channels, stride
    *((16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1)),
    *((64, 2), (64, 1), (64, 1), (64, 1), (96, 1), (96, 1), (96, 1)),
    *((160, 2), (160, 1), (160, 1), (320, 1)),
)
"""expanded_conv, expanded_conv_1 and so on at `depth_multiplier` 1."""

EXPANSION = 6
"""Channels inside a block for each one that goes in; the first block does not expand."""


def build(
    image_size: tuple[int, int], outputs: int | None, *, depth_multiplier: float = 1.0, scope: str = "MobilenetV2"
) -> Network:
    """Build MobileNet v2: `[batch, height, width, 3]` to features `[batch, 1280 * max(1, depth_multiplier)]`.

    `depth_multiplier` scales the channels of every layer, to a multiple of 8.
    """
    images = keras.Input((*image_size, 3), name="images")
    x = conv2d(images, divisible(32 * depth_multiplier), 3, f"{scope}.Conv", ARGS, stride=2)
    stages = [Stage("Conv", f"{scope}.Conv.relu6")]
    for index, (channels, stride) in enumerate(BLOCKS):
        block = f"expanded_conv_{index}" if index else "expanded_conv"
        x = _block(x, divisible(channels * depth_multiplier), f"{scope}.{block}", stride, EXPANSION if index else 1)
        stages.append(Stage(block, x._keras_history.operation.name))
    x = conv2d(x, divisible(1280 * max(1.0, depth_multiplier)), 1, f"{scope}.Conv_1", ARGS)
    stages.append(Stage("Conv_1", f"{scope}.Conv_1.relu6"))
    head = ("Logits.AvgPool", "Logits.Conv2d_1c_1x1")
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=head)


def divisible(channels: float, by: int = 8) -> int:
    """The multiple of `by` next to `channels`, at least `by`, and at most a tenth below `channels`."""
    near = max(by, int(channels + by / 2) // by * by)
    return near if near >= 0.9 * channels else near + by


def _block(x: keras.KerasTensor, channels: int, scope: str, stride: int, expansion: int) -> keras.KerasTensor:
    """`[batch, height, width, c]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`: expand, filter
    each channel, project without an activation; the input is added where it has the shape of the output."""
    given, before = x, x.shape[-1]
    if expansion > 1:
        x = conv2d(x, before * expansion, 1, f"{scope}.expand", ARGS)
    x = depthwise_conv2d(x, 3, f"{scope}.depthwise", ARGS, stride=stride)
    x = conv2d(x, channels, 1, f"{scope}.project", ARGS, after="norm")
    return keras.layers.Add(name=f"{scope}.add")([x, given]) if stride == 1 and before == channels else x
