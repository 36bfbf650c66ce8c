"""Random crops, flips and more of whole batches, as a pure function of a seed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from finetune.data.mixing import Mixing
from finetune.data.rand_augment import RandAugment
from finetune.data.share import WHOLE, Share


@dataclass(frozen=True)
class Augmentation:
    """Each image is moved by up to `crop_padding` px either way and, where `flip`, mirrored half of the time.

    Equal to padding by `crop_padding` and cropping at random, at the images' own resolution. The border is filled by
    reflection, as in KellerJordan/cifar10-airbench, and not by the zeros of He et al. (2016, section 4.2): black bars
    are pixels that no photograph has, and BatchNorm would count them into the statistics that are then used on
    images without bars.

    Where `resized_crop`, parts of random area and shape are taken of the photos themselves instead, mirrored half of
    the time (`lazy.draw_crop`), before they become a batch: there is nothing left to do here.

    What follows works on whatever the crop gave: RandAugment of magnitude `rand_augment` (`rand_augment.py`), then
    `mixup` and `cutmix` with their alphas (`mixing.py`); None leaves one out.
    """

    crop_padding: int
    flip: bool
    resized_crop: bool = False
    rand_augment: float | None = None
    mixup: float | None = None
    cutmix: float | None = None

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of classes."""
        return self.mixup is not None or self.cutmix is not None

    def batch(
        self, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, classes: int, share: Share = WHOLE
    ) -> Any:
        """All of it: uint8 `[batch, height, width, 3]` and int64 `[batch]` to (images, labels).

        The images are in [0, 255], uint8 or float32; the labels as they were, or where it `mixes` each class's share,
        float32 `[batch, classes]`. `seed` int32 `[2]`: the same gives the same.
        """
        images = self.augment(images, seed, share)
        if self.rand_augment is None and not self.mixes:
            return images, labels
        # Traced once a process and not once an epoch, which for RandAugment would take longer than many an epoch.
        return _strong(self, tuple(images.shape), classes)(images, labels, seed)

    def augment(self, images: tf.Tensor, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
        """uint8 `[batch, height, width, 3]` in and out; `seed` int32 `[2]`. The same seed gives the same images,
        also where `images` are a share of the batch.

        `crop_padding` must be smaller than height and width, or there is too little to reflect.
        """
        if self.resized_crop or (not self.crop_padding and not self.flip):
            return images
        batch, height, width = tf.unstack(tf.shape(images)[:3])
        draws = _draws(batch * share.of, seed)
        down, right, side = tf.unstack(draws[:, batch * share.index : batch * (share.index + 1)])
        rows = tf.range(height) + self._offset(down)
        columns = tf.range(width) + self._offset(right)
        if self.flip:
            columns = tf.where(_mirrored(side), columns[:, ::-1], columns)
        # Two gathers of indices reflected into the image: the padded batch itself is never made.
        moved = tf.gather(images, _reflected(rows, height), axis=1, batch_dims=1)
        moved = tf.gather(moved, _reflected(columns, width), axis=2, batch_dims=1)
        return tf.ensure_shape(moved, images.shape)

    def mirrored(self, batch: int, seed: Any) -> tf.Tensor:
        """bool `[batch]`: which images `augment` mirrors, as far as `flip` says."""
        return tf.logical_and(self.flip, _mirrored(_draws(batch, seed)[2])[:, 0])

    def _offset(self, draw: tf.Tensor) -> tf.Tensor:
        """A draw from [0, 1) as a whole number from -crop_padding to crop_padding, each as likely."""
        return tf.cast(tf.floor(draw * (2 * self.crop_padding + 1)), tf.int32) - self.crop_padding


@functools.lru_cache(maxsize=8)
def _strong(augmentation: Augmentation, shape: tuple[int, ...], classes: int) -> Callable[..., Any]:
    changing = RandAugment(augmentation.rand_augment) if augmentation.rand_augment is not None else None
    mixing = Mixing(augmentation.mixup, augmentation.cutmix) if augmentation.mixes else None

    def strong(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.cast(images, tf.float32)
        if changing is not None:
            pixels = changing.augment(pixels, tf.random.experimental.stateless_fold_in(seed, 1))
        if mixing is None:
            return pixels, labels
        return mixing.mix(pixels, tf.one_hot(labels, classes), tf.random.experimental.stateless_fold_in(seed, 2))

    signature = (
        tf.TensorSpec(shape, tf.uint8),
        tf.TensorSpec(shape[:1], tf.int64),
        tf.TensorSpec([2], tf.int32),
    )
    with tf.init_scope():
        return tf.function(strong, autograph=False).get_concrete_function(*signature)  # type: ignore[no-any-return]


def _draws(batch: Any, seed: Any) -> tf.Tensor:
    """Draws from [0, 1) for down, right and side, float32 `[3, batch, 1]`."""
    # One named algorithm, so that every device draws the same numbers.
    return tf.random.stateless_uniform([3, batch, 1], seed, alg="philox")


def _mirrored(side: tf.Tensor) -> tf.Tensor:
    return side < 0.5


def _reflected(index: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Indices beyond either end of [0, size), mirrored at the end pixel, which is not repeated (np.pad 'reflect')."""
    return size - 1 - tf.abs(size - 1 - tf.abs(index))
