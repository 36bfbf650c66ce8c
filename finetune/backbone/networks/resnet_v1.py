"""ResNet v1 with slim's topology and names.

Source: He et al. 2015 (arXiv:1512.03385), tf_slim/nets/resnet_v1.py and resnet_utils.py. Unlike the paper and
`keras.applications`, slim strides in the last unit of a block and on its 3x3 convolution, pads a strided
convolution alike at even and odd sizes, and has no convolution biases. tests/networks/test_resnet_v1.py shows that
the outputs equal tf_slim's.
"""

from collections.abc import Sequence
from typing import Literal

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, conv2d_same, finish

ARGS = ArgScope(decay=0.997, epsilon=1e-5, gamma=True, activation="relu", initializer=keras.initializers.HeNormal)


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    scope: str,
    units: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    stem: Literal["imagenet", "small"] = "imagenet",
) -> Network:
    """Build a bottleneck ResNet v1: `[batch, height, width, 3]` to features `[batch, 4 * width * 2^(blocks - 1)]`.

    units: residual units in each block; (3, 4, 6, 3) is ResNet-50. Every block but the last halves the map.
    width: channels of the first convolution and of block1's bottlenecks, doubled with each block.
    stem: "imagenet" is slim's 7x7 convolution and max-pool, each of stride 2: the map is ceil(side / 4). "small", for
        images of about 32 px, is a 3x3 convolution that keeps the size.
    """
    images = keras.Input((*image_size, 3), name="images")
    if stem == "imagenet":
        x = conv2d_same(images, width, 7, f"{scope}.conv1", ARGS, stride=2)
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{scope}.pool1")(x)
        stages = [Stage("conv1", f"{scope}.pool1")]
    else:
        x = conv2d(images, width, 3, f"{scope}.conv1", ARGS)
        stages = [Stage("conv1", f"{scope}.conv1.relu")]
    for block, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            name = f"{scope}.block{block}.unit_{unit}.bottleneck_v1"
            stride = 2 if unit == count and block < len(units) else 1
            x = _bottleneck(x, width * 2 ** (block - 1), stride, name)
        stages.append(Stage(f"block{block}", name))
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=("pool5", "logits"))


def _bottleneck(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), 4 * width]`."""
    depth = 4 * width
    shortcut = x
    if x.shape[-1] != depth:
        shortcut = conv2d(x, depth, 1, f"{name}.shortcut", ARGS, stride=stride, after="norm")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, strides=stride, name=f"{name}.shortcut")(x)
    x = conv2d(x, width, 1, f"{name}.conv1", ARGS)
    x = conv2d_same(x, width, 3, f"{name}.conv2", ARGS, stride=stride)
    x = conv2d(x, depth, 1, f"{name}.conv3", ARGS, after="norm")
    x = keras.layers.Add(name=f"{name}.add")([shortcut, x])
    return keras.layers.Activation("relu", name=name)(x)
