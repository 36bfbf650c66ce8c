"""Mixup and CutMix with Keras's layers, as pure functions of a seed. They mix images and labels of a batch."""

from typing import Any

import keras
import tensorflow as tf

from finetune.data.rand_augment import Draws


class Mixing:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412), CutMix (Yun et al. 2019, arXiv 1905.04899), or for every batch one
    of the two with equal probability.

    mixup, cutmix: alpha; the share of the other image is drawn for every image from Beta(alpha, alpha). None disables
    that one.
    """

    def __init__(self, mixup: float | None, cutmix: float | None) -> None:
        self._mixup = keras.layers.MixUp(mixup) if mixup else None
        # Given a single number, Keras would draw alpha for every batch, from 0 up to that number.
        self._cutmix = keras.layers.CutMix((cutmix, cutmix)) if cutmix and cutmix <= 1 else None
        if cutmix and cutmix > 1:
            self._cutmix = keras.layers.CutMix(1.0)
            self._cutmix.factor = (cutmix, cutmix)  # the layer's own check rejects an alpha above 1
        self._draws = Draws()

    def mix(self, images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 images `[batch, height, width, 3]` and targets `[batch, classes]`, in and out; `seed` int32 `[2]`.

        A target's share is that of the pixels, in whole pixels. For use in a graph.
        """
        draws = self._draws.begin(seed)
        which = tf.random.stateless_uniform([], draws.next(), alg="philox")
        if self._cutmix is None:
            return self._by_mixup(images, targets, draws)
        if self._mixup is None:
            return self._by_cutmix(images, targets, draws)
        return tf.cond(  # type: ignore[no-any-return]
            which < 0.5,
            lambda: self._by_mixup(images, targets, draws),
            lambda: self._by_cutmix(images, targets, draws),
        )

    def _by_mixup(self, images: tf.Tensor, targets: tf.Tensor, draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
        layer: Any = self._mixup
        draw = layer.get_random_transformation(images, seed=draws)
        # The draw from Beta with a small alpha is 0 / 0 if both of its gamma draws underflow float32.
        weight = draw["mix_weight"]
        draw["mix_weight"] = tf.where(tf.math.is_finite(weight), weight, 1.0)
        return layer.transform_images(images, draw), layer.transform_labels(targets, draw)

    def _by_cutmix(self, images: tf.Tensor, targets: tf.Tensor, draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
        layer: Any = self._cutmix
        draw = layer.get_random_transformation(images, seed=draws)
        # Keras's share is that of the box before it is rounded to whole pixels. Its Beta draw may also be 0 / 0.
        draw["mix_weight"] = 1.0 - tf.reduce_mean(tf.cast(draw["batch_masks"], tf.float32), axis=[1, 2, 3])
        return layer.transform_images(images, draw), layer.transform_labels(targets, draw)
