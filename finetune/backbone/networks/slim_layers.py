"""slim's layer calls in Keras: one call is convolution, BatchNorm and activation under one scope.

Source: tf_slim/layers/layers.py. "." stands where slim writes "/", which Keras forbids in a layer name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import keras

from finetune.backbone.networks.network import Network, Stage

After = Literal["activation", "norm", "bias", "nothing"]
"""What follows a convolution: BatchNorm and activation; BatchNorm alone; a bias without either; or nothing at all."""


@dataclass(frozen=True)
class ArgScope:
    """What slim's `arg_scope` sets for a whole network, as a value.

    decay, epsilon: of every BatchNorm; `decay` is the share of the old moving value kept.
    gamma: whether BatchNorm has one; beta it always has.
    activation: the Keras name of what follows BatchNorm.
    initializer: makes a new one for each layer (a shared one would give equal shapes equal weights).
    """

    decay: float
    epsilon: float
    gamma: bool
    activation: str
    initializer: Callable[[], keras.initializers.Initializer]


def conv2d(
    x: keras.KerasTensor,
    filters: int,
    size: int | tuple[int, int],
    scope: str,
    args: ArgScope,
    *,
    stride: int = 1,
    padding: str = "same",
    after: After = "activation",
) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, height', width', filters]`: convolution, BatchNorm, activation.

    size: of the kernel, or its (height, width). `padding="same"` is TensorFlow's SAME: height' = ceil(height / stride).
    """
    layer = keras.layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=after == "bias",
        kernel_initializer=args.initializer(),
        name=scope,
    )
    x = layer(x)
    if after in ("activation", "norm"):
        x = _normalize(x, f"{scope}.BatchNorm", args)
    return _activate(x, scope, args) if after == "activation" else x


def conv2d_same(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    scope: str,
    args: ArgScope,
    *,
    stride: int,
    after: After = "activation",
) -> keras.KerasTensor:
    """Convolve as with stride 1 and SAME, then keep every `stride`-th pixel from the first.

    `[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), filters]`. SAME with
    the stride itself would start at the second pixel of an even side. Source: tf_slim/nets/resnet_utils.py.
    """
    if stride == 1:
        return conv2d(x, filters, size, scope, args, after=after)
    pads = ((size - 1) // 2, size // 2)
    x = keras.layers.ZeroPadding2D((pads, pads), name=f"{scope}.pad")(x)
    return conv2d(x, filters, size, scope, args, stride=stride, padding="valid", after=after)


def depthwise_conv2d(x: keras.KerasTensor, size: int, scope: str, args: ArgScope, *, stride: int) -> keras.KerasTensor:
    """`[batch, height, width, channels]` to `[batch, ceil(height / stride), ceil(width / stride), channels]`.

    slim's `separable_conv2d` with `num_outputs=None`: the depthwise half alone.
    """
    layer = keras.layers.DepthwiseConv2D(
        size, strides=stride, padding="same", use_bias=False, depthwise_initializer=args.initializer(), name=scope
    )
    return _activate(_normalize(layer(x), f"{scope}.BatchNorm", args), scope, args)


def finish(
    images: keras.KerasTensor,
    x: keras.KerasTensor,
    outputs: int | None,
    args: ArgScope,
    *,
    scope: str,
    stages: Sequence[Stage],
    head: tuple[str, str],
    fully_connected: bool = False,
) -> Network:
    """The network from `images` to the mean of `x` over its pixels, or with `outputs` to logits `[batch, outputs]`.

    slim's logits are a 1x1 convolution with bias on the pooled `[batch, 1, 1, channels]`; `fully_connected` in a few.
    head: the names of pooling and logits below `scope`.
    """
    pool, logits = (f"{scope}.{name}" for name in head)
    convolved = outputs is not None and not fully_connected
    x = keras.layers.GlobalAveragePooling2D(keepdims=convolved, name=pool)(x)
    if convolved:
        x = keras.layers.Conv2D(outputs, 1, kernel_initializer=args.initializer(), name=logits)(x)
        x = keras.layers.Flatten(name=f"{logits}.squeeze")(x)
    elif outputs is not None:
        x = keras.layers.Dense(outputs, name=logits)(x)
    return Network(keras.Model(images, x, name=scope), scope, tuple(stages))


def batch_norm(x: keras.KerasTensor, scope: str, args: ArgScope) -> keras.KerasTensor:
    """BatchNorm and activation on their own, the variables in `scope` itself; the shape is kept."""
    return _activate(_normalize(x, scope, args), scope, args)


def _normalize(x: keras.KerasTensor, scope: str, args: ArgScope) -> keras.KerasTensor:
    return keras.layers.BatchNormalization(momentum=args.decay, epsilon=args.epsilon, scale=args.gamma, name=scope)(x)


def _activate(x: keras.KerasTensor, scope: str, args: ArgScope) -> keras.KerasTensor:
    return keras.layers.Activation(args.activation, name=f"{scope}.{args.activation}")(x)
