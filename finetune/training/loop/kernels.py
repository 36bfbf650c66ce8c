"""Faster kernels for training steps and features: the same function of the same weights, computed as matrix products.

Only what is traced inside `chosen` or `products` is affected. Evaluation and export use Keras's own convolutions, to
the bit. oneDNN's convolution has three costs that its matrix product has not:

- it lays the kernel out again at every call;
- its gradient with strides is slow;
- it multiplies the zeros around a small map, which on 2 x 2 pixels are more than half of what it reads.

`benchmarks/step.py` measures the difference.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.surgery import parts

_MOST = 0.65
"""A convolution becomes products where at most this share of the pixels it multiplies lies on the map. Above it, adding
up the products costs what leaving out the zeros saves (measured at 3 x 3 and 4 x 4 pixels)."""


@contextmanager
def chosen(model: keras.Model, precision: str = "float32") -> Iterator[None]:
    """Use the faster kernels while a training step of `model` is traced; its layers compute in `precision`.

    In `bfloat16` and `float16` every layer but the last casts its inputs and its weights to that type. The stored
    weights, their gradients, BatchNorm's statistics and the loss stay float32 (Micikevicius et al. 2018, arXiv
    1710.03740); BatchNorm's operation takes maps of 16 bits and sums them in float32. bfloat16 has float32's range;
    float16 needs loss scaling (`finetune.training.loop.loss_scale`).
    A 1x1 convolution becomes one matrix product. A larger one, on a map so small that its kernel covers mostly zeros,
    becomes one product for each element of the kernel that covers a pixel.
    """
    with ExitStack() as undo:
        undo.enter_context(products(parts(model)))
        for layer in model.layers[:-1] if precision != "float32" else ():
            undo.callback(setattr, layer, "dtype_policy", layer.dtype_policy)
            layer.dtype_policy = f"mixed_{precision}"
        yield


@contextmanager
def products(layers: Iterable[Any]) -> Iterator[None]:
    """Trace the convolutions among `layers` as matrix products inside, where that is less work."""
    with ExitStack() as undo:
        for layer in layers:
            if type(layer) is keras.layers.Conv2D:
                layer.__dict__["call"] = _faster(layer)
                undo.callback(layer.__dict__.pop, "call")
        yield


def _faster(layer: Any) -> Callable[[Any], Any]:
    """A replacement for the `call` of a `keras.layers.Conv2D`: products where they are less work, else its own."""
    stride, sides = layer.strides[0], layer.kernel_size
    own, cancelled = layer.call, bias_cancels(layer)
    plain = layer.groups == 1 and layer.data_format == "channels_last" and len(set(layer.strides)) == 1
    centred = layer.padding == "same" and all(side % 2 for side in sides) and set(layer.dilation_rate) == {1}

    def bias() -> Any:
        value = tf.convert_to_tensor(layer.bias)
        return tf.stop_gradient(value) if cancelled else value

    def call(images: Any) -> Any:
        size = tuple(images.shape[1:3])
        known = plain and None not in size
        if known and sides == (1, 1):
            # Reshaped, not indexed: the gradient of an index is written into zeros, on one core.
            kernel = tf.reshape(layer.kernel, layer.kernel.shape[2:])
            return layer.activation(_product(_every(images, stride), kernel, bias() if layer.use_bias else None))
        if known and centred and (stride == 1 or size == (1, 1)) and _share_on_map(size, sides) <= _MOST:
            outputs = _products(images, layer.kernel)
        elif cancelled:
            outputs = layer.convolution_op(images, layer.kernel)
        else:
            return own(images)
        return layer.activation(tf.nn.bias_add(outputs, bias()) if layer.use_bias else outputs)

    return call


def bias_cancels(layer: Any) -> bool:
    """Whether a layer is a convolution whose bias BatchNorm removes again with the batch's mean, as in Keras's ResNets.

    The gradient of such a bias is zero. Computing it takes a pass over every map and gives rounding errors, from which
    Adam makes steps of the usual size. So it is not computed.
    """
    if type(layer) is not keras.layers.Conv2D or not layer.use_bias or layer.data_format != "channels_last":
        return False
    takers = [node.operation for node in layer._outbound_nodes]
    return (
        layer.activation is keras.activations.linear
        and bool(takers)
        and all(isinstance(one, BatchNorm) and one.axis in (-1, 3) and one.statistics == "batch" for one in takers)
    )


def _share_on_map(size: tuple[int, ...], sides: tuple[int, ...]) -> float:
    """The share of pixels on the map, of all pixels that a centred kernel of `sides` covers on a map of `size`."""
    share = 1.0
    for length, side in zip(size, sides, strict=True):
        offsets = range(-(side // 2), side // 2 + 1)
        share *= sum(max(length - abs(offset), 0) for offset in offsets) / (length * side)
    return share


def _products(images: Any, kernel: Any) -> Any:
    """A convolution of stride 1 whose output is as large as its input: the sum, over the elements of the kernel, of the
    shifted map times the element. Pixels outside the map are left out."""
    (height, width), (tall, wide, channels, filters) = images.shape[1:3], kernel.shape
    # Unstacked: the gradient is stacked once. That of a slice is as large as the whole kernel, for each of them.
    elements = tf.unstack(tf.reshape(kernel, [tall * wide, channels, filters]))
    total = None
    for number, element in enumerate(elements):
        down, right = number // wide - tall // 2, number % wide - wide // 2
        if abs(down) >= height or abs(right) >= width:
            continue
        # The gradient of `tf.slice` is a padding, on all cores; that of an index is written into zeros, on one.
        begin, size = [0, max(down, 0), max(right, 0), 0], [-1, height - abs(down), width - abs(right), -1]
        seen = tf.slice(images, begin, size)
        around = [[0, 0], [max(-down, 0), max(down, 0)], [max(-right, 0), max(right, 0)], [0, 0]]
        part = _product(seen, element)
        part = tf.pad(part, around) if down or right else part
        total = part if total is None else total + part
    return total


def _every(images: Any, stride: int) -> Any:
    """Every `stride`-th row and column, from the first.

    Where the sides can be divided it is a slice of a reshaped map: the gradient of that is a padding, and the one of
    a slice with strides is written pixel by pixel, on one core.
    """
    height, width, channels = images.shape[1:]
    if stride == 1:
        return images
    if height % stride or width % stride:
        return images[:, ::stride, ::stride]
    parted = tf.reshape(images, [-1, height // stride, stride, width // stride, stride * channels])
    first = tf.slice(parted, [0] * 5, [-1, -1, 1, -1, channels])
    return tf.reshape(first, [-1, height // stride, width // stride, channels])


def _product(images: Any, kernel: Any, bias: Any = None) -> Any:
    """`images [batch, height, width, channels]` times `kernel [channels, outputs]`, for every pixel, plus `bias`."""
    height, width, channels = images.shape[1:]
    outputs = tf.matmul(tf.reshape(images, [-1, channels]), kernel)
    if bias is not None:
        outputs = tf.nn.bias_add(outputs, bias)  # before the reshape: TensorFlow makes one op of product and bias
    return tf.reshape(outputs, [-1, height, width, kernel.shape[-1]])


def precision_pays(precision: str) -> bool:
    """Whether this machine has a GPU, or a processor with instructions for bfloat16 where that is meant."""
    if precision == "float32" or tf.config.list_physical_devices("GPU"):
        return True
    if precision == "float16":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags
