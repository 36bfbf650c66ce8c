"""Text from outside on its way to a terminal or a page."""

from collections.abc import Mapping
from typing import Any


def setting(value: Any) -> str:
    """A setting as it is read: a list by spaces, None as a dash."""
    if value is None or value == () or value == []:
        return "–"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def seconds(value: float | None) -> str:
    """Roughly, for people."""
    if value is None:
        return "–"
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 90 * 60 else f"{value / 3600:.1f} h"


def others_moved(proof: Mapping[str, Any]) -> str:
    """How many of the variables that were not frozen moved, of the `proof` in a `result.json`."""
    moved, biases = proof["moving_variables"] - len(proof["unmoved"]), proof.get("without_gradient")
    why = f" ({biases} biases have no gradient: BatchNorm takes them away again)" if biases else ""
    return f"{moved} of {proof['moving_variables']} others moved{why}"
