"""Changes of a batch of images, each with a strength of its own: turned, moved, other colours, sharper, flatter.

Images are float32 `[batch, height, width, channels]` in [0, 255], in and out; a strength is float32 `[batch]`. Outside
an image lies its reflection, which begins with the edge pixel (SciPy's and Keras's 'reflect'). Nothing here is random.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def rotated(images: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Turned about the centre, counter-clockwise where `degrees` are positive, interpolated bilinearly."""
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _affine(images, cos, -sin, sin, cos)


def sheared(images: tf.Tensor, across: Any = 0.0, down: Any = 0.0) -> tf.Tensor:
    """Each row is shifted by `across` times its distance from the centre, or each column by `down` times its own."""
    one = tf.ones_like(across + down)
    return _affine(images, one, one * across, one * down, one)


def moved(images: tf.Tensor, right: Any = 0.0, down: Any = 0.0) -> tf.Tensor:
    """Shifted by so many px, which need not be whole."""
    one = tf.ones_like(right + down)
    return _affine(images, one, 0 * one, 0 * one, one, -one * right, -one * down)


def _affine(
    images: tf.Tensor, a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor, right: Any = 0.0, down: Any = 0.0
) -> tf.Tensor:
    """The pixel at (x, y) from the centre is the old one at (a x + b y + right, c x + d y + down)."""
    size = tf.shape(images)[1:3]
    y, x = tf.unstack((tf.cast(size, tf.float32) - 1) / 2)
    zero = tf.zeros_like(a)
    matrix = (a, b, x - a * x - b * y + right, c, d, y - c * x - d * y + down, zero, zero)
    made = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(matrix, axis=1),
        output_shape=size,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return tf.ensure_shape(made, images.shape)


def grey(images: tf.Tensor) -> tf.Tensor:
    """`[batch, height, width, 1]`: 0.2989 R + 0.587 G + 0.114 B, as in torchvision; one channel is grey already."""
    return images if images.shape[3] == 1 else tf.image.rgb_to_grayscale(images)


def blended(other: Any, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """`other` where `factor` is 0, the images where it is 1, and beyond them above 1, cut to [0, 255].

    As Pillow's ImageEnhance and torchvision: brightness blends with black, saturation with `grey`, contrast with the
    `mean_grey`, sharpness with `smoothed`.
    """
    return tf.clip_by_value(other + factor[:, None, None, None] * (images - other), 0.0, 255.0)


def mean_grey(images: tf.Tensor) -> tf.Tensor:
    """`[batch, 1, 1, 1]`: the mean of `grey`."""
    return tf.reduce_mean(grey(images), axis=[1, 2], keepdims=True)


def smoothed(images: tf.Tensor) -> tf.Tensor:
    """Each pixel averaged with its eight neighbours, with weight 5 of 13. Those of the border stay, as in Pillow.

    Keras's layer takes black beyond the border.
    """
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return images
    inside = images[:, 1:-1, 1:-1]
    # TensorFlow's convolution gives no images another shape.
    near = [images[:, row : row + height - 2, column : column + width - 2] for row, column in np.ndindex(3, 3)]
    rows = tf.concat([images[:, 1:-1, :1], (tf.add_n(near) + 4 * inside) / 13, images[:, 1:-1, -1:]], axis=2)
    return tf.concat([images[:, :1], rows, images[:, -1:]], axis=1)


def posterized(images: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """The highest `bits` of each value, int `[batch]` from 1 to 8."""
    shift = tf.cast(8 - bits, tf.uint8)[:, None, None, None]
    values = tf.cast(images, tf.uint8)
    return tf.cast(tf.bitwise.left_shift(tf.bitwise.right_shift(values, shift), shift), tf.float32)


def solarized(images: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Values above `threshold` are inverted."""
    return tf.where(images > threshold[:, None, None, None], 255 - images, images)


def auto_contrasted(images: tf.Tensor) -> tf.Tensor:
    """Each channel stretched to the full range; one of a single value stays."""
    least, most = (reduce(images, axis=[1, 2], keepdims=True) for reduce in (tf.reduce_min, tf.reduce_max))
    stretches = tf.cast(most > least, tf.float32)
    return images + stretches * (tf.math.divide_no_nan(images - least, most - least) * 255 - images)


def equalized(images: tf.Tensor) -> tf.Tensor:
    """Each channel of each image with a flat histogram, by Keras's layer, which takes one histogram of all it gets.

    For use in a graph: outside one, no images lose their shape.
    """
    layer = keras.layers.Equalization()
    return tf.map_fn(lambda one: layer.transform_images(one[None], None, training=True)[0], images)
