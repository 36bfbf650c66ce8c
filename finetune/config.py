"""The complete description of a run: running it again repeats the run."""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from finetune.batchnorm.policy import check_decay
from finetune.errors import FinetuneError, WrongUse
from finetune.files import read_json, size_in_bytes

Augment = Literal["resized-crop-flip", "crop-flip", "flip", "none"]

FORMAT_VERSION = 1
"""Written into `config.json`; a reader refuses what is newer than itself."""


@dataclass(frozen=True)
class RunConfig:
    """What `finetune run` was asked for. None means "choose what suits the data"; `finetune.training.defaults`
    replaces every None before the run starts, and the complete value is written to `config.json`.

    decays, fractions and probabilities lie in [0, 1); sizes are px; `examples` counts images.
    """

    backbone: str
    data: str = "cifar10"
    checkpoint: str | None = None
    data_dir: str | None = None
    from_scratch: bool = False
    examples: int | None = None
    test: float = 0.2
    validation: float = 0.05
    skip_bad_images: bool = False
    image_size: int | None = None
    preprocess: str | None = None
    augment: Augment | None = None
    crop_padding: int | None = None
    dropout: float = 0.0
    hidden: int | None = None
    freeze: tuple[str, ...] = ()
    freeze_until: str | None = None
    bn: tuple[str, ...] = ()
    head: Literal["swap", "keep"] = "swap"
    features: str | None = None
    bn_decay: float | Literal["auto"] = "auto"
    bn_epsilon: float | None = None
    bn_updates: Literal["on", "off"] = "on"
    bn_renorm: bool = False
    bn_zero_debias: bool = False
    bn_sync: bool = False
    recalibrate_at_end: bool | None = None
    diagnose_every: int | None = None
    tracker: tuple[str, ...] = ()
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    distribute: Literal["none", "mirrored", "multi-worker"] = "none"
    cache_features: Literal["auto", "on", "off"] = "auto"
    cache_precision: Literal["float32", "float16"] = "float32"
    cache_budget: str | None = None
    seed: int = 0
    deterministic: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `config.json`."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Takes:
    """What a setting takes: in words, and as a test. None is another matter: allowed where it is the default."""

    expected: str
    test: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    path: bool = False


def _text(expected: str) -> _Takes:
    return _Takes(expected, lambda value: isinstance(value, str))


def _path() -> _Takes:
    return _Takes("a path", lambda value: isinstance(value, str), path=True)


def _texts(expected: str) -> _Takes:
    return _Takes(expected, lambda value: isinstance(value, tuple) and all(isinstance(one, str) for one in value))


def _choice(*allowed: str) -> _Takes:
    return _Takes(f"one of {', '.join(allowed)}", lambda value: value in allowed, allowed)


def _whole(least: int) -> _Takes:
    return _Takes(
        f"a whole number from {least} to 2^31 - 1", lambda value: type(value) is int and least <= value < 2**31
    )


def _number(least: float, most: float) -> _Takes:
    return _Takes(f"a number from {least:g} to {most:g}", lambda value: _is_number(value) and least <= value <= most)


def _fraction() -> _Takes:
    return _Takes("a number from 0 up to but not including 1", lambda value: _is_number(value) and 0 <= value < 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_FLAG = _Takes("true or false", lambda value: isinstance(value, bool))
_LARGEST = 1e6
"""Beyond what makes sense, and within float32: what overflows there would be NaN without a reason given."""

_TAKES: dict[str, _Takes] = {
    "backbone": _text("a name of 'finetune backbones list', hub:HANDLE, or the path of a model"),
    "data": _text("the name of a data set, such as cifar10, or a path"),
    "checkpoint": _path(),
    "data_dir": _path(),
    "from_scratch": _FLAG,
    "examples": _whole(1),
    "test": _number(1e-6, 0.999),
    "validation": _fraction(),
    "skip_bad_images": _FLAG,
    "image_size": _whole(1),
    "preprocess": _text("the name of a preprocessing, such as inception"),
    "augment": _choice(*get_args(Augment)),
    "crop_padding": _whole(0),
    "dropout": _fraction(),
    "hidden": _whole(1),
    "freeze": _texts("a list of PATTERN[=train]"),
    "freeze_until": _text("the name of a stage"),
    "head": _choice("swap", "keep"),
    "features": _text("the name of a layer"),
    "bn": _texts("a list of [PATTERN=]POLICY"),
    "bn_decay": _Takes("a number between 0 and 1, or 'auto'", lambda value: value == "auto" or _is_number(value)),
    "bn_epsilon": _number(1e-12, 1),
    "bn_updates": _choice("on", "off"),
    "bn_renorm": _FLAG,
    "bn_zero_debias": _FLAG,
    "bn_sync": _FLAG,
    "recalibrate_at_end": _FLAG,
    "diagnose_every": _whole(1),
    "tracker": _texts("a list of tensorboard[=DIR] and mlflow[=DIR|URI]"),
    "epochs": _whole(1),
    "batch_size": _whole(1),
    "optimizer": _choice("sgd", "adamw"),
    "learning_rate": _number(1e-12, _LARGEST),
    "weight_decay": _fraction(),
    "schedule": _choice("cosine", "constant"),
    "warmup": _fraction(),
    "label_smoothing": _fraction(),
    "clip_norm": _number(1e-12, _LARGEST),
    "patience": _whole(1),
    "distribute": _choice("none", "mirrored", "multi-worker"),
    "cache_features": _choice("auto", "on", "off"),
    "cache_precision": _choice("float32", "float16"),
    "cache_budget": _Takes(
        "a size, such as 10GiB or 500MB", lambda value: isinstance(value, str) and size_in_bytes(value) is not None
    ),
    "seed": _whole(0),
    "deterministic": _FLAG,
}
_FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}

PATHS = tuple(name for name, takes in _TAKES.items() if takes.path)
"""Settings that name a file or folder; a config holds them absolute."""
LISTS = tuple(name for name, field in _FIELDS.items() if isinstance(field.default, tuple))
"""Settings that take a list of rules."""
DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in _FIELDS.items() if field.default is not dataclasses.MISSING
}
"""What every setting is that nobody gives; those that have to be given are not in it."""


def read_file(path: Path) -> dict[str, Any]:
    """The keys and values of a `config.json`, not yet checked but for its format.

    Raises FinetuneError where it is missing, no JSON object, or of a format newer than this version reads.
    """
    values = read_json(path)
    version = values.pop("format_version", FORMAT_VERSION)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise FinetuneError(
            f"{path} has format_version {version!r}, but this version of finetune reads up to {FORMAT_VERSION}: "
            "upgrade finetune, or restore the file from a copy"
        )
    return values


def from_mapping(
    values: Mapping[str, Any], *, where: str, options: Mapping[str, Any] = MappingProxyType({})
) -> RunConfig:
    """A checked RunConfig from a file's keys, with dashes or underscores; `options` of the command line win.

    `where` names the file in errors. Raises WrongUse for an unknown key (with the nearest one), and for a value of
    the wrong type or out of range.
    """
    known: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected some of {', '.join(_FIELDS)}"
            raise WrongUse(f"unknown key '{key}' in {where}: {hint}")
        if name in known:
            raise WrongUse(f"'{name}' comes twice in {where}, with dash and underscore: leave one out")
        known[name] = value
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in {**known, **options}.items()}
    if "backbone" not in known:
        raise WrongUse(
            f"{where} names no backbone: give --backbone NAME, such as resnet_v1_50; 'finetune backbones list' lists "
            "them"
        )
    return check(RunConfig(**known), where=where, options=options)


def check(config: RunConfig, *, where: str | None = None, options: Collection[str] = ()) -> RunConfig:
    """`config` itself, or WrongUse naming the first value that will not do.

    `where` names the file it comes from, but for `options`, which come from the command line.
    """
    for name, takes in _TAKES.items():
        value = getattr(config, name)
        if value is None and _FIELDS[name].default is None:
            continue
        if not takes.test(value):
            at = f" in {where}" if where and name not in options else ""
            raise _wrong(name, list(value) if isinstance(value, tuple) else value, takes, at)
    if config.bn_decay != "auto":
        check_decay(config.bn_decay)
    if config.from_scratch and config.checkpoint is not None:
        raise WrongUse("--from-scratch and --checkpoint contradict each other: give one of them")
    for name, given in (
        ("--from-scratch", config.from_scratch),
        ("--hidden", config.hidden is not None),
        ("--dropout", config.dropout > 0),
        ("--features", config.features is not None),
    ):
        if config.head == "keep" and given:
            raise WrongUse(f"--head keep and {name} contradict each other, the head is the file's: give one of them")
    return config


def _wrong(name: str, value: Any, takes: _Takes, at: str) -> WrongUse:
    near = difflib.get_close_matches(str(value), takes.choices, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return WrongUse(f"--{name.replace('_', '-')} {value!r}{at} will not do: {hint}expected {takes.expected}")
