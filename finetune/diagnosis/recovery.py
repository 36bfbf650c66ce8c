"""The preprocessing that a network was trained with, worked out from the statistics of its first BatchNorm layer.

Where that layer sees a linear function of the pixels, feeding `s * pixels / 255 + t` (t a number a channel) gives
filter k the mean `b_k + s A_k + sum_c t_c B_kc`, and a variance that is a quadratic form in (s, t). Both are measured
by feeding the network images and constants, one by one and in pairs. The moving mean and variance then give two
equations a filter, which are solved for s and t by least squares.

This assumes statistics that are not stale, and images that resemble those of the training. So the result is a proposal,
which accuracy on other images must confirm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from finetune.data.dataset import Split
from finetune.data.preprocessing import from_numbers, reverse_colours

Measure = Callable[[Any], tuple[np.ndarray, np.ndarray]]
"""A preprocessing -> mean and variance of the first layer's inputs, `[filters]`, on the same few images each time."""

_LINEAR = 0.02
"""Standard deviations by which a sum may differ from its parts where the layer's input is linear in the pixels."""
_STARTS = (1.0, 2.0, 4.4, 255.0)
"""Scales of pixels in [0, 1], of the known preprocessings, from which the search starts."""
_ROUND = {"1/255": 1.0, "1/127.5": 2.0, "1": 255.0}
"""How a scale is spelled, and its value for pixels in [0, 1]."""
_SAME = 0.1
"""A scale this near to a round one, as a fraction, is the round one: a mean image leaves pixels a little less variance,
and no other scale in use is as near."""


@dataclass(frozen=True)
class Recovered:
    """`scale * pixels / 255 + shift` for pixels in [0, 255], one shift a channel.

    The standard errors are those of the fit. That the images are not those of the training comes on top.
    order: of the channels. mean_errors: of the mean that `name` subtracts, one a channel, in its units. misfit: root
    mean square of what the equations leave, in standard deviations of a filter.
    """

    scale: float
    shift: tuple[float, ...]
    order: str
    scale_error: float
    shift_errors: tuple[float, ...]
    mean_errors: tuple[float, ...]
    misfit: float

    @property
    def _round(self) -> str | None:
        """The round scale as it is spelled, None where the scale is another."""
        return next((spelling for spelling, scale in _ROUND.items() if scale == self.scale), None)

    @property
    def _mean(self) -> list[float]:
        return [-one / (1.0 if self._round else self.scale) for one in self.shift]

    @property
    def name(self) -> str:
        """As `--preprocess` takes it."""
        if self._round:
            return spelled(self._round, self._mean, order=self.order)
        return spelled("1/255", self._mean, 1 / self.scale, self.order)

    @property
    def with_errors(self) -> str:
        """In words, each number with its standard error."""
        means = zip(self._mean, self.mean_errors, strict=True)
        mean = ", ".join(f"{one:.3g} ± {error:.2g}" for one, error in means)
        std = "" if self._round else f", divided by {1 / self.scale:.3g} ± {self.scale_error / self.scale**2:.2g}"
        return f"pixels x {self._round or '1/255'} minus ({mean}){std}, channels in {self.order.upper()} order"


def spelled(scale: str, mean: Sequence[float], std: float | Sequence[float] = 1.0, order: str = "rgb") -> str:
    """`scale=1/255,mean=0.49/0.48/0.45,std=0.25`, to three digits, without what is neutral. A small deviation is not
    rounded to 0."""

    def numbers(values: float | Sequence[float]) -> str:
        digits = [f"{one:.3g}" for one in np.atleast_1d(values)]
        return digits[0] if len(set(digits)) == 1 else "/".join(digits)

    parts = {"mean": numbers(np.round(mean, 3).tolist()), "std": numbers(std), "order": order}
    neutral = {"mean": ("0", "-0"), "std": ("1",), "order": ("rgb",)}
    return ",".join([f"scale={scale}", *(f"{key}={text}" for key, text in parts.items() if text not in neutral[key])])


def of_data(split: Split) -> tuple[str, ...]:
    """The preprocessings made of the mean and deviation of the images' pixels, as many recipes do.

    The images have one size and the network's channels.
    """
    pixels = np.asarray(split.images[:], np.float64) / 255
    mean, std = pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))
    divided = [spelled("1/255", mean, std)] if std.min() > 0 else []  # a channel without anything in it
    return (spelled("1/255", mean), *divided, spelled("1", 255 * mean))


@dataclass(frozen=True)
class _Fed:
    """Pixels in [0, 1] times `pixels` (times `reversed` with the colours exchanged), plus a constant a channel."""

    pixels: float
    reversed: float
    constant: tuple[float, ...]
    name: str = "probe"

    def apply(self, images: Any) -> Any:
        import tensorflow as tf

        shown = tf.cast(images, tf.float32) / 255
        result = self.pixels * shown + tf.constant(self.constant, tf.float32)
        return result + self.reversed * reverse_colours(shown) if self.reversed else result


def propose(measure: Measure, moving: tuple[np.ndarray, np.ndarray], epsilon: float, channels: int) -> list[Recovered]:
    """The preprocessings that explain the first layer's `moving` mean and variance, the best first; none where its
    input is not linear in the pixels. For more than one channel, both orders of the colours are tried."""
    sources = ["pixels", *(["reversed"] if channels > 1 else []), *range(channels)]
    empty, _ = measure(_fed((), channels))
    single = {one: measure(_fed((one,), channels)) for one in sources}
    both = {
        pair: measure(_fed(pair, channels))
        for pair in combinations(sources, 2)
        if pair != ("pixels", "reversed")
    }  # fmt: skip
    deviation = np.sqrt(np.maximum(moving[1], 0) + epsilon)
    for (one, two), (mean, variance) in both.items():
        apart = mean - single[one][0] - single[two][0] + empty
        if np.sqrt(np.mean(apart**2 / (variance + single[one][1] + epsilon))) > _LINEAR:
            return []
    found = []
    for order in ("rgb", "bgr") if channels > 1 else ("rgb",):
        used = ["pixels" if order == "rgb" else "reversed", *range(channels)]
        gradient = np.stack([single[one][0] - empty for one in used])
        form = np.zeros((len(used), len(used), len(empty)))
        for row, one in enumerate(used):
            form[row, row] = single[one][1]
            for column in range(row + 1, len(used)):
                pair = both[one, used[column]][1]
                form[row, column] = form[column, row] = (pair - single[one][1] - single[used[column]][1]) / 2
        found.append(_solved(gradient, form, empty, moving, deviation, epsilon, order))
    finite = [one for one in found if np.isfinite([one.scale, 1 / one.scale, one.misfit, *one.shift]).all()]
    return sorted(finite, key=lambda one: one.misfit)


def _fed(sources: Sequence[Any], channels: int) -> _Fed:
    return _Fed(
        float("pixels" in sources),
        float("reversed" in sources),
        tuple(float(one in sources) for one in range(channels)),
    )


def _solved(
    gradient: np.ndarray,
    form: np.ndarray,
    empty: np.ndarray,
    moving: tuple[np.ndarray, np.ndarray],
    deviation: np.ndarray,
    epsilon: float,
    order: str,
) -> Recovered:
    """Least squares over (log scale, shift). gradient: `[sources, filters]`, form: `[sources, sources, filters]`."""

    def misfit(unknown: np.ndarray) -> np.ndarray:
        weights = np.concatenate([[np.exp(unknown[0])], unknown[1:]])
        mean = empty + weights @ gradient
        variance = np.maximum(np.einsum("i,j,ijk->k", weights, weights, form), 0)
        ratio = np.log((variance + epsilon) / deviation**2) / 2
        return np.concatenate([(mean - moving[0]) / deviation, ratio])

    starts = [np.concatenate([[np.log(scale)], np.full(len(gradient) - 1, -scale / 2)]) for scale in _STARTS]
    best = min((least_squares(misfit, start, loss="soft_l1") for start in starts), key=lambda one: float(one.cost))
    scale = float(np.exp(np.clip(best.x[0], -700, 700)))
    near = min(_ROUND.values(), key=lambda one: abs(np.log(scale / one)))
    if abs(np.log(scale / near)) <= _SAME:
        # The scale is known then, and the shift that belongs to it is found again.
        bounds = np.full((2, len(best.x)), [[-np.inf], [np.inf]])
        bounds[:, 0] = np.log(near) - 1e-9, np.log(near) + 1e-9
        again = np.concatenate([[np.log(near)], best.x[1:]])
        best, scale = least_squares(misfit, again, loss="soft_l1", bounds=tuple(bounds)), near
    left = misfit(best.x)
    spread = float(np.sum(left**2)) / max(len(left) - len(best.x), 1)
    covariance = np.linalg.pinv(best.jac.T @ best.jac) * spread
    errors = np.sqrt(np.maximum(np.diag(covariance), 0))
    # The mean is -shift / scale where the scale is fitted, so both errors and what they share reach it.
    by_unknown = np.hstack([best.x[1:, None], -np.eye(len(best.x) - 1)]) / scale
    means = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", by_unknown, covariance, by_unknown), 0))
    return Recovered(
        scale,
        tuple(float(one) for one in best.x[1:]),
        order,
        scale_error=scale * float(errors[0]),
        shift_errors=tuple(float(one) for one in errors[1:]),
        mean_errors=tuple(float(one) for one in (errors[1:] if scale in _ROUND.values() else means)),
        misfit=float(np.sqrt(np.mean(left**2))),
    )


def words(name: str, current: str) -> str:
    """What a preprocessing in numbers means beside the current one, "" where its name says it."""
    if "=" not in name or ", " in name:
        return ""
    numbers = from_numbers(name)
    if not any(numbers.mean) or (current != "unit" and numbers.scale != 1):
        return ""
    return f", a mean of ({', '.join(f'{one:g}' for one in numbers.mean)}) was subtracted in training"
