"""`--class-weights FILE`: the weight of each class, read from a table or a JSON object."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config.run_config import RunConfig
from finetune.config.settings import is_weights
from finetune.errors import WrongUse

BALANCED = "balanced"
_FORM = "expected lines of class,weight, or with .json an object of class names and weights"


def with_weights_read(config: RunConfig) -> RunConfig:
    """`config` with the weights themselves in place of the file that `class_weights` names.

    So the run's config.json holds the numbers: repeating or resuming it does not need the file, which may change.
    Raises WrongUse, with the line or the class, for a file that is missing or of another form.
    """
    if not isinstance(config.class_weights, str) or config.class_weights == BALANCED:
        return config
    return replace(config, class_weights=_read(Path(config.class_weights).expanduser()))


def _read(path: Path) -> dict[str, float]:
    about = f"--class-weights {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise WrongUse(f"{about} cannot be read ({reason}): give balanced, or the path of a .csv or .json") from None
    found = dict[str, float]()
    for place, name, value in _of_json(text, about) if path.suffix.lower() == ".json" else _of_table(text, about):
        if name in found:
            raise WrongUse(f"{about}: class '{name}' comes twice ({place}): leave one out")
        if not is_weights({name: value, "": 1.0}):  # one class alone may be 0
            raise WrongUse(f"{about}: the weight of class '{name}' is {value!r} ({place}): expected a number from 0 on")
        found[name] = float(value)
    if not any(found.values()):
        what = "every weight is 0, so nothing would train" if found else "it has no class"
        raise WrongUse(f"{about}: {what}: {_FORM}")
    return found


def _of_json(text: str, about: str) -> list[tuple[str, str, Any]]:
    """(place, class, weight) of each member, those of equal names included."""
    try:
        members = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{about} is not JSON ({error}): {_FORM}") from None
    if not text.lstrip().startswith("{"):
        raise WrongUse(f"{about} is no JSON object: {_FORM}")
    return [(f"member {number}", name, value) for number, (name, value) in enumerate(members, 1)]


def _of_table(text: str, about: str) -> list[tuple[str, str, Any]]:
    """(place, class, weight) of each line. A first line `class,weight` is the header."""
    try:
        rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), 1) if any(row)]
    except csv.Error as error:
        raise WrongUse(f"{about} is no table ({error}): {_FORM}") from None
    if rows and [cell.strip().lower() for cell in rows[0][1]] == ["class", "weight"]:
        del rows[0]
    found = list[tuple[str, str, Any]]()
    for number, row in rows:
        if len(row) != 2:
            raise WrongUse(f"{about}: line {number} has {len(row)} columns: {_FORM}")
        name, value = map(str.strip, row)
        try:
            found.append((f"line {number}", name, float(value)))
        except ValueError:
            found.append((f"line {number}", name, value))
    return found
