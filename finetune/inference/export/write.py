"""Write a finished run in one or more formats: all files appear together, or none does."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checkpoints.atomic import move_all, naming, remove_abandoned, working_folder
from finetune.config import RunConfig
from finetune.data.dataset import Split, stratified_subset
from finetune.errors import FinetuneError, UserError, WrongUse
from finetune.files import room_for
from finetune.inference.export import graph_formats, pixels, quantised, to_keras, to_slim
from finetune.inference.export.exportable import Runtime, Source, open_source
from finetune.inference.export.exported import (
    FORMATS,
    Calibration,
    Export,
    Exported,
    Trial,
    TrialOptions,
    file_names,
)
from finetune.inference.export.trial import Reference
from finetune.runs.model import open_run

_PREFIX = ".tmp.export-"
_ALL_IMAGES = TrialOptions()
_DEFAULT_CALIBRATION = Calibration()
_REPRESENTATIVE = 200
"""Training images for int8 formats: the ranges of activations hardly change with more."""


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


def _tflite(form: str, write: Callable[[Source, Path], Exported]) -> Writer:
    return Writer(write, graph_formats.open_tflite, check_runtime=partial(graph_formats.check_litert, form))


WRITERS = {
    "keras": Writer(to_keras.write, to_keras.open_runtime, to_keras.check),
    "savedmodel": Writer(graph_formats.write_savedmodel, graph_formats.open_savedmodel),
    "tflite": _tflite("tflite", graph_formats.write_tflite),
    "tflite-float16": _tflite("tflite-float16", quantised.write_float16),
    "tflite-dynamic": _tflite("tflite-dynamic", quantised.write_dynamic),
    "tflite-int8": _tflite("tflite-int8", quantised.write_int8),
    "onnx": Writer(graph_formats.write_onnx, graph_formats.open_onnx, graph_formats.check_onnx),
    "onnx-int8": Writer(
        quantised.write_onnx_int8, graph_formats.open_onnx, partial(graph_formats.check_onnx, form="onnx-int8")
    ),
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
    calibration: Calibration = _DEFAULT_CALIBRATION,
) -> Export:
    """Write the run `target`, a directory or a `.keras` file in one, in each of `forms` (`exported.FORMATS`).

    One format is written to `out` itself. Several are written into the directory `out`, under the names in the table.
    `with_preprocessing`: as in `Source`. Each export is re-evaluated, by its own runtime on the run's test images;
    `evaluation=None` leaves that out. `calibration` chooses the training images that int8 formats need, from the
    evaluation's data or from its own `data_dir`. Nothing is overwritten, and nothing at all is written where anything
    fails.

    Raises WrongUse for an `out` that is there already or has another format's ending, and for a number of calibration
    images that no format needs or the data does not have. Raises FinetuneError where the
    run cannot be written in a format, a package is missing, or an accuracy is below `evaluation.least_accuracy`.
    """
    names = file_names(out, forms)
    if calibration.images is not None and not any(FORMATS[form].calibrated for form in names):
        raise WrongUse(
            f"--representative {calibration.images}: {' and '.join(names)} {'needs' if len(names) == 1 else 'need'} no "
            "representative images: leave it out, or give --format tflite-int8 or onnx-int8"
        )
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
    source, reference = _with_images(target, source, names, calibration, evaluation)
    written = []
    with staged(folder) as stage:
        for form, name in names.items():
            path = stage / name
            path.parent.mkdir(exist_ok=True)
            with naming(folder / name, instead_of=stage):
                exported = WRITERS[form].write(source, path)
            if reference is not None and evaluation is not None:
                trial = reference.try_out(WRITERS[form].open_runtime(source, path), size=exported.size)
                exported = replace(exported, trial=trial)
                _check_accuracy(form, trial, evaluation.least_accuracy)
            written.append(exported.at(stage, folder))
    if reference is None:
        return Export(tuple(written))
    folded = None
    if any(FORMATS[form].quantised for form in names):
        runtime, size = graph_formats.open_frozen(source)
        folded = reference.try_out(runtime, size=size)
    return Export(tuple(written), reference.trial, reference.decoded, folded)


def _with_images(
    target: Path, source: Source, forms: Iterable[str], calibration: Calibration, evaluation: TrialOptions | None
) -> tuple[Source, Reference | None]:
    """The source with the images that `forms` are calibrated with, and what exports are compared with. The data is read
    where one of the two is needed."""
    calibrated = [form for form in forms if FORMATS[form].calibrated]
    if not calibrated and evaluation is None:
        return source, None
    data_dir = evaluation.data_dir if evaluation else None
    try:
        opened = open_run(target, data_dir=data_dir or calibration.data_dir)
    except UserError as error:
        if evaluation is not None:
            raise
        raise FinetuneError(
            f"--format {calibrated[0]} is calibrated with training images of the run, and {error}; tflite-float16 and "
            "tflite-dynamic need no images"
        ) from None
    if calibrated:
        source = replace(
            source, representative=_representative(opened.dataset.train, opened.config, calibration.images)
        )
    return source, None if evaluation is None else Reference(opened, source, evaluation)


def _representative(train: Split, config: RunConfig, images: int | None) -> Split:
    """So many training images, stratified. WrongUse where there are fewer, or more classes."""
    classes = len(np.unique(train.labels))
    if images is None:
        images = min(max(_REPRESENTATIVE, classes), len(train))
    if not classes <= images <= len(train):
        few = f"is fewer than the {classes} classes"
        wrong = few if images < classes else f"is more than the {len(train)} training images"
        raise WrongUse(f"--representative {images} {wrong}: give {classes} to {len(train)}")
    return stratified_subset(train, images, config.seed)


def _check_accuracy(form: str, trial: Trial, least: float | None) -> None:
    """FinetuneError where an export scores less than it must."""
    if least is not None and trial.accuracy < least:
        raise FinetuneError(
            f"--assert-accuracy {least:g}: the {form} export has {trial.accuracy:.4f} on {trial.images} test images "
            f"(the run itself {trial.accuracy - trial.difference:.4f}): nothing is written"
        )


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
