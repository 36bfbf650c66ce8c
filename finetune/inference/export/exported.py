"""What an export has written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.inference.export.trial import Trial


@dataclass(frozen=True)
class Exported:
    """An export. `what` is a line about it; `notes` are what one must know to get the run's results from it; `trial` is
    its re-evaluation, None where that was left out."""

    form: str
    out: Path
    files: tuple[Path, ...]
    what: str
    notes: tuple[str, ...]
    trial: Trial | None = None

    def at(self, stage: Path, folder: Path) -> "Exported":
        """The same with its files moved from the folder `stage` to `folder`."""
        return replace(
            self,
            out=folder / self.out.relative_to(stage),
            files=tuple(folder / file.relative_to(stage) for file in self.files),
        )

    @property
    def size(self) -> int:
        """Of its files, in bytes."""
        return sum(file.stat().st_size for file in self.files)

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "format": self.form,
            "out": str(self.out),
            "files": [str(file) for file in self.files],
            "notes": list(self.notes),
            "evaluation": self.trial.to_json() if self.trial else None,
        }

    def summary(self) -> str:
        """A few lines a person reads."""
        names = ", ".join(str(file.relative_to(self.out.parent)) for file in self.files)
        return "\n".join([f"{self.out}: {self.what}", f"files: {names}", *(f"note: {note}" for note in self.notes)])
