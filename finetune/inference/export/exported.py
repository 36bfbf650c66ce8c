"""What an export has written, how it is re-evaluated, and how it scored. No TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Runtime = Callable[[np.ndarray], np.ndarray]
"""An export opened by the program it is for: its input, `[batch, ...]`, to logits `[batch, classes]`."""

AGREEMENT = 0.999
"""Least share of images with the same predicted class: below it, an export is another classifier than the run."""


@dataclass(frozen=True)
class TrialOptions:
    """How exports are re-evaluated.

    data_dir: where the run's data lies now. images: at most so many test images, evenly spread. least_accuracy: a
    fraction; an export that scores less is an error. on_batch: called after every batch.
    """

    data_dir: Path | None = None
    images: int | None = None
    least_accuracy: float | None = None
    on_batch: Callable[[], None] | None = None


@dataclass(frozen=True)
class Trial:
    """Scores of an export over `images` test images.

    difference: its accuracy minus the run's on the same images. agreement: the share of images with the same predicted
    class. logit_difference: the largest absolute one, over up to 1,000 images. bytes: of all files. milliseconds: the
    median over single images, after some to warm up.

    Class and logits are compared with the run on the same pixels. Where an export takes photos as they are, the run
    gets photos that are decoded in full too.
    """

    images: int
    accuracy: float
    difference: float
    agreement: float
    logit_difference: float
    bytes: int
    milliseconds: float

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "images": self.images,
            "accuracy": self.accuracy,
            "difference": self.difference,
            "agreement": self.agreement,
            "largest_logit_difference": self.logit_difference,
            "bytes": self.bytes,
            "milliseconds_per_image": self.milliseconds,
        }


@dataclass(frozen=True)
class Exported:
    """One export. `what` describes it in a line. `notes` are what its user must know to get the run's results from it.
    `trial` is None where it was not re-evaluated."""

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
        """The same in a few lines for people."""
        names = ", ".join(str(file.relative_to(self.out.parent)) for file in self.files)
        return "\n".join([f"{self.out}: {self.what}", f"files: {names}", *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Export:
    """All exports of one call, and the trials of the run itself that they are compared with (`trial.Reference`); None
    where nothing was re-evaluated."""

    exported: tuple[Exported, ...]
    run: Trial | None = None
    decoded: Trial | None = None

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "run": self.run.to_json() if self.run else None,
            "run_on_photos_decoded_in_full": self.decoded.to_json() if self.decoded else None,
            "exports": [one.to_json() for one in self.exported],
        }
