"""The complete description of a run: running it again repeats the run."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from finetune.config.contradictions import refuse_contradictions
from finetune.config.presets import refuse_change
from finetune.config.run_config import RunConfig
from finetune.config.settings import TAKES, Takes, check_decay
from finetune.errors import WrongUse

_FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}

PATHS = tuple(name for name, takes in TAKES.items() if takes.path)
"""Settings that name a file or folder; a config holds them absolute."""
LISTS = tuple(name for name, field in _FIELDS.items() if isinstance(field.default, tuple))
"""Settings that take a list of rules."""
DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in _FIELDS.items() if field.default is not dataclasses.MISSING
}
"""What every setting is that nobody gives; those that have to be given are not in it."""


def named(key: str) -> str:
    """The setting a key of a file means: with dashes or underscores, or by its short name."""
    name = key.replace("-", "_")
    return {"lr": "learning_rate"}.get(name, name)


def from_mapping(
    values: Mapping[str, Any], *, where: str, options: Mapping[str, Any] = MappingProxyType({})
) -> RunConfig:
    """A checked RunConfig from a file's keys, with dashes or underscores; `options` of the command line win.

    `where` names the file in errors. Raises WrongUse for an unknown key (with the nearest one), and for a value of
    the wrong type or out of range.
    """
    known: dict[str, Any] = {}
    for key, value in values.items():
        name = named(key)
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected some of {', '.join(_FIELDS)}"
            raise WrongUse(f"unknown key '{key}' in {where}: {hint}")
        if name in known:
            raise WrongUse(f"'{name}' comes twice in {where}, spelt in two ways: leave one out")
        known[name] = value
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in {**known, **options}.items()}
    refuse_change(values, options, where=where)
    if "backbone" not in known:
        raise WrongUse(
            f"{where} names no backbone: give --backbone NAME, such as resnet_v1_50; 'finetune backbones list' lists "
            "them"
        )
    return check_config(RunConfig(**known), where=where, options=options)


def check_config(config: RunConfig, *, where: str | None = None, options: Collection[str] = ()) -> RunConfig:
    """`config` itself, or WrongUse naming the first value that will not do.

    `where` names the file it comes from, but for `options`, which come from the command line.
    """
    for name, takes in TAKES.items():
        value = getattr(config, name)
        if value is None and _FIELDS[name].default is None:
            continue
        if not takes.test(value):
            at = f" in {where}" if where and name not in options else ""
            raise _wrong(name, list(value) if isinstance(value, tuple) else value, takes, at)
    if config.bn_decay != "auto":
        check_decay(config.bn_decay)
    refuse_contradictions(config)
    return config


def _wrong(name: str, value: Any, takes: Takes, at: str) -> WrongUse:
    near = difflib.get_close_matches(str(value), takes.choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return WrongUse(f"--{name.replace('_', '-')} {value!r}{at} will not do: {hint}expected {takes.expected}")
