"""VGG-16 and VGG-19 with slim's names: no BatchNorm, and fully connected layers that are convolutions.

Source: Simonyan & Zisserman 2014 (arXiv:1409.1556), configurations D and E; tf_slim/nets/vgg.py. The features are those
of `fc7`, which slim's users keep when they exclude `fc8` from a checkpoint. `fc6` is a 7x7 convolution without padding,
so images have at least 32 * 7 = 224 px. Of larger images, slim gives a map of logits; here features and logits are
averaged over its places. tests/networks/test_slim_vgg.py shows that the outputs equal tf_slim's.
"""

from collections.abc import Sequence

import keras

from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, conv2d, finish

ARGS = ArgScope(decay=0.999, epsilon=1e-3, gamma=False, activation="relu", initializer=keras.initializers.GlorotUniform)
"""Only activation and initializer are of use: there is no BatchNorm."""


def build(
    image_size: tuple[int, int],
    outputs: int | None,
    *,
    scope: str,
    layers: Sequence[int] = (2, 2, 3, 3, 3),
    widths: Sequence[int] = (64, 128, 256, 512, 512),
    hidden: int = 4096,
    dropout: float = 0.5,
) -> Network:
    """Build a VGG: `[batch, height, width, 3]` to features `[batch, hidden]`.

    layers, widths: 3x3 convolutions in each of five stacks, and their channels; the defaults are VGG-16's. A max-pool
        behind each stack halves the map, rounded down.
    hidden, dropout: channels of `fc6` and `fc7`, and the share of them that training drops behind each.
    """
    images = keras.Input((*image_size, 3), name="images")
    x, stages = images, []
    for stack, (count, width) in enumerate(zip(layers, widths, strict=True), start=1):
        for layer in range(1, count + 1):
            x = _conv(x, width, 3, f"{scope}.conv{stack}.conv{stack}_{layer}")
        x = keras.layers.MaxPooling2D(2, name=f"{scope}.pool{stack}")(x)
        stages.append(Stage(f"conv{stack}", f"{scope}.pool{stack}"))
    for number, size in ((6, 7), (7, 1)):
        x = _conv(x, hidden, size, f"{scope}.fc{number}", padding="valid")
        x = keras.layers.Dropout(dropout, name=f"{scope}.dropout{number}")(x)
        stages.append(Stage(f"fc{number}", f"{scope}.dropout{number}"))
    return finish(images, x, outputs, ARGS, scope=scope, stages=stages, head=("global_pool", "fc8"))


def _conv(x: keras.KerasTensor, filters: int, size: int, scope: str, padding: str = "same") -> keras.KerasTensor:
    """Convolution with bias, and ReLU."""
    x = conv2d(x, filters, size, scope, ARGS, padding=padding, after="bias")
    return keras.layers.Activation(ARGS.activation, name=f"{scope}.{ARGS.activation}")(x)
