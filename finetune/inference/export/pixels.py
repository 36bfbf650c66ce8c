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
from finetune.data.geometry import CENTRE, Geometry
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


def two_pixel_weights(size: Any, out: int, step: Any, first: Any, lowest: Any, highest: Any) -> tf.Tensor:
    """float32 `[out, size]`: new pixel i is interpolated at `first + i * step`, held within `lowest` and `highest`,
    from the two pixels beside that place: TensorFlow's bilinear resizing without antialiasing."""
    places = tf.range(out, dtype=tf.float32) * tf.cast(step, tf.float32) + tf.cast(first, tf.float32)
    places = tf.clip_by_value(places, tf.cast(lowest, tf.float32), tf.cast(highest, tf.float32))
    return tf.maximum(0.0, 1.0 - tf.abs(places[:, None] - tf.range(tf.cast(size, tf.float32))[None, :]))


def resized(images: tf.Tensor, size: ImageShape, *, photos: bool, geometry: Geometry = CENTRE) -> tf.Tensor:
    """uint8 `[batch, height, width, channels]` to float32 `[batch, *size]` in [0, 255], as evaluation does.

    Nothing but arithmetic that TFLite and ONNX have: neither has a resize with an antialiasing filter.
    """
    high, wide, channels = size
    images = in_channels(images, channels)
    if not photos and images.shape[1:3] == (high, wide) and not geometry.exact:
        return tf.cast(images, tf.float32)
    shape = tf.shape(images)
    height, width = (images.shape[axis] or shape[axis] for axis in (1, 2))
    rounded = _whole if photos and not geometry.exact else tf.identity
    by_row, by_column, inner = _weights(height, width, (high, wide), geometry if photos or geometry.exact else None)
    # [1, 1, wide, width] x [batch, height, width, 3], then [1, high, height] x [batch, height, wide * 3].
    rows = rounded(tf.matmul(by_column[None, None], tf.cast(images, tf.float32)))
    rows = tf.reshape(rows, [shape[0], height, inner[1] * channels])
    columns = tf.reshape(rounded(tf.matmul(by_row[None], rows)), [shape[0], *inner, channels])
    if geometry.mode == "pad" and photos:
        spare = [(full - used, (full - used) // 2) for full, used in zip((high, wide), inner, strict=True)]
        columns = tf.pad(columns, [(0, 0), *((before, rest - before) for rest, before in spare), (0, 0)])
    return tf.reshape(columns, [shape[0], high, wide, channels])


def _weights(height: Any, width: Any, size: tuple[int, int], geometry: Geometry | None) -> tuple[Any, Any, Any]:
    """(weights of the rows, weights of the columns, the size that is made of them) for images of `height` x `width`,
    which may be scalar tensors: of the part that `geometry` takes, or of all."""
    (high, wide), whole = size, (height, width)
    if geometry is None:
        return triangle_weights(height, high), triangle_weights(width, wide), size
    if geometry.sampler == "slim" and geometry.mode == "crop":
        return *_slim_crop(whole, size, geometry), size
    part = list(whole)
    if geometry.mode == "crop":
        square = high == wide
        part[0] = tf.minimum(height, width if square else width * high // wide)
        part[1] = tf.minimum(width, height if square else height * wide // high)
    if geometry.fraction < 1:
        part = [tf.cast(tf.round(tf.cast(side, tf.float32) * geometry.fraction), tf.int32) for side in part]
    begins = [(side - own) // 2 for side, own in zip(whole, part, strict=True)]
    if geometry.sampler == "slim":  # tf.image.central_crop rounds where it begins, not how long it is
        begins = [tf.cast(tf.cast(side, tf.float32) * ((1 - geometry.fraction) / 2), tf.int32) for side in whole]
        part = [side - 2 * begin for side, begin in zip(whole, begins, strict=True)]
    if geometry.exact:
        steps = [tf.cast(own, tf.float32) / out for own, out in zip(part, size, strict=True)]
        halves = [step / 2 - 0.5 if geometry.sampler == "keras" else 0.0 for step in steps]
        pairs = (
            two_pixel_weights(side, out, step, tf.cast(begin, tf.float32) + half, begin, begin + own - 1)
            for side, out, step, half, begin, own in zip(whole, size, steps, halves, begins, part, strict=True)
        )
        return *pairs, size
    inner: Any = size
    if geometry.mode == "pad":
        down, across = (tf.cast(own, tf.float32) for own in part)
        scale = tf.minimum(high / down, wide / across)
        inner = [
            tf.clip_by_value(tf.cast(tf.round(own * scale), tf.int32), 1, full)
            for own, full in zip((down, across), size, strict=True)
        ]
    both = zip(whole, inner, begins, part, strict=True)
    return *(triangle_weights(side, out, begin, own) for side, out, begin, own in both), inner


def _slim_crop(whole: tuple[Any, Any], size: tuple[int, int], geometry: Geometry) -> list[tf.Tensor]:
    """Weights of rows and columns as `geometry.slim_sides` and `geometry.resampled` have it."""
    sides = [tf.cast(side, tf.float32) for side in whole]
    scale = round(max(size) / geometry.fraction) / tf.minimum(*sides)
    found = []
    for side, out in zip(sides, size, strict=True):
        new = tf.round(side * scale)
        step, begin = side / new, tf.floor((new - out) / 2)
        found.append(two_pixel_weights(side, out, step, begin * step, 0, side - 1))
    return found


def check(preprocessing: AnyPreprocessing, geometry: Geometry = CENTRE) -> None:
    """FinetuneError where a preprocessing, or a way to crop and resize, cannot be put into a graph."""
    if geometry.sampler == "keras" and geometry.mode == "pad":
        raise FinetuneError(
            "--with-preprocessing: padding as Keras does it is not built into exports: leave it out, and pad each "
            "image where the export is used"
        )
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


def layers(
    pixels: Any,
    size: ImageShape,
    preprocessing: AnyPreprocessing,
    *,
    native: tuple[int, ...] | None,
    geometry: Geometry = CENTRE,
) -> Any:
    """The same as stock Keras layers, which a `.keras` file holds and safe mode loads: symbolic uint8 images
    `[batch, height, width, channels]` of the size `native`, or photos of any size for None, to what the network takes.

    `Resizing` is `tf.image.resize`: of photos it rounds once, where Pillow rounds twice. A fraction of them is cut out
    after resizing. FinetuneError for pixels of slim's evaluation, which no stock layer computes.
    """
    high, wide, channels = size
    if geometry.sampler == "slim" or (geometry.exact and geometry.fraction < 1):
        raise FinetuneError(
            "--with-preprocessing --format keras: no stock layer of Keras resizes as --eval-recipe has it: leave "
            "--with-preprocessing out, or take another format"
        )
    x: Any = keras.ops.cast(in_channels(pixels, channels), "float32")  # of uint8, Resizing makes uint8 again
    if native is None or geometry.exact:
        sides = [round(side / geometry.fraction) for side in (high, wide)]
        ratio = {"crop_to_aspect_ratio": geometry.mode == "crop", "pad_to_aspect_ratio": geometry.mode == "pad"}
        x = keras.layers.Resizing(*sides, antialias=not geometry.exact, **ratio, name="resize")(x)
        x = x if geometry.exact else keras.ops.round(x)
        x = x if geometry.fraction == 1 else keras.layers.CenterCrop(high, wide, name="crop")(x)
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
