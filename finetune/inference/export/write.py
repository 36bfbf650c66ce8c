"""Write a finished run in one or more formats: all files appear together, or none does."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from checkpoints.atomic import move_all, naming, remove_abandoned, working_folder
from finetune.errors import FinetuneError, WrongUse
from finetune.files import room_for
from finetune.inference.export import graph_formats, pixels, to_keras, to_slim
from finetune.inference.export.exportable import Runtime, Source, open_source
from finetune.inference.export.exported import Export, Exported, TrialOptions, file_names
from finetune.inference.export.trial import Reference
from finetune.runs.model import open_run

_PREFIX = ".tmp.export-"
_ALL_IMAGES = TrialOptions()


class Writer(NamedTuple):
    """How a run is written in one format.

    write: writes the run to a path. open_runtime: opens what `write` has written, with the program the format is for.
    check: raises FinetuneError where the run cannot be written in this format, or a package is missing.
    check_runtime: the same where a package is missing that only the runtime needs.
    """

    write: Callable[[Source, Path], Exported]
    open_runtime: Callable[[Source, Path], Runtime]
    check: Callable[[Source], None] = lambda source: None
    check_runtime: Callable[[], None] = lambda: None


WRITERS = {
    "keras": Writer(to_keras.write, to_keras.open_runtime, to_keras.check),
    "savedmodel": Writer(graph_formats.write_savedmodel, graph_formats.open_savedmodel),
    "tflite": Writer(graph_formats.write_tflite, graph_formats.open_tflite, check_runtime=graph_formats.check_litert),
    "onnx": Writer(graph_formats.write_onnx, graph_formats.open_onnx, graph_formats.check_onnx),
    "slim": Writer(to_slim.write, to_slim.open_runtime, to_slim.check),
}
"""For each row of `exported.FORMATS`."""


def export(
    target: Path,
    out: Path,
    *,
    forms: Sequence[str],
    with_preprocessing: bool = False,
    evaluation: TrialOptions | None = _ALL_IMAGES,
) -> Export:
    """Write the run `target`, a directory or a `.keras` file in one, in each of `forms` (`exported.FORMATS`).

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
        if evaluation is not None:
            WRITERS[form].check_runtime()
    if with_preprocessing:
        pixels.check(source.preprocessing, source.geometry)
    reference, least = None, evaluation.least_accuracy if evaluation else None
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
                if least is not None and trial.accuracy < least:
                    raise FinetuneError(
                        f"--assert-accuracy {least:g}: the {form} export has {trial.accuracy:.4f} on {trial.images} "
                        f"test images (the run itself {trial.accuracy - trial.difference:.4f}): nothing is written"
                    )
            written.append(exported.at(stage, folder))
    if reference is None:
        return Export(tuple(written))
    return Export(tuple(written), reference.trial, reference.decoded)


def check_free(paths: Sequence[Path]) -> None:
    """Raise WrongUse where something is at one of `paths` already, or a directory could not be made for it.

    What a killed export has left beside them is removed first.
    """
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
        check_free([folder / entry.name for entry in stage.iterdir()])
        move_all(stage, folder)
