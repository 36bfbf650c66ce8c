"""Training on classes of different size: the weight of each class, and an order in which all come equally often."""

import numpy as np

from finetune.config import BALANCED, RunConfig
from finetune.data.dataset import Dataset
from finetune.data.label_sets import label_counts
from finetune.errors import WrongUse
from finetune.text import did_you_mean


def class_weights(dataset: Dataset, config: RunConfig) -> np.ndarray | None:
    """The weight of each class, float64 `[classes]`, in the order of the labels; None without `class_weights`.

    Balanced weights of several labels an image are images without the label / images with it: in the loss of a label
    both then weigh the same.

    WrongUse where the weights of `config` have not exactly the classes of `dataset`.
    """
    given, names = config.class_weights, dataset.class_names
    if given is None:
        return None
    if given == BALANCED and dataset.multi_label:
        positive = label_counts(dataset.train.labels, len(names))
        return np.asarray((len(dataset.train) - positive) / np.maximum(positive, 1), np.float64)
    if given == BALANCED:
        return balanced_weights(dataset.train.labels, len(names))
    assert isinstance(given, dict), "the file of --class-weights was not read: finetune.config.with_weights_read"
    for name in given:
        if name not in names:
            hint = did_you_mean(name, names) or f"expected {_some(names)}; "
            raise WrongUse(f"--class-weights: the data has no class '{name}': {hint.rstrip('; ')}")
    counts = label_counts(dataset.train.labels, len(names))
    if missing := [name for name, images in zip(names, counts, strict=True) if images and name not in given]:
        raise WrongUse(
            f"--class-weights: no weight for class {_some(missing)}: give every class one; 1 changes nothing"
        )
    weights = np.array([given.get(name, 1.0) for name in names], np.float64)
    if not weights[counts > 0].any():
        raise WrongUse("--class-weights: every class that has images has the weight 0, so nothing would train")
    return weights


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """images / (classes that have images x images of the class), float64 `[classes]`: all classes weigh the same, and
    the mean over the images is 1. It is scikit-learn's `compute_class_weight("balanced")`, after King & Zeng (2001).

    A class without images gets 1; no loss depends on it.
    """
    counts = np.bincount(labels, minlength=classes)
    return np.where(counts > 0, len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1.0)


def balanced_order(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Numbers of images, int64 `[examples]`, in random order, in which every class comes equally often.

    The numbers of two classes differ by one at most; who has one more is drawn. A class of fewer images than its
    number has all of them equally often, again up to one; of a larger class, images are drawn without repetition. A
    function of (seed, epoch).
    """
    rng = np.random.default_rng([seed, epoch])
    present = np.unique(labels)
    least, more = divmod(len(labels), len(present))
    numbers = least + (rng.permutation(len(present)) < more)
    chosen = []
    for label, number in zip(present, numbers.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        times, rest = divmod(number, len(members))
        chosen += [np.tile(members, times), rng.permutation(members)[:rest]]
    return rng.permutation(np.concatenate(chosen))


def repeats(order: np.ndarray) -> np.ndarray:
    """How often each of the numbers in `order` came before in it, int64 `[n]`."""
    by_number = np.argsort(order, kind="stable")
    ranked = order[by_number]
    before = np.empty(len(order), np.int64)
    before[by_number] = np.arange(len(order)) - np.searchsorted(ranked, ranked)
    return before


def _some(names: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
