"""The VGGs of KerasHub's presets, without their fully connected layers, with KerasHub's layer names.

Source: Simonyan & Zisserman 2014 (arXiv:1409.1556); keras_hub/src/models/vgg/vgg_backbone.py of KerasHub 0.32. There
is no BatchNorm in them. tests/networks/test_kerashub.py compares the two.
"""

from collections.abc import Sequence

import keras

from finetune.backbone.networks.kerashub_resnet import finish
from finetune.backbone.networks.network import Network, Stage


def build(
    image_size: tuple[int | None, int | None],
    outputs: int | None,
    *,
    blocks: Sequence[tuple[int, int]],
    channels: int = 3,
) -> Network:
    """Build a VGG: `[batch, height, width, channels]` to pooled features, or to logits `[batch, outputs]`.

    blocks: (convolutions, filters) of each block, which ends in a pool that halves the map.
    """
    images = keras.Input((*image_size, channels), name="images")
    x, stages = images, []
    for number, (count, filters) in enumerate(blocks, start=1):
        name = f"block{number}"
        for layer in range(1, count + 1):
            conv = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"{name}_conv{layer}")
            x = conv(x)
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)
        stages.append(Stage(name, f"{name}_pool"))
    return finish(images, x, outputs, stages, name="vgg")
