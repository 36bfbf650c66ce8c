"""The complete description of a run: running it again repeats the run."""

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from finetune._version import __version__
from finetune.batchnorm.policy import check_decay
from finetune.config.contradictions import refuse_contradictions
from finetune.config.presets import refuse_change
from finetune.config.settings import TAKES, Augment, Takes
from finetune.errors import FinetuneError, WrongUse
from finetune.files import read_json

FORMAT_VERSION = 1
"""Written into `config.json`; a reader refuses what is newer than itself."""

PACKAGE = "finetune-backbones"
"""What this program is called where it is installed from."""


@dataclass(frozen=True)
class RunConfig:
    """What `finetune run` was asked for. None means "choose what suits the data"; `finetune.runs.defaults`
    replaces every None before the run starts, and the complete value is written to `config.json`.

    decays, fractions and probabilities lie in [0, 1); sizes are px; `examples` counts images.
    """

    backbone: str
    data: str = "cifar10"
    checkpoint: str | None = None
    data_dir: str | None = None
    from_scratch: bool = False
    examples: int | None = None
    few_shot: int | None = None
    test: float = 0.2
    validation: float = 0.05
    skip_bad_images: bool = False
    allow_overlap: bool = False
    image_size: int | None = None
    preprocess: str | None = None
    augment: Augment | None = None
    crop_padding: int | None = None
    rand_augment: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    dropout: float = 0.0
    hidden: int | None = None
    preset: str | None = None
    freeze: tuple[str, ...] = ()
    freeze_until: str | None = None
    bn: tuple[str, ...] = ()
    unfreeze_epochs: int | None = None
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
    microbatch: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float | Literal["auto"] | None = None
    layer_decay: float | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    patience: int | None = None
    ema: float | None = None
    tta: Literal["flip"] | None = None
    distribute: Literal["none", "mirrored", "multi-worker"] = "none"
    cache_features: Literal["auto", "on", "off"] = "auto"
    cache_precision: Literal["float32", "float16"] = "float32"
    cache_budget: str | None = None
    seed: int = 0
    deterministic: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `config.json`."""
        return dataclasses.asdict(self)


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


def read_file(path: Path) -> dict[str, Any]:
    """The keys and values of a `config.json`, not yet checked but for its format.

    Raises FinetuneError where it is missing, no JSON object, or of a format newer than this version reads.
    """
    values = read_json(path)
    version = values.pop("format_version", FORMAT_VERSION)
    if type(version) is not int or version < 1:
        raise FinetuneError(
            f"{path} has format_version {version!r}, expected a number from 1 to {FORMAT_VERSION}: it is damaged; "
            "restore it from a copy"
        )
    if version > FORMAT_VERSION:
        raise FinetuneError(
            f"{path} has format_version {version}, written by {_writer(path)}, but this is finetune {__version__}, "
            f"which reads up to {FORMAT_VERSION}: upgrade it with: pip install --upgrade {PACKAGE}"
        )
    return values


def _writer(path: Path) -> str:
    """Which finetune wrote the run a `config.json` is of, as far as its `environment.json` tells."""
    try:
        packages = read_json(path.with_name("environment.json")).get("packages")
    except (FinetuneError, OSError):
        packages = None
    version = packages.get(PACKAGE) if isinstance(packages, dict) else None
    return f"finetune {version[:40]}" if isinstance(version, str) else "a newer finetune"


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
    return check(RunConfig(**known), where=where, options=options)


def check(config: RunConfig, *, where: str | None = None, options: Collection[str] = ()) -> RunConfig:
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
