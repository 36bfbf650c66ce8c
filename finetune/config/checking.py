"""The settings of a run from the keys of a file, and the checks of a complete `RunConfig`."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finetune.config.presets import refuse_change
from finetune.config.run_config import SETTINGS, RunConfig
from finetune.errors import WrongUse
from finetune.text import did_you_mean

PATHS = tuple(name for name, setting in SETTINGS.items() if setting.check.kind is Path)
"""Settings that name a file or folder; a config holds them absolute."""
LISTS = tuple(name for name, setting in SETTINGS.items() if setting.check.kind is tuple)
"""Settings that take a list of rules."""
DEFAULTS = {name: setting.default for name, setting in SETTINGS.items() if setting.default is not MISSING}
"""The default of every setting that has one."""
_SHORT = {setting.short: name for name, setting in SETTINGS.items() if setting.short}

_SOME_VALUES = {
    "learning_rate": ("auto",),
    "preset": ("gradual",),
    "class_weights": ("balanced",),
    "precision": ("float16", "auto"),
}
"""Settings of which these values alone contradict another setting; of others, every value but the default does."""
CONTRADICTIONS: tuple[tuple[str, str, str], ...] = (
    ("from_scratch", "checkpoint", ""),
    ("examples", "few_shot", "both set the number of images"),
    ("ema", "patience", "--ema ends with the last step, --patience keeps the best epoch"),
    ("swa_start", "patience", "--swa-start ends with the last step, --patience keeps the best epoch"),
    ("ema", "swa_start", "each makes the run's model an average of its own"),
    ("class_weights", "sampler", "each balances the classes alone, and both together favour the rare ones"),
    *(("head", other, "the head is the file's") for other in ("from_scratch", "hidden", "dropout", "features")),
    *(("distribute", other, "it pairs the images of a whole batch") for other in ("mixup", "cutmix")),
    ("distribute", "rand_augment", "it draws for a whole batch"),
    ("rand_augment", "trivial_augment", "both draw the operations of an image"),
    ("distribute", "ema", "the average is kept on one device"),
    ("distribute", "learning_rate", "the range test runs on one device"),
    *(("distribute", other, "layers are unfrozen on one device") for other in ("preset", "unfreeze_epochs")),
    ("distribute", "precision", "steps of float16 are skipped, and those of auto timed, on one device"),
    ("distribute", "microbatch", "each replica has a part of the batch already"),
)
"""Two settings that cannot both be given, and why."""


def named(key: str) -> str:
    """The setting that a key of a file means: with dashes or underscores, or by its short name."""
    name = key.replace("-", "_")
    return _SHORT.get(name, name)


def from_mapping(
    values: Mapping[str, Any], *, where: str, options: Mapping[str, Any] = MappingProxyType({})
) -> RunConfig:
    """A checked RunConfig from a file's keys, with dashes or underscores; `options` of the command line win.

    `where` names the file in errors. Raises WrongUse for an unknown key (with the closest valid name), and for a value
    of the wrong type or out of range.
    """
    known: dict[str, Any] = {}
    for key, value in values.items():
        name = named(key)
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected some of {', '.join(SETTINGS)}"
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


def as_in_a_file(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings given in Python as a file would have them: text for paths, lists for tuples and for single patterns."""
    found = {}
    for name, value in settings.items():
        value = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        found[name] = [value] if name in LISTS and isinstance(value, str) else value
    return found


def check_config(config: RunConfig, *, where: str | None = None, options: Collection[str] = ()) -> RunConfig:
    """`config` itself, or WrongUse that names the first wrong value or two settings that contradict each other.

    `where` names the file the values come from, except for `options`, which come from the command line.
    """
    check_settings(config, SETTINGS, where=where, options=options)
    for first, second, why in CONTRADICTIONS:
        if _contradicts(config, first) and _contradicts(config, second):
            both = f"{config.as_option(first)} and {config.as_option(second)}"
            raise WrongUse(f"{both} contradict each other{why and ', '}{why}: give one of them")
    if config.focal_gamma is not None and config.loss != "focal":
        raise WrongUse(
            f"{config.as_option('focal_gamma')} is a parameter of the focal loss, and the loss is {config.loss}: give "
            "--loss focal too, or leave --focal-gamma out"
        )
    return config


def check_settings(
    config: RunConfig, names: Iterable[str], *, where: str | None = None, options: Collection[str] = ()
) -> None:
    """Raise WrongUse for the first of the settings called `names` whose value is wrong; the rest as `check_config`."""
    for name in names:
        setting = SETTINGS[name]
        value, check = getattr(config, name), setting.check
        if not (value is None and setting.default is None) and not check.test(value):
            at = f" in {where}" if where and name not in options else ""
            hint = did_you_mean(str(value), check.choices)
            shown = list(value) if isinstance(value, tuple) else value
            raise WrongUse(f"--{name.replace('_', '-')} {shown!r}{at} is not valid: {hint}expected {check.expected}")


def _contradicts(config: RunConfig, name: str) -> bool:
    value = getattr(config, name)
    return config.is_set(name) and value in _SOME_VALUES.get(name, (value,))
