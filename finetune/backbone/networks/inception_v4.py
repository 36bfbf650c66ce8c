"""Inception v4 with slim's names, without the auxiliary head.

Source: Szegedy et al. 2016 (arXiv:1602.07261), tensorflow/models research/slim/nets/inception_v4.py.
tests/networks/test_slim_inception_v4.py compares names, shapes and outputs with those of the source.
"""

from finetune.backbone.networks.inception import AVERAGE, HALVE, Chain, Conv, Fork, Mixed, Step, convs, halving, network
from finetune.backbone.networks.network import Network

INCEPTION_A: tuple[Chain, ...] = (
    convs(("0a_1x1", 96)),
    convs(("0a_1x1", 64), ("0b_3x3", 96)),
    convs(("0a_1x1", 64), ("0b_3x3", 96), ("0c_3x3", 96)),
    (AVERAGE, *convs(("0b_1x1", 96))),
)
INCEPTION_B: tuple[Chain, ...] = (
    convs(("0a_1x1", 384)),
    convs(("0a_1x1", 192), ("0b_1x7", 224), ("0c_7x1", 256)),
    convs(("0a_1x1", 192), ("0b_7x1", 192), ("0c_1x7", 224), ("0d_7x1", 224), ("0e_1x7", 256)),
    (AVERAGE, *convs(("0b_1x1", 128))),
)
INCEPTION_C: tuple[Chain, ...] = (
    convs(("0a_1x1", 256)),
    (*convs(("0a_1x1", 384)), Fork(convs(("0b_1x3", 256), ("0c_3x1", 256)))),
    (*convs(("0a_1x1", 384), ("0b_3x1", 448), ("0c_1x3", 512)), Fork(convs(("0d_1x3", 256), ("0e_3x1", 256)))),
    (AVERAGE, *convs(("0b_1x1", 256))),
)
VALID_96 = Conv("Conv2d_1a_3x3", 96, padding="valid")

STEPS: tuple[Step, ...] = (
    halving(32),
    Conv("Conv2d_2a_3x3", 32, padding="valid"),
    Conv("Conv2d_2b_3x3", 64),
    Mixed("Mixed_3a", (HALVE._replace(name="MaxPool_0a_3x3"),), (halving(96, "Conv2d_0a_3x3"),)),
    Mixed(
        "Mixed_4a",
        (*convs(("0a_1x1", 64)), VALID_96),
        (*convs(("0a_1x1", 64), ("0b_1x7", 64), ("0c_7x1", 64)), VALID_96),
    ),
    Mixed("Mixed_5a", (halving(192),), (HALVE,)),
    *(Mixed(f"Mixed_5{letter}", *INCEPTION_A) for letter in "bcde"),
    Mixed("Mixed_6a", (halving(384),), (*convs(("0a_1x1", 192), ("0b_3x3", 224)), halving(256)), (HALVE,)),
    *(Mixed(f"Mixed_6{letter}", *INCEPTION_B) for letter in "bcdefgh"),
    Mixed(
        "Mixed_7a",
        (*convs(("0a_1x1", 192)), halving(192)),
        (*convs(("0a_1x1", 256), ("0b_1x7", 256), ("0c_7x1", 320)), halving(320)),
        (HALVE,),
    ),
    *(Mixed(f"Mixed_7{letter}", *INCEPTION_C) for letter in "bcd"),
)
"""From the images to the last map, which is 8x8 at 299 px and 1x1 at 75 px."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str) -> Network:
    """Build Inception v4: `[batch, height, width, 3]` to features `[batch, 1536]`; at least 75 px."""
    return network(image_size, outputs, STEPS, scope=scope, head=("AvgPool_1a", "Logits"), fully_connected=True)
