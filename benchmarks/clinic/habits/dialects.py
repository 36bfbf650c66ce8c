"""The layers of a network as Keras 2, Keras 3, `tf.layers`, tf_slim and hand-written TF1 programs spell them.

Layers are numbered in the order of their making, so that one set of weights fits every dialect: `conv1/kernel`,
`bn1/gamma`, `bn1/beta`, `bn1/moving_mean`, `bn1/moving_variance`.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
Weights = Mapping[str, np.ndarray]
STATISTICS = ("moving_mean", "moving_variance")


class Numbered:
    """Names for the layers of one network."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()

    def name(self, kind: str) -> str:
        self.count[kind] += 1
        return f"{kind}{self.count[kind]}"


class KerasDialect(Numbered):
    """`keras` or `tf_keras`. `bn`: makes a BatchNorm layer of a name."""

    def __init__(self, library: Any, bn: Callable[[str], Any]) -> None:
        super().__init__()
        self.library, self.layers, self.make_bn = library, library.layers, bn

    def conv(self, x: Any, filters: int, size: int, stride: int) -> Any:
        name = self.name("conv")
        return self.layers.Conv2D(filters, size, strides=stride, padding="same", use_bias=False, name=name)(x)

    def depthwise(self, x: Any, stride: int) -> Any:
        name = self.name("conv")
        return self.layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False, name=name)(x)

    def dense(self, x: Any, units: int) -> Any:
        return self.layers.Dense(units, use_bias=False, name=self.name("conv"))(x)

    def bn(self, x: Any) -> Any:
        return self.make_bn(self.name("bn"))(x)

    def relu(self, x: Any) -> Any:
        return self.layers.ReLU()(x)

    def pool(self, x: Any) -> Any:
        return self.layers.MaxPooling2D()(x)

    def mean(self, x: Any) -> Any:
        return self.layers.GlobalAveragePooling2D()(x)

    def flat(self, x: Any) -> Any:
        return self.layers.Flatten()(x)

    def add(self, *both: Any) -> Any:
        return self.layers.Add()(list(both))

    def join(self, several: Sequence[Any]) -> Any:
        return self.layers.Concatenate()(several)


class TF1Dialect(Numbered):
    """What the three TF1 dialects have in common. `training`: a bool tensor or a Python bool."""

    def __init__(self, training: Any, decay: float) -> None:
        super().__init__()
        self.training, self.decay = training, decay
        self.averages: list[tuple[str, Any]] = []

    def kernel(self, shape: Sequence[int], name: str) -> Any:
        return v1.get_variable(f"{name}/kernel", shape, initializer=v1.glorot_uniform_initializer())

    def conv(self, x: Any, filters: int, size: int, stride: int) -> Any:
        return tf.nn.conv2d(x, self.kernel([size, size, x.shape[-1], filters], self.name("conv")), stride, "SAME")

    def depthwise(self, x: Any, stride: int) -> Any:
        kernel = v1.get_variable(f"{self.name('conv')}/depthwise_kernel", [3, 3, x.shape[-1], 1])
        return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

    def dense(self, x: Any, units: int) -> Any:
        return tf.matmul(x, self.kernel([x.shape[-1], units], self.name("conv")))

    def bn(self, x: Any) -> Any:
        raise NotImplementedError

    def relu(self, x: Any) -> Any:
        return tf.nn.relu(x)

    def pool(self, x: Any) -> Any:
        return tf.nn.max_pool2d(x, 2, 2, "VALID")

    def mean(self, x: Any) -> Any:
        return tf.reduce_mean(x, [1, 2])

    def flat(self, x: Any) -> Any:
        return tf.reshape(x, [-1, int(np.prod(x.shape[1:]))])

    def add(self, *both: Any) -> Any:
        return both[0] + both[1]

    def join(self, several: Sequence[Any]) -> Any:
        return tf.concat(several, -1)


class TFLayers(TF1Dialect):
    """`tf.layers`, of which tf_keras has the last copy."""

    def conv(self, x: Any, filters: int, size: int, stride: int) -> Any:
        from tf_keras.src.legacy_tf_layers import convolutional

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convolutional.conv2d(x, filters, size, stride, "same", use_bias=False, name=self.name("conv"))

    def bn(self, x: Any) -> Any:
        from tf_keras.src.legacy_tf_layers import normalization

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return normalization.batch_normalization(
                x, momentum=self.decay, training=self.training, name=self.name("bn")
            )


class Slim(TF1Dialect):
    """tf_slim's `batch_norm`, whose update operations go into the collection UPDATE_OPS."""

    def bn(self, x: Any) -> Any:
        import tf_slim

        return tf_slim.batch_norm(
            x, decay=self.decay, scale=True, is_training=self.training, scope=self.name("bn"), fused=x.shape.rank == 4
        )


class ByHand(TF1Dialect):
    """Moments and their ExponentialMovingAverage, as the answer on Stack Overflow that everybody copied."""

    def bn(self, x: Any) -> Any:
        with v1.variable_scope(self.name("bn")):
            channels = x.shape[-1]
            beta = v1.get_variable("beta", [channels], initializer=v1.zeros_initializer())
            gamma = v1.get_variable("gamma", [channels], initializer=v1.ones_initializer())
            mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)), name="moments")
            ema = v1.train.ExponentialMovingAverage(self.decay)
            update = ema.apply([mean, variance])
            v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)
            chosen = tf.cond(
                self.training, lambda: (mean, variance), lambda: (ema.average(mean), ema.average(variance))
            )
            return tf.nn.batch_normalization(x, *chosen, beta, gamma, 1e-3)


TF1 = {"tf.layers": TFLayers, "tf_slim": Slim, "by hand": ByHand}
