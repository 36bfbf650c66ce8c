"""Named bundles of settings. Settings given together with a preset win over it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finetune.config.run_config import RunConfig
from finetune.errors import WrongUse

PRESETS: dict[str, dict[str, Any]] = {
    "linear-probe": {"freeze": ("*",), "bn": ("freeze",)},
    "fine-tune": {},
    "gradual": {"layer_decay": 0.8},
}
"""What each preset sets. `fine-tune` is a name for the defaults: everything trains, BatchNorm adapts, one learning
rate. `gradual` also unfreezes over the first half of the epochs, which `finetune.runs.request` works out.

A preset only sets settings whose default is None or empty, so that a given setting differs from its default."""

_INSTEAD = {"freeze": ("freeze", "freeze_until")}
"""Setting of a preset -> the settings that replace it, each of them alone."""


def expand(config: RunConfig) -> RunConfig:
    """`config` with the settings of its preset; expanding twice changes nothing."""
    chosen = PRESETS.get(config.preset or "", {})
    return replace(config, **{name: value for name, value in chosen.items() if not _given(config, name)})


def describe(config: RunConfig) -> str:
    """One sentence on what the preset of an expanded config sets, and what was given instead."""
    chosen = PRESETS[config.preset or "fine-tune"]
    kept = [name for name, value in chosen.items() if getattr(config, name) == value]
    by_preset = [*kept, *(["unfreeze_epochs"] if config.preset == "gradual" and config.unfreeze_epochs else [])]
    words = " ".join(map(config.as_option, by_preset)) or "nothing"
    if not chosen:
        words = "the defaults: every layer trains unless it is frozen by --freeze"
    instead = [one for name in chosen if name not in kept for one in _given(config, name)]
    won = f"; given instead: {' '.join(map(config.as_option, instead))}" if instead else ""
    return f"preset {config.preset}: {words}{won}"


def refuse_change(values: Mapping[str, Any], options: Mapping[str, Any], *, where: str) -> None:
    """WrongUse where the command line gives another preset than the file `where` was written with. The file holds the
    settings of its own preset like any others, so they would count as given and win over the new preset."""
    before, now = values.get("preset"), options.get("preset")
    if before and now and before != now:
        raise WrongUse(
            f"--preset {now}: {where} has the settings of preset {before} written out: leave --preset out, or give "
            "--preset without --config, with the settings you mean"
        )


def _given(config: RunConfig, name: str) -> list[str]:
    """The settings given that replace `name` of a preset."""
    return [one for one in _INSTEAD.get(name, (name,)) if config.is_set(one)]
