"""A model with its data and the known facts of both: all that a diagnosis and its remedy need.

The facts include those of the checkpoint it was fine-tuned from: its moving statistics, and whether gamma and beta have
changed since.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.formats import Checkpoint, open_checkpoint
from finetune.backbone import BackboneSpec
from finetune.batchnorm.subject import Snapshot, Subject
from finetune.config import RECIPE, RunConfig
from finetune.data import batches
from finetune.data.batches import EvalSet, training_subset
from finetune.data.dataset import Dataset
from finetune.data.load_data import load_data
from finetune.data.preprocessing import PREPROCESSINGS, find_preprocessing
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.targets.options import TargetOptions
from finetune.errors import FinetuneError, WrongUse
from finetune.runs.request import with_recipe
from finetune.text import ImageSize

BATCH_SIZE = 64
_KINDS = ("gamma", "beta", "moving_mean", "moving_variance")
"""In the order in which Keras keeps a BatchNormalization layer's variables."""
_COUNTED = re.compile(r"(.*/)?batch_normalization(_\d+)?")
"""Keras's numbered names. The numbers depend on what else the process built, so one alone identifies no layer."""
_KEY = re.compile(r"(.*?)([^/]+)/vars/\d+$")


@dataclass(frozen=True, eq=False)
class History:
    """What is known of a model's training. source: the moving statistics it started from, of the layers where known."""

    facts: Facts
    source: Snapshot | None = None


@dataclass(frozen=True, eq=False)
class Data:
    """The data of a model, in the form it takes. preprocessing: in place of the one `config` names.

    dataset: None where a model was opened without images.
    """

    dataset: Dataset | None
    config: RunConfig
    preprocessing: str | None = None

    def known(self) -> Dataset:
        """The data set. ValueError where the model was opened without."""
        if self.dataset is None:
            raise ValueError("the model was opened without data")
        return self.dataset

    @property
    def training_images(self) -> int:
        """Images there are to train on."""
        return len(self.known().train)

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels."""
        return self.dataset is not None and self.dataset.multi_label

    def test(self) -> EvalSet:
        """Test images in the data's own order."""
        return EvalSet(self.known().test, **self._form())

    def split(self, name: str) -> EvalSet:
        """The images of a split in the data's own order. FinetuneError where the data has none."""
        dataset = self.known()
        images = getattr(dataset, name)
        if images is None:
            raise FinetuneError(f"{dataset.source} has no {name} images: use --split test or --split train")
        return EvalSet(images, **self._form())

    def training(self, images: int) -> EvalSet:
        """At most so many training images, stratified and in random order. WrongUse for fewer than classes."""
        return EvalSet(training_subset(self.known().train, self.config, images), **self._form())

    def _form(self) -> dict[str, Any]:
        form = batches.form(self.config)
        return form if self.preprocessing is None else form | {"preprocessing": find_preprocessing(self.preprocessing)}


@dataclass(frozen=True, eq=False)
class Target:
    """A model to diagnose.

    name: as the user wrote it. write: writes the subject with its present statistics to a new file of the format that
    was read. copy: the default path of that file; suffix: what its name must end in (None: it is a prefix, or a
    directory). notes: how the model was opened, for people. record: keeps the report of a diagnosis with the target.
    """

    name: str
    subject: Subject
    data: Data
    commands: Commands
    write: Callable[[Path], None]
    copy: Path
    history: History
    suffix: str | None = ".keras"
    notes: tuple[str, ...] = ()
    record: Callable[[dict[str, Any]], None] = lambda report: None

    def __post_init__(self) -> None:
        check_labels(self.name, self.subject, multi_label=self.data.multi_label)
        if self.data.multi_label and not self.subject.per_label:
            said = "the data has several labels an image: each logit is read as that of a sigmoid"
            object.__setattr__(self, "notes", (*self.notes, said))


def read_data(
    request: TargetOptions,
    name: str,
    outputs: int,
    *,
    image_size: ImageSize,
    preprocess: str | None,
    batch_size: int | None = None,
    spec: BackboneSpec | None = None,
) -> Data:
    """The data a request names, for the model `name` with so many outputs.

    `image_size` is what the model takes, `preprocess` what is known of it; the request's own replaces it. `batch_size`
    is the only one the model takes, where it takes only one. `spec`: its row of the catalogue. FinetuneError where the
    data does not fit the model.
    """
    chosen = request.preprocess or preprocess
    if not chosen:
        raise WrongUse(
            "missing --preprocess: the file does not say how its pixels were prepared; give one of "
            f"{', '.join(PREPROCESSINGS)}, or MODULE:FUNCTION of your own ('raw' where the model does it itself)"
        )
    if batch_size and request.batch_size and request.batch_size % batch_size:
        raise WrongUse(
            f"--batch-size {request.batch_size} is not valid: the graph takes exactly {batch_size} images; leave it out"
        )
    config = RunConfig(
        "",
        data=request.data or "cifar10",
        data_dir=str(request.data_dir) if request.data_dir else None,
        npz_keys=request.npz_keys,
        tfrecord_keys=request.tfrecord_keys,
        csv_columns=request.csv_columns,
        multi_label=request.multi_label,
        label_separator=request.label_separator,
        validation=0.0,
        image_size=image_size,
        preprocess=chosen,
        batch_size=request.batch_size or batch_size or BATCH_SIZE,
        **{name: getattr(request, name) for name in RECIPE if getattr(request, name) is not None},
    )
    config = with_recipe(config, spec)
    if request.model_only and request.data is None and request.data_dir is None:
        return Data(None, config)
    dataset = load_data(config)
    if dataset.lacks_background(outputs):
        dataset = dataset.with_background()
    for words, split in (("test", dataset.test), ("training", dataset.train)):
        if batch_size and len(split) < batch_size:
            raise FinetuneError(
                f"{dataset.source} has {len(split)} {words} images, but the graph takes {batch_size} at once: "
                "expected at least one batch"
            )
    data = Data(dataset, config)
    check_classes(name, outputs, data)
    return data


def check_classes(name: str, outputs: int, data: Data) -> None:
    """FinetuneError where a model has not as many outputs as the data has classes."""
    dataset = data.known()
    classes = len(dataset.class_names)
    if outputs != classes:
        background = (
            " (for a background class, number the data's labels from 1, as in slim's TFRecords)"
            if outputs - 1 == classes
            else ""
        )
        raise FinetuneError(
            f"{name} has {outputs} outputs, but {dataset.source} has {classes} classes{background}: give the data "
            "it was trained for with --data and --data-dir"
        )


def check_labels(name: str, subject: Subject, *, multi_label: bool) -> None:
    """FinetuneError where an image may have several labels and the model's outputs are of one softmax. Logits of which
    no file says what they are of are then read as those of sigmoids."""
    if multi_label and subject.softmax:
        raise FinetuneError(
            f"{name} gives a softmax over its {subject.outputs} classes, and the data has several labels an image: "
            "expected a sigmoid for each label, or logits; give data with one class an image"
        )


def read_history(path: Path | None, subject: Subject, facts: Facts) -> History:
    """`facts`, completed from the checkpoint at `path` that the model was fine-tuned from, where one is given.

    The file shows the statistics of every BN layer that it has too, and whether gamma and beta are still those of the
    file (None where it holds neither).

    Layers are found by name: slim's scopes with `/` or `.`, or Keras's layer names, in a model or scope of any name.
    Where names do not find all, they are matched in their order, if the file has as many BN layers with the same
    numbers of channels. Raises CheckpointError where the file cannot be read, FinetuneError where it has none of the
    subject's layers.
    """
    if path is None:
        return History(facts)
    file = open_checkpoint(path)
    places = _places(file)
    now = subject.snapshot()
    shapes = {layer.name: now[layer.name][0].shape for layer in subject.layers}
    by_name = {name: _scope(name, places) for name in shapes}
    matched = {
        name: places[scope]
        for name, scope in by_name.items()
        if scope is not None and file.shapes[places[scope]["moving_mean"]] == shapes[name]
    }
    if len(matched) < len(shapes):
        if [file.shapes[one["moving_mean"]] for one in places.values()] == list(shapes.values()):
            matched = dict(zip(shapes, places.values(), strict=True))
        else:
            matched = {name: place for name, place in matched.items() if not _COUNTED.fullmatch(name)}
    if not matched:
        have = f"{next(iter(places))} and the like" if places else "otherwise: it has none"
        raise FinetuneError(
            f"--source-checkpoint {path} has none of the model's BN layers: the model's are called "
            f"{subject.layers[0].name} and the like, the file's {have}; give the checkpoint the model was fine-tuned "
            "from"
        )
    statistics = {
        name: (file.read(place["moving_mean"]), file.read(place["moving_variance"])) for name, place in matched.items()
    }
    affine = _affine_moved(file, subject, matched)
    moved = _base_moved(file, subject, affine)
    return History(
        replace(facts, affine_moved=affine, base_moved=facts.base_moved if moved is None else moved), statistics
    )


_SPELLED = {"weights": "kernel", "depthwise_weights": "kernel", "depthwise_kernel": "kernel", "biases": "bias"}
"""The name of a variable in slim and Keras 2 -> in Keras 3."""


def _base_moved(file: Checkpoint, subject: Subject, affine_moved: bool | None) -> bool | None:
    """Whether any weight below the last BN layer differs from the file's, None where the file lacks one of them."""
    if affine_moved:
        return True
    known = {_weight(file, name): name for name in file.shapes}
    same = []
    for (scope, kind), own in _numbered(subject.kernels).items():
        found = _scope(f"{scope}/{kind[0]}", known) or _scope(f"{scope}/{kind[1]}", known)
        if found is None or file.shapes[known[found]] != own.shape:
            return None
        same.append(np.array_equal(own, file.read(known[found])))
    return not all(same) if same else None


def _numbered(kernels: Mapping[str, np.ndarray]) -> dict[tuple[str, tuple[str, str]], np.ndarray]:
    """(layer, (kind, number among the layer's variables)) -> weights: files have the one or the other."""
    count: dict[str, int] = defaultdict(int)
    found = {}
    for name, weights in kernels.items():
        scope, _, kind = name.rpartition("/")
        found[scope, (_SPELLED.get(kind, kind), str(count[scope]))] = weights
        count[scope] += 1
    return found


def _weight(file: Checkpoint, name: str) -> str:
    """The layer of a variable in a file, and its kind, or its number where the file has only that (`vars/0`)."""
    scope, _, kind = name.rpartition("/")
    if key := _KEY.match(name):
        return f"{file.layers.get(name) or key[1] + key[2]}/{kind}"
    return f"{scope}/{_SPELLED.get(kind, kind)}"


def _affine_moved(file: Checkpoint, subject: Subject, matched: Mapping[str, Mapping[str, str]]) -> bool | None:
    """Whether any gamma or beta differs from the file's, None where the file holds neither."""
    same = [
        np.array_equal(own, file.read(matched[layer.name][kind]))
        for layer in subject.layers
        for kind, own in (("gamma", layer.gamma), ("beta", layer.beta))
        if own is not None and kind in matched.get(layer.name, {})
    ]
    return not all(same) if same else None


def _places(file: Checkpoint) -> dict[str, dict[str, str]]:
    """BN scope or layer -> kind -> name in the file, in the file's order."""
    places: dict[str, dict[str, str]] = defaultdict(dict)
    keys: dict[str, list[str]] = defaultdict(list)
    for name in file.shapes:
        scope, _, kind = name.rpartition("/")
        if kind in _KINDS:
            places[scope][kind] = name
        elif key := _KEY.match(name):
            keys[file.layers.get(name) or f"{key[1]}{key[2]}"].append(name)
    for scope, names in keys.items():
        if kinds := _of_keys(file, names):
            places[scope].update(zip(kinds, names, strict=True))
    return {scope: place for scope, place in places.items() if {"moving_mean", "moving_variance"} <= place.keys()}


def _of_keys(file: Checkpoint, names: Sequence[str]) -> tuple[str, ...]:
    """The kinds of the variables `vars/0` and so on of a `.weights.h5`; none where that is no BatchNormalization."""
    shapes = {file.shapes[name] for name in names}
    if "batch_normalization" not in names[0].split("/vars/")[0].rpartition("/")[2] or len(shapes) != 1:
        return ()
    # With three, gamma or beta is missing. The file does not say which, so only the statistics are certain.
    return {4: _KINDS, 3: ("", *_KINDS[2:]), 2: _KINDS[2:]}.get(len(names), ())


def _scope(name: str, places: Mapping[str, Any]) -> str | None:
    """The file's name for a layer, also where one of them is inside another model or scope. None if not certain."""
    spelled = (name, name.replace(".", "/"))
    for one in spelled:
        if one in places:
            return one
    inside = {scope for one in spelled for scope in places if scope.endswith(f"/{one}") or one.endswith(f"/{scope}")}
    return inside.pop() if len(inside) == 1 else None
