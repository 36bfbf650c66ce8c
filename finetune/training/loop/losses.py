"""The loss of each image: cross-entropy or focal, weighted by class, of labels that may be shares of classes."""

from typing import Any

import numpy as np
import tensorflow as tf

from finetune.config import RunConfig


def losses(logits: tf.Tensor, shares: tf.Tensor, config: RunConfig, weights: np.ndarray | None = None) -> tf.Tensor:
    """The loss of each image, float32 `[batch]`, in nats.

    logits: `[batch, classes]`, of any float type. shares: each class's share of an image, float32 `[batch, classes]`,
        summing to 1: one class, or several mixed ones. weights: of each class, `[classes]`, or None.

    With t the smoothed shares, the loss is -sum_c t_c (1 - p_c)^gamma log p_c, where gamma is 0 for cross-entropy. That
    is equation 4 of Lin et al. (2017, arXiv 1708.02002), with softmax probabilities, as it is written in Keras's
    `CategoricalFocalCrossentropy`. A weight multiplies the loss of its class's images, as Keras's `class_weight` does,
    and of a mixed image the part of its class. It is the alpha of the paper. It is applied before smoothing: what
    smoothing gives to other classes has the weight of the image's own class.
    """
    classes, smoothing = logits.shape[-1], config.label_smoothing
    logits = tf.cast(logits, tf.float32)
    if weights is not None:
        shares = shares * tf.constant(weights, tf.float32)
    whole = 1.0 if weights is None else tf.reduce_sum(shares, axis=-1, keepdims=True)
    targets = shares * (1.0 - smoothing) + whole * smoothing / classes
    if config.loss == "focal":
        terms = focal(tf.nn.log_softmax(logits), float(config.focal_gamma or 0.0))
        return tf.reduce_sum(targets * terms, axis=-1)
    if weights is None:
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    # The gradient of TensorFlow's operation is right only for targets that sum to 1.
    return -tf.reduce_sum(targets * tf.nn.log_softmax(logits), axis=-1)


def label_losses(
    logits: tf.Tensor, targets: tf.Tensor, config: RunConfig, weights: np.ndarray | None = None
) -> tf.Tensor:
    """The loss of each image that may have several labels, float32 `[batch]`, in nats: the mean over its labels of the
    binary cross-entropy, so that it does not grow with their number (as Keras's `BinaryCrossentropy`).

    logits: `[batch, labels]`, of any float type. targets: float32 `[batch, labels]` in [0, 1], 1 where an image has the
        label. weights: of each label, `[labels]`, or None.

    With p the sigmoid and t the smoothed target, t (1 - s) + s / 2, the term of a label is
    -w t (1 - p)^gamma log p - (1 - t) p^gamma log(1 - p), where gamma is 0 for cross-entropy. A weight multiplies what
    images that have the label contribute, as PyTorch's `pos_weight` does.
    """
    logits = tf.cast(logits, tf.float32)
    targets = targets * (1.0 - config.label_smoothing) + config.label_smoothing / 2
    gamma = float(config.focal_gamma or 0.0) if config.loss == "focal" else 0.0
    yes, no = (
        focal(tf.math.log_sigmoid(one), gamma) if gamma else -tf.math.log_sigmoid(one) for one in (logits, -logits)
    )
    if weights is not None:
        yes = yes * tf.constant(weights, tf.float32)
    return tf.reduce_mean(targets * yes + (1.0 - targets) * no, axis=-1)


def focal(log_probability: tf.Tensor, gamma: float) -> tf.Tensor:
    """-(1 - p)^gamma log p of log p, finite with its derivative for every finite log p.

    At p = 1, automatic differentiation would give infinity times 0 for a gamma below 1.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of(log: tf.Tensor) -> Any:
        rest = -tf.math.expm1(log)  # 1 - p
        power = tf.pow(rest, gamma)
        # p (-log p) / (1 - p), which goes to 1 with p
        ratio = tf.where(rest > 0, tf.exp(log) * -log / tf.where(rest > 0, rest, 1.0), 1.0)
        return -power * log, lambda upstream: -upstream * power * (1.0 + gamma * ratio)

    return of(log_probability)
