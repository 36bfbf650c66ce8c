"""Inception v2 with slim's names.

Source: Ioffe & Szegedy 2015 (arXiv:1502.03167), tf_slim/nets/inception_v2.py. tests/networks/test_slim_inception_v2.py
shows that the outputs equal tf_slim's. The first convolution is a separable one with
a bias and no BatchNorm, which slim's `arg_scope` does not reach.
"""

from finetune.backbone.networks.inception import AVERAGE, Conv, Mixed, Pool, Separable, network
from finetune.backbone.networks.network import Network


def _mixed(
    name: str, plain: int, single: tuple[int, int], double: tuple[int, int], pooled: int, pool: Pool = AVERAGE
) -> Mixed:
    """A module by its branches' channels."""
    return Mixed(
        name,
        (Conv("Conv2d_0a_1x1", plain),),
        (Conv("Conv2d_0a_1x1", single[0]), Conv("Conv2d_0b_3x3", single[1])),
        (Conv("Conv2d_0a_1x1", double[0]), Conv("Conv2d_0b_3x3", double[1]), Conv("Conv2d_0c_3x3", double[1])),
        (pool, Conv("Conv2d_0b_1x1", pooled)),
    )


def _halving(name: str, single: tuple[int, int], double: tuple[int, int]) -> Mixed:
    """A module of stride 2."""
    last = Conv("Conv2d_1a_3x3", double[1], stride=2)
    return Mixed(
        name,
        (Conv("Conv2d_0a_1x1", single[0]), Conv("Conv2d_1a_3x3", single[1], stride=2)),
        (Conv("Conv2d_0a_1x1", double[0]), Conv("Conv2d_0b_3x3", double[1]), last),
        (Pool("MaxPool_1a_3x3", "max", stride=2),),
    )


STEPS = (
    Separable("Conv2d_1a_7x7", 64, 7),
    Pool("MaxPool_2a_3x3", "max", stride=2),
    Conv("Conv2d_2b_1x1", 64),
    Conv("Conv2d_2c_3x3", 192),
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
"""From the images to the last map, 32 times smaller."""


def build(image_size: tuple[int, int], outputs: int | None, *, scope: str, depth_multiplier: float = 1.0) -> Network:
    """Build Inception v2: `[batch, height, width, 3]` to features `[batch, 1024]`.

    `depth_multiplier` scales the channels of every convolution, down to 16. Pools globally at any size, where slim's
    window is 7x7: the same up to 224 px.
    """
    return network(image_size, outputs, STEPS, scope=scope, depth_multiplier=depth_multiplier)
