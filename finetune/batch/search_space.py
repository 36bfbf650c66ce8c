"""The values of one setting that a search tries: an interval or a list of choices."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.batch.jobs import JobsFile, same
from finetune.config import SETTINGS, named
from finetune.errors import WrongUse
from finetune.text import ImageShape, did_you_mean

_KEYS = ("low", "high", "step", "log")


@dataclass(frozen=True)
class Interval:
    """The numbers from `low` to `high`, both included.

    step: the distance between neighbours; None for every number. log: equally many in each power of ten. whole: whole
    numbers only.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def tested(self) -> tuple[Any, ...]:
        """The values whose check is a check of all of them."""
        return self.low, self.high

    @property
    def steps(self) -> int:
        """How many steps lead from `low` to `high`; 0 without a step."""
        return 0 if self.step is None else round((self.high - self.low) / self.step)

    def at(self, share: float) -> Any:
        """The value at `share` of the way, in [0, 1): uniform shares give uniform values, or uniform logarithms."""
        if self.log:
            margin = 0.5 if self.whole else 0.0  # so that the ends are as likely as the numbers between them
            low, high = math.log(self.low - margin), math.log(self.high + margin)
            value = math.exp(low + share * (high - low))
        elif self.step is not None:
            value = self.decode(int(share * (self.steps + 1)))
        else:
            value = self.low + share * (self.high - self.low)
        kept = min(max(round(value) if self.whole else value, self.low), self.high)
        return int(kept) if self.whole else kept

    def encode(self, value: Any) -> float | None:
        """What Optuna knows a value by: with a step, the number of steps. None for what is not in the interval."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        if self.step is None:
            return value
        code = round((value - self.low) / self.step)
        return code if math.isclose(self.decode(code), value) else None

    def decode(self, code: float) -> Any:
        """The value of a code."""
        # 0.1 + 3 * 0.2 is above 0.7.
        value = code if self.step is None else min(self.low + self.step * int(code), self.high)
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Choices:
    """Values without an order."""

    values: tuple[Any, ...]

    @property
    def tested(self) -> tuple[Any, ...]:
        """As of `Interval`: all."""
        return self.values

    def at(self, share: float) -> Any:
        """As of `Interval`."""
        return self.values[int(share * len(self.values))]

    def encode(self, value: Any) -> float | None:
        """As of `Interval`. The code is a position: Optuna knows no lists."""
        return next((place for place, one in enumerate(self.values) if same(_plain(one), _plain(value))), None)

    def decode(self, code: float) -> Any:
        """As of `Interval`."""
        return self.values[int(code)]


Space = Mapping[str, Interval | Choices]
"""What is searched, by the names of the settings."""


def read_space(file: JobsFile, table: Any) -> Space:
    """`[search.space]`, each value checked as its setting checks it. WrongUse that names the key."""
    place = "[search.space]"
    if not isinstance(table, dict) or not table:
        raise WrongUse(
            f"{file.path}: [search] has no space: give {place} with a line for each setting, such as "
            "learning-rate = {low = 1e-4, high = 1e-2, log = true} or dropout = [0.0, 0.5]"
        )
    space: dict[str, Interval | Choices] = {}
    for key, value in table.items():
        name = named(key)
        if name not in SETTINGS:
            file.settings({key: value}, place)  # raises with the closest valid key
        if name in space:
            raise WrongUse(f"'{name}' comes twice in {place} of {file.path}, spelt in two ways: leave one out")
        if isinstance(value, list) and len(value) > 1:
            space[name] = Choices(tuple(file.choices(key, value, place)))
        elif isinstance(value, dict) and "low" in value and "high" in value:
            space[name] = _interval(file, key, value)
        else:
            raise WrongUse(
                f"{key} in {place} of {file.path} is {value!r}: expected {{low = .., high = ..}} or a list of at least "
                "two choices; a fixed value goes into [defaults]"
            )
    return space


def draw(space: Space, *, seed: int, number: int) -> dict[str, Any]:
    """The settings of trial `number` of a random search, a function of the arguments alone.

    Python guarantees that `random` gives the same numbers in every version; a setting's value does not depend on
    which others are searched.
    """
    return {name: one.at(random.Random(f"{seed} {number} {name}").random()) for name, one in space.items()}


def _interval(file: JobsFile, key: str, table: dict[str, Any]) -> Interval:
    where = f"{key} in [search.space] of {file.path}"
    kind = SETTINGS[named(key)].check.kind
    if kind not in (int, float, ImageShape):
        raise WrongUse(f"{where} is an interval, but takes no number: give a list of choices")
    whole = kind is not float
    expected = "a whole number" if whole else "a number"
    log = table.get("log", False)
    for part, value in table.items():
        if part not in _KEYS:
            hint = did_you_mean(part, _KEYS)
            raise WrongUse(f"unknown key '{part}' in {where}: {hint}expected low, high, and maybe step or log")
        if part != "log" and type(value) not in ((int,) if whole else (int, float)):
            raise WrongUse(f"{part} of {where} is {value!r}: expected {expected}")
    if not isinstance(log, bool):
        raise WrongUse(f"log of {where} is {log!r}: expected true or false")
    low, high = (value if whole else float(value) for value in (table["low"], table["high"]))
    step = table.get("step", 1 if whole and not log else None)
    if not low < high:
        raise WrongUse(f"{where} goes from {low:g} to {high:g}: expected a low below the high")
    if log and ("step" in table or low <= 0):
        raise WrongUse(f"{where} has log = true: expected a low above 0 and no step")
    if step is not None:
        if not 0 < step <= high - low:
            raise WrongUse(f"step of {where} is {step:g}: expected more than 0, and at most {high - low:g}")
        # A last step that would lead beyond the high is not taken; 1e-9 of a step is rounding.
        last = low + step * math.floor((high - low) / step + 1e-9)
        high = high if math.isclose(last, high) else last
    for value in (low, high):
        file.settings({key: value}, "[search.space]")
    return Interval(low, high, step, log, whole)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
