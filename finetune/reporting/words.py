"""Values as people read them, on a page and in a terminal. What was not measured is a dash."""

from collections.abc import Mapping
from typing import Any


def percent(value: float | None) -> str:
    """A fraction in percent, with one decimal."""
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """A number with three significant digits."""
    return "–" if value is None else f"{value:.3g}"


def setting(value: Any) -> str:
    """The value of a setting. The elements of a list are separated by spaces, named numbers by commas."""
    if value is None or value == () or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one:g}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


FEW_TRIALS = 30
"""Trials of a search below which the importance of settings is mostly chance."""


def brief(value: Any) -> str:
    """As `setting`, a number with four digits: for tables."""
    return f"{value:.4g}" if isinstance(value, float) else setting(value)


def seconds(value: float | None) -> str:
    """A duration in seconds, minutes or hours, rounded."""
    if value is None:
        return "–"
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 90 * 60 else f"{value / 3600:.1f} h"


def others_moved(proof: Mapping[str, Any]) -> str:
    """How many of the variables that were not frozen changed, from the `proof` in a `result.json`."""
    moved, biases = proof["moving_variables"] - len(proof["unmoved"]), proof.get("without_gradient")
    why = f" ({biases} biases have no gradient: BatchNorm subtracts them with the mean)" if biases else ""
    return f"{moved} of {proof['moving_variables']} other variables changed{why}"


def label_scores(at: Mapping[str, Any]) -> str:
    """Scores of several labels an image, each decided by its threshold, as in `multi_label` of result.json."""
    return (
        f"macro F1 {percent(at['macro_f1'])}   micro F1 {percent(at['micro_f1'])}   "
        f"all labels right {percent(at['exact_match'])}"
    )


def scaling_words(scaling: Mapping[str, Any]) -> str:
    """What `temperature_scaling` in a `result.json` says: the temperature, and the test images' calibration error."""
    before, after = (scaling["test"][name]["expected_error"] for name in ("before", "after"))
    if scaling["remark"]:
        return f"temperature 1: none was fitted, because {scaling['remark']}"
    return (
        f"temperature {scaling['temperature']:.3g}, fitted on {scaling['images']} validation images: expected "
        f"calibration error of test images {before:.1%} -> {after:.1%}"
    )
