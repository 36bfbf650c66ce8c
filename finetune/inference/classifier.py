"""A network that classifies images: the model of a finished run, or an exported file with the card in it."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from finetune.backbone import open_model
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Subject
from finetune.batchnorm.surgery import adopt
from finetune.config import RECIPE, RunConfig, check_settings
from finetune.data.preprocessing import PREPROCESSINGS, is_harmless
from finetune.errors import FinetuneError, WrongUse
from finetune.inference.export.exportable import CARD
from finetune.runs.model import finished_class_names, open_trained, run_scores
from finetune.runs.run_data import image_shape, is_image_shape, is_white, white
from finetune.text import ImageSize, shape_of

Thresholds = tuple[float | None, ...]
"""The threshold of each class, in the order of the labels."""

_NO_RUN = "expected a run directory, a .keras file in one, or one that 'finetune export --format keras' wrote"


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that classifies images: what its outputs are called, and the form in which it takes images.

    name: as messages call it. config: complete but for the data. native: as in
    `run_data.image_shape`. white: as in `run_data.white`. notes: what a user must know. thresholds: those of a run.
    multi_label: whether an image may have several labels.
    temperature: by which logits are divided before probabilities are made of them.
    """

    name: str
    subject: Subject
    config: RunConfig
    class_names: tuple[str, ...]
    native: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
    white: int | None = None
    thresholds: Thresholds | None = None
    multi_label: bool = False
    temperature: float = 1.0


def is_export(path: Path) -> bool:
    """Whether a file is a `.keras` one that `finetune export` wrote: it says what its classes and its pixels are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return path.suffix == ".keras" and CARD in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def open_classifier(target: Path) -> Classifier:
    """The model of a finished run, or a `.keras` file that `finetune export` wrote. Raises FinetuneError."""
    if target.suffix == ".keras" and target.is_file() and not (target.parent / "config.json").is_file():
        return _exported(target)
    trained = open_trained(target)
    run = trained.run
    if run.status != "done":
        raise FinetuneError(f"{run} is not finished, so its model is not known: continue it with: {run.resume_command}")
    names = _checked(list(finished_class_names(run)), trained.model, trained.path)
    subject = trained.subject
    native = image_shape(run, trained.config)
    return Classifier(
        str(target),
        subject,
        trained.config,
        names,
        native,
        white=white(run),
        thresholds=run.thresholds(len(names)),
        multi_label=run.multi_label,
        temperature=run.temperature(),
    )


def _exported(path: Path) -> Classifier:
    """A `.keras` file that `finetune export` wrote, opened by the card in it."""
    model = open_model(path)
    try:
        with zipfile.ZipFile(path) as archive:
            card = json.loads(archive.read(CARD))
        names, size, preprocess = card["class_names"], card["image_size"], card["preprocess"]
        native, inside = card["data_image_shape"], card["preprocessing_inside"]
        # Exports of earlier versions do not have these, nor a recipe.
        brightest, temperature = card.get("white"), card.get("temperature", 1.0)
        recipe = {name: card[name] for name in RECIPE if name in card}
    except KeyError as error:
        raise FinetuneError(
            f"{path} does not say what its classes are and how its pixels are prepared ({error}): {_NO_RUN}"
        ) from None
    except (ValueError, TypeError) as error:
        raise FinetuneError(f"{path}: its {CARD} is damaged ({error}): export it again") from None
    if inside:
        raise FinetuneError(
            f"{path} prepares its pixels itself (--with-preprocessing), and is for other programs: give the run, or an "
            "export without"
        )
    if not isinstance(preprocess, str) or not is_harmless(preprocess):
        # MODULE:FUNCTION would be code chosen by the file. It is called only where the user's own run names it.
        raise FinetuneError(
            f"{path} asks for the preprocessing {preprocess!r}: expected one of {', '.join(PREPROCESSINGS)}; give the "
            "run it was exported from"
        )
    if native is not None and not is_image_shape(native):
        raise FinetuneError(f"{path}: its {CARD} has data_image_shape {native!r}: export it again")
    if brightest is not None and not is_white(brightest):
        raise FinetuneError(f"{path}: its {CARD} has white {brightest!r}: export it again")
    if type(temperature) not in (int, float) or not 0 < temperature < float("inf"):
        raise FinetuneError(f"{path}: its {CARD} has temperature {temperature!r}: export it again")
    if type(size) not in (int, str) or model.input_shape != (None, *_sides(size)):
        raise FinetuneError(f"{path} takes {list(model.input_shape)}, but its {CARD} says {size!r} px: export it again")
    config = RunConfig("", image_size=size, preprocess=preprocess, batch_size=32, **recipe)
    try:
        check_settings(config, RECIPE)
    except WrongUse as error:
        raise FinetuneError(f"{path}: its {CARD} is damaged ({error}): export it again") from None
    sides = tuple(native) if native else None
    several, limits = card.get("multi_label") is True, card.get("thresholds")
    if limits is not None and (
        len(limits) != len(names) or not all(one is None or type(one) is float for one in limits)
    ):
        raise FinetuneError(f"{path}: its {CARD} has thresholds {limits!r}: export it again")
    model = adopt(model, unbiased=False)
    return Classifier(
        str(path),
        KerasSubject(model, run_scores(model, multi_label=several)),
        config,
        _checked(names, model, path),
        sides,
        white=brightest,
        thresholds=None if limits is None else tuple(limits),
        multi_label=several,
        temperature=float(temperature),
    )


def _sides(size: ImageSize) -> tuple[int, ...]:
    """The shape that a file's card says; none where it is damaged."""
    try:
        return shape_of(size)
    except ValueError:
        return ()


def _checked(names: Any, model: keras.Model, path: Path) -> tuple[str, ...]:
    """`names` as a tuple. FinetuneError where they are not one name for each output of the model."""
    outputs = model.output_shape[-1]
    if not isinstance(names, list) or len(names) != outputs or not all(isinstance(name, str) for name in names):
        raise FinetuneError(
            f"{path} has {outputs} outputs, which the class names kept with it do not fit: it belongs to another run"
        )
    return tuple(names)
