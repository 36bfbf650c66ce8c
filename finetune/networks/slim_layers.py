"""slim's layer calls in Keras: one call is convolution, BatchNorm and activation under one scope.

Source: tf_slim/layers/layers.py. "." stands where slim writes "/", which Keras forbids in a layer name.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras


@dataclass(frozen=True)
class ArgScope:
    """What slim's `arg_scope` sets for a whole network, as a value.

    decay, epsilon: of every BatchNorm; `decay` is the share of the old moving value kept.
    activation: the Keras name of what follows BatchNorm.
    initializer: makes a new one for each layer (a shared one would give equal shapes equal weights).
    """

    decay: float
    epsilon: float
    activation: str
    initializer: Callable[[], keras.initializers.Initializer]


def conv2d(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    scope: str,
    args: ArgScope,
    *,
    stride: int = 1,
    padding: str = "same",
    activate: bool = True,
) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, height', width', filters]`; no bias, BatchNorm with gamma.

    `padding="same"` is TensorFlow's SAME: height' = ceil(height / stride).
    """
    layer = keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=args.initializer(),
        name=scope,
    )
    return _normalize(layer(x), scope, args, activate=activate)


def depthwise_conv2d(x: keras.KerasTensor, size: int, scope: str, args: ArgScope, *, stride: int) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`.

    slim's `separable_conv2d` with `num_outputs=None`: the depthwise half alone.
    """
    layer = keras.layers.DepthwiseConv2D(
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=args.initializer(),
        name=scope,
    )
    return _normalize(layer(x), scope, args, activate=True)


def pool_and_logits(
    x: keras.KerasTensor, outputs: int | None, args: ArgScope, *, pool: str, logits: str
) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to features `[batch, channels]`, or with `outputs` to `[batch, outputs]`.

    slim's logits are a 1x1 convolution with bias on the pooled `[batch, 1, 1, channels]`.
    """
    if outputs is None:
        return keras.layers.GlobalAveragePooling2D(name=pool)(x)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True, name=pool)(x)
    x = keras.layers.Conv2D(outputs, 1, kernel_initializer=args.initializer(), name=logits)(x)
    return keras.layers.Flatten(name=f"{logits}.squeeze")(x)


def _normalize(x: keras.KerasTensor, scope: str, args: ArgScope, *, activate: bool) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(momentum=args.decay, epsilon=args.epsilon, name=f"{scope}.BatchNorm")(x)
    return keras.layers.Activation(args.activation, name=f"{scope}.{args.activation}")(x) if activate else x
