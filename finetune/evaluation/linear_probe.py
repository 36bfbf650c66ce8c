"""A linear classifier on features, cross-validated: labels it does not believe, and whether two sets differ.

Needs scikit-learn, the extra `data`.
"""

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import FinetuneError

FOLDS = 5
PERMUTATIONS = 199
"""With the true order, 200 in all: a bound at 5 % lies between two of them."""
_SIDE = 4_000
"""The most images of either set in a comparison, drawn by the seed. The bound is then below 0.52."""
_PENALTY = 0.1
"""On the mean loss of an image, for features of variance 1. It is stronger than scikit-learn's default: so fewer wrong
labels are fitted, and more are found (python -m benchmarks.label_noise)."""
_MANY, _COMPONENTS = 100, 128
"""With more classes than the first, so many principal components stand for the features: the time of logistic
regression grows with the product of both."""
_RIDGE = 1.0
"""The penalty of the comparison, as a multiple of the number of training images, for features of variance 1."""


class TooFew(FinetuneError):
    """There are not enough images. The message says of what."""


def is_available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec("sklearn") is not None


@dataclass(frozen=True, eq=False)
class Suspicions:
    """What the probe says of labels. Each image was judged by a classifier that had not seen it.

    judged: bool `[n]`; False for images of classes with fewer than FOLDS images. confidence: float64 `[n]`, the
    probability of the image's own label, NaN where not judged. predicted: int64 `[n]`, the most probable class, -1
    where not judged. accuracy: the share of judged images whose label is predicted.
    """

    judged: np.ndarray
    confidence: np.ndarray
    predicted: np.ndarray
    accuracy: float

    def ranked(self) -> np.ndarray:
        """The judged images, int64, the least confident first: the order of self-confidence of the paper."""
        numbers = np.flatnonzero(self.judged)
        return np.asarray(numbers[np.argsort(self.confidence[numbers], kind="stable")])

    def suspects(self, labels: np.ndarray, share: float) -> np.ndarray:
        """Of `ranked`, the images of which another class than that of `labels` is predicted; at most that share of the
        judged ones."""
        ranked = self.ranked()
        return np.asarray(ranked[self.predicted[ranked] != labels[ranked]][: round(share * len(ranked))])


def suspect_labels(features: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Suspicions:
    """Rank labels by the probability that cross-validated logistic regression gives them (Northcutt et al. 2021, JAIR
    70, Confident Learning, section 3.2.1: self-confidence).

    features: float32 `[n, d]`; labels: int64 `[n]`. Raises TooFew where fewer than two classes have FOLDS images.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.preprocessing import StandardScaler

    classes, counts = np.unique(labels, return_counts=True)
    enough = classes[counts >= FOLDS]
    if len(enough) < 2:
        raise TooFew(f"fewer than two classes have {FOLDS} images")
    judged = np.isin(labels, enough)
    own = np.searchsorted(enough, labels[judged])
    features = StandardScaler().fit_transform(features[judged].astype(np.float32))
    if len(enough) > _MANY and min(features.shape) > _COMPONENTS:
        features = PCA(_COMPONENTS, random_state=seed).fit_transform(features)
    probe = LogisticRegression(C=1 / (_PENALTY * len(own)), max_iter=100, tol=1e-3)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings(), _one_thread():
        warnings.simplefilter("ignore")  # an optimizer that stops early ranks as well
        chances = cross_val_predict(probe, features, own, cv=folds, method="predict_proba")
    confidence = chances[np.arange(len(own)), own]
    predicted = chances.argmax(axis=1)
    return Suspicions(
        judged,
        _spread(judged, confidence.astype(np.float64), np.nan),
        _spread(judged, enough[predicted], -1),
        float(np.mean(predicted == own)),
    )


@dataclass(frozen=True)
class Drift:
    """How well a classifier tells images of two sets apart.

    auc: the area under its ROC curve on images it has not seen; 0.5 if the sets are alike, 1 if they are told apart
    without error. bound: what 95 % of the same comparisons with shuffled sets stay below. images: of each set.
    """

    auc: float
    bound: float
    images: tuple[int, int]

    @property
    def differs(self) -> bool:
        """Whether the sets differ by more than chance."""
        return self.auc > self.bound


def drift(one: np.ndarray, other: np.ndarray, *, seed: int = 0) -> Drift:
    """Compare the features of two sets, float32 `[n, d]` and `[m, d]`: a classifier two-sample test (Lopez-Paz and
    Oquab 2017, arXiv 1610.06545) with ridge regression, which is fitted to all shuffled sets at once.

    At most 4,000 images of each set are drawn by the seed. The area is the mean over FOLDS folds. Raises TooFew where a
    set has fewer than 20 images.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    least = 4 * FOLDS
    if min(len(one), len(other)) < least:
        raise TooFew(f"{min(len(one), len(other))} images in a set, fewer than {least}")
    parts = [part[np.sort(rng.permutation(len(part))[:_SIDE])] for part in (one, other)]
    features = np.concatenate(parts).astype(np.float64)
    true = np.repeat([0, 1], [len(part) for part in parts])
    # A column for the true sets, and one for each time that they are shuffled.
    which = np.stack([true, *(rng.permutation(true) for _ in range(PERMUTATIONS))], axis=1)
    features, areas = StandardScaler().fit_transform(features), []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, true):
        probe = Ridge(alpha=_RIDGE * len(train)).fit(features[train], which[train].astype(np.float64))
        areas.append(_areas(probe.predict(features[test]), which[test]))
    found = np.mean(areas, axis=0)
    counts = (len(parts[0]), len(parts[1]))
    return Drift(float(found[0]), float(np.quantile(found[1:], 0.95, method="higher")), counts)


def _one_thread() -> Any:
    """Logistic regression takes thousands of small products. On a busy machine, BLAS's threads wait for each other at
    every one: 186 s instead of 9 for 10,000 images."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, user_api="blas")


def _areas(scores: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The area under the ROC curve of each column, `[columns]`: the Mann-Whitney statistic, ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0)
    positive = which.sum(axis=0)
    negative = len(which) - positive
    lower = (ranks * which).sum(axis=0) - positive * (positive + 1) / 2
    return np.asarray(lower / np.maximum(positive * negative, 1))


def _spread(where: np.ndarray, values: Any, missing: Any) -> np.ndarray:
    """`values` at the places `where` is true, and `missing` elsewhere."""
    found = np.full(len(where), missing, dtype=np.asarray(values).dtype)
    found[where] = values
    return found
