"""Predict the classes of image files with a trained model."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from checkpoints.atomic import replacing
from finetune.backbone import open_model
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Subject
from finetune.batchnorm.surgery import adopt
from finetune.config import RECIPE, RunConfig, check_settings
from finetune.data import batches, image_files
from finetune.data.dataset import Split
from finetune.data.preprocessing import PREPROCESSINGS, is_harmless
from finetune.data.sources.assembly import Progress
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.predictions import log_probabilities
from finetune.inference.export.exportable import CARD
from finetune.runs.model import finished_class_names, open_trained, run_scores
from finetune.runs.run_data import image_shape, is_image_shape, is_white, white
from finetune.text import ImageSize, printable, shape_of

Thresholds = tuple[float | None, ...]
"""The threshold of each class, in the order of the labels."""

_NO_RUN = "expected a run directory, a .keras file in one, or one that 'finetune export --format keras' wrote"


@dataclass(frozen=True)
class Classified:
    """The most probable classes of one image, the best first: (label, class name, probability in [0, 1]); of several
    labels an image, those that reach their threshold, which may be none."""

    image: str
    classes: tuple[tuple[int, str, float], ...]

    def rows(self, thresholds: Thresholds | None) -> list[tuple[Any, ...]]:
        """(label, class, probability) of each class; with `thresholds` also (threshold, whether it is reached)."""
        if thresholds is None:
            return list(self.classes)
        limits = [thresholds[label] for label, *_ in self.classes]
        decided = [
            None if limit is None else chance >= limit
            for limit, (_, _, chance) in zip(limits, self.classes, strict=True)
        ]
        return [(*row, *two) for row, *two in zip(self.classes, limits, decided, strict=True)]


@dataclass(frozen=True)
class Classifications:
    """All images in their order. skipped: damaged ones that were left out, each with the reason. thresholds: of each
    class, if they decide."""

    target: str
    images: tuple[Classified, ...]
    skipped: tuple[str, ...]
    remarks: tuple[str, ...]
    thresholds: Thresholds | None = None

    def to_json(self) -> dict[str, Any]:
        """For `predict --json`."""
        images = [
            {
                "image": one.image,
                "classes": [dict(zip(self._columns, row, strict=True)) for row in one.rows(self.thresholds)],
            }
            for one in self.images
        ]
        return {
            "target": self.target, "images": images, "skipped": list(self.skipped), "remarks": list(self.remarks)
        }  # fmt: skip

    @property
    def _columns(self) -> tuple[str, ...]:
        return ("label", "class", "probability", *(() if self.thresholds is None else ("threshold", "passes")))

    def rows(self) -> list[tuple[Any, ...]]:
        """(image, rank from 1, label, class, probability), a row for each class of each image; with `thresholds` also
        (threshold, whether the probability reaches it), both None where the class has no threshold. An image without
        any class has a row of None."""
        nothing = (None,) * (1 + len(self._columns))
        return [
            (one.image, *row)
            for one in self.images
            for row in [(rank, *row) for rank, row in enumerate(one.rows(self.thresholds), start=1)] or [nothing]
        ]

    def write_csv(self, path: Path) -> None:
        """Write `rows` with a header, in UTF-8, atomically, into a folder that is made if needed."""
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("image", "rank", *self._columns), *self.rows()])


@dataclass(frozen=True, eq=False)
class Classifier:
    """A network that classifies images: what its outputs are called, and the form in which it takes images.

    name: as messages call it. config: complete but for the data. native: as in
    `run_data.image_shape`. white: as in `run_data.white`. notes: what a user must know. thresholds: those of a run.
    multi_label: whether an image may have several labels.
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


def predict(
    target: Path | Classifier,
    places: Sequence[Path],
    *,
    top: int | None = None,
    by_thresholds: bool = False,
    skip_bad_images: bool = False,
    batch_size: int | None = None,
    on_scan: Progress | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Classifications:
    """The `top` most probable classes (None: 5) of image files, and of all images in folders, by a run's model or an
    opened one.

    Images are decoded, resized and preprocessed as in the run's evaluation, in 8 bits until they are in a batch. For a
    run on images in memory of one size (CIFAR), files are first resized to that size. Probabilities are the softmax of
    the logits, or the sigmoids of independent labels, in float64. by_thresholds: each class is also decided by the
    run's threshold, and those that reach theirs come beyond `top`. Several labels an image are always decided, by the
    run's threshold or at 0.5 where it has none, and only those with a yes are listed, unless `top` asks for more.
    Raises FinetuneError where `target` is no run and for missing images; for damaged ones unless `skip_bad_images`.
    """
    network = target if isinstance(target, Classifier) else _open(target)
    thresholds = _thresholds(network) if by_thresholds and not network.multi_label else None
    if network.multi_label:
        known = network.thresholds or (None,) * len(network.class_names)
        thresholds = tuple(0.5 if one is None else one for one in known)
    most = (0 if network.multi_label else 5) if top is None else top
    least = np.array([np.inf if one is None else one for one in thresholds or ()])
    named = image_files.read_images(
        places, native=network.native, white=network.white, skip_bad=skip_bad_images, on_scan=on_scan
    )
    config = replace(network.config, batch_size=batch_size) if batch_size else network.config
    names = [printable(name) for name in network.class_names]
    found: list[Classified] = []
    for rows in _probabilities(network, named.split, config):
        for row in rows:
            order = np.argsort(-row, kind="stable")
            best = [
                label for rank, label in enumerate(order) if rank < most or (thresholds and row[label] >= least[label])
            ]
            classes = tuple((int(label), names[label], float(row[label])) for label in best)
            found.append(Classified(named.names[len(found)], classes))
        if on_batch is not None:
            on_batch()
    remarks = (*network.notes, *batches.fitting(named.split, config), *named.remarks)
    return Classifications(network.name, tuple(found), named.skipped, remarks, thresholds)


def refuse_existing(csv_file: Path) -> None:
    """WrongUse where a table would overwrite something. Call it before the images are classified."""
    if csv_file.exists() or csv_file.is_symlink():
        raise WrongUse(f"--csv {csv_file} is already there and is not overwritten: give another name")


def _thresholds(network: Classifier) -> Thresholds:
    """Those of a run. WrongUse where there are none."""
    if network.thresholds is None:
        raise WrongUse(
            f"--thresholds: {network.name} has none: they are chosen by a run with validation images; give such a run, "
            "or leave --thresholds out"
        )
    return network.thresholds


def predict_images(target: Path, images: np.ndarray) -> np.ndarray:
    """The probability of each class, float64 `[n, classes]`, for pixels uint8 `[n, height, width, channels]` in memory.

    They are resized and preprocessed as in the run's evaluation. FinetuneError for other arrays, and as `predict`.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not len(images):
        raise FinetuneError(
            f"images are {images.dtype} {list(images.shape)}: expected pixels, uint8 [n, height, width, 1, 3 or 4]"
        )
    network = _open(target)
    split = Split(images, np.zeros(len(images), np.int64))
    return np.concatenate(list(_probabilities(network, split, network.config)))


def _probabilities(network: Classifier, split: Split, config: RunConfig) -> Iterator[np.ndarray]:
    """Of each batch: softmax or sigmoids, float64 `[images, classes]`. FinetuneError for NaN and infinite logits."""
    forward = network.subject.forward("moving")
    for images, _, counted in batches.evaluation(split, config):
        logits = np.asarray(forward(images)[0])[np.asarray(counted)].astype(np.float64)
        if not np.isfinite(logits).all():
            raise FinetuneError("the model gives logits that are no numbers (NaN or infinity): its training went wrong")
        yield np.exp(log_probabilities(logits, per_label=network.subject.per_label))


def is_export(path: Path) -> bool:
    """Whether a file is a `.keras` one that `finetune export` wrote: it says what its classes and its pixels are."""
    try:
        with zipfile.ZipFile(path) as archive:
            return path.suffix == ".keras" and CARD in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _open(target: Path) -> Classifier:
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
    )


def _exported(path: Path) -> Classifier:
    """A `.keras` file that `finetune export` wrote, opened by the card in it."""
    model = open_model(path)
    try:
        with zipfile.ZipFile(path) as archive:
            card = json.loads(archive.read(CARD))
        names, size, preprocess = card["class_names"], card["image_size"], card["preprocess"]
        native, inside = card["data_image_shape"], card["preprocessing_inside"]
        brightest = card.get("white")  # exports of earlier versions do not have it, nor a recipe
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
