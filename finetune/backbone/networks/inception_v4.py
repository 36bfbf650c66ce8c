"""Inception v4 with slim's names, without the auxiliary head.

Source: Szegedy et al. 2016 (arXiv:1602.07261), tensorflow/models research/slim/nets/inception_v4.py.
tests/networks/test_slim_inception_v4.py compares names, shapes and outputs with those of the source. The dropout
in front of slim's logits is not built: it only acts in training, and the head trained here is another.
"""

import keras

from finetune.backbone.networks.inception_steps import Conv, Fork, Mixed, Pool, Step, apply, stages
from finetune.backbone.networks.network import Network
from finetune.backbone.networks.slim_layers import ArgScope, pool_and_logits

ARGS = ArgScope(decay=0.9997, epsilon=1e-3, gamma=False, activation="relu", initializer=keras.initializers.HeNormal)

AVERAGE = Pool("AvgPool_0a_3x3", "average")
HALVE = Pool("MaxPool_1a_3x3", "max", stride=2, padding="valid")

INCEPTION_A = (
    (Conv("Conv2d_0a_1x1", 96, 1),),
    (Conv("Conv2d_0a_1x1", 64, 1), Conv("Conv2d_0b_3x3", 96, 3)),
    (Conv("Conv2d_0a_1x1", 64, 1), Conv("Conv2d_0b_3x3", 96, 3), Conv("Conv2d_0c_3x3", 96, 3)),
    (AVERAGE, Conv("Conv2d_0b_1x1", 96, 1)),
)
INCEPTION_B = (
    (Conv("Conv2d_0a_1x1", 384, 1),),
    (Conv("Conv2d_0a_1x1", 192, 1), Conv("Conv2d_0b_1x7", 224, (1, 7)), Conv("Conv2d_0c_7x1", 256, (7, 1))),
    (
        Conv("Conv2d_0a_1x1", 192, 1),
        Conv("Conv2d_0b_7x1", 192, (7, 1)),
        Conv("Conv2d_0c_1x7", 224, (1, 7)),
        Conv("Conv2d_0d_7x1", 224, (7, 1)),
        Conv("Conv2d_0e_1x7", 256, (1, 7)),
    ),
    (AVERAGE, Conv("Conv2d_0b_1x1", 128, 1)),
)
INCEPTION_C = (
    (Conv("Conv2d_0a_1x1", 256, 1),),
    (
        Conv("Conv2d_0a_1x1", 384, 1),
        Fork((Conv("Conv2d_0b_1x3", 256, (1, 3)), Conv("Conv2d_0c_3x1", 256, (3, 1)))),
    ),
    (
        Conv("Conv2d_0a_1x1", 384, 1),
        Conv("Conv2d_0b_3x1", 448, (3, 1)),
        Conv("Conv2d_0c_1x3", 512, (1, 3)),
        Fork((Conv("Conv2d_0d_1x3", 256, (1, 3)), Conv("Conv2d_0e_3x1", 256, (3, 1)))),
    ),
    (AVERAGE, Conv("Conv2d_0b_1x1", 256, 1)),
)

STEPS: tuple[Step, ...] = (
    Conv("Conv2d_1a_3x3", 32, 3, stride=2, padding="valid"),
    Conv("Conv2d_2a_3x3", 32, 3, padding="valid"),
    Conv("Conv2d_2b_3x3", 64, 3),
    Mixed(
        "Mixed_3a",
        (
            (Pool("MaxPool_0a_3x3", "max", stride=2, padding="valid"),),
            (Conv("Conv2d_0a_3x3", 96, 3, stride=2, padding="valid"),),
        ),
    ),
    Mixed(
        "Mixed_4a",
        (
            (Conv("Conv2d_0a_1x1", 64, 1), Conv("Conv2d_1a_3x3", 96, 3, padding="valid")),
            (
                Conv("Conv2d_0a_1x1", 64, 1),
                Conv("Conv2d_0b_1x7", 64, (1, 7)),
                Conv("Conv2d_0c_7x1", 64, (7, 1)),
                Conv("Conv2d_1a_3x3", 96, 3, padding="valid"),
            ),
        ),
    ),
    Mixed("Mixed_5a", ((Conv("Conv2d_1a_3x3", 192, 3, stride=2, padding="valid"),), (HALVE,))),
    *(Mixed(f"Mixed_5{letter}", INCEPTION_A) for letter in "bcde"),
    Mixed(
        "Mixed_6a",
        (
            (Conv("Conv2d_1a_3x3", 384, 3, stride=2, padding="valid"),),
            (
                Conv("Conv2d_0a_1x1", 192, 1),
                Conv("Conv2d_0b_3x3", 224, 3),
                Conv("Conv2d_1a_3x3", 256, 3, stride=2, padding="valid"),
            ),
            (HALVE,),
        ),
    ),
    *(Mixed(f"Mixed_6{letter}", INCEPTION_B) for letter in "bcdefgh"),
    Mixed(
        "Mixed_7a",
        (
            (Conv("Conv2d_0a_1x1", 192, 1), Conv("Conv2d_1a_3x3", 192, 3, stride=2, padding="valid")),
            (
                Conv("Conv2d_0a_1x1", 256, 1),
                Conv("Conv2d_0b_1x7", 256, (1, 7)),
                Conv("Conv2d_0c_7x1", 320, (7, 1)),
                Conv("Conv2d_1a_3x3", 320, 3, stride=2, padding="valid"),
            ),
            (HALVE,),
        ),
    ),
    *(Mixed(f"Mixed_7{letter}", INCEPTION_C) for letter in "bcd"),
)
"""From the images to the last map, which is 8x8 at 299 px and 1x1 at 75 px."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str) -> Network:
    """Build Inception v4: `[batch, height, width, 3]` to features `[batch, 1536]`; at least 75 px."""
    images = keras.Input((*image_size, 3), name="images")
    x = apply(images, STEPS, scope, ARGS)
    head = f"{scope}.Logits"
    x = pool_and_logits(x, outputs, ARGS, pool=f"{head}.AvgPool_1a", logits=f"{head}.Logits", fully_connected=True)
    return Network(keras.Model(images, x, name=scope), scope, tuple(stages(STEPS, scope, ARGS)))
