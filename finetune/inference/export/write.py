"""Write a finished run in one or more formats: all files appear together, or none does."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from checkpoints.atomic import move_all, naming, remove_abandoned, working_folder
from finetune.errors import FinetuneError, WrongUse
from finetune.files import room_for
from finetune.inference.export import to_keras, to_onnx, to_savedmodel, to_slim, to_tflite
from finetune.inference.export.exportable import Source, open_source
from finetune.inference.export.exported import Export, Exported, Runtime, TrialOptions
from finetune.inference.export.format_table import file_names
from finetune.inference.export.trial import Reference
from finetune.runs.model import open_run

_PREFIX = ".tmp.export-"
_ALL_IMAGES = TrialOptions()


class Writer(Protocol):
    """What the module of a format has."""

    def check(self, source: Source) -> None:
        """Raise FinetuneError where the run cannot be written in this format, or a package is missing."""

    def write(self, source: Source, out: Path) -> Exported:
        """Write the run to `out`."""

    def open_runtime(self, source: Source, out: Path) -> Runtime:
        """Open what `write` has written, with the program the format is for."""


WRITERS: dict[str, Writer] = {
    "keras": to_keras,
    "savedmodel": to_savedmodel,
    "tflite": to_tflite,
    "onnx": to_onnx,
    "slim": to_slim,
}
"""The module of each row of `format_table.FORMATS`."""


def export(
    target: Path,
    out: Path,
    *,
    forms: Sequence[str],
    with_preprocessing: bool = False,
    evaluation: TrialOptions | None = _ALL_IMAGES,
) -> Export:
    """Write the run `target`, a directory or a `.keras` file in one, in each of `forms` (`format_table.FORMATS`).

    One format is written to `out` itself. Several are written into the directory `out`, under the names in the table.
    `with_preprocessing`: as in `Source`. Each export is re-evaluated, by its own runtime on the run's test images;
    `evaluation=None` leaves that out. Nothing is overwritten, and nothing at all is written where anything fails.

    Raises WrongUse for an `out` that is there already or has another format's ending. Raises FinetuneError where the
    run cannot be written in a format, a package is missing, or an accuracy is below `evaluation.least_accuracy`.
    """
    names = file_names(out, forms)
    folder = out if len(names) > 1 else out.parent
    for form, name in names.items():
        check_free(to_slim.places(folder / name) if form == "slim" else [folder / name])
    source = open_source(target, with_preprocessing=with_preprocessing)
    for form in names:
        WRITERS[form].check(source)
    reference = None
    if evaluation is not None:
        reference = Reference(open_run(target, data_dir=evaluation.data_dir), source, evaluation)
    written = []
    with staged(folder) as stage:
        for form, name in names.items():
            path = stage / name
            path.parent.mkdir(exist_ok=True)
            with naming(folder / name, instead_of=stage):
                exported = WRITERS[form].write(source, path)
            if reference is not None:
                trial = reference.try_out(WRITERS[form].open_runtime(source, path), size=exported.size)
                exported = replace(exported, trial=trial)
            written.append(exported.at(stage, folder))
        if evaluation is not None and evaluation.least_accuracy is not None:
            _check_accuracy(written, evaluation.least_accuracy)
    if reference is None:
        return Export(tuple(written))
    return Export(tuple(written), reference.trial, reference.decoded)


def _check_accuracy(written: Sequence[Exported], least: float) -> None:
    for one in written:
        assert one.trial is not None
        if one.trial.accuracy < least:
            raise FinetuneError(
                f"--assert-accuracy {least:g}: the {one.form} export has {one.trial.accuracy:.4f} on "
                f"{one.trial.images} test images (the run itself {one.trial.accuracy - one.trial.difference:.4f}): "
                "nothing is written"
            )


def check_free(paths: Iterable[Path]) -> None:
    """Raise WrongUse where something is at one of `paths` already, or a directory could not be made for it.

    What a killed export has left beside them is removed first.
    """
    paths = list(paths)
    for folder in {path.absolute().parent for path in paths}:
        remove_abandoned(folder, _PREFIX)
    for path in paths:
        if path.exists() or path.is_symlink():
            raise WrongUse(f"{path} is already there and is not overwritten: give an --out in a directory of its own")
        there = next(parent for parent in path.absolute().parents if parent.exists())
        if not there.is_dir():
            raise WrongUse(f"cannot write {path}: {there} is a file, not a directory; give another --out")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder within `folder`. Its entries are moved to `folder` when the block ends without an error.

    `folder` is made, with its parents, and removed again where the block fails. Raises WrongUse instead of replacing
    anything that is in `folder` already.
    """
    folder = folder.absolute()
    with room_for(folder / _PREFIX), working_folder(folder, _PREFIX) as stage:
        yield stage
        check_free(folder / entry.name for entry in stage.iterdir())
        move_all(stage, folder)
