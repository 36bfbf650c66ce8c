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
    """Each image is moved by up to `crop_padding` px in each direction and, with `flip`, mirrored half of the time.

    This equals padding by `crop_padding` and random cropping, at the images' own resolution. The border is filled by
    reflection, as in KellerJordan/cifar10-airbench, and not by zeros as in He et al. (2016, section 4.2). Photographs
    have no black bars, and BatchNorm would include them in the statistics that are later used on images without bars.

    With `resized_crop`, `lazy.draw_crop` instead takes random crops of the photos themselves, mirrored half of the
    time, before they become a batch. Then `augment` has nothing to do.

    After the crop follow RandAugment of magnitude `rand_augment` (`rand_augment.py`), then `mixup` and `cutmix` with
    their alphas (`mixing.py`). None disables one.
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
        """The whole augmentation: uint8 `[batch, height, width, 3]` and int64 `[batch]` to (images, labels).

        The images are in [0, 255], uint8 or float32. The labels are unchanged, or with `mixes` each class's share,
        float32 `[batch, classes]`. The same `seed`, int32 `[2]`, gives the same result.
        """
        images = self.augment(images, seed, share)
        if self.rand_augment is None and not self.mixes:
            return images, labels
        # Traced once per process and not once per epoch: tracing RandAugment may take longer than an epoch.
        return _strong(self, tuple(images.shape), classes)(images, labels, seed)

    def augment(self, images: tf.Tensor, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
        """Crop and flip uint8 `[batch, height, width, 3]`; the result has the same shape. `seed` int32 `[2]`.

        The same seed gives the same images, also if `images` are a share of the batch. `crop_padding` must be smaller
        than height and width, because the border is a reflection.
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
        """bool `[batch]`: which images `augment` mirrors; none without `flip`."""
        return tf.logical_and(self.flip, _mirrored(_draws(batch, seed)[2])[:, 0])

    def _offset(self, draw: tf.Tensor) -> tf.Tensor:
        """A draw from [0, 1) as a whole number from -crop_padding to crop_padding, uniformly."""
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

    signature = (tf.TensorSpec(shape, tf.uint8), tf.TensorSpec(shape[:1], tf.int64), tf.TensorSpec([2], tf.int32))
    with tf.init_scope():
        return tf.function(strong, autograph=False).get_concrete_function(*signature)  # type: ignore[no-any-return]


def _draws(batch: Any, seed: Any) -> tf.Tensor:
    """Draws from [0, 1) for down, right and side, float32 `[3, batch, 1]`."""
    # One named algorithm, so that every device draws the same numbers.
    return tf.random.stateless_uniform([3, batch, 1], seed, alg="philox")


def _mirrored(side: tf.Tensor) -> tf.Tensor:
    return side < 0.5


def _reflected(index: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Indices outside [0, size), mirrored at the end pixel, which is not repeated (np.pad 'reflect')."""
    return size - 1 - tf.abs(size - 1 - tf.abs(index))
