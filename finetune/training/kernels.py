"""How a training step computes what the convolutions say: the same function of the same weights, by a faster way.

Only what is traced inside `chosen` is computed so; evaluation and export are Keras's own, to the bit. oneDNN lays a
convolution's kernel out anew at every call, goes back into strides slowly and multiplies the zeros around a small map;
its matrix product does none of that. `benchmarks/step.py` measures it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from finetune.batchnorm.surgery import parts


@contextmanager
def chosen(model: keras.Model, precision: str = "float32") -> Iterator[None]:
    """While a training step of `model` is traced; `precision` is what its layers compute in.

    In `bfloat16` every layer but the last casts what it is given, and its weights, to bfloat16; the weights themselves,
    their gradients, BatchNorm's statistics and the loss stay float32 (Micikevicius et al. 2018, arXiv 1710.03740;
    bfloat16 has float32's range, so nothing has to be scaled).
    Convolutions that train become matrix products where each pixel is computed from one: 1x1 convolutions, and larger
    ones on maps of one pixel, which see zeros but for the middle. What is frozen stays as it is: its output is that of
    `finetune.features`, to the bit.
    """
    with ExitStack() as undo:
        for layer in parts(model):
            if type(layer) is keras.layers.Conv2D and layer.trainable:
                undo.enter_context(_calling(layer, _faster(layer)))
        if precision != "float32":
            for layer in model.layers:
                if layer is not model.layers[-1]:
                    undo.enter_context(_computing(layer, f"mixed_{precision}"))
        yield


def _faster(layer: Any) -> Callable[[Any], Any]:
    """What calls a `keras.layers.Conv2D`: a product where that is the same, else as it is."""
    as_it_is, stride, sides = layer.call, layer.strides[0], layer.kernel_size
    plain = layer.groups == 1 and layer.data_format == "channels_last" and len(set(layer.strides)) == 1

    def call(images: Any) -> Any:
        size = tuple(images.shape[1:3])
        alone = size == (1, 1) and layer.padding == "same" and all(side % 2 for side in sides)
        if not plain or None in size or not (sides == (1, 1) or alone):
            return as_it_is(images)
        middle = layer.kernel[sides[0] // 2, sides[1] // 2]
        outputs = _product(_every(images, stride), middle)
        if layer.use_bias:
            outputs = tf.nn.bias_add(outputs, tf.convert_to_tensor(layer.bias))
        return layer.activation(outputs)

    return call


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
    return parted[:, :, 0, :, :channels]


def _product(images: Any, kernel: Any) -> Any:
    """`images [batch, height, width, channels]` times `kernel [channels, outputs]`, for every pixel."""
    height, width, channels = images.shape[1:]
    outputs = tf.matmul(tf.reshape(images, [-1, channels]), kernel)
    return tf.reshape(outputs, [-1, height, width, kernel.shape[-1]])


@contextmanager
def _calling(layer: Any, call: Callable[[Any], Any]) -> Iterator[None]:
    layer.__dict__["call"] = call
    try:
        yield
    finally:
        del layer.__dict__["call"]


@contextmanager
def _computing(layer: Any, policy: str) -> Iterator[None]:
    own = layer.dtype_policy
    layer.dtype_policy = policy
    try:
        yield
    finally:
        layer.dtype_policy = own


def bfloat16_pays() -> bool:
    """Whether something here multiplies bfloat16 faster than float32: a GPU, or instructions of the processor."""
    if tf.config.list_physical_devices("GPU"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags
