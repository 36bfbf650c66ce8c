"""Name a job's run directory after its settings, in characters that are safe in every file system."""

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


def job_name(settings: dict[str, Any]) -> str:
    """The name of a job with these settings, such as `resnet_v1_50-bn_decay_0.95`.

    It depends on nothing else, so adding or removing other jobs does not rename this one.
    """
    parts = [_shortened(_part(name, value), _PART, value) for name, value in settings.items()]
    return _shortened("-".join(parts), _WHOLE, settings) or "defaults"


def safe_name(name: Any, where: str) -> str | None:
    """The user's name for a job, made safe: slashes, control characters and leading dots are replaced.

    Raises WrongUse if no letter or digit remains.
    """
    if name is None:
        return None
    safe = _safe(name) if isinstance(name, str) else ""
    if not safe:
        raise WrongUse(f"name {name!r} in {where} is not valid: expected text with letters or digits in it")
    return _shortened(safe, _WHOLE, name)


def distinct_name(name: str, settings: dict[str, Any]) -> str:
    """`name` with a hash of its settings, for jobs whose settings differ only in characters that names cannot have."""
    return f"{name}-{_digest(settings)}"


def refuse_duplicates(path: Path, names: Sequence[str]) -> None:
    """Raise WrongUse if two jobs have one name. Case does not count: some file systems ignore it."""
    first: dict[str, int] = {}
    for index, name in enumerate(names, 1):
        before = first.setdefault(name.casefold(), index)
        if before != index:
            raise WrongUse(
                f"{path}: jobs {before} and {index} are both called '{name}': give one of them another 'name', or "
                "remove it if it is the same job"
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
    return text if len(text) <= most else f"{text[: most - 7].rstrip('._+-')}-{_digest(of)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
