"""Inception v3 with slim's names, without the auxiliary head.

Source: Szegedy et al. 2015 (arXiv:1512.00567), tf_slim/nets/inception_v3.py. tests/networks/test_slim_inception_v3.py
shows that the outputs equal tf_slim's. The dropout in front of slim's logits is not built: it only acts in training,
and the head trained here is another. All convolutions start from slim's default initial weights.
"""

import keras

from finetune.backbone.networks.inception_steps import Conv, Fork, Mixed, Pool, apply, stages
from finetune.backbone.networks.network import Network
from finetune.backbone.networks.slim_layers import ArgScope, pool_and_logits

ARGS = ArgScope(decay=0.9997, epsilon=1e-3, gamma=False, activation="relu", initializer=keras.initializers.HeNormal)

AVERAGE = Pool("AvgPool_0a_3x3", "average")
HALVE = Pool("MaxPool_1a_3x3", "max", stride=2, padding="valid")


def _mixed_35(name: str, pooled: int, *, names: tuple[str, str] = ("Conv2d_0a_1x1", "Conv2d_0b_5x5")) -> Mixed:
    """35x35 at 299 px. `pooled` are the channels of the pooled branch, `names` the convolutions of Branch_1."""
    return Mixed(
        name,
        (
            (Conv("Conv2d_0a_1x1", 64, 1),),
            (Conv(names[0], 48, 1), Conv(names[1], 64, 5)),
            (Conv("Conv2d_0a_1x1", 64, 1), Conv("Conv2d_0b_3x3", 96, 3), Conv("Conv2d_0c_3x3", 96, 3)),
            (AVERAGE, Conv("Conv2d_0b_1x1", pooled, 1)),
        ),
    )


def _mixed_17(name: str, width: int) -> Mixed:
    """17x17 at 299 px. `width` are the channels inside the factorised branches."""
    return Mixed(
        name,
        (
            (Conv("Conv2d_0a_1x1", 192, 1),),
            (
                Conv("Conv2d_0a_1x1", width, 1),
                Conv("Conv2d_0b_1x7", width, (1, 7)),
                Conv("Conv2d_0c_7x1", 192, (7, 1)),
            ),
            (
                Conv("Conv2d_0a_1x1", width, 1),
                Conv("Conv2d_0b_7x1", width, (7, 1)),
                Conv("Conv2d_0c_1x7", width, (1, 7)),
                Conv("Conv2d_0d_7x1", width, (7, 1)),
                Conv("Conv2d_0e_1x7", 192, (1, 7)),
            ),
            (AVERAGE, Conv("Conv2d_0b_1x1", 192, 1)),
        ),
    )


def _mixed_8(name: str, *, tall: str) -> Mixed:
    """8x8 at 299 px. `tall` is slim's name of Branch_1's 3x1 convolution."""
    return Mixed(
        name,
        (
            (Conv("Conv2d_0a_1x1", 320, 1),),
            (Conv("Conv2d_0a_1x1", 384, 1), Fork((Conv("Conv2d_0b_1x3", 384, (1, 3)), Conv(tall, 384, (3, 1))))),
            (
                Conv("Conv2d_0a_1x1", 448, 1),
                Conv("Conv2d_0b_3x3", 384, 3),
                Fork((Conv("Conv2d_0c_1x3", 384, (1, 3)), Conv("Conv2d_0d_3x1", 384, (3, 1)))),
            ),
            (AVERAGE, Conv("Conv2d_0b_1x1", 192, 1)),
        ),
    )


STEPS = (
    Conv("Conv2d_1a_3x3", 32, 3, stride=2, padding="valid"),
    Conv("Conv2d_2a_3x3", 32, 3, padding="valid"),
    Conv("Conv2d_2b_3x3", 64, 3),
    Pool("MaxPool_3a_3x3", "max", stride=2, padding="valid"),
    Conv("Conv2d_3b_1x1", 80, 1),
    Conv("Conv2d_4a_3x3", 192, 3, padding="valid"),
    Pool("MaxPool_5a_3x3", "max", stride=2, padding="valid"),
    _mixed_35("Mixed_5b", 32),
    _mixed_35("Mixed_5c", 64, names=("Conv2d_0b_1x1", "Conv_1_0c_5x5")),
    _mixed_35("Mixed_5d", 64),
    Mixed(
        "Mixed_6a",
        (
            # Called 1x1 in slim and in its checkpoints.
            (Conv("Conv2d_1a_1x1", 384, 3, stride=2, padding="valid"),),
            (
                Conv("Conv2d_0a_1x1", 64, 1),
                Conv("Conv2d_0b_3x3", 96, 3),
                Conv("Conv2d_1a_1x1", 96, 3, stride=2, padding="valid"),
            ),
            (HALVE,),
        ),
    ),
    _mixed_17("Mixed_6b", 128),
    _mixed_17("Mixed_6c", 160),
    _mixed_17("Mixed_6d", 160),
    _mixed_17("Mixed_6e", 192),
    Mixed(
        "Mixed_7a",
        (
            (Conv("Conv2d_0a_1x1", 192, 1), Conv("Conv2d_1a_3x3", 320, 3, stride=2, padding="valid")),
            (
                Conv("Conv2d_0a_1x1", 192, 1),
                Conv("Conv2d_0b_1x7", 192, (1, 7)),
                Conv("Conv2d_0c_7x1", 192, (7, 1)),
                Conv("Conv2d_1a_3x3", 192, 3, stride=2, padding="valid"),
            ),
            (HALVE,),
        ),
    ),
    _mixed_8("Mixed_7b", tall="Conv2d_0b_3x1"),
    _mixed_8("Mixed_7c", tall="Conv2d_0c_3x1"),
)
"""From the images to the last map, which is 8x8 at 299 px and 1x1 at 75 px."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str, depth_multiplier: float = 1.0) -> Network:
    """Build Inception v3: `[batch, height, width, 3]` to features `[batch, 2048]`; at least 75 px.

    `depth_multiplier` scales the channels of every convolution, down to 16. Pools globally at any size, where slim's
    window is 8x8: the same up to 330 px.
    """
    images = keras.Input((*image_size, 3), name="images")
    x = apply(images, STEPS, scope, ARGS, depth_multiplier)
    head = f"{scope}.Logits"
    x = pool_and_logits(x, outputs, ARGS, pool=f"{head}.AvgPool_1a", logits=f"{head}.Conv2d_1c_1x1")
    return Network(keras.Model(images, x, name=scope), scope, tuple(stages(STEPS, scope, ARGS)))
