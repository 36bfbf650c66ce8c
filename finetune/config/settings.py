"""How a setting of a run is declared: default, help text, what it takes, and the roles it has elsewhere."""

import ast
import dataclasses
import inspect
import itertools
import sys
import types
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from finetune.text import ImageShape, pairs, shape_of, size_in_bytes

Role = Literal["chooses_images", "decides_features", "may_change_on_resume", "not_compared"]
"""What other packages ask of a setting:

- chooses_images: it changes which images a run reads, or how many.
- decides_features: cached features depend on it.
- may_change_on_resume: a resumed run may have another value than the interrupted one.
- not_compared: runs that differ only in it are repeats of the same thing.
"""


@dataclass(frozen=True)
class Check:
    """The values a setting takes. None is not tested: it is allowed where it is the default.

    expected: the values in words, for errors and for the table in docs/settings.md. test: whether a value is one of
    them. kind: the Python type of a value; `tuple` for a list of texts, `Path` for a text that is a path. metavar: what
    stands for a value in `--help`. choices: names among the values, from which an error suggests the nearest.
    """

    expected: str
    test: Callable[[Any], bool]
    kind: type
    metavar: str = ""
    choices: tuple[str, ...] = ()


def text(expected: str, metavar: str) -> Check:
    """Any text; `expected` says what it should be."""
    return Check(expected, _is_text, str, metavar)


def separator() -> Check:
    """What stands between the parts of a text."""
    return Check("at least one character, such as '|'", lambda value: _is_text(value) and value != "", str, "TEXT")


def texts(expected: str, metavar: str) -> Check:
    """A list of texts; on the command line an option that is repeated."""
    return Check(
        f"a list of {expected}", lambda value: isinstance(value, tuple) and all(map(_is_text, value)), tuple, metavar
    )


def keys(*known: str) -> Check:
    """`KEY=NAME,KEY=NAME`: what some of the `known` keys are called in a file."""
    expected = f"KEY=NAME,KEY=NAME, each key one of {', '.join(known)}"
    return Check(expected, lambda value: _is_text(value) and {*(pairs(value) or "?")} <= {*known}, str, "KEYS")


def by_class() -> Check:
    """`balanced`, the path of a file with a weight for each class, or the weights themselves."""
    expected = "balanced, the path of a .csv or .json, or a number from 0 on for each class, one of them above 0"
    return Check(expected, lambda value: (_is_text(value) and bool(value)) or is_weights(value), str, "balanced|FILE")


def is_weights(value: Any) -> bool:
    """Whether a value is class names with finite weights from 0 on, one of them above 0."""
    return (
        isinstance(value, dict)
        and all(_is_text(name) and _is_number(one) and 0 <= one < float("inf") for name, one in value.items())
        and any(value.values())
    )


def path(metavar: str) -> Check:
    """The path of a file or folder. A config holds it absolute."""
    return Check("a path", _is_text, Path, metavar)


def size() -> Check:
    """An amount of memory or disk, such as 10GiB."""
    expected = "a size, such as 10GiB or 500MB"
    return Check(expected, lambda value: _is_text(value) and size_in_bytes(value) is not None, str, "SIZE")


def whole(least: int, metavar: str = "N") -> Check:
    """A whole number of at least `least`."""
    expected = f"a whole number from {least} to 2^31 - 1"
    return Check(expected, lambda value: type(value) is int and least <= value < 2**31, int, metavar)


def image_size() -> Check:
    """The size of images in px: a side, or height and width, and behind them the channels if they are not RGB."""
    expected = "a side in px from 1 to 99999, such as 96, or HEIGHTxWIDTH, such as 24x32"
    return Check(expected, _is_image_size, ImageShape, "PX|HxW")


def number(least: float, most: float, metavar: str = "F") -> Check:
    """A number of at least `least` and at most `most`."""
    expected = f"a number from {least:g} to {most:g}"
    return Check(expected, lambda value: _is_number(value) and least <= value <= most, float, metavar)


def fraction() -> Check:
    """A number in [0, 1)."""
    expected = "a number from 0 up to but not including 1"
    return Check(expected, lambda value: _is_number(value) and 0 <= value < 1, float, "F")


def share(expected: str = "a number inside (0, 1)") -> Check:
    """A number in (0, 1): a decay of 0 would keep nothing of the old value, and 1 would never change it."""
    return Check(expected, lambda value: _is_number(value) and 0 < value < 1, float, "F")


def or_auto(check: Check) -> Check:
    """What `check` takes, or 'auto'."""
    expected = f"{check.expected}, or 'auto'"
    return Check(
        expected, lambda value: value == "auto" or check.test(value), float, f"{check.metavar}|auto", ("auto",)
    )


def _is_image_size(value: Any) -> bool:
    try:
        return type(value) in (int, str) and min(shape_of(value)) >= 1 and max(shape_of(value)) < 100_000
    except ValueError:
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_of(annotation: Any) -> Check:
    """What a `bool` or a `Literal` of texts takes, None aside: its annotation says all of it."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = get_args(annotation)[0]
    if annotation is bool:
        return Check("true or false", lambda value: isinstance(value, bool), bool)
    names = get_args(annotation)
    return Check(f"one of {', '.join(names)}", lambda value: value in names, str, "|".join(names), names)


@dataclass(frozen=True)
class Setting:
    """A setting as it is declared.

    unset: in words, what is chosen where the default is None. section: the heading it is listed under. short: a second
    name of it. alone: the value of its option where that is given without one.
    """

    default: Any
    help: str
    check: Check
    section: str
    roles: tuple[Role, ...] = ()
    unset: str = ""
    short: str | None = None
    alone: Any = None

    @property
    def default_words(self) -> str:
        """The default as `--help` and the table of settings print it; empty where there is nothing to print."""
        if self.default in (None, (), MISSING):
            return self.unset
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        return self.default if isinstance(self.default, str) else f"{self.default:g}"


def setting(default: Any, check: Check | None = None, *, section: str = "", **others: Any) -> Any:
    """A field of `RunConfig` that declares a setting; `MISSING` as the default of one that must be given. The string
    below the field is the help text.

    Without a `check`, the field's annotation is a `bool` or a `Literal`, and the check follows from it. A `section`
    lasts until the next field that has one. The `others` are fields of `Setting`.
    """
    return dataclasses.field(default=default, metadata={"check": check, "section": section, "others": others})


def declared_settings(config: type) -> dict[str, Setting]:
    """The settings that the fields of the dataclass `config` declare, by name, in their order."""
    found, section, helps = dict[str, Setting](), "", _docstrings(config)
    for field in dataclasses.fields(config):
        section = field.metadata["section"] or section
        check = field.metadata["check"] or _check_of(field.type)
        words = helps.get(field.name, "")
        found[field.name] = Setting(field.default, words, check, section, **field.metadata["others"])
    return found


def _docstrings(config: type) -> dict[str, str]:
    """Field -> the string below it in the source: Python keeps the docstrings of classes, but not those of fields.

    Empty where only compiled files are installed: then settings have no help text.
    """
    try:
        source = inspect.getsource(sys.modules[config.__module__])  # of a class, inspect parses the module itself
    except OSError:
        return {}
    classes = [one for one in ast.parse(source).body if isinstance(one, ast.ClassDef)]
    return {
        field.target.id: " ".join(str(below.value.value).split())
        for definition in classes
        if definition.name == config.__name__
        for field, below in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    }
