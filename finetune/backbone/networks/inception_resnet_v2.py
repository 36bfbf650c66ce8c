"""Inception-ResNet v2 with slim's names, without the auxiliary head.

Source: Szegedy et al. 2016 (arXiv:1602.07261), tensorflow/models research/slim/nets/inception_resnet_v2.py.
tests/networks/test_slim_inception_resnet_v2.py shows that the outputs equal those of `keras.applications`, and
compares the names with those of the source. The dropout in front of slim's logits is not built: it only acts in
training, and the head trained here is another.
"""

import keras

from finetune.backbone.networks.inception_steps import Conv, Mixed, Pool, Repeat, Residual, apply, stages
from finetune.backbone.networks.network import Network
from finetune.backbone.networks.slim_layers import ArgScope, pool_and_logits

ARGS = ArgScope(
    decay=0.9997, epsilon=1e-3, gamma=False, activation="relu", initializer=keras.initializers.GlorotUniform
)

HALVE = Pool("MaxPool_1a_3x3", "max", stride=2, padding="valid")

BLOCK_35 = (
    (Conv("Conv2d_1x1", 32, 1),),
    (Conv("Conv2d_0a_1x1", 32, 1), Conv("Conv2d_0b_3x3", 32, 3)),
    (Conv("Conv2d_0a_1x1", 32, 1), Conv("Conv2d_0b_3x3", 48, 3), Conv("Conv2d_0c_3x3", 64, 3)),
)
BLOCK_17 = (
    (Conv("Conv2d_1x1", 192, 1),),
    (Conv("Conv2d_0a_1x1", 128, 1), Conv("Conv2d_0b_1x7", 160, (1, 7)), Conv("Conv2d_0c_7x1", 192, (7, 1))),
)
BLOCK_8 = (
    (Conv("Conv2d_1x1", 192, 1),),
    (Conv("Conv2d_0a_1x1", 192, 1), Conv("Conv2d_0b_1x3", 224, (1, 3)), Conv("Conv2d_0c_3x1", 256, (3, 1))),
)

STEPS = (
    Conv("Conv2d_1a_3x3", 32, 3, stride=2, padding="valid"),
    Conv("Conv2d_2a_3x3", 32, 3, padding="valid"),
    Conv("Conv2d_2b_3x3", 64, 3),
    Pool("MaxPool_3a_3x3", "max", stride=2, padding="valid"),
    Conv("Conv2d_3b_1x1", 80, 1),
    Conv("Conv2d_4a_3x3", 192, 3, padding="valid"),
    Pool("MaxPool_5a_3x3", "max", stride=2, padding="valid"),
    Mixed(
        "Mixed_5b",
        (
            (Conv("Conv2d_1x1", 96, 1),),
            (Conv("Conv2d_0a_1x1", 48, 1), Conv("Conv2d_0b_5x5", 64, 5)),
            (Conv("Conv2d_0a_1x1", 64, 1), Conv("Conv2d_0b_3x3", 96, 3), Conv("Conv2d_0c_3x3", 96, 3)),
            (Pool("AvgPool_0a_3x3", "average"), Conv("Conv2d_0b_1x1", 64, 1)),
        ),
    ),
    Repeat("Repeat", tuple(Residual(f"block35_{i}", BLOCK_35, 0.17) for i in range(1, 11))),
    Mixed(
        "Mixed_6a",
        (
            (Conv("Conv2d_1a_3x3", 384, 3, stride=2, padding="valid"),),
            (
                Conv("Conv2d_0a_1x1", 256, 1),
                Conv("Conv2d_0b_3x3", 256, 3),
                Conv("Conv2d_1a_3x3", 384, 3, stride=2, padding="valid"),
            ),
            (HALVE,),
        ),
    ),
    Repeat("Repeat_1", tuple(Residual(f"block17_{i}", BLOCK_17, 0.10) for i in range(1, 21))),
    Mixed(
        "Mixed_7a",
        (
            (Conv("Conv2d_0a_1x1", 256, 1), Conv("Conv2d_1a_3x3", 384, 3, stride=2, padding="valid")),
            (Conv("Conv2d_0a_1x1", 256, 1), Conv("Conv2d_1a_3x3", 288, 3, stride=2, padding="valid")),
            (
                Conv("Conv2d_0a_1x1", 256, 1),
                Conv("Conv2d_0b_3x3", 288, 3),
                Conv("Conv2d_1a_3x3", 320, 3, stride=2, padding="valid"),
            ),
            (HALVE,),
        ),
    ),
    Repeat("Repeat_2", tuple(Residual(f"block8_{i}", BLOCK_8, 0.20) for i in range(1, 10))),
    Residual("Block8", BLOCK_8, 1.0, activate=False),
    Conv("Conv2d_7b_1x1", 1536, 1),
)
"""From the images to the last map, which is 8x8 at 299 px and 1x1 at 75 px."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str) -> Network:
    """Build Inception-ResNet v2: `[batch, height, width, 3]` to features `[batch, 1536]`; at least 75 px."""
    images = keras.Input((*image_size, 3), name="images")
    x = apply(images, STEPS, scope, ARGS)
    head = f"{scope}.Logits"
    x = pool_and_logits(x, outputs, ARGS, pool=f"{head}.AvgPool_1a_8x8", logits=f"{head}.Logits", fully_connected=True)
    return Network(keras.Model(images, x, name=scope), scope, tuple(stages(STEPS, scope, ARGS)))
