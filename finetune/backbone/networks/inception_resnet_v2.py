"""Inception-ResNet v2 with slim's names, without the auxiliary head.

Source: Szegedy et al. 2016 (arXiv:1602.07261), tensorflow/models research/slim/nets/inception_resnet_v2.py.
tests/networks/test_slim_inception_resnet_v2.py shows that the outputs equal those of `keras.applications`, and
compares the names with those of the source.
"""

import keras

from finetune.backbone.networks.inception import (
    AVERAGE,
    HALVE,
    STEM,
    Conv,
    Mixed,
    Repeat,
    Residual,
    convs,
    halving,
    network,
)
from finetune.backbone.networks.network import Network

BLOCK_35 = (
    convs(("1x1", 32)),
    convs(("0a_1x1", 32), ("0b_3x3", 32)),
    convs(("0a_1x1", 32), ("0b_3x3", 48), ("0c_3x3", 64)),
)
BLOCK_17 = (convs(("1x1", 192)), convs(("0a_1x1", 128), ("0b_1x7", 160), ("0c_7x1", 192)))
BLOCK_8 = (convs(("1x1", 192)), convs(("0a_1x1", 192), ("0b_1x3", 224), ("0c_3x1", 256)))

STEPS = (
    *STEM,
    Mixed(
        "Mixed_5b",
        convs(("1x1", 96)),
        convs(("0a_1x1", 48), ("0b_5x5", 64)),
        convs(("0a_1x1", 64), ("0b_3x3", 96), ("0c_3x3", 96)),
        (AVERAGE, *convs(("0b_1x1", 64))),
    ),
    Repeat("Repeat", tuple(Residual(f"block35_{i}", BLOCK_35, 0.17) for i in range(1, 11))),
    Mixed("Mixed_6a", (halving(384),), (*convs(("0a_1x1", 256), ("0b_3x3", 256)), halving(384)), (HALVE,)),
    Repeat("Repeat_1", tuple(Residual(f"block17_{i}", BLOCK_17, 0.10) for i in range(1, 21))),
    Mixed(
        "Mixed_7a",
        (*convs(("0a_1x1", 256)), halving(384)),
        (*convs(("0a_1x1", 256)), halving(288)),
        (*convs(("0a_1x1", 256), ("0b_3x3", 288)), halving(320)),
        (HALVE,),
    ),
    Repeat("Repeat_2", tuple(Residual(f"block8_{i}", BLOCK_8, 0.20) for i in range(1, 10))),
    Residual("Block8", BLOCK_8, 1.0, activate=False),
    Conv("Conv2d_7b_1x1", 1536),
)
"""From the images to the last map, which is 8x8 at 299 px and 1x1 at 75 px."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str) -> Network:
    """Build Inception-ResNet v2: `[batch, height, width, 3]` to features `[batch, 1536]`; at least 75 px."""
    glorot, head = keras.initializers.GlorotUniform, ("AvgPool_1a_8x8", "Logits")
    return network(image_size, outputs, STEPS, scope=scope, initializer=glorot, head=head, fully_connected=True)
