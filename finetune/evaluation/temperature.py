"""Temperature scaling: one number that makes a classifier's probabilities fit its accuracy.

Probabilities are softmax(logits / T). T minimises the mean negative log likelihood of validation images. It changes the
rank of no class. Source: Guo et al. 2017, section 4.2.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.evaluation import metrics
from finetune.evaluation.predictions import log_probabilities

_LEAST, _MOST = 1e-3, 1e3
"""Temperatures that are looked at."""


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    images: how many it was fitted on. loss_before, loss_after: their mean negative log likelihood, nats, at T = 1 and
    at `temperature`. remark: why it is 1 although none was found; "" where one was.
    """

    temperature: float
    images: int
    loss_before: float
    loss_after: float
    remark: str = ""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> Temperature:
    """The temperature for logits `[n, classes]` of images with int labels `[n]`, in float64.

    The loss is convex in b = 1 / T, with the slope mean(sum_k p_k z_k - z_label), where p = softmax(b z), and T is
    where the slope is 0. It is nowhere 0 where the label has the largest logit of every image (T would be 0), and where
    the logits of labels are no larger than the mean of all (T would be infinite): T is then 1, with a remark. Images
    with a logit that is not finite are left out.
    """
    finite = np.isfinite(logits).all(axis=1)
    scores, own = logits[finite].astype(np.float64), labels[finite]
    if not len(own):
        return Temperature(1.0, 0, float("nan"), float("nan"), "no validation image has finite logits")
    true = scores[np.arange(len(own)), own]

    def loss(inverse: float) -> float:
        return float(-np.mean(log_probabilities(inverse * scores)[np.arange(len(own)), own]))

    def slope(inverse: float) -> float:
        return float(np.mean((np.exp(log_probabilities(inverse * scores)) * scores).sum(axis=1) - true))

    def unchanged(remark: str) -> Temperature:
        return Temperature(1.0, len(own), loss(1.0), loss(1.0), remark)

    if slope(1 / _LEAST) <= 0:
        return unchanged("every validation image is classified correctly, so the likelihood grows as T goes to 0")
    if slope(1 / _MOST) >= 0:
        return unchanged("the validation images are classified no better than by chance")
    from scipy.optimize import brentq  # here: it takes a while to import, and few runs need it

    inverse = float(np.exp(brentq(lambda log: slope(np.exp(log)), np.log(1 / _MOST), np.log(1 / _LEAST), xtol=1e-12)))
    return Temperature(1 / inverse, len(own), loss(1.0), loss(inverse))


def probabilities_at(logits: np.ndarray, temperature: float) -> np.ndarray:
    """softmax(logits / temperature), float32 `[n, classes]`; 0 for images with a logit that is not finite."""
    finite = np.isfinite(logits).all(axis=1, keepdims=True)
    log = log_probabilities(np.where(finite, logits, 0).astype(np.float64) / temperature)
    return np.where(finite, np.exp(log), 0).astype(np.float32)


def calibration_at(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
    """`metrics.calibration` of softmax(logits / temperature), and `loss`, its mean negative log likelihood in nats.

    logits: `[n, classes]`; n is 1 or more. An image with a logit that is not finite has confidence 0 and is wrong, and
    has no part in the loss.
    """
    finite = np.isfinite(logits).all(axis=1)
    log = log_probabilities(np.where(finite[:, None], logits, 0).astype(np.float64) / temperature)
    confidences = np.where(finite, np.exp(log.max(axis=1)), 0.0)
    correct = finite & (log.argmax(axis=1) == labels)
    loss = float(-np.mean(log[finite, labels[finite]])) if finite.any() else float("nan")
    return {**asdict(metrics.calibration(confidences, correct)), "loss": loss}
