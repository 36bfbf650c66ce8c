"""The complete description of a run: running it again repeats the run."""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any, Literal

from finetune.errors import WrongUse


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
    validation: float = 0.05
    image_size: int | None = None
    preprocess: str | None = None
    augment: Literal["crop-flip", "flip", "none"] | None = None
    crop_padding: int | None = None
    dropout: float = 0.0
    hidden: int | None = None
    freeze: tuple[str, ...] = ()
    freeze_until: str | None = None
    bn: tuple[str, ...] = ()
    bn_decay: float | Literal["auto"] = "auto"
    bn_epsilon: float | None = None
    bn_updates: Literal["on", "off"] = "on"
    recalibrate_at_end: bool | None = None
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
    seed: int = 0
    deterministic: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `config.json`."""
        return dataclasses.asdict(self)


_FIELDS = {field.name: field for field in dataclasses.fields(RunConfig)}
_ALLOWED: dict[str, tuple[str, ...]] = {
    "augment": ("crop-flip", "flip", "none"),
    "bn_updates": ("on", "off"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("cosine", "constant"),
}
_FRACTIONS = ("validation", "dropout", "label_smoothing", "warmup", "weight_decay")
_POSITIVE = ("learning_rate", "bn_epsilon", "clip_norm")
_COUNTS = {"examples": 1, "image_size": 1, "crop_padding": 0, "hidden": 1, "epochs": 1, "batch_size": 1, "patience": 1}


def from_mapping(values: dict[str, Any], *, where: str) -> RunConfig:
    """A checked RunConfig from a file's keys (dashes or underscores). `where` names the file in errors.

    Raises WrongUse for an unknown key (with the nearest one), a value of the wrong type or out of range.
    """
    known: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name == "format_version":
            continue
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f": did you mean '{near[0].replace('_', '-')}'?" if near else f": expected {', '.join(_FIELDS)}"
            raise WrongUse(f"unknown key '{key}' in {where}{hint}")
        known[name] = tuple(value) if isinstance(value, list) else value
    if "backbone" not in known:
        raise WrongUse(f"{where} names no backbone: give 'backbone', such as \"resnet_v1_101\"")
    return check(RunConfig(**known))


def check(config: RunConfig) -> RunConfig:
    """`config` itself, or WrongUse naming the first value that is out of its range."""
    values = config.to_json()
    for name, allowed in _ALLOWED.items():
        if values[name] is not None and values[name] not in allowed:
            raise _wrong(name, values[name], f"one of {', '.join(allowed)}")
    for name in _FRACTIONS:
        if values[name] is not None and not (_number(values[name]) and 0 <= values[name] < 1):
            raise _wrong(name, values[name], "a number from 0 up to but not including 1")
    for name in _POSITIVE:
        if values[name] is not None and not (_number(values[name]) and 0 < values[name] < float("inf")):
            raise _wrong(name, values[name], "a number above 0")
    for name, count in _COUNTS.items():
        if values[name] is not None and not (type(values[name]) is int and values[name] >= count):
            raise _wrong(name, values[name], f"a whole number of {count} or more")
    if type(config.seed) is not int or not 0 <= config.seed < 2**31:
        raise _wrong("seed", config.seed, "a whole number from 0 up to 2^31 - 1")
    if config.bn_decay != "auto":
        from finetune.batchnorm.policy import check_decay

        if not _number(config.bn_decay):
            raise _wrong("bn_decay", config.bn_decay, "a number between 0 and 1, or 'auto'")
        check_decay(config.bn_decay)
    if config.from_scratch and config.checkpoint:
        raise WrongUse("--from-scratch and --checkpoint contradict each other: give one of them")
    return config


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _wrong(name: str, value: Any, expected: str) -> WrongUse:
    return WrongUse(f"--{name.replace('_', '-')} {value} is out of range: expected {expected}")
