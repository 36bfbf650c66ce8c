"""Moving statistics compared with those of the data, layer by layer, in float64 NumPy."""

from collections.abc import Sequence

import numpy as np

from finetune.batchnorm.statistics import Moments
from finetune.batchnorm.subject import BNInfo
from finetune.diagnosis.evidence import LayerDrift, Origin, Share

Pair = tuple[np.ndarray, np.ndarray]
"""(mean, variance), `[channels]`."""

_CONSTANT = 1e-10
"""A channel is constant over all images if its variance is under this, and under a thousandth of epsilon."""


def drift(
    layer: BNInfo, moving: Pair, data: Moments, *, test: Moments | None = None, source: Pair | None = None
) -> LayerDrift:
    """Compare a layer's moving statistics with those of training images (`data`), and these with those of test images.

    Epsilon is added to every variance, as BatchNorm does before it divides. It keeps dead channels finite.
    """
    mean, variance = (np.asarray(array, np.float64) for array in moving)
    shift, ratio = _apart((mean, variance), data, layer.epsilon)
    test_shift, test_ratio = _apart((test.mean, test.variance), data, layer.epsilon) if test else np.zeros((2, 1))
    sigma = np.sqrt(np.maximum(data.variance, 0) + layer.epsilon)
    weights = [array for array in (layer.gamma, layer.beta) if array is not None]
    fit = _share([(moving, data, layer.epsilon, source)]) if source is not None else None
    return LayerDrift(
        name=layer.name.replace(".", "/"),
        values=data.count / data.batches,
        mean_shift=_rms(shift),
        log_variance_ratio=_rms(ratio),
        at_initial=bool(np.all(mean == layer.initial[0]) and np.all(variance == layer.initial[1])),
        initial=layer.initial,
        at_source=None if source is None else all(np.array_equal(a, b) for a, b in zip(moving, source, strict=True)),
        finite=bool(np.isfinite(mean).all() and np.isfinite(variance).all()),
        negative=bool(np.any(variance < 0)),
        weights_finite=all(bool(np.isfinite(array).all()) for array in weights),
        variance_bias=float(np.mean(ratio)),
        batch_noise=_rms(data.batch_spread / sigma) if data.batches > 1 else None,
        test_shift=_rms(test_shift),
        test_log_variance_ratio=_rms(test_ratio),
        share=fit[0] if fit else None,
        gamma_at_initial=None if layer.gamma is None else bool(np.all(layer.gamma == layer.initial_gamma)),
        dead_gamma=0.0 if layer.gamma is None else float(np.mean(layer.gamma == 0)),
        dead_channels=float(np.mean(data.variance < min(_CONSTANT, layer.epsilon / 1000))),
    )


def share_left(
    origin: Origin,
    layers: Sequence[BNInfo],
    moving: Sequence[Pair],
    data: Sequence[Moments],
    start: Sequence[Pair | None],
) -> Share | None:
    """The share of the starting statistics left in the moving ones, over all layers whose start is known.

    None where no start is known, or where start and data are too close for a fit.
    """
    rows = [
        (now, pooled, layer.epsilon, then)
        for layer, now, pooled, then in zip(layers, moving, data, start, strict=True)
        if then is not None
    ]
    fit = _share(rows)
    return None if fit is None else Share(origin, *fit)


def initial(layer: BNInfo, moving: Pair) -> Pair:
    """What the moving statistics of a layer start from."""
    return np.full_like(moving[0], layer.initial[0]), np.full_like(moving[1], layer.initial[1])


_LEAST_WAY = 0.05
"""Root mean square distance from start to data, in sigmas, under which there is no line to fit to."""


def _share(rows: Sequence[tuple[Pair, Moments, float, Pair]]) -> tuple[float, float] | None:
    """(share, residual) of the weighted least squares fit.

    A coordinate whose start is more than one sigma from the data counts as if it were one sigma away. Otherwise, a
    variance that was 1 where the data's is 1e-4 would outweigh everything else.
    """
    if not rows:
        return None
    y = np.concatenate([_scaled(moving, data, epsilon) for moving, data, epsilon, _ in rows])
    x = np.concatenate([_scaled(start, data, epsilon) for _, data, epsilon, start in rows])
    known = np.isfinite(x) & np.isfinite(y)
    y, x = y[known], x[known]
    weight = 1.0 / np.maximum(1.0, x * x)
    length = float(np.sum(weight * x * x))
    if not len(x) or np.sqrt(length / len(x)) < _LEAST_WAY:
        return None
    share = float(np.sum(weight * x * y) / length)
    return share, float(np.sqrt(np.sum(weight * (y - share * x) ** 2) / length))


def _scaled(pair: Pair, data: Moments, epsilon: float) -> np.ndarray:
    """Distances from the data: of the means in sigmas, then of the variances relative to the data's, `[2 channels]`."""
    variance = np.maximum(data.variance, 0) + epsilon
    own = [np.asarray(array, np.float64) for array in pair]
    return np.concatenate([(own[0] - data.mean) / np.sqrt(variance), (own[1] - data.variance) / variance])


def _apart(one: Pair, data: Moments, epsilon: float) -> Pair:
    """(mean shift in the data's sigmas, log variance ratio), `[channels]`."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shift = (one[0] - data.mean) / np.sqrt(data.variance + epsilon)
        return shift, np.log((np.maximum(one[1], 0) + epsilon) / (data.variance + epsilon))


def _rms(values: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.mean(values**2)))
