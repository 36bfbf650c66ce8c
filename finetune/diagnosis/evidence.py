"""What a diagnosis has measured: numbers only, so that a verdict can be tested without a model."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.evaluation import Evaluation

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ThreeWays:
    """The same images under three kinds of statistics, without dropout; `recalibrated` pools training images."""

    is_training_false: Evaluation
    is_training_true: Evaluation
    recalibrated: Evaluation


@dataclass(frozen=True)
class LayerDrift:
    """How far one layer's moving statistics lie from those of the training images.

    mean_shift: root mean square over channels of (moving mean - data mean) / data sigma.
    log_variance_ratio: root mean square over channels of ln(moving variance / data variance).
    at_initial, at_source: the moving statistics are exactly 0 and 1; exactly the ones training started from
        (None where those are not known).
    """

    name: str
    values: float
    mean_shift: float
    log_variance_ratio: float
    at_initial: bool
    at_source: bool | None
    finite: bool


@dataclass(frozen=True)
class BNEvidence:
    """Everything the verdict may look at.

    decay, updates: as configured, and how many updates the moving statistics took; None where not known.
    trained_with: what normalised in training, where known. weights_moved: whether training changed any weight.
    """

    test: ThreeWays
    train: ThreeWays
    classes: int
    layers: tuple[LayerDrift, ...]
    decay: float | None = None
    updates: int | None = None
    updates_enabled: bool | None = None
    trained_with: str | None = None
    weights_moved: bool | None = None

    @property
    def residual(self) -> float | None:
        """Share of the starting statistics left: decay^n."""
        return None if self.decay is None or self.updates is None else float(self.decay**self.updates)

    def accuracy_json(self) -> dict[str, Any]:
        """Fractions, as `accuracy.test.is_training_false` and so on."""
        return {
            split: {name: getattr(ways, name).accuracy for name in ThreeWays.__dataclass_fields__}
            for split, ways in (("test", self.test), ("train", self.train))
        }

    def layers_json(self) -> list[dict[str, Any]]:
        """One object per BN layer."""
        return [asdict(layer) for layer in self.layers]


def drift(
    name: str,
    moving: tuple[np.ndarray, np.ndarray],
    data: tuple[np.ndarray, np.ndarray],
    *,
    values: float,
    epsilon: float,
    source: tuple[np.ndarray, np.ndarray] | None,
) -> LayerDrift:
    """Compare (mean, variance) pairs of float `[channels]`, in float64. `epsilon` keeps dead channels finite."""
    mean, variance = (np.asarray(array, np.float64) for array in moving)
    data_mean, data_variance = (np.asarray(array, np.float64) for array in data)
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (mean - data_mean) / np.sqrt(data_variance + epsilon)
        ratio = np.log((np.maximum(variance, 0) + epsilon) / (data_variance + epsilon))
    return LayerDrift(
        name=name,
        values=values,
        mean_shift=float(np.sqrt(np.mean(shift**2))),
        log_variance_ratio=float(np.sqrt(np.mean(ratio**2))),
        at_initial=bool(np.all(mean == 0) and np.all(variance == 1)),
        at_source=None if source is None else all(np.array_equal(a, b) for a, b in zip(moving, source, strict=True)),
        finite=bool(np.isfinite(mean).all() and np.isfinite(variance).all()),
    )
