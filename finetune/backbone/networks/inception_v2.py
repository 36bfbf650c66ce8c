"""Inception v2 with slim's names.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), tf_slim/nets/inception_v2.py. tests/networks/test_slim_inception_v2.py
shows that the outputs equal tf_slim's. The first convolution is a separable one with
a bias and no BatchNorm, which slim's `arg_scope` does not reach.
The dropout in front of slim's logits is not built: it only acts in training, and the head trained here is another.
All start from slim's default initial weights.
"""

import keras

from finetune.backbone.networks.inception_steps import MIN_DEPTH, Conv, Mixed, Pool, apply, stages
from finetune.backbone.networks.network import Network, Stage
from finetune.backbone.networks.slim_layers import ArgScope, pool_and_logits

ARGS = ArgScope(decay=0.9997, epsilon=1e-3, gamma=False, activation="relu", initializer=keras.initializers.HeNormal)

AVERAGE = Pool("AvgPool_0a_3x3", "average")


def _mixed(
    name: str,
    plain: int,
    single: tuple[int, int],
    double: tuple[int, int],
    pooled: int,
    *,
    pool: Pool = AVERAGE,
) -> Mixed:
    """A module by its branches' channels."""
    return Mixed(
        name,
        (
            (Conv("Conv2d_0a_1x1", plain, 1),),
            (Conv("Conv2d_0a_1x1", single[0], 1), Conv("Conv2d_0b_3x3", single[1], 3)),
            (
                Conv("Conv2d_0a_1x1", double[0], 1),
                Conv("Conv2d_0b_3x3", double[1], 3),
                Conv("Conv2d_0c_3x3", double[1], 3),
            ),
            (pool, Conv("Conv2d_0b_1x1", pooled, 1)),
        ),
    )


def _halving(name: str, single: tuple[int, int], double: tuple[int, int]) -> Mixed:
    """A module of stride 2."""
    return Mixed(
        name,
        (
            (Conv("Conv2d_0a_1x1", single[0], 1), Conv("Conv2d_1a_3x3", single[1], 3, stride=2)),
            (
                Conv("Conv2d_0a_1x1", double[0], 1),
                Conv("Conv2d_0b_3x3", double[1], 3),
                Conv("Conv2d_1a_3x3", double[1], 3, stride=2),
            ),
            (Pool("MaxPool_1a_3x3", "max", stride=2),),
        ),
    )


STEPS = (
    Conv("Conv2d_2b_1x1", 64, 1),
    Conv("Conv2d_2c_3x3", 192, 3),
    Pool("MaxPool_3a_3x3", "max", stride=2),
    _mixed("Mixed_3b", 64, (64, 64), (64, 96), 32),
    _mixed("Mixed_3c", 64, (64, 96), (64, 96), 64),
    _halving("Mixed_4a", (128, 160), (64, 96)),
    _mixed("Mixed_4b", 224, (64, 96), (96, 128), 128),
    _mixed("Mixed_4c", 192, (96, 128), (96, 128), 128),
    _mixed("Mixed_4d", 160, (128, 160), (128, 160), 96),
    _mixed("Mixed_4e", 96, (128, 192), (160, 192), 96),
    _halving("Mixed_5a", (128, 192), (192, 256)),
    _mixed("Mixed_5b", 352, (192, 320), (160, 224), 128),
    _mixed("Mixed_5c", 352, (192, 320), (192, 224), 128, pool=Pool("MaxPool_0a_3x3", "max")),
)
"""From `MaxPool_2a_3x3` to the last map, 32 times smaller than the images."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str, depth_multiplier: float = 1.0) -> Network:
    """Build Inception v2: `[batch, height, width, 3]` to features `[batch, 1024]`.

    `depth_multiplier` scales the channels of every convolution, down to 16. Pools globally at any size, where slim's
    window is 7x7: the same up to 224 px.
    """
    images = keras.Input((*image_size, 3), name="images")
    depth = max(int(64 * depth_multiplier), MIN_DEPTH)
    x = keras.layers.SeparableConv2D(
        depth,
        7,
        strides=2,
        padding="same",
        depth_multiplier=min(depth // 3, 8),  # slim keeps its middle no wider than its end
        activation=ARGS.activation,
        name=f"{scope}.Conv2d_1a_7x7",
    )(images)
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{scope}.MaxPool_2a_3x3")(x)
    x = apply(x, STEPS, scope, ARGS, depth_multiplier)
    head = f"{scope}.Logits"
    x = pool_and_logits(x, outputs, ARGS, pool=f"{head}.AvgPool_1a", logits=f"{head}.Conv2d_1c_1x1")
    first = Stage("Conv2d_1a_7x7", f"{scope}.MaxPool_2a_3x3")
    return Network(keras.Model(images, x, name=scope), scope, (first, *stages(STEPS, scope, ARGS)))
