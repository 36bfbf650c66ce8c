"""What an export has written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exported:
    """An export. `what` is a line about it; `notes` are what one must know to get the run's results from it."""

    form: str
    out: Path
    files: tuple[Path, ...]
    what: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "format": self.form,
            "out": str(self.out),
            "files": [str(file) for file in self.files],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """A few lines a person reads."""
        names = ", ".join(file.name for file in self.files)
        return "\n".join([f"{self.out}: {self.what}", f"files: {names}", *(f"note: {note}" for note in self.notes)])
