"""Random changes of images, one by one: turned over, rotated, other colours, a box erased, TrivialAugment.

Each is a pure function of the images and a seed, int32 `[2]`. What an image gets depends on its place in the batch
alone: a worker's share of a batch gets what the same rows of the whole batch would.
"""

from collections.abc import Callable

import tensorflow as tf

from finetune.data import image_operations as operations
from finetune.data.dataset import WHOLE, Share

_AREA, _ASPECT = (0.02, 0.33), (0.3, 3.3)
"""Smallest and largest share of the image that is erased, and ratio of the box's height to its width."""
_TRIES = 10
_LEVELS = 31
"""Strengths of TrivialAugment, from none to the largest."""


def turned_over(images: tf.Tensor, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
    """Half of the images upside down. Of any type."""
    (draw,) = _draws(images, seed, share, 1)
    return tf.where(draw[:, None, None, None] < 0.5, images[:, ::-1], images)


def rotated(images: tf.Tensor, degrees: float, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
    """Each image turned by an angle that is uniform in [-degrees, degrees]. float32 in [0, 255]."""
    (draw,) = _draws(images, seed, share, 1)
    return operations.rotated(images, (2 * draw - 1) * degrees)


def jittered(images: tf.Tensor, strength: float, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
    """Brightness, contrast and saturation times factors uniform in [1 - strength, 1 + strength], in random order.

    As torchvision's `ColorJitter(strength, strength, strength)`, with factors and an order for each image; the hue is
    left. float32 of 1 or 3 channels in [0, 255]; one channel has no saturation. `strength` in (0, 1].
    """
    draws = tf.stack(_draws(images, seed, share, 6), axis=1)
    factors, order = 1 + strength * (2 * draws[:, :3] - 1), tf.argsort(draws[:, 3:], axis=1)
    for step in range(3):
        which = order[:, step][:, None, None, None]
        grey = operations.grey(images)
        mean = tf.reduce_mean(grey, axis=[1, 2], keepdims=True)
        other = tf.where(which == 0, 0.0, tf.where(which == 1, mean, grey))
        images = operations.blended(other, images, tf.gather(factors, order[:, step], batch_dims=1))
    return images


def erased(images: tf.Tensor, probability: float, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896): of each image, with `probability`, a box becomes noise.

    The noise is the paper's default, values uniform in [0, 255] for every pixel and channel. The box is that of
    torchvision's `RandomErasing`: its area uniform in 2 % to 33 % of the image, the logarithm of its aspect ratio
    uniform within that of 0.3 to 3.3, its place uniform. A box that does not fit is drawn again, up to ten times; after
    that the image stays. float32 in [0, 255].
    """
    height, width = images.shape[1:3]
    of_boxes, of_noise = (tf.random.experimental.stateless_fold_in(seed, one) for one in (0, 1))
    chance, top, left, *tries = _draws(images, of_boxes, share, 3 + 2 * _TRIES)
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * tf.stack(tries[:_TRIES], axis=1))
    low, high = (tf.math.log(one) for one in _ASPECT)
    aspect = tf.exp(low + (high - low) * tf.stack(tries[_TRIES:], axis=1))
    tall, wide = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (tall >= 1) & (tall < height) & (wide >= 1) & (wide < width)
    first = tf.argmax(fits, axis=1)
    tall, wide = (tf.gather(one, first, batch_dims=1) for one in (tall, wide))
    erases = (chance < probability) & tf.reduce_any(fits, axis=1)
    rows = _between(tf.range(float(height)), tf.floor(top * (height - tall + 1)), tall)
    columns = _between(tf.range(float(width)), tf.floor(left * (width - wide + 1)), wide)
    box = erases[:, None, None] & rows[:, :, None] & columns[:, None, :]
    noise = _rows(images, of_noise, share, images.shape[1:]) * 255
    return tf.where(box[..., None], noise, images)


def _between(numbers: tf.Tensor, start: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """bool `[batch, len(numbers)]`: which of `numbers` are within each image's `length` from its `start`."""
    return (numbers >= start[:, None]) & (numbers < (start + length)[:, None])


TRIVIAL: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "identity": lambda images, _: images,
    "auto_contrast": lambda images, _: operations.auto_contrasted(images),
    "equalize": lambda images, _: operations.equalized(images),
    "rotate": lambda images, s: operations.rotated(images, 135 * s),
    "solarize": lambda images, s: operations.solarized(images, 255 * (1 - tf.abs(s))),
    "posterize": lambda images, s: operations.posterized(images, 8 - tf.cast(tf.round(6 * tf.abs(s)), tf.int32)),
    "saturation": lambda images, s: operations.blended(operations.grey(images), images, 1 + 0.99 * s),
    "contrast": lambda images, s: operations.blended(operations.mean_grey(images), images, 1 + 0.99 * s),
    "brightness": lambda images, s: operations.blended(0.0, images, 1 + 0.99 * s),
    "sharpness": lambda images, s: operations.blended(operations.smoothed(images), images, 1 + 0.99 * s),
    "shear_x": lambda images, s: operations.sheared(images, across=0.99 * s),
    "shear_y": lambda images, s: operations.sheared(images, down=0.99 * s),
    "translate_x": lambda images, s: operations.moved(images, right=32 * s),
    "translate_y": lambda images, s: operations.moved(images, down=32 * s),
}
"""The operations of TrivialAugment's wide space, as functions of images and a strength in [-1, 1] for each."""


def trivially_augmented(images: tf.Tensor, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
    """TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158): one random operation with a random strength.

    Of the wide space, `TRIVIAL`: all operations and all of 31 strengths equally often, in either direction if there are
    two. Images are sheared about their centre, and not their corner. float32 of 1 or 3 channels in [0, 255].
    """
    which, strength, side = _draws(images, seed, share, 3)
    numbers = tf.cast(tf.floor(which * len(TRIVIAL)), tf.int32)
    strength = tf.floor(strength * _LEVELS) / (_LEVELS - 1) * tf.where(side < 0.5, -1.0, 1.0)
    parts, strengths, places = (
        tf.dynamic_partition(one, numbers, len(TRIVIAL)) for one in (images, strength, tf.range(tf.shape(images)[0]))
    )
    # Each operation gets only the images that drew it.
    shape = [None, *images.shape[1:]]
    made = [
        tf.ensure_shape(operation(*one), shape)
        for operation, one in zip(TRIVIAL.values(), zip(parts, strengths, strict=True), strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(places, made), images.shape)


def _draws(images: tf.Tensor, seed: tf.Tensor, share: Share, count: int) -> list[tf.Tensor]:
    """`count` draws from [0, 1) for each image, each float32 `[batch]`."""
    return tf.unstack(_rows(images, seed, share, (count,)), axis=1)  # type: ignore[no-any-return]


def _rows(images: tf.Tensor, seed: tf.Tensor, share: Share, shape: tuple[int, ...]) -> tf.Tensor:
    """Draws from [0, 1) of that shape for each image: the rows of a share in the draws for the whole batch."""
    batch = tf.shape(images)[0]
    # One named algorithm, so that every device draws the same numbers.
    whole = tf.random.stateless_uniform([batch * share.of, *shape], seed, alg="philox")
    return whole[batch * share.index : batch * (share.index + 1)]
