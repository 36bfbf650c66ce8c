"""Inception v1 (GoogLeNet with BatchNorm) with slim's names.

Source: Szegedy et al. 2014 (arXiv:1409.4842), tf_slim/nets/inception_v1.py. tests/networks/test_slim_inception_v1.py
shows that the outputs equal tf_slim's. The dropout in front of slim's logits is not built: it only acts in training,
and the head trained here is another.
"""

from functools import partial

import keras

from finetune.backbone.networks.inception_steps import Conv, Mixed, Pool, apply, stages
from finetune.backbone.networks.network import Network
from finetune.backbone.networks.slim_layers import ArgScope, pool_and_logits

ARGS = ArgScope(
    decay=0.9997,
    epsilon=1e-3,
    gamma=False,
    activation="relu",
    initializer=partial(keras.initializers.TruncatedNormal, stddev=0.01),
)


def _mixed(
    name: str,
    plain: int,
    wide: tuple[int, int],
    narrow: tuple[int, int],
    pooled: int,
    *,
    narrow_3x3: str = "Conv2d_0b_3x3",
) -> Mixed:
    """A module by its branches' channels; `narrow_3x3` is slim's name of Branch_2's 3x3 convolution."""
    return Mixed(
        name,
        (
            (Conv("Conv2d_0a_1x1", plain, 1),),
            (Conv("Conv2d_0a_1x1", wide[0], 1), Conv("Conv2d_0b_3x3", wide[1], 3)),
            (Conv("Conv2d_0a_1x1", narrow[0], 1), Conv(narrow_3x3, narrow[1], 3)),
            (Pool("MaxPool_0a_3x3", "max"), Conv("Conv2d_0b_1x1", pooled, 1)),
        ),
    )


STEPS = (
    Conv("Conv2d_1a_7x7", 64, 7, stride=2),
    Pool("MaxPool_2a_3x3", "max", stride=2),
    Conv("Conv2d_2b_1x1", 64, 1),
    Conv("Conv2d_2c_3x3", 192, 3),
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
    _mixed("Mixed_5b", 256, (160, 320), (32, 128), 128, narrow_3x3="Conv2d_0a_3x3"),
    _mixed("Mixed_5c", 384, (192, 384), (48, 128), 128),
)
"""From the images to the last map, 32 times smaller."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str) -> Network:
    """Build Inception v1: `[batch, height, width, 3]` to features `[batch, 1024]`.

    Pools globally at any size, where slim's window is 7x7 and slim fails on a smaller map: the same up to 224 px.
    """
    images = keras.Input((*image_size, 3), name="images")
    x = apply(images, STEPS, scope, ARGS)
    head = f"{scope}.Logits"
    x = pool_and_logits(x, outputs, ARGS, pool=f"{head}.AvgPool_0a", logits=f"{head}.Conv2d_0c_1x1")
    return Network(keras.Model(images, x, name=scope), scope, tuple(stages(STEPS, scope, ARGS)))
