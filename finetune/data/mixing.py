"""Mixup and CutMix out of Keras's layers, as pure functions of a seed: images and labels of a batch are mixed."""

from typing import Any

import keras
import tensorflow as tf

from finetune.data.rand_augment import Draws


class Mixing:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412), CutMix (Yun et al. 2019, arXiv 1905.04899), or for every batch one
    of them, as likely as the other.

    mixup, cutmix: alpha, the share of the other image is drawn for every image from Beta(alpha, alpha); None: not that
    one.
    """

    def __init__(self, mixup: float | None, cutmix: float | None) -> None:
        self._mixup = keras.layers.MixUp(mixup) if mixup else None
        # Of one number Keras would draw alpha anew for every batch, down to 0.
        self._cutmix = keras.layers.CutMix((cutmix, cutmix)) if cutmix and cutmix <= 1 else None
        if cutmix and cutmix > 1:
            self._cutmix = keras.layers.CutMix(1.0)
            self._cutmix.factor = (cutmix, cutmix)  # the layer's own check knows no alpha beyond 1
        self._draws = Draws()

    def mix(self, images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """float32 images `[batch, height, width, 3]` and targets `[batch, classes]`, in and out; `seed` int32 `[2]`.

        A target's share is that of the pixels, whole ones. For use in a graph.
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
        # Beta of a small alpha comes as 0 / 0 where both of its gamma draws fall below float32.
        weight = draw["mix_weight"]
        draw["mix_weight"] = tf.where(tf.math.is_finite(weight), weight, 1.0)
        return layer.transform_images(images, draw), layer.transform_labels(targets, draw)

    def _by_cutmix(self, images: tf.Tensor, targets: tf.Tensor, draws: Draws) -> tuple[tf.Tensor, tf.Tensor]:
        layer: Any = self._cutmix
        draw = layer.get_random_transformation(images, seed=draws)
        # Keras's share is that of the box before it is cut to whole pixels; also where its Beta draw is 0 / 0.
        draw["mix_weight"] = 1.0 - tf.reduce_mean(tf.cast(draw["batch_masks"], tf.float32), axis=[1, 2, 3])
        return layer.transform_images(images, draw), layer.transform_labels(targets, draw)
