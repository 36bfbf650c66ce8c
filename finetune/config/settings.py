"""What each setting of a run takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from finetune.config.presets import PRESETS
from finetune.config.run_config import Augment
from finetune.errors import WrongUse
from finetune.text import size_in_bytes


@dataclass(frozen=True)
class Takes:
    """What a setting takes: in words, and as a test. None is another matter: allowed where it is the default."""

    expected: str
    test: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    path: bool = False


def _text(expected: str) -> Takes:
    return Takes(expected, lambda value: isinstance(value, str))


def _path() -> Takes:
    return Takes("a path", lambda value: isinstance(value, str), path=True)


def _texts(expected: str) -> Takes:
    return Takes(expected, lambda value: isinstance(value, tuple) and all(isinstance(one, str) for one in value))


def _choice(*allowed: str) -> Takes:
    return Takes(f"one of {', '.join(allowed)}", lambda value: value in allowed, allowed)


def _whole(least: int) -> Takes:
    return Takes(
        f"a whole number from {least} to 2^31 - 1", lambda value: type(value) is int and least <= value < 2**31
    )


def _number(least: float, most: float) -> Takes:
    return Takes(f"a number from {least:g} to {most:g}", lambda value: _is_number(value) and least <= value <= most)


def _fraction() -> Takes:
    return Takes("a number from 0 up to but not including 1", lambda value: _is_number(value) and 0 <= value < 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_FLAG = Takes("true or false", lambda value: isinstance(value, bool))
_LARGEST = 1e6
"""Beyond what makes sense, and within float32: what overflows there would be NaN without a reason given."""

TAKES: dict[str, Takes] = {
    "backbone": _text("a name of 'finetune backbones list', hub:HANDLE, or the path of a model"),
    "data": _text("the name of a data set, such as cifar10, or a path"),
    "checkpoint": _path(),
    "data_dir": _path(),
    "from_scratch": _FLAG,
    "examples": _whole(1),
    "few_shot": _whole(1),
    "test": _number(1e-6, 0.999),
    "validation": _fraction(),
    "skip_bad_images": _FLAG,
    "allow_overlap": _FLAG,
    "image_size": _whole(1),
    "preprocess": _text("the name of a preprocessing, such as inception"),
    "augment": _choice(*get_args(Augment)),
    "crop_padding": _whole(0),
    "rand_augment": _number(0.01, 1),
    "mixup": _number(0.01, 10),
    "cutmix": _number(0.01, 10),
    "dropout": _fraction(),
    "hidden": _whole(1),
    "preset": _choice(*PRESETS),
    "freeze": _texts("a list of PATTERN[=train]"),
    "freeze_until": _text("the name of a stage"),
    "unfreeze_epochs": _whole(1),
    "head": _choice("swap", "keep"),
    "features": _text("the name of a layer"),
    "bn": _texts("a list of [PATTERN=]POLICY"),
    "bn_decay": Takes("a number between 0 and 1, or 'auto'", lambda value: value == "auto" or _is_number(value)),
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
    "microbatch": _whole(1),
    "precision": _choice("float32", "bfloat16"),
    "optimizer": _choice("sgd", "adamw"),
    "learning_rate": Takes(
        f"a number from 1e-12 to {_LARGEST:g}, or 'auto'",
        lambda value: value == "auto" or (_is_number(value) and 1e-12 <= value <= _LARGEST),
        ("auto",),
    ),
    "layer_decay": _number(1e-3, 1),
    "weight_decay": _fraction(),
    "schedule": _choice("cosine", "constant"),
    "warmup": _fraction(),
    "label_smoothing": _fraction(),
    "clip_norm": _number(1e-12, _LARGEST),
    "patience": _whole(1),
    "ema": Takes("a number between 0 and 1", lambda value: _is_number(value) and 0 < value < 1),
    "tta": _choice("flip"),
    "distribute": _choice("none", "mirrored", "multi-worker"),
    "cache_features": _choice("auto", "on", "off"),
    "cache_precision": _choice("float32", "float16"),
    "cache_budget": Takes(
        "a size, such as 10GiB or 500MB", lambda value: isinstance(value, str) and size_in_bytes(value) is not None
    ),
    "seed": _whole(0),
    "deterministic": _FLAG,
}
"""Setting -> what it takes; every setting of `RunConfig` is here."""


def check_decay(decay: float) -> float:
    """The decay itself, or WrongUse where it is not strictly between 0 and 1."""
    if not 0.0 < decay < 1.0:
        raise WrongUse(
            f"--bn-decay {decay} is outside (0, 1): it is the share of the old moving value kept at one update, "
            "such as 0.95; give a number between, or 'auto'"
        )
    return decay
