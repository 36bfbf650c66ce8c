"""Small networks of the kinds that people fine-tune, each written once over the layers of a dialect (`dialects.py`)."""

from collections.abc import Callable
from typing import Any

Tensor = Any


def _unit(d: Any, x: Tensor, filters: int, size: int = 3, stride: int = 1) -> Tensor:
    return d.relu(d.bn(d.conv(x, filters, size, stride)))


def vgg_bn(d: Any, x: Tensor) -> Tensor:
    for filters in (16, 32, 64):
        x = d.pool(_unit(d, x, filters))
    return d.mean(_unit(d, x, 64))


def strided(d: Any, x: Tensor) -> Tensor:
    """Three strided convolutions, the first network of many a tutorial."""
    for filters in (16, 32, 64):
        x = _unit(d, x, filters, 3, 2)
    return d.mean(x)


def resnet(d: Any, x: Tensor) -> Tensor:
    """As ResNet-20 for CIFAR-10, with a block a stage."""
    x = _unit(d, x, 16)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        short = x if stride == 1 else d.bn(d.conv(x, filters, 1, stride))
        x = d.relu(d.add(short, d.bn(d.conv(_unit(d, x, filters, 3, stride), filters, 3, 1))))
    return d.mean(x)


def mobilenet(d: Any, x: Tensor) -> Tensor:
    x = _unit(d, x, 16)
    for filters, stride in ((32, 1), (48, 2), (64, 1), (96, 2)):
        x = d.relu(d.bn(d.depthwise(x, stride)))
        x = _unit(d, x, filters, 1)
    return d.mean(x)


def inception(d: Any, x: Tensor) -> Tensor:
    x = d.pool(_unit(d, x, 24))
    for width in (12, 20):
        five = _unit(d, _unit(d, x, width // 2, 1), width, 3)
        x = d.join([_unit(d, x, width, 1), _unit(d, _unit(d, x, width, 1), width), _unit(d, five, width)])
        x = d.pool(x)
    return d.mean(_unit(d, x, 64, 1))


def densenet(d: Any, x: Tensor) -> Tensor:
    x = d.conv(x, 24, 3, 1)
    for block in range(2):
        for _ in range(3):
            x = d.join([x, d.conv(d.relu(d.bn(x)), 12, 3, 1)])
        if block == 0:
            x = d.pool(d.conv(d.relu(d.bn(x)), 32, 1, 1))
    return d.mean(d.relu(d.bn(x)))


def dense_bn(d: Any, x: Tensor) -> Tensor:
    """Ends in a fully connected layer with BatchNorm: N is the batch alone there."""
    x = d.pool(_unit(d, d.pool(_unit(d, x, 16)), 32))
    return d.relu(d.bn(d.dense(d.flat(x), 64)))


NETWORKS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "strided": strided,
    "vgg-bn": vgg_bn,
    "resnet": resnet,
    "mobilenet": mobilenet,
    "inception": inception,
    "densenet": densenet,
    "dense-bn": dense_bn,
}
SMALL = ("strided", "vgg-bn", "dense-bn")


def preact(d: Any, x: Tensor) -> Tensor:
    """As ResNet v2: BatchNorm before the convolutions, and a last one before the pooling."""
    x = d.conv(x, 16, 3, 1)
    for filters, stride in ((24, 2), (48, 2)):
        ready = d.relu(d.bn(x))
        short = d.conv(ready, filters, 1, stride)
        x = d.add(short, d.conv(d.relu(d.bn(d.conv(ready, filters, 3, stride))), filters, 3, 1))
    return d.mean(d.relu(d.bn(x)))


def xception(d: Any, x: Tensor) -> Tensor:
    """Separable convolutions with one BatchNorm, after the pointwise half."""
    x = _unit(d, x, 16, 3, 2)
    for filters, stride in ((32, 1), (48, 2), (64, 1)):
        x = d.relu(d.bn(d.conv(d.depthwise(x, stride), filters, 1, 1)))
    return d.mean(x)


def relu_bn(d: Any, x: Tensor) -> Tensor:
    """BatchNorm after the ReLU, as many write it: the first sees no linear function of the pixels."""
    for filters in (16, 32, 48):
        x = d.pool(d.bn(d.relu(d.conv(x, filters, 3, 1))))
    return d.mean(x)


def bn_first(d: Any, x: Tensor) -> Tensor:
    """BatchNorm on the pixels themselves, in place of a preprocessing."""
    x = d.bn(x)
    for filters in (24, 48):
        x = d.pool(_unit(d, x, filters))
    return d.mean(_unit(d, x, 64))


def mixer(d: Any, x: Tensor) -> Tensor:
    """As ConvMixer: patches, then depthwise convolutions with a shortcut."""
    x = d.bn(d.relu(d.conv(x, 48, 3, 3)))
    for _ in range(2):
        x = d.add(x, d.bn(d.relu(d.depthwise(x, 1))))
        x = d.bn(d.relu(d.conv(x, 48, 1, 1)))
    return d.mean(x)


UNSEEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "preact": preact,
    "xception": xception,
    "relu-bn": relu_bn,
    "bn-first": bn_first,
    "mixer": mixer,
}
"""Networks of the held-out recipes."""
