"""VGG with BatchNorm for images of about 32 px: stacks of 3x3 convolutions, max-pools between, a global mean last.

Source: Simonyan & Zisserman 2014 (arXiv:1409.1556), configuration D (VGG-16), its convolutions without biases and each
with BatchNorm, as in kuangliu/pytorch-cifar models/vgg.py; the three fully connected layers and the pool in front of
them are left out, so that any size from 16 px works. Layers are named as slim names them (tf_slim/nets/vgg.py).
tests/networks/test_cifar_networks.py holds its kernels against those of `keras.applications.VGG16`.
"""

from collections.abc import Sequence

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, finish

ARGS = ArgScope(decay=0.9, epsilon=1e-5, gamma=True, activation="relu", initializer=keras.initializers.HeNormal)


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    scope: str,
    layers: Sequence[int] = (2, 2, 3, 3, 3),
    widths: Sequence[int] = (64, 128, 256, 512, 512),
) -> Network:
    """Build a VGG: `[batch, height, width, 3]` to features `[batch, widths[-1]]`.

    layers, widths: 3x3 convolutions in each stack, and their channels; the defaults are VGG-16's. Between two stacks
        the map is halved, and rounded down: at least 2^(stacks - 1) px.
    """
    images = keras.Input((*image_size, 3), name="images")
    x, stages = images, []
    for stack, (count, width) in enumerate(zip(layers, widths, strict=True), start=1):
        if stack > 1:
            x = keras.layers.MaxPooling2D(2, name=f"{scope}.pool{stack - 1}")(x)
        for layer in range(1, count + 1):
            name = f"{scope}.conv{stack}.conv{stack}_{layer}"
            x = conv2d(x, width, 3, name, ARGS)
        stages.append(Stage(f"conv{stack}", f"{name}.relu"))
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=(f"pool{len(layers)}", "logits"))
