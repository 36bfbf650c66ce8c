"""MobileNet v1 with slim's names.

Source: Howard et al. 2017 (arXiv:1704.04861), tensorflow/models research/slim/nets/mobilenet_v1.py. The dropout in
front of slim's logits is not built: it only acts in training, and the head trained here is another.
"""

from functools import partial

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, depthwise_conv2d, finish

ARGS = ArgScope(
    decay=0.9997,
    epsilon=1e-3,
    gamma=True,
    activation="relu6",
    initializer=partial(keras.initializers.TruncatedNormal, stddev=0.09),
)

SEPARABLE = (
    # channels, stride
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *[(512, 1)] * 5,
    *((1024, 2), (1024, 1)),
)
"""Conv2d_1 to Conv2d_13 at `depth_multiplier` 1."""

MIN_DEPTH = 8
"""slim's least channels of a layer."""


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    depth_multiplier: float = 1.0,
    scope: str = "MobilenetV1",
) -> Network:
    """Build MobileNet v1: `[batch, height, width, 3]` to features `[batch, 1024 * depth_multiplier]`.

    `depth_multiplier` scales the channels of every layer, down to `MIN_DEPTH`. Pools globally at any size, where
    slim's default average-pool window is 7x7: the same up to 224 px.
    """

    def depth(channels: int) -> int:
        return max(int(channels * depth_multiplier), MIN_DEPTH)

    images = keras.Input((*image_size, 3), name="images")
    x = conv2d(images, depth(32), 3, f"{scope}.Conv2d_0", ARGS, stride=2)
    stages = [Stage("Conv2d_0", f"{scope}.Conv2d_0.relu6")]
    for index, (channels, stride) in enumerate(SEPARABLE, start=1):
        name = f"{scope}.Conv2d_{index}"
        x = depthwise_conv2d(x, 3, f"{name}_depthwise", ARGS, stride=stride)
        x = conv2d(x, depth(channels), 1, f"{name}_pointwise", ARGS)
        stages.append(Stage(f"Conv2d_{index}", f"{name}_pointwise.relu6"))
    head = ("Logits.AvgPool_1a", "Logits.Conv2d_1c_1x1")
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=head)
