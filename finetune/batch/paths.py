"""Paths in a jobs file start at the file: jobs run from anywhere."""

import os
from pathlib import Path
from typing import Any

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from finetune.config import PATHS
from finetune.data import sources


def absolute(name: str, value: Any, folder: Path) -> Any:
    """The value of setting `name`, absolute where it is a path; `folder` is where the jobs file lies."""
    if name == "data":
        return sources.absolute(value, below=folder)
    if name == "backbone":
        return _backbone(value, folder)
    if name not in PATHS or value is None:
        return value
    return os.path.abspath(folder / os.path.expanduser(value))


def _backbone(value: str, folder: Path) -> str:
    """A file or folder is looked for beside the jobs file; a name of the catalogue and a Hub handle stay."""
    hub = "hub:" if value.startswith("hub:") else ""
    name = value.removeprefix(hub)
    path = folder / os.path.expanduser(name)
    if not name.startswith((".", "~")) and (not name or not path.exists() or _in_catalogue(name)):
        return value
    return hub + os.path.abspath(path)


def _in_catalogue(name: str) -> bool:
    try:
        find_row(name)
    except CheckpointError:
        return False
    return True
