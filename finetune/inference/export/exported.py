"""The export formats, the names of their files, and what an export has written and scored.

No TensorFlow and no NumPy, so that `--help` can list the formats quickly.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import WrongUse

if TYPE_CHECKING:
    from finetune.evaluation.significance import Interval

AGREEMENT = 0.999
"""Least share of images with the same predicted class: below it, an export is another classifier than the run."""
MOST_LOST = 0.01
"""Accuracy that a quantised export may lose without a warning: int8 with scales per channel usually loses less."""


@dataclass(frozen=True)
class Format:
    """One row of `FORMATS`.

    words: the description in `--help`. name: of the file or folder, where several formats go into one directory.
    ending: what a name given for it must end in; None for a prefix or a folder. quantised: its results differ from the
    run's by more than rounding. calibrated: it needs training images, from which the ranges of activations are taken.
    """

    words: str
    name: str
    ending: str | None
    quantised: bool = False
    calibrated: bool = False


FORMATS = {
    "keras": Format("stock layers, safe to load, trainable", "model.keras", ".keras"),
    "savedmodel": Format("TensorFlow Serving and the like", "saved_model", None),
    "tflite": Format("phones and small devices", "model.tflite", ".tflite"),
    "tflite-float16": Format("float16 weights", "model-float16.tflite", ".tflite", True),
    "tflite-dynamic": Format("int8 weights, float32 activations", "model-dynamic.tflite", ".tflite", True),
    "tflite-int8": Format("int8 weights and activations", "model-int8.tflite", ".tflite", True, True),
    "onnx": Format("onnxruntime and the like", "model.onnx", ".onnx"),
    "onnx-int8": Format("int8 weights and activations", "model-int8.onnx", ".onnx", True, True),
    "slim": Format("a TF1 slim checkpoint: tf_slim's networks restore it by name", "slim/model.ckpt", None),
}


def file_names(out: Path, forms: Sequence[str]) -> dict[str, str]:
    """Each of `forms` with the path of its file or folder within the directory it goes to.

    Raises WrongUse where none is given, or `out` has the ending of another format.
    """
    forms = list(dict.fromkeys(forms))
    if not forms:
        raise WrongUse(f"no format is given: expected one or more of {', '.join(FORMATS)}")
    endings = [one.ending for one in FORMATS.values() if one.ending]
    if len(forms) > 1:
        if out.suffix in endings:
            raise WrongUse(f"--out {out}: several formats go into one directory: give its name, without {out.suffix}")
        return {form: FORMATS[form].name for form in forms}
    (form,) = forms
    ending = FORMATS[form].ending
    if ending and out.suffix != ending:
        raise WrongUse(f"--out {out}: a {form} file ends in {ending}: give {out.with_suffix(ending)}")
    if form == "savedmodel" and out.suffix in endings:
        raise WrongUse(f"--out {out}: a SavedModel is a directory: give {out.with_suffix('')}")
    return {form: out.name}


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
class Calibration:
    """Which training images the activations of int8 formats are quantised with.

    images: so many, stratified; None for 200, or one of each class if there are more classes. data_dir: where the run's
    data lies now.
    """

    images: int | None = None
    data_dir: Path | None = None


@dataclass(frozen=True)
class Trial:
    """Scores of an export over `images` test images.

    difference: its accuracy minus the run's on the same images. gained: images that it gets right and the run wrong.
    lost: the reverse; of images with several labels, as in `significance.Paired`, also squares. agreement: the share of
    images with the same predicted class, or labels. largest_logit_difference: absolute, over up to 1,000 images. bytes:
    of all files. milliseconds_per_image: the median over single images, after some to warm up.

    Class and logits are compared with the run on the same pixels. Where an export takes photos as they are, the run
    gets photos that are decoded in full too.
    """

    images: int
    accuracy: float
    difference: float
    gained: float
    lost: float
    agreement: float
    largest_logit_difference: float
    bytes: int
    milliseconds_per_image: float
    squares: float | None = None

    @property
    def interval(self) -> "Interval":
        """The 95 % interval of `difference`, paired image by image."""
        from finetune.evaluation.significance import Paired  # here: it loads NumPy

        return Paired(self.gained, self.lost, self.squares).interval(self.images)


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
        files = tuple(folder / file.relative_to(stage) for file in self.files)
        return replace(self, out=folder / self.out.relative_to(stage), files=files)

    def noting(self, note: str) -> "Exported":
        """The same with one more note."""
        return replace(self, notes=(*self.notes, note))

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
            "evaluation": self.trial and asdict(self.trial),
        }

    def summary(self) -> str:
        """The same in a few lines for people."""
        names = ", ".join(str(file.relative_to(self.out.parent)) for file in self.files)
        return "\n".join([f"{self.out}: {self.what}", f"files: {names}", *(f"note: {note}" for note in self.notes)])


@dataclass(frozen=True)
class Export:
    """All exports of one call, and the trials of the run itself that they are compared with (`trial.Reference`); None
    where nothing was re-evaluated. folded: of the graph before it is quantised, float32 with BatchNorm folded; None
    where no format is quantised."""

    exported: tuple[Exported, ...]
    run: Trial | None = None
    decoded: Trial | None = None
    folded: Trial | None = None

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "run": self.run and asdict(self.run),
            "run_on_photos_decoded_in_full": self.decoded and asdict(self.decoded),
            "folded_not_quantised": self.folded and asdict(self.folded),
            "exports": [one.to_json() for one in self.exported],
        }
