"""Resizing and preprocessing inside an exported graph, as evaluation does them outside.

Evaluation has two ways (finetune/data/pipeline.py). Images in memory are resized whole by `tf.image.resize`, bilinear,
antialiased where they shrink; here the same weights are a matrix on either side, so what differs is float32 rounding.
Photos are cut to their centre square and resized by Pillow, in integers, side after side, each rounded to 8 bits. Here
that is done in float32 with the same weights and the same two roundings, rows first: pixels differ from Pillow's by at
most 1 of 255, in fewer than one of a hundred where Pillow starts with the rows as well, in a fifth where it starts
with the columns (version 13 and photos that are higher than wide). But evaluation lets libjpeg decode a JPEG of twice
the size needed or more at a fraction of its size, which happens before there are pixels: whoever feeds fully decoded
photos gives the network others than it was evaluated on. What that changes is measured with every export.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.data.channels import in_channels
from finetune.data.preprocessing import AnyPreprocessing, CustomPreprocessing, PerImage
from finetune.errors import FinetuneError
from finetune.text import ImageShape


def triangle_weights(size: Any, out: int, begin: Any = 0, length: Any = None) -> tf.Tensor:
    """float32 `[out, size]`: how much of each of `size` pixels is in each of `out`, rows summing to 1.

    The part of `length` pixels from pixel `begin` on becomes the `out` new ones; as with Pillow's `box`, a new pixel at
    the edge takes from what lies outside. The triangle filter of Pillow (BILINEAR) and of `tf.image.resize`
    (antialias), as wide as a new pixel where the image shrinks. All but `out` may be scalar tensors.
    """
    size, begin, length = (tf.cast(one, tf.float32) for one in (size, begin, size if length is None else length))
    scale = length / float(out)
    centres = (tf.range(out, dtype=tf.float32) + 0.5) * scale + begin
    pixels = tf.range(size, dtype=tf.float32) + 0.5
    weights = tf.maximum(0.0, 1.0 - tf.abs(centres[:, None] - pixels[None, :]) / tf.maximum(scale, 1.0))
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def resized(images: tf.Tensor, size: ImageShape, *, photos: bool) -> tf.Tensor:
    """uint8 `[batch, height, width, channels]` to float32 `[batch, *size]` in [0, 255], as evaluation does.

    Nothing but arithmetic that TFLite and ONNX have: neither has a resize with an antialiasing filter.
    """
    high, wide, channels = size
    images = in_channels(images, channels)
    if not photos and images.shape[1:3] == (high, wide):
        return tf.cast(images, tf.float32)
    shape = tf.shape(images)
    height, width = (images.shape[axis] or shape[axis] for axis in (1, 2))
    top, left, down, across = 0, 0, height, width
    if photos:
        square = high == wide
        down = tf.minimum(height, width if square else width * high // wide)
        across = tf.minimum(width, height if square else height * wide // high)
        top, left = (height - down) // 2, (width - across) // 2
    # [1, 1, wide, width] x [batch, height, width, 3], then [1, high, height] x [batch, height, wide * 3].
    rows = tf.matmul(triangle_weights(width, wide, left, across)[None, None], tf.cast(images, tf.float32))
    rows = _whole(rows) if photos else rows
    rows = tf.reshape(rows, [shape[0], height, wide * channels])
    columns = tf.matmul(triangle_weights(height, high, top, down)[None], rows)
    columns = _whole(columns) if photos else columns
    return tf.reshape(columns, [shape[0], high, wide, channels])


def check(preprocessing: AnyPreprocessing) -> None:
    """FinetuneError where a preprocessing cannot be put into a graph."""
    if isinstance(preprocessing, CustomPreprocessing):
        raise FinetuneError(
            f"--with-preprocessing: {preprocessing.name} is a Python function of your own, which no exported graph can "
            "hold: leave --with-preprocessing out, and prepare the pixels where the export is used"
        )
    if isinstance(preprocessing, PerImage):
        raise FinetuneError(
            "--with-preprocessing: per-image standardisation is not built into exports: leave it out, "
            "and standardise each image where the export is used"
        )


def layers(pixels: Any, size: ImageShape, preprocessing: AnyPreprocessing, *, native: tuple[int, ...] | None) -> Any:
    """The same as stock Keras layers, which a `.keras` file holds and safe mode loads: symbolic uint8 images
    `[batch, height, width, channels]` of the size `native`, or photos of any size for None, to what the network takes.

    `Resizing` is `tf.image.resize`: of photos it rounds once, where Pillow rounds twice.
    """
    high, wide, channels = size
    x: Any = keras.ops.cast(in_channels(pixels, channels), "float32")  # of uint8, Resizing makes uint8 again
    if native is None:
        x = keras.layers.Resizing(high, wide, antialias=True, crop_to_aspect_ratio=True, name="resize")(x)
        x = keras.ops.round(x)
    elif native[:2] != (high, wide):
        shrinking = high < native[0] or wide < native[1]
        x = keras.layers.Resizing(high, wide, antialias=shrinking, name="resize")(x)
    order, scale, offset = coefficients(preprocessing, channels)
    if order != list(range(channels)):
        x = keras.ops.take(x, order, axis=-1)
    return keras.layers.Rescaling(scale, offset, name="preprocess")(x)


def coefficients(preprocessing: AnyPreprocessing, channels: int = 3) -> tuple[list[int], list[float], list[float]]:
    """(order of the channels, factor, summand) of a preprocessing: each is affine, channel by channel."""
    basis = np.concatenate([np.zeros((1, channels)), np.eye(channels)]).astype(np.float32)
    offset, *columns = np.asarray(preprocessing.apply(basis[:, None, None, :]), np.float64)[:, 0, 0, :]
    gains = np.stack(columns) - offset  # [channel in, channel out]
    order = np.abs(gains).argmax(axis=0)
    return order.tolist(), gains[order, range(channels)].tolist(), offset.tolist()


def _whole(values: tf.Tensor) -> tf.Tensor:
    """To the nearest 8-bit value, halves up, as Pillow does."""
    return tf.clip_by_value(tf.floor(values + 0.5), 0.0, 255.0)
