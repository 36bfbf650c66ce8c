"""The way out: a finished run in a form that other programs take. A format is one module here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import FinetuneError, WrongUse
from finetune.files import naming

if TYPE_CHECKING:
    from finetune.inference.export.exported import Exported
    from finetune.inference.export.trial import Trial

__all__ = ["FORMATS", "Export", "Format", "export"]


@dataclass(frozen=True)
class Format:
    """words: what it is, for `--help`. name: of the file or folder where several formats go into one directory.
    ending: what a name given for it must end in; None for a prefix or a folder."""

    words: str
    name: str
    ending: str | None


FORMATS = {
    "keras": Format("stock layers, safe to load, trainable", "model.keras", ".keras"),
    "savedmodel": Format("TensorFlow Serving and the like", "saved_model", None),
    "tflite": Format("phones and small devices", "model.tflite", ".tflite"),
    "onnx": Format("onnxruntime and the like", "model.onnx", ".onnx"),
    "slim": Format("a TF1 slim checkpoint: tf_slim's networks restore it by name", "slim/model.ckpt", None),
}
"""Each is the module of this package that checks, writes and runs it. Read without TensorFlow."""


@dataclass(frozen=True)
class Export:
    """All that was written, and the rows of the run itself that it is compared with (`trial.Reference`); None where
    nothing was re-evaluated."""

    exported: tuple["Exported", ...]
    run: "Trial | None" = None
    decoded: "Trial | None" = None

    def to_json(self) -> dict[str, Any]:
        """For `export --json`."""
        return {
            "run": self.run.to_json() if self.run else None,
            "run_on_photos_decoded_in_full": self.decoded.to_json() if self.decoded else None,
            "exports": [one.to_json() for one in self.exported],
        }


def export(
    target: Path,
    out: Path,
    *,
    forms: Sequence[str],
    with_preprocessing: bool = False,
    data_dir: Path | None = None,
    evaluate: bool = True,
    images: int | None = None,
    least_accuracy: float | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Export:
    """Write the run `target`, a directory or a `.keras` file in one, in each of `forms` of `FORMATS`.

    One format is written to `out` itself, several into the directory `out`, by their names. `with_preprocessing`: as
    `Source`. Each is re-evaluated by its own runtime on the run's test images, at most `images` of them, which lie in
    `data_dir` now; `evaluate=False` leaves that out. Where one of them scores under `least_accuracy` (a fraction),
    FinetuneError. Nothing is overwritten, and nothing at all is written where anything fails.

    Raises WrongUse for an `out` that is there already or has another format's ending, FinetuneError with the reason
    where the run has no such form or a package is missing.
    """
    if least_accuracy is not None and not evaluate:
        raise WrongUse("--assert-accuracy needs the evaluation: leave --no-evaluation out")
    chosen = list(dict.fromkeys(forms))
    names = _names(out, chosen)
    folder = out if len(chosen) > 1 else out.parent
    modules = {form: import_module(f"{__name__}.{form}") for form in chosen}
    staging = import_module(f"{__name__}.staging")
    for form, name in names.items():
        places = modules[form].places(folder / name) if form == "slim" else [folder / name]
        staging.check_free(places)
    source = import_module(f"{__name__}.source").open_source(target, with_preprocessing=with_preprocessing)
    for module in modules.values():
        module.check(source)
    reference = None
    if evaluate:
        opened = import_module("finetune.runs.evaluate").open_run(target, data_dir=data_dir)
        trial = import_module(f"{__name__}.trial")
        reference = trial.Reference(opened, source, images=images, on_batch=on_batch)
    written = []
    with staging.staged(folder) as stage:
        for form, module in modules.items():
            place = stage / names[form]
            place.parent.mkdir(exist_ok=True)
            with naming(folder / names[form], instead_of=stage):
                exported = module.write(source, place)
            if reference is not None:
                tried = reference.try_out(module.open_runtime(source, place), size=exported.size)
                exported = replace(exported, trial=tried)
            written.append(exported.at(stage, folder))
        if least_accuracy is not None:
            _check_accuracy(written, least_accuracy)
    if reference is None:
        return Export(tuple(written))
    return Export(tuple(written), reference.trial, reference.decoded)


def _names(out: Path, forms: Sequence[str]) -> dict[str, str]:
    """Format -> its path within the directory it goes to."""
    if not forms:
        raise WrongUse(f"no format is given: expected one or more of {', '.join(FORMATS)}")
    if len(forms) > 1:
        endings = [one.ending for one in FORMATS.values() if one.ending and out.suffix == one.ending]
        if endings:
            raise WrongUse(f"--out {out}: several formats go into one directory: give its name, without {endings[0]}")
        return {form: FORMATS[form].name for form in forms}
    (form,) = forms
    ending = FORMATS[form].ending
    if ending and out.suffix != ending:
        raise WrongUse(f"--out {out}: a {form} file ends in {ending}: give {out.with_suffix(ending)}")
    if form == "savedmodel" and out.suffix in {one.ending for one in FORMATS.values()}:
        raise WrongUse(f"--out {out}: a SavedModel is a directory: give {out.with_suffix('')}")
    return {form: out.name}


def _check_accuracy(written: Sequence["Exported"], least: float) -> None:
    for one in written:
        assert one.trial is not None
        if one.trial.accuracy < least:
            raise FinetuneError(
                f"--assert-accuracy {least:g}: the {one.form} export has {one.trial.accuracy:.4f} on "
                f"{one.trial.images} test images (the run itself {one.trial.accuracy - one.trial.difference:.4f}): "
                "nothing is written"
            )
