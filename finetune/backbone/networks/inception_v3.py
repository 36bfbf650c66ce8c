"""Inception v3 with slim's names, without the auxiliary head.

Source: Szegedy et al. 2015 (arXiv:1512.00567), tf_slim/nets/inception_v3.py. tests/networks/test_slim_inception_v3.py
shows that the outputs equal tf_slim's.
"""

from finetune.backbone.networks.inception import AVERAGE, HALVE, STEM, Conv, Fork, Mixed, convs, halving, network
from finetune.backbone.networks.network import Network


def _mixed_35(name: str, pooled: int, *, names: tuple[str, str] = ("Conv2d_0a_1x1", "Conv2d_0b_5x5")) -> Mixed:
    """35x35 at 299 px. `pooled` are the channels of the pooled branch, `names` the convolutions of Branch_1."""
    return Mixed(
        name,
        convs(("0a_1x1", 64)),
        (Conv(names[0], 48), Conv(names[1], 64)),
        convs(("0a_1x1", 64), ("0b_3x3", 96), ("0c_3x3", 96)),
        (AVERAGE, *convs(("0b_1x1", pooled))),
    )


def _mixed_17(name: str, width: int) -> Mixed:
    """17x17 at 299 px. `width` are the channels inside the factorised branches."""
    return Mixed(
        name,
        convs(("0a_1x1", 192)),
        convs(("0a_1x1", width), ("0b_1x7", width), ("0c_7x1", 192)),
        convs(("0a_1x1", width), ("0b_7x1", width), ("0c_1x7", width), ("0d_7x1", width), ("0e_1x7", 192)),
        (AVERAGE, *convs(("0b_1x1", 192))),
    )


def _mixed_8(name: str, *, tall: str) -> Mixed:
    """8x8 at 299 px. `tall` is slim's name of Branch_1's 3x1 convolution."""
    return Mixed(
        name,
        convs(("0a_1x1", 320)),
        (*convs(("0a_1x1", 384)), Fork(convs(("0b_1x3", 384), (tall, 384)))),
        (*convs(("0a_1x1", 448), ("0b_3x3", 384)), Fork(convs(("0c_1x3", 384), ("0d_3x1", 384)))),
        (AVERAGE, *convs(("0b_1x1", 192))),
    )


STEPS = (
    *STEM,
    _mixed_35("Mixed_5b", 32),
    _mixed_35("Mixed_5c", 64, names=("Conv2d_0b_1x1", "Conv_1_0c_5x5")),
    _mixed_35("Mixed_5d", 64),
    Mixed(
        "Mixed_6a",
        # Called 1x1 in slim and in its checkpoints.
        (halving(384, "Conv2d_1a_1x1"),),
        (*convs(("0a_1x1", 64), ("0b_3x3", 96)), halving(96, "Conv2d_1a_1x1")),
        (HALVE,),
    ),
    _mixed_17("Mixed_6b", 128),
    _mixed_17("Mixed_6c", 160),
    _mixed_17("Mixed_6d", 160),
    _mixed_17("Mixed_6e", 192),
    Mixed(
        "Mixed_7a",
        (*convs(("0a_1x1", 192)), halving(320)),
        (*convs(("0a_1x1", 192), ("0b_1x7", 192), ("0c_7x1", 192)), halving(192)),
        (HALVE,),
    ),
    _mixed_8("Mixed_7b", tall="0b_3x1"),
    _mixed_8("Mixed_7c", tall="0c_3x1"),
)
"""From the images to the last map, which is 8x8 at 299 px and 1x1 at 75 px."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str, depth_multiplier: float = 1.0) -> Network:
    """Build Inception v3: `[batch, height, width, 3]` to features `[batch, 2048]`; at least 75 px.

    `depth_multiplier` scales the channels of every convolution, down to 16. Pools globally at any size, where slim's
    window is 8x8: the same up to 330 px.
    """
    return network(image_size, outputs, STEPS, scope=scope, depth_multiplier=depth_multiplier)
