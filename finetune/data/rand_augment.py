"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) with Keras's layers, as a pure function of a seed."""

from typing import Any

import keras
import tensorflow as tf

OPERATIONS = (
    "random_shear",
    "random_translation",
    "random_rotation",
    "random_brightness",
    "random_color_degeneration",
    "random_contrast",
    "random_sharpness",
    "random_posterization",
    "solarization",
    "auto_contrast",
    "equalization",
)
"""The layers of `keras.layers.RandAugment`. The paper's identity is missing, because a weak draw amounts to it."""

_OPERATIONS_AN_IMAGE = 2
_FILL = "reflect"


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
    """Keras's layer with the paper's strengths, drawn for every image from a seed.

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
        turned = {"fill_mode": _FILL}
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
