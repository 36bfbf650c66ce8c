"""What a job's run directory is called: what the job sets, in characters that are safe in every file system."""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.config import PATHS
from finetune.errors import WrongUse

_PART, _WHOLE = 40, 100
"""Most characters of one setting and of a name."""


def of(settings: dict[str, Any]) -> str:
    """`resnet_v1_50-bn_decay_0.95`: the name of a job that sets `settings`. It depends on nothing else, so that other
    jobs may come and go without renaming this one."""
    parts = [_shortened(_part(name, value), _PART, value) for name, value in settings.items()]
    return _shortened("-".join(parts), _WHOLE, settings) or "defaults"


def given(name: Any, where: str) -> str | None:
    """A name the user gave, made safe: slashes, control characters and leading dots are replaced.

    Raises WrongUse where nothing is left of it.
    """
    if name is None:
        return None
    safe = _safe(name) if isinstance(name, str) else ""
    if not safe:
        raise WrongUse(f"name {name!r} in {where} will not do: expected text with letters or digits in it")
    return _shortened(safe, _WHOLE, name)


def distinct(name: str, settings: dict[str, Any]) -> str:
    """`name` with a mark of its settings, where two jobs' settings differ only in characters a name has not."""
    return f"{name}-{_mark(settings)}"


def refuse_duplicates(path: Path, names: Sequence[str]) -> None:
    """WrongUse where two jobs have one name; capitals do not count, as some file systems hold them equal."""
    first: dict[str, int] = {}
    for index, name in enumerate(names, 1):
        before = first.setdefault(name.casefold(), index)
        if before != index:
            raise WrongUse(
                f"{path}: jobs {before} and {index} are both called '{name}': give one of them another 'name', or "
                "remove it where it is the same job"
            )


def _part(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if name == "backbone":
        path = Path(str(value).removeprefix("hub:"))
        if path.is_absolute():
            return _safe(path.parent.name if path.name == "model.keras" else path.name)
        return _safe(str(value).replace("/", "-"))
    if isinstance(value, list | tuple):
        return _safe(f"{name}_{'_'.join(str(one).replace('*', 'all') for one in value) or 'none'}")
    if value and (name in PATHS or (name == "data" and Path(value).is_absolute())):
        return _safe(f"{name}_{Path(value).name}")
    return _safe(f"{name}_{value}")


def _safe(text: str) -> str:
    """ASCII letters, digits and `. _ + -`, the first and last a letter or digit; accents are dropped."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\.\.+", ".", re.sub(r"[^A-Za-z0-9.+-]+", "_", plain)).strip("._+-")


def _shortened(text: str, most: int, of: Any) -> str:
    return text if len(text) <= most else f"{text[: most - 7].rstrip('._+-')}-{_mark(of)}"


def _mark(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
