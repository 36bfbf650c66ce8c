"""Predict the classes of image files with a trained model."""

import csv
import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.atomic import replacing
from finetune.batchnorm.subject import Runnable
from finetune.config import RunConfig
from finetune.data import batches, image_files
from finetune.data.dataset import Split
from finetune.data.sources.assembly import Progress
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.evaluator import Tempered
from finetune.evaluation.predictions import log_probabilities
from finetune.inference.classifier import Classifier, Thresholds, open_classifier
from finetune.inference.grad_cam import Explained, HeatMap, grad_cam_of
from finetune.runs.views import with_views
from finetune.text import printable


@dataclass(frozen=True)
class Classified:
    """The most probable classes of one image, the best first: (label, class name, probability in [0, 1]); of several
    labels an image, those that reach their threshold, which may be none.

    explained: the same of the class that a heat map is made for, where one is.
    """

    image: str
    classes: tuple[tuple[int, str, float], ...]
    explained: tuple[int, str, float] | None = None

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
    class, if they decide. explained: what heat maps are made of, if they are asked for."""

    target: str
    images: tuple[Classified, ...]
    skipped: tuple[str, ...]
    remarks: tuple[str, ...]
    thresholds: Thresholds | None = None
    explained: Explained | None = field(default=None, compare=False, repr=False)

    def to_json(self, pictures: Sequence[Path] | None = None) -> dict[str, Any]:
        """For `predict --json`; `pictures`: of the heat maps, one for each image."""
        images: list[dict[str, Any]] = [
            {
                "image": one.image,
                "classes": [dict(zip(self._columns, row, strict=True)) for row in one.rows(self.thresholds)],
            }
            for one in self.images
        ]
        found = {
            "target": self.target, "images": images, "skipped": list(self.skipped), "remarks": list(self.remarks)
        }  # fmt: skip
        if self.explained is None or pictures is None:
            return found
        for row, one, picture in zip(images, self.images, pictures, strict=True):
            of_class = dict(zip(("label", "class", "probability"), one.explained or (), strict=False))
            row["explained"] = {**of_class, "picture": str(picture)}
        return {**found, "explained_layer": self.explained.layer}

    def heat_maps(self) -> Iterator[HeatMap]:
        """The heat map of each image, computed while they are drawn; none where they were not asked for."""
        if self.explained is not None:
            for one, (pixels, heat) in zip(self.images, self.explained.heat_maps(), strict=True):
                assert one.explained is not None
                yield HeatMap(one.image, *one.explained, self.explained.layer, pixels, heat)

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


@dataclass(frozen=True)
class PredictOptions:
    """How `predict` answers.

    top: classes per image, by default 5. by_thresholds: each class is also decided by the run's threshold, and those
    that reach theirs come beyond `top`. Several labels an image are always decided, by the run's threshold or at 0.5
    where it has none, and only those with a yes are listed, unless `top` asks for more. skip_bad_images: leave damaged
    ones out. batch_size: None for the network's own. tta: average the probabilities of several views, by a kind of
    `config.TTA`.
    explain: also prepare heat maps (`Classifications.explained`) of the predicted class, or of the class
    `explain_class`, by name or number; explain_layer: as `layer` of `grad_cam.grad_cam_of`.
    """

    top: int | None = None
    by_thresholds: bool = False
    skip_bad_images: bool = False
    batch_size: int | None = None
    explain: bool = False
    explain_layer: str | None = None
    explain_class: str | None = None
    tta: str | None = None


def predict(
    target: Path | Classifier,
    places: Sequence[Path],
    options: PredictOptions = PredictOptions(),
    *,
    on_scan: Progress | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Classifications:
    """The most probable classes of image files, and of all images in folders, by a run's model or an opened one.

    Images are decoded, resized and preprocessed as in the run's evaluation, in 8 bits until they are in a batch. For a
    run on images in memory of one size (CIFAR), files are first resized to that size. Probabilities are the softmax of
    the logits, or the sigmoids of independent labels, in float64.
    Raises FinetuneError where `target` is no run and for missing images; for damaged ones unless `skip_bad_images`.
    """
    network = target if isinstance(target, Classifier) else open_classifier(target)
    _check(network, options)
    named = image_files.read_images(
        places, native=network.native, white=network.white, skip_bad=options.skip_bad_images, on_scan=on_scan
    )
    return _classified(network, named, options, on_batch)


def predict_pixels(target: Path, images: np.ndarray, options: PredictOptions) -> Classifications:
    """As `predict`, of pixels as in `predict_images`; the images are named by their numbers."""
    network, split = open_classifier(target), _in_memory(images)
    _check(network, options)
    return _classified(network, image_files.NamedImages(tuple(map(str, range(len(split)))), split, (), ()), options)


def _check(network: Classifier, options: PredictOptions) -> None:
    """Raise what is wrong with the options before any image is read."""
    _deciding(network, options)
    if options.explain:
        grad_cam_of(network.subject, layer=options.explain_layer, name=network.name)
    _label(network, options.explain_class)


def _classified(
    network: Classifier,
    named: image_files.NamedImages,
    options: PredictOptions,
    on_batch: Callable[[], None] | None = None,
) -> Classifications:
    """The answer for images that are read."""
    thresholds = _deciding(network, options)
    most = (0 if network.multi_label else 5) if options.top is None else options.top
    least = np.array([np.inf if one is None else one for one in thresholds or ()])
    wanted = _label(network, options.explain_class)
    config = replace(network.config, batch_size=options.batch_size or network.config.batch_size)
    names = [printable(name) for name in network.class_names]
    found: list[Classified] = []
    for rows in _probabilities(network, named.split, config, options.tta):
        for row in rows:
            order = np.argsort(-row, kind="stable")
            best = [
                label for rank, label in enumerate(order) if rank < most or (thresholds and row[label] >= least[label])
            ]
            first, *classes = ((int(one), names[one], float(row[one])) for one in (order[0], *best))
            if wanted is not None:
                first = (wanted, names[wanted], float(row[wanted]))
            name = named.names[len(found)]
            found.append(Classified(name, tuple(classes), first if options.explain else None))
        if on_batch is not None:
            on_batch()
    explained = None
    if options.explain:
        cam = grad_cam_of(network.subject, layer=options.explain_layer, name=network.name)
        labels = np.array([one.explained[0] for one in found if one.explained], np.int64)
        explained = Explained(cam, Split(named.split.images, labels), config)
    remarks = (*network.notes, *batches.fitting(named.split, config), *named.remarks)
    return Classifications(network.name, tuple(found), named.skipped, remarks, thresholds, explained)


def _deciding(network: Classifier, options: PredictOptions) -> Thresholds | None:
    """The thresholds by which classes are decided; None where they are not."""
    if network.multi_label:
        known = network.thresholds or (None,) * len(network.class_names)
        return tuple(0.5 if one is None else one for one in known)
    return _thresholds(network) if options.by_thresholds else None


def _label(network: Classifier, named: str | None) -> int | None:
    """The label of a class by its name or its number; None for none. WrongUse with the nearest name."""
    names = [printable(name) for name in network.class_names]
    if named is None or named in names:
        return None if named is None else names.index(named)
    if named.isdecimal() and int(named) < len(names):
        return int(named)
    near = difflib.get_close_matches(named, names, 1)
    raise WrongUse(
        f"--explain-class {named}: {network.name} has no such class: "
        + (f"did you mean {near[0]}? " if near else "")
        + f"expected a name or a number from 0 to {len(names) - 1}; the first names: {', '.join(names[:10])}"
    )


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
    split, network = _in_memory(images), open_classifier(target)
    return np.concatenate(list(_probabilities(network, split, network.config)))


def _in_memory(images: np.ndarray) -> Split:
    """Pixels as images without labels. FinetuneError where they are none."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not len(images):
        raise FinetuneError(
            f"images are {images.dtype} {list(images.shape)}: expected pixels, uint8 [n, height, width, 1, 3 or 4]"
        )
    return Split(images, np.zeros(len(images), np.int64))


def _probabilities(
    network: Classifier, split: Split, config: RunConfig, tta: str | None = None
) -> Iterator[np.ndarray]:
    """Of each batch: softmax or sigmoids, float64 `[images, classes]`. FinetuneError for NaN and infinite logits."""
    subject: Runnable = network.subject
    if network.temperature != 1:
        subject = Tempered(subject, network.temperature)
    given = batches.EvalSet(split, **batches.form(config))
    if tta is not None:
        subject, given = with_views(subject, given, tta)
    forward = subject.forward("moving")
    for images, _, counted in given.batches():
        logits = np.asarray(forward(images)[0])[np.asarray(counted)].astype(np.float64)
        if not np.isfinite(logits).all():
            raise FinetuneError("the model gives logits that are no numbers (NaN or infinity): its training went wrong")
        yield np.exp(log_probabilities(logits, per_label=subject.per_label))
