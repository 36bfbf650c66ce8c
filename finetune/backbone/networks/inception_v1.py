"""Inception v1 (GoogLeNet with BatchNorm) with slim's names.

Source: Szegedy et al. 2014 (arXiv:1409.4842), tf_slim/nets/inception_v1.py. tests/networks/test_slim_inception_v1.py
shows that the outputs equal tf_slim's.
"""

from functools import partial

import keras

from finetune.backbone.networks.inception import Conv, Mixed, Pool, network
from finetune.backbone.networks.network import Network


def _mixed(
    name: str, plain: int, wide: tuple[int, int], narrow: tuple[int, int], pooled: int, end: str = "Conv2d_0b_3x3"
) -> Mixed:
    """A module by its branches' channels; `end` is slim's name of Branch_2's 3x3 convolution."""
    return Mixed(
        name,
        (Conv("Conv2d_0a_1x1", plain),),
        (Conv("Conv2d_0a_1x1", wide[0]), Conv("Conv2d_0b_3x3", wide[1])),
        (Conv("Conv2d_0a_1x1", narrow[0]), Conv(end, narrow[1])),
        (Pool("MaxPool_0a_3x3", "max"), Conv("Conv2d_0b_1x1", pooled)),
    )


STEPS = (
    Conv("Conv2d_1a_7x7", 64, stride=2),
    Pool("MaxPool_2a_3x3", "max", stride=2),
    Conv("Conv2d_2b_1x1", 64),
    Conv("Conv2d_2c_3x3", 192),
    Pool("MaxPool_3a_3x3", "max", stride=2),
    _mixed("Mixed_3b", 64, (96, 128), (16, 32), 32),
    _mixed("Mixed_3c", 128, (128, 192), (32, 96), 64),
    Pool("MaxPool_4a_3x3", "max", stride=2),
    _mixed("Mixed_4b", 192, (96, 208), (16, 48), 64),
    _mixed("Mixed_4c", 160, (112, 224), (24, 64), 64),
    _mixed("Mixed_4d", 128, (128, 256), (24, 64), 64),
    _mixed("Mixed_4e", 112, (144, 288), (32, 64), 64),
    _mixed("Mixed_4f", 256, (160, 320), (32, 128), 128),
    Pool("MaxPool_5a_2x2", "max", size=2, stride=2),
    _mixed("Mixed_5b", 256, (160, 320), (32, 128), 128, end="Conv2d_0a_3x3"),
    _mixed("Mixed_5c", 384, (192, 384), (48, 128), 128),
)
"""From the images to the last map, 32 times smaller."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str) -> Network:
    """Build Inception v1: `[batch, height, width, 3]` to features `[batch, 1024]`.

    Pools globally at any size, where slim's window is 7x7 and slim fails on a smaller map: the same up to 224 px.
    """
    narrow = partial(keras.initializers.TruncatedNormal, stddev=0.01)
    head = ("AvgPool_0a", "Conv2d_0c_1x1")
    return network(image_size, outputs, STEPS, scope=scope, initializer=narrow, head=head)
