"""ResNet v2 with slim's topology and names.

Source: He et al. 2016 (arXiv:1603.05027), tf_slim/nets/resnet_v2.py and resnet_utils.py. BatchNorm and activation come
before the convolutions: so the first convolution, the shortcuts and the last convolution of a unit have a bias
instead, and a last BatchNorm (`postnorm`) follows the blocks. A shortcut of another depth starts at the activated
input (`preact`), any other at the input itself. Strides and padding are those of `resnet_v1` in this package.
tests/networks/test_slim_resnet_v2.py shows that the outputs equal tf_slim's.
"""

from collections.abc import Sequence

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, batch_norm, conv2d, conv2d_same, finish

ARGS = ArgScope(decay=0.997, epsilon=1e-5, gamma=True, activation="relu", initializer=keras.initializers.HeNormal)


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    scope: str,
    units: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
) -> Network:
    """Build a bottleneck ResNet v2: `[batch, height, width, 3]` to features `[batch, 4 * width * 2^(blocks - 1)]`.

    units: residual units in each block; (3, 4, 6, 3) is ResNet-50. Every block but the last halves the map.
    width: channels of the first convolution and of block1's bottlenecks, doubled with each block.
    """
    images = keras.Input((*image_size, 3), name="images")
    x = conv2d_same(images, width, 7, f"{scope}.conv1", ARGS, stride=2, after="bias")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{scope}.pool1")(x)
    stages = [Stage("conv1", f"{scope}.pool1")]
    for block, count in enumerate(units, start=1):
        for unit in range(1, count + 1):
            name = f"{scope}.block{block}.unit_{unit}.bottleneck_v2"
            stride = 2 if unit == count and block < len(units) else 1
            x = _bottleneck(x, width * 2 ** (block - 1), stride, name)
        stages.append(Stage(f"block{block}", name))
    x = batch_norm(x, f"{scope}.postnorm", ARGS)
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=("pool5", "logits"))


def _bottleneck(x: keras.KerasTensor, width: int, stride: int, name: str) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), 4 * width]`."""
    depth = 4 * width
    preact = batch_norm(x, f"{name}.preact", ARGS)
    shortcut = x
    if x.shape[-1] != depth:
        shortcut = conv2d(preact, depth, 1, f"{name}.shortcut", ARGS, stride=stride, after="bias")
    elif stride > 1:
        shortcut = keras.layers.MaxPooling2D(1, strides=stride, name=f"{name}.shortcut")(x)
    x = conv2d(preact, width, 1, f"{name}.conv1", ARGS)
    x = conv2d_same(x, width, 3, f"{name}.conv2", ARGS, stride=stride)
    x = conv2d(x, depth, 1, f"{name}.conv3", ARGS, after="bias")
    return keras.layers.Add(name=name)([shortcut, x])
