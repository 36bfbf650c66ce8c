"""Named bundles of settings. What is given beside a preset wins over it."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from finetune.errors import WrongUse

if TYPE_CHECKING:
    from finetune.config.run_config import RunConfig

PRESETS: dict[str, dict[str, Any]] = {
    "linear-probe": {"freeze": ("*",), "bn": ("freeze",)},
    "fine-tune": {},
    "gradual": {"layer_decay": 0.8},
}
"""What each sets. `fine-tune` is the defaults by a name: everything trains, BatchNorm adapts, one learning rate.
`gradual` unfreezes over the first half of the epochs as well, which `finetune.runs.defaults` works out.

Only settings whose default is None or empty, so that one that is given can be told from one that is not."""

_INSTEAD = {"freeze": ("freeze", "freeze_until")}
"""Settings any one of which decides what the preset would."""


def expand(config: "RunConfig") -> "RunConfig":
    """`config` with what its preset sets; expanding twice changes nothing."""
    chosen = PRESETS.get(config.preset or "", {})
    return replace(config, **{name: value for name, value in chosen.items() if not _given(config, name)})


def describe(config: "RunConfig") -> str:
    """One sentence on what the preset of an expanded config sets, and what was given instead."""
    chosen = PRESETS[config.preset or "fine-tune"]
    kept = {name: value for name, value in chosen.items() if getattr(config, name) == value}
    words = " ".join(_option(name, value) for name, value in kept.items())
    if not chosen:
        words = "the defaults: every layer trains unless it is frozen by --freeze"
    if config.unfreeze_epochs is not None and config.preset == "gradual":
        words = f"{words} {_option('unfreeze_epochs', config.unfreeze_epochs)}".strip()
    instead = [one for name in chosen if name not in kept for one in _INSTEAD.get(name, (name,)) if _set(config, one)]
    won = f"; given instead: {' '.join(_option(name, getattr(config, name)) for name in instead)}" if instead else ""
    return f"preset {config.preset}: {words or 'nothing'}{won}"


def refuse_change(values: Mapping[str, Any], options: Mapping[str, Any], *, where: str) -> None:
    """WrongUse where the command line gives another preset than the file `where` was written with: what that one set
    stands in the file like everything else, and would be taken for given."""
    before, now = values.get("preset"), options.get("preset")
    if before and now and before != now:
        raise WrongUse(
            f"--preset {now}: {where} has the settings of preset {before} written out: leave --preset out, or give "
            "--preset without --config, with the settings you mean"
        )


def _given(config: "RunConfig", name: str) -> bool:
    return any(_set(config, one) for one in _INSTEAD.get(name, (name,)))


def _set(config: "RunConfig", name: str) -> bool:
    return getattr(config, name) not in (None, ())


def _option(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{option} {shlex.quote(str(one))}" for one in values)
