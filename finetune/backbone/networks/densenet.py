"""DenseNet-BC with the names of the TF-slim implementation.

Source: Huang et al. 2016 (arXiv:1608.06993), pudae/tensorflow-densenet nets/densenet.py. Unlike `keras.applications`
it pads as TensorFlow's SAME does, so the two differ at every size but 4k + 1, and its epsilon is 1.1e-5 against
1.001e-5. tests/networks/test_slim_densenet.py compares the two at such a size, and the names with those of the
source.
"""

from collections.abc import Sequence

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, batch_norm, conv2d, finish

ARGS = ArgScope(decay=0.99, epsilon=1.1e-5, gamma=True, activation="relu", initializer=keras.initializers.GlorotUniform)


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    scope: str,
    layers: Sequence[int] = (6, 12, 24, 16),
    growth: int = 32,
    width: int = 64,
) -> Network:
    """Build a DenseNet: `[batch, height, width, 3]` to features `[batch, channels]`, 1024 for DenseNet-121.

    layers: dense layers in each block; (6, 12, 24, 16) is DenseNet-121. Each adds `growth` channels. Between two blocks
        a transition halves the channels and the map, and rounds the map down: at least 29 px with four blocks.
    width: channels of the first convolution.
    """
    images = keras.Input((*image_size, 3), name="images")
    x = conv2d(images, width, 7, f"{scope}.conv1", ARGS, stride=2, after="nothing")
    x = batch_norm(x, f"{scope}.BatchNorm", ARGS)
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{scope}.pool1")(x)
    stages = [Stage("conv1", f"{scope}.pool1")]
    for block, count in enumerate(layers, start=1):
        for layer in range(1, count + 1):
            name = f"{scope}.dense_block{block}.conv_block{layer}"
            x = _dense_layer(x, growth, name)
        stages.append(Stage(f"dense_block{block}", name))
        if block < len(layers):
            name = f"{scope}.transition_block{block}"
            x = _norm_conv(x, x.shape[-1] // 2, 1, f"{name}.blk")
            x = keras.layers.AveragePooling2D(2, name=name)(x)
            stages.append(Stage(f"transition_block{block}", name))
    x = batch_norm(x, f"{scope}.final_block.BatchNorm", ARGS)
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=("final_block.global_avg_pool", "logits"))


def _dense_layer(x: keras.KerasTensor, growth: int, name: str) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, height, width, channels + growth]`, the input first."""
    new = _norm_conv(x, 4 * growth, 1, f"{name}.x1")
    new = _norm_conv(new, growth, 3, f"{name}.x2")
    return keras.layers.Concatenate(name=name)([x, new])


def _norm_conv(x: keras.KerasTensor, filters: int, size: int, name: str) -> keras.KerasTensor:
    """BatchNorm, activation, convolution: `[batch, height, width, channels]` to `[batch, height, width, filters]`.

    The convolution has neither bias nor BatchNorm: the next layer normalises.
    """
    x = batch_norm(x, f"{name}.BatchNorm", ARGS)
    return conv2d(x, filters, size, f"{name}.Conv", ARGS, after="nothing")
