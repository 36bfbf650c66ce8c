"""Read `config.json`. `RunDir.config` checks its settings too."""

from pathlib import Path
from typing import Any

from finetune._version import __version__
from finetune.errors import FinetuneError
from finetune.files import read_json

FORMAT_VERSION = 1
"""Written into `config.json`. A reader refuses a newer format than its own."""
PACKAGE = "finetune-backbones"
"""Name of this package on PyPI."""


def read_config_file(path: Path) -> dict[str, Any]:
    """The keys and values of a `config.json`. Only its format is checked.

    Raises FinetuneError where it is missing, no JSON object, or of a newer format than this version reads.
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
    """The finetune version that wrote a `config.json`, if the `environment.json` next to it has one."""
    try:
        packages = read_json(path.with_name("environment.json")).get("packages")
    except (FinetuneError, OSError):
        packages = None
    version = packages.get(PACKAGE) if isinstance(packages, dict) else None
    return f"finetune {version[:40]}" if isinstance(version, str) else "a newer finetune"
