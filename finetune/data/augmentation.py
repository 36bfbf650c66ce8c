"""The augmentation of a batch as a pure function of a seed; its crops and flips, RandAugment, mixup and CutMix."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from finetune.data import random_changes
from finetune.data.dataset import WHOLE, Share


@dataclass(frozen=True)
class Augmentation:
    """Each image is moved by up to `crop_padding` px in each direction and, with `flip`, mirrored half of the time.

    This equals padding by `crop_padding` and random cropping, at the images' own resolution. The border is filled by
    reflection, as in KellerJordan/cifar10-airbench, and not by zeros as in He et al. (2016, section 4.2). Photographs
    have no black bars, and BatchNorm would include them in the statistics that are later used on images without bars.

    With `resized_crop`, `lazy.draw_crop` instead takes random crops of the photos themselves, with `flip` mirrored half
    of the time, before they become a batch. Then `augment` has nothing to do.

    After the crop follow the other fields in their order. None and False disable one. `rotate` is in degrees,
    `rand_augment` a magnitude (`RandAugment`), `color_jitter` a strength, `erase` a probability
    (`finetune.data.random_changes`); `mixup` and `cutmix` are alphas (`Mixing`).
    """

    crop_padding: int
    flip: bool
    resized_crop: bool = False
    flip_vertical: bool = False
    rotate: float | None = None
    rand_augment: float | None = None
    trivial_augment: bool = False
    color_jitter: float | None = None
    erase: float | None = None
    mixup: float | None = None
    cutmix: float | None = None

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of classes."""
        return self.mixup is not None or self.cutmix is not None

    @property
    def _strong(self) -> bool:
        """Whether images become float32."""
        numbers = (self.rotate, self.rand_augment, self.color_jitter, self.erase)
        return self.trivial_augment or self.mixes or any(one is not None for one in numbers)

    def batch(
        self, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, *, classes: int, share: Share = WHOLE
    ) -> Any:
        """The whole augmentation: `[batch, height, width, channels]` and labels as in `Split` to (images, labels).

        The images are in [0, 255], uint8 or float32, before and after. The labels are unchanged, or with `mixes` each
        class's share, float32 `[batch, classes]`; of several labels, the share in which each is there. The same `seed`,
        int32 `[2]`, gives the same result.
        """
        images = self.augment(images, seed, share)
        if self.flip_vertical:
            images = random_changes.turned_over(images, _folded(seed, 3), share)
        if not self._strong:
            return images, labels
        # Traced once per process and not once per epoch: tracing RandAugment may take longer than an epoch.
        forms = (tf.TensorSpec(one.shape, one.dtype) for one in (images, labels))
        return _traced(self, *forms, classes, share)(images, labels, seed)

    def augment(self, images: tf.Tensor, seed: tf.Tensor, share: Share = WHOLE) -> tf.Tensor:
        """Crop and flip `[batch, height, width, channels]` of any type. `seed` int32 `[2]`.

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
            columns = tf.where(side < 0.5, columns[:, ::-1], columns)
        # Two gathers of indices reflected into the image: the padded batch itself is never made.
        moved = tf.gather(images, _reflected(rows, height), axis=1, batch_dims=1)
        moved = tf.gather(moved, _reflected(columns, width), axis=2, batch_dims=1)
        return tf.ensure_shape(moved, images.shape)

    def mirrored(self, batch: int, seed: Any) -> tf.Tensor:
        """bool `[batch]`: which images `augment` mirrors; none without `flip`."""
        return tf.logical_and(self.flip, _draws(batch, seed)[2, :, 0] < 0.5)

    def _offset(self, draw: tf.Tensor) -> tf.Tensor:
        """A draw from [0, 1) as a whole number from -crop_padding to crop_padding, uniformly."""
        return tf.cast(tf.floor(draw * (2 * self.crop_padding + 1)), tf.int32) - self.crop_padding


@functools.lru_cache(maxsize=8)
def _traced(
    augmentation: Augmentation, images: tf.TensorSpec, labels: tf.TensorSpec, classes: int, share: Share
) -> Callable[..., Any]:
    """What follows the flips, for images and labels of these forms."""
    changing = RandAugment(augmentation.rand_augment) if augmentation.rand_augment is not None else None
    mixing = Mixing(augmentation.mixup, augmentation.cutmix) if augmentation.mixes else None

    def strong(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = tf.cast(images, tf.float32)
        if augmentation.rotate is not None:
            pixels = random_changes.rotated(pixels, augmentation.rotate, _folded(seed, 4), share)
        if changing is not None:
            pixels = changing.augment(pixels, _folded(seed, 1))
        if augmentation.trivial_augment:
            pixels = random_changes.trivially_augmented(pixels, _folded(seed, 5), share)
        if augmentation.color_jitter is not None:
            pixels = random_changes.jittered(pixels, augmentation.color_jitter, _folded(seed, 6), share)
        if augmentation.erase is not None:
            pixels = random_changes.erased(pixels, augmentation.erase, _folded(seed, 7), share)
        if mixing is None:
            return pixels, labels
        shares = tf.one_hot(labels, classes) if labels.shape.rank == 1 else tf.cast(labels, tf.float32)
        return mixing.mix(pixels, shares, _folded(seed, 2))

    signature = (images, labels, tf.TensorSpec([2], tf.int32))
    with tf.init_scope():
        return tf.function(strong, autograph=False).get_concrete_function(*signature)  # type: ignore[no-any-return]


def _folded(seed: tf.Tensor, number: int) -> tf.Tensor:
    """The seed, int32 `[2]`, of one of the changes."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _draws(batch: Any, seed: Any) -> tf.Tensor:
    """Draws from [0, 1) for down, right and side, float32 `[3, batch, 1]`."""
    # One named algorithm, so that every device draws the same numbers.
    return tf.random.stateless_uniform([3, batch, 1], seed, alg="philox")


def _reflected(index: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Indices outside [0, size), mirrored at the end pixel, which is not repeated (np.pad 'reflect')."""
    return size - 1 - tf.abs(size - 1 - tf.abs(index))


OPERATIONS = (
    *("random_shear", "random_translation", "random_rotation", "random_brightness", "random_color_degeneration"),
    *("random_contrast", "random_sharpness", "random_posterization", "solarization", "auto_contrast", "equalization"),
)
"""The layers of `keras.layers.RandAugment`. The paper's identity is missing, because a weak draw amounts to it."""

_OPERATIONS_AN_IMAGE = 2


class Draws(keras.random.SeedGenerator):  # type: ignore[misc]
    """Seeds for Keras's layers. Each is a function of one seed and its position, not of earlier draws."""

    def __init__(self) -> None:
        super().__init__(0)
        self._root: Any = None
        self._count = 0

    def begin(self, seed: tf.Tensor) -> "Draws":
        """Derive the following seeds from `seed`, int32 `[2]`."""
        self._root, self._count = seed, 0
        return self

    def next(self, ordered: bool = True) -> tf.Tensor:
        """The next seed, int32 `[2]`."""
        self._count += 1
        return tf.random.experimental.stateless_fold_in(self._root, self._count)


class RandAugment(keras.layers.RandAugment):  # type: ignore[misc]
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719), as a pure function of a seed.

    It is Keras's layer with the paper's strengths, drawn for every image.

    magnitude: in (0, 1]; 1 is the strongest of the paper's ranges (its M = 30). Each image gets two operations. The
        strength of each is drawn uniformly up to `magnitude`, in either direction if there are two.

    Keras 3.15's own layer differs in these ways:

    - It draws one pair of operations for a whole batch, from a counter: so the result depends on the batches before.
    - Its scales differ: 0.5 rotates by up to 180 degrees; it only brightens and only blurs; a smaller factor solarizes
      more.
    - It equalizes all images with one histogram.
    - It computes all operations for all images, which takes ten times as long.
    """

    def __init__(self, magnitude: float) -> None:
        super().__init__(value_range=(0, 255), num_ops=_OPERATIONS_AN_IMAGE, factor=magnitude)
        layers, m = keras.layers, magnitude
        turned = {"fill_mode": "reflect"}
        self.random_shear = layers.RandomShear(0.3 * m, 0.3 * m, **turned)
        self.random_translation = layers.RandomTranslation(0.45 * m, 0.45 * m, **turned)
        self.random_rotation = layers.RandomRotation(30 / 360 * m, **turned)
        self.random_brightness = layers.RandomBrightness(0.45 * m, value_range=(0, 255))
        self.random_color_degeneration = layers.RandomColorDegeneration(0.9 * m, value_range=(0, 255))
        self.random_contrast = layers.RandomContrast(0.9 * m, value_range=(0, 255))
        # 0.5 leaves the image unchanged, 0 blurs it, 1 sharpens it.
        self.random_sharpness = layers.RandomSharpness((0.5 - 0.45 * m, 0.5 + 0.45 * m), value_range=(0, 255))
        # The number of bits that are kept; the upper bound is excluded.
        self.random_posterization = layers.RandomPosterization((round(8 - 4 * m), 9), value_range=(0, 255))
        self.solarization = layers.Solarization(threshold_factor=m, value_range=(0, 255))
        self._draws = Draws()
        for name in OPERATIONS:
            if hasattr(getattr(self, name), "generator"):
                getattr(self, name).generator = self._draws

    def augment(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """float32 `[batch, height, width, 3]` in [0, 255] in and out; `seed` int32 `[2]`. For use in a graph."""
        draws, batch = self._draws.begin(seed), tf.shape(images)[0]
        shape = [None, *images.shape[1:]]
        for _ in range(_OPERATIONS_AN_IMAGE):
            which = tf.random.stateless_uniform([batch], draws.next(), 0, len(OPERATIONS), tf.int32, alg="philox")
            # Each operation gets only the images that drew it: a few of the batch, or none.
            parts = tf.dynamic_partition(images, which, len(OPERATIONS))
            places = tf.dynamic_partition(tf.range(batch), which, len(OPERATIONS))
            made = [
                tf.ensure_shape(self._changed(name, part), shape) for name, part in zip(OPERATIONS, parts, strict=True)
            ]
            images = tf.ensure_shape(tf.dynamic_stitch(places, made), images.shape)
        return images

    def _changed(self, name: str, images: tf.Tensor) -> tf.Tensor:
        layer = getattr(self, name)
        if name == "equalization":
            # Keras's layer takes one histogram of all its images, and fails without images.
            return tf.map_fn(lambda one: layer.transform_images(one[None], None, training=True)[0], images)
        draw = layer.get_random_transformation(images, training=True, seed=self._draws)
        if name == "solarization":
            # Pixels above the threshold are inverted, and the weakest draw must change nothing.
            draw["thresholds"] = 255.0 - draw["thresholds"]
        return tf.clip_by_value(layer.transform_images(images, draw, training=True), 0.0, 255.0)


class Mixing:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412), CutMix (Yun et al. 2019, arXiv 1905.04899), or for every batch one
    of the two with equal probability. They mix images and labels of a batch with Keras's layers.

    mixup, cutmix: alpha; the share of the other image is drawn for every image from Beta(alpha, alpha). None disables
    that one.
    """

    def __init__(self, mixup: float | None, cutmix: float | None) -> None:
        self._layers = [keras.layers.MixUp(mixup)] if mixup else []
        if cutmix:
            pasting = keras.layers.CutMix(1.0)
            # Given a single number, Keras would draw alpha for every batch, from 0 up to that number. The layer's own
            # check also rejects an alpha above 1.
            pasting.factor = (cutmix, cutmix)
            self._layers.append(pasting)
        self._draws = Draws()

    def mix(self, images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 images `[batch, height, width, 3]` and targets `[batch, classes]`, in and out; `seed` int32 `[2]`.

        A target's share is that of the pixels, in whole pixels. For use in a graph.
        """
        draws = self._draws.begin(seed)
        which = tf.random.stateless_uniform([], draws.next(), alg="philox")
        mixed = [functools.partial(self._mixed, layer, images, targets, draws) for layer in self._layers]
        return tf.cond(which < 0.5, *mixed) if len(mixed) == 2 else mixed[0]()

    @staticmethod
    def _mixed(layer: Any, images: tf.Tensor, targets: tf.Tensor, draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
        draw = layer.get_random_transformation(images, seed=draws)
        # The draw from Beta with a small alpha is 0 / 0 if both of its gamma draws underflow float32.
        if isinstance(layer, keras.layers.CutMix):
            # Keras's share is that of the box before it is rounded to whole pixels.
            draw["mix_weight"] = 1.0 - tf.reduce_mean(tf.cast(draw["batch_masks"], tf.float32), axis=[1, 2, 3])
        else:
            draw["mix_weight"] = tf.where(tf.math.is_finite(draw["mix_weight"]), draw["mix_weight"], 1.0)
        return layer.transform_images(images, draw), layer.transform_labels(targets, draw)
