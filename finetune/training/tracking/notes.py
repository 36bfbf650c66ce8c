"""tracking.json: where the trackers of a run were told, so that a resumed run goes on there."""

from pathlib import Path
from typing import Any

from finetune.files import read_json, to_json, write_text

_NAME = "tracking.json"


def read(run: Path) -> dict[str, Any]:
    """What is noted; nothing for a new run. FinetuneError where the file is damaged."""
    return read_json(run / _NAME) if (run / _NAME).is_file() else {}


def write(run: Path, value: dict[str, Any]) -> None:
    """Replace it, atomically."""
    write_text(run / _NAME, to_json(value, indent=2) + "\n")
