"""The cause that each cause is most easily taken for, and the figure that tells the two apart.

docs/diagnosis.md has the same table for readers.
"""

from collections.abc import Callable

from finetune.diagnosis import thresholds
from finetune.diagnosis.evidence import percent
from finetune.diagnosis.rules.data_rules import agreement, wrong_preprocessing
from finetune.diagnosis.rules.rule import Reading


def _same_start(seen: Reading) -> str:
    layers = seen.evidence.layers
    at_start = sum(layer.at_initial for layer in layers)
    return f"{at_start} of {len(layers)} BN layers are at their initial values"


def _recalibrated(seen: Reading) -> str:
    test, check = seen.evidence.test, seen.evidence.preprocessing
    new = f"recalibrating gives {percent(test.recalibrated)} on test images"
    if check is None or check.test is None:
        return f"{new}, and would only hide what the network is fed"
    return f"with '{check.best}' pixels is_training=False gives {percent(check.test)} without new statistics; {new}"


def _noise(seen: Reading) -> str:
    ratio = seen.noise_ratio
    if ratio is None:
        return "one batch shows no noise between batches"
    if ratio > thresholds.NOISE_RATIO and seen.short:
        return f"decay {seen.evidence.facts.decay:g} averages over {seen.window:.2g} batches, too few to lag"
    return (
        f"the moving means differ from the data's {ratio:.2g} times as much as one batch's mean does; noise gives up "
        f"to {thresholds.NOISE_RATIO:g} times"
    )


def _affine(seen: Reading) -> str:
    facts = seen.evidence.facts
    if facts.affine_moved is not None:
        same = "differ from" if facts.affine_moved else "are bit-equal to"
        return f"gamma and beta {same} the source's"
    if facts.trained_with is not None:
        return f"the records say that training normalised by {facts.trained_with} statistics"
    return _at_source(seen)


def _at_source(seen: Reading) -> str:
    layers = seen.evidence.layers
    same = sum(bool(layer.at_source) for layer in layers)
    return f"{same} of {len(layers)} BN layers have statistics bit-equal to the source's"


def _base(seen: Reading) -> str:
    shown = any(layer.at_source for layer in seen.evidence.layers)
    how = "no weight below the last BatchNorm changed" if shown else "the file marks the whole base as frozen"
    return f"{how}, so there was nothing that updates could have followed"


def _ahead(seen: Reading) -> str:
    fit = seen.evidence.share("source")
    if fit is None:
        return "the records say that the weights are averages over training steps"
    return f"the fitted share of the source is {fit.share:.0%}: below 0 the statistics are ahead of the weights"


def _labels(seen: Reading) -> str:
    check = seen.evidence.labels
    if check is None:
        return "another numbering explains the predictions"
    explained = max(check.permuted_accuracy, check.offset_accuracy)
    return f"another numbering explains {explained:.1%} of the predictions, so the network has learnt the classes"


def _distance(seen: Reading) -> str:
    sigmas, errors = seen.test_distance
    return (
        f"the first layers' statistics on test images are {sigmas:.2f} sigmas from those on training images "
        f"({errors:.0f} standard errors)"
    )


def _composition(seen: Reading) -> str:
    test = seen.evidence.test
    return (
        f"recalibrating gives {percent(test.recalibrated)} on test images, where is_training=True gives "
        f"{percent(test.is_training_true)}"
    )


def _on_purpose(seen: Reading) -> str:
    if all(layer.at_initial for layer in seen.evidence.layers):
        return f"statistics at {seen.evidence.layers[0].start} are frozen by nobody on purpose"
    return _affine(seen)


def _pixels(seen: Reading) -> str:
    """Why what the network is fed is not to blame, though the drift lies in the first layer alone."""
    check, test = seen.evidence.preprocessing, seen.evidence.test
    others = [one for one in check.trials if one.name != check.current] if check else []
    if not others:
        return "the drift lies in the first layer alone, but no other preprocessing was tried (--all-checks does)"
    best = max(others, key=lambda one: one.accuracy)
    return (
        f"the drift lies in the first layer alone. The best of {len(others)} other preprocessings, '{best.name}', "
        f"gives {best.accuracy:.1%} of few training images; recalibrating gives {percent(test.recalibrated)} on test "
        "images"
    )


def _updates_or_pixels(seen: Reading) -> tuple[str, str]:
    """The runner-up of forgotten updates."""
    check = seen.evidence.preprocessing
    if wrong_preprocessing(seen) is None or check is None or check.test is None:
        return "partially-restored", _same_start(seen)
    recalibrated = percent(seen.evidence.test.recalibrated)
    return "wrong-preprocessing", (
        f"'{check.best}' pixels give {percent(check.test)} on test images, recalibrating {recalibrated}; statistics at "
        "their initial values say nothing about the pixels"
    )


NEIGHBOURS: dict[str, tuple[str, Callable[[Reading], str]]] = {
    "not-finite": ("statistics-lag", lambda seen: "statistics that lag are finite"),
    "statistics-not-saved": ("updates-never-ran", lambda seen: "the file holds no moving statistics at all"),
    "wrong-preprocessing": ("statistics-lag", _recalibrated),
    "not-batchnorm: labels": ("not-batchnorm: undertrained", _labels),
    "different-data": ("not-batchnorm: overfitting", _distance),
    "batch-composition": ("statistics-lag", _composition),
    "partially-restored": ("updates-never-ran", _same_start),
    "frozen-base-normalised-by-batch": ("updates-never-ran-since-source", _base),
    "updates-never-ran-since-source": ("frozen-statistics-trained-weights", _affine),
    "frozen-statistics-trained-weights": ("updates-never-ran-since-source", _affine),
    "statistics-lag": ("statistics-noisy", _noise),
    "averaged-weights-raw-statistics": ("statistics-lag", _ahead),
    "statistics-noisy": ("statistics-lag", _noise),
    "trained-in-inference-mode": ("healthy", _on_purpose),
    "inference-mode-by-design": ("trained-in-inference-mode", lambda seen: "the graph itself fixes inference mode"),
    "not-batchnorm: undertrained": ("statistics-lag", agreement),
    "not-batchnorm: overfitting": ("different-data", _distance),
    "healthy": ("statistics-lag", agreement),
}
"""Cause -> (the runner-up, why it lost). The runner-up of `updates-never-ran` depends on the evidence."""


def runner_up(seen: Reading, cause: str) -> tuple[str, str]:
    """(the cause that came second, the figure by which it lost)."""
    if cause == "updates-never-ran":
        return _updates_or_pixels(seen)
    if cause.startswith("statistics-") and seen.first_alone:
        return "wrong-preprocessing", _pixels(seen)
    other, why = NEIGHBOURS[cause]
    return other, why(seen)
