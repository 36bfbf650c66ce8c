"""A model's predictions for each image. A run keeps them, so that reports need not score it again. NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from finetune.errors import FinetuneError
from finetune.evaluation import metrics
from finetune.files import read_arrays, write_arrays

TOP = 5
"""Number of classes kept per image."""
_NAMES = ("labels", "top_classes", "top_probabilities", "label_log_probability")


@dataclass(frozen=True, eq=False)
class Predictions:
    """The predictions for n images, in their order.

    labels: int64 `[n]`. top_classes: int64 `[n, k]`, the most likely first, k = min(5, outputs). top_probabilities:
    float32 `[n, k]`, softmax, or the sigmoids of independent labels. label_log_probability: float32 `[n]`, of the true
    class, nats. If a logit of an image is not finite, its classes are -1, its probabilities 0 and the logarithm
    -infinity.
    """

    labels: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    label_log_probability: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> np.ndarray:
        """int64 `[n]`: the predicted class, or -1 for none. Of equal logits the lower class, as argmax does."""
        return np.asarray(self.top_classes[:, 0])

    @property
    def confidences(self) -> np.ndarray:
        """float32 `[n]`: the probability of the predicted class."""
        return np.asarray(self.top_probabilities[:, 0])

    @property
    def correct(self) -> np.ndarray:
        """bool `[n]`: whether the predicted class is the label."""
        return np.asarray(self.labels == self.classes)

    @property
    def outcomes(self) -> np.ndarray:
        """What two results are compared by, image by image: `correct`."""
        return self.correct

    def save(self, path: Path) -> None:
        """Write an `.npz`, atomically."""
        write_arrays(path, {name: getattr(self, name) for name in _NAMES})


@dataclass(frozen=True, eq=False)
class LabelPredictions:
    """The predictions for n images that may have several labels, in their order.

    labels: uint8 0/1 `[n, labels]`. logits: float32 `[n, labels]`; all of an image are -infinity if one is not finite.
    """

    labels: np.ndarray
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def probabilities(self) -> np.ndarray:
        """float64 `[n, labels]`: the sigmoids."""
        return np.exp(-np.logaddexp(0, -self.logits.astype(np.float64)))

    @property
    def correct(self) -> np.ndarray:
        """bool `[n]`: whether all labels of an image are right, each decided at probability 0.5."""
        right = np.equal(self.logits > 0, self.labels == 1) & np.isfinite(self.logits)
        return np.asarray(right.all(axis=1))

    @property
    def outcomes(self) -> np.ndarray:
        """What two results are compared by, image by image, float64 `[n]` in [0, 1]: `metrics.r_precision`."""
        finite = np.isfinite(self.logits).all(axis=1)
        return np.where(finite, metrics.r_precision(self.logits, self.labels), 0.0)

    def save(self, path: Path) -> None:
        """Write an `.npz`, atomically."""
        write_arrays(path, {"labels": self.labels, "logits": self.logits})


AnyPredictions = Predictions | LabelPredictions


def predictions_from_logits(logits: np.ndarray, labels: np.ndarray, *, per_label: bool = False) -> AnyPredictions:
    """The predictions of logits `[n, outputs]` for images with labels int `[n]` or 0/1 `[n, outputs]`; in float64.

    `per_label` says that each logit is a yes or no of its own, whose probability is its sigmoid.
    """
    if labels.ndim == 2:
        known = np.isfinite(logits).all(axis=1, keepdims=True)
        return LabelPredictions(labels.astype(np.uint8), np.where(known, logits, -np.inf).astype(np.float32))
    scores = logits.astype(np.float64)
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    scores = np.where(finite[:, None], scores, 0.0)
    log = log_probabilities(scores, per_label=per_label)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    own = np.maximum(log[np.arange(len(labels)), labels], np.finfo(np.float32).min)
    return Predictions(
        labels=labels.astype(np.int64),
        top_classes=np.where(finite[:, None], order, -1).astype(np.int64),
        top_probabilities=np.where(finite[:, None], np.exp(np.take_along_axis(log, order, 1)), 0).astype(np.float32),
        label_log_probability=np.where(finite, own, -np.inf).astype(np.float32),
    )


def log_probabilities(logits: np.ndarray, *, per_label: bool = False) -> np.ndarray:
    """Logarithms of the softmax over the last axis, or of each sigmoid, of finite float64 logits."""
    if per_label:
        return np.asarray(-np.logaddexp(0, -logits))
    log = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(log - np.log(np.exp(log).sum(axis=-1, keepdims=True)))


def join_predictions(parts: Sequence[AnyPredictions]) -> AnyPredictions:
    """One after another; all of the same model."""
    kind, names = type(parts[0]), [one.name for one in fields(parts[0])]
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def load_predictions(path: Path, *, classes: int) -> AnyPredictions:
    """Read what `save` wrote, for a model with `classes` classes. Nothing in the file is ever unpickled.

    Raises FileNotFoundError if there is no such file, FinetuneError if it is damaged or of another model.
    """
    advice = "delete it, and the run is scored again"
    arrays = read_arrays(path, advice=advice)
    if {"labels", "logits"} == arrays.keys():
        return _label_predictions(arrays, path, classes, advice)
    lacking = [name for name in _NAMES if name not in arrays]
    if lacking:
        raise FinetuneError(f"{path} is damaged (it has no '{lacking[0]}'): {advice}")
    kinds = {"labels": "i", "top_classes": "i", "top_probabilities": "f", "label_log_probability": "f"}
    found = Predictions(**{name: arrays[name] for name in _NAMES})
    shapes = [(len(found.labels),), *[(len(found.labels), min(TOP, classes))] * 2, (len(found.labels),)]
    if found.labels.ndim != 1 or [getattr(found, name).shape for name in _NAMES] != shapes:
        raise FinetuneError(f"{path} is not of a model with {classes} classes: {advice}")
    if any(arrays[name].dtype.kind != kind for name, kind in kinds.items()):
        raise FinetuneError(f"{path} is damaged (its arrays are of another type): {advice}")
    least, most = (bound(found.labels, initial=0) for bound in (np.min, np.max))
    if not len(found) or least < 0 or max(most, found.top_classes.max()) >= classes or found.top_classes.min() < -1:
        raise FinetuneError(f"{path} is damaged (it names classes beyond 0 to {classes - 1}): {advice}")
    if not np.isfinite(found.top_probabilities).all():
        raise FinetuneError(f"{path} is damaged (a probability is not finite): {advice}")
    return found


def _label_predictions(arrays: Mapping[str, np.ndarray], path: Path, classes: int, advice: str) -> LabelPredictions:
    """Those in a file's `arrays`. FinetuneError where they are damaged or of another model."""
    labels, logits = arrays["labels"], arrays["logits"]
    if labels.shape != logits.shape or labels.ndim != 2 or labels.shape[1] != classes or not len(labels):
        raise FinetuneError(f"{path} is not of a model with {classes} labels: {advice}")
    if (
        [labels.dtype, logits.dtype] != [np.dtype(np.uint8), np.dtype(np.float32)]
        or labels.max() > 1
        or np.isnan(logits).any()
    ):
        raise FinetuneError(f"{path} is damaged (its labels are not 0 and 1, or its logits no numbers): {advice}")
    return LabelPredictions(labels, logits)
