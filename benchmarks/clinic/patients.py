"""Networks and images of the clinic, and the training that makes a patient of them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from checkpoints.catalog.lookup import find_row
from finetune.backbone import loading, networks
from finetune.backbone.head import attach_head
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt, bn_layers
from finetune.config import RunConfig
from finetune.data import pipeline
from finetune.data.augmentation import Augmentation
from finetune.data.batches import EvalSet
from finetune.data.dataset import Dataset, Split, stratified_subset
from finetune.data.load_data import read_source
from finetune.data.preprocessing import find_preprocessing
from finetune.data.sources.assembly import ReadOptions
from finetune.diagnosis.evidence import Facts
from finetune.training.loop import optimizer as optimizers
from finetune.training.loop.step import TrainStep

SHARED = Path(os.environ.get("FINETUNE_SHARED", Path(__file__).parents[3] / "shared"))
WORK = Path(__file__).parent / "work"
"""Pretrained thin networks, made once; not kept in the repository."""


@dataclass(frozen=True)
class Body:
    """A network of the clinic. `real`: with ImageNet weights; else its source weights are trained here."""

    build: Callable[[int], keras.Model]
    size: int
    preprocess: str
    data: str = "cifar10-last"
    unbiased: bool = True
    real: bool = False


def _slim(family: str, **arguments: Any) -> Callable[[int], keras.Model]:
    return lambda size: networks.build(family, image_size=size, outputs=None, arguments=arguments).model


def _mobilenet(size: int) -> keras.Model:
    spec = find_row("keras/mobilenet_0.25")
    weights = SHARED / "checkpoints" / "keras" / "mobilenet_2_5_224_tf_no_top.h5"
    return loading.load_backbone(spec, image_size=size, checkpoint=weights).model


BODIES = {
    "mobilenet": Body(_mobilenet, 64, "inception", "cifar10", unbiased=False, real=True),
    "resnet_v1": Body(_slim("resnet_v1", scope="resnet_v1", units=(1, 1, 1), width=8, stem="small"), 32, "vgg"),
    "resnet_v2": Body(_slim("resnet_v2", scope="resnet_v2", units=(1, 1, 1), width=16), 64, "inception"),
    "densenet": Body(_slim("densenet", scope="densenet", layers=(2, 2, 2), growth=12, width=16), 32, "torch"),
    # For the cut-down clinic of the tests: seconds a cell.
    "tiny": Body(_slim("resnet_v1", scope="tiny", units=(1, 1), width=8, stem="small"), 16, "inception", "demo-target"),
}


@cache
def data(name: str) -> Dataset:
    """`cifar10` (10,000 training images), its classes 0-4 (`cifar10-first`, what thin networks come from) or 5-9
    (`cifar10-last`, what they go to), generated `demo-target`, or `flowers` at 64 px."""
    if name.startswith("cifar10-"):
        whole = read_source("cifar10", ReadOptions(SHARED / "data"))
        return _half(whole, 0 if "first" in name else 5)
    if name == "cifar10":
        whole = read_source(name, ReadOptions(SHARED / "data"))
        return replace(
            whole, train=stratified_subset(whole.train, 10_000, 0), test=stratified_subset(whole.test, 1000, 0)
        )
    if name == "flowers":
        return _flowers(SHARED / "data" / "flowers")
    generated = read_source(name, ReadOptions())
    return replace(generated, train=stratified_subset(generated.train, 2000, 0))


def _half(whole: Dataset, first: int) -> Dataset:
    def part(split: Split, images: int) -> Split:
        own = split.take(np.flatnonzero((split.labels >= first) & (split.labels < first + 5)))
        return stratified_subset(Split(own.images, own.labels - first), images, 0)

    names = whole.class_names[first : first + 5]
    return Dataset(f"cifar10 {names}", names, part(whole.train, 8000), None, part(whole.test, 1000), whole.source)


def _flowers(folder: Path, side: int = 64) -> Dataset:
    from PIL import Image

    names = sorted(path.name for path in (folder / "train").iterdir())

    def split(part: str) -> Split:
        images, labels = [], []
        for label, name in enumerate(names):
            for path in sorted((folder / part / name).glob("*.jpg")):
                with Image.open(path) as photo:
                    least = min(photo.size)
                    left, top = (photo.width - least) // 2, (photo.height - least) // 2
                    square = photo.convert("RGB").crop((left, top, left + least, top + least)).resize((side, side))
                    images.append(np.asarray(square))
                labels.append(label)
        return Split(np.stack(images), np.array(labels, np.int64))

    return Dataset("flowers", tuple(names), split("train"), None, split("val"), str(folder))


@dataclass(frozen=True)
class Recipe:
    """How a patient is trained. start: `source` or `scratch`. switch: sets the BN layers' switches.

    by_class: a batch of training is taken by as many devices as there are classes, each with images of one class and
    batch statistics of its own (data in shards by class; the leak that MoCo's shuffled BN closes, He et al. 2020,
    section 3.3), and the test images come sorted by class.
    average: keep an average of the weights and end with it.
    """

    body: str = "resnet_v1"
    data: str | None = None
    start: str = "source"
    steps: int = 300
    batch: int = 64
    images: int | None = None
    preprocess: str | None = None
    size: int | None = None
    learning_rate: float = 3e-3
    optimizer: str = "adamw"
    schedule: str = "cosine"
    decay: float = 0.9
    seed: int = 0
    augment: bool = False
    dropout: float = 0.0
    by_class: bool = False
    average: float | None = None
    statistics: str = "batch"
    updates: bool = True
    affine: bool = True
    frozen: float = 0.0
    fixed: Callable[[int, int], bool] = field(default=lambda index, layers: False)


@dataclass
class Patient:
    """A trained model as it is brought in, with what its records say."""

    model: keras.Model
    test: EvalSet
    train: EvalSet
    facts: Facts
    source: Any


def train(recipe: Recipe) -> Patient:
    """Train as the recipe says."""
    body = BODIES[recipe.body]
    dataset = data(recipe.data or body.data)
    keras.utils.set_random_seed(recipe.seed)
    split = dataset.train
    if recipe.images is not None:
        split = stratified_subset(split, recipe.images, recipe.seed)
    size = recipe.size or body.size
    model = _built(recipe, body, size, len(dataset.class_names))
    layers = bn_layers(model)
    for index, layer in enumerate(layers):
        layer.statistics, layer.momentum, layer.trainable = recipe.statistics, recipe.decay, recipe.affine
        layer.updates = recipe.updates and not recipe.fixed(index, len(layers))
    body_layers = [one for one in model.layers if one.weights and one not in layers and not one.name.startswith("head")]
    for layer in body_layers[: round(recipe.frozen * len(body_layers))]:
        layer.trainable = False
    start, affine = KerasSubject(model).snapshot(), _affine(model)
    form = {
        "batch_size": recipe.batch,
        "image_size": size,
        "preprocessing": find_preprocessing(recipe.preprocess or body.preprocess),
    }
    _fit(model, split, recipe, form)
    order = np.random.default_rng(1).permutation(len(split))[: max(1000 // recipe.batch, 1) * recipe.batch]
    order = order[: len(order) - len(order) % min(recipe.batch, len(order))]
    facts = Facts(
        decay=recipe.decay,
        updates=recipe.steps if recipe.updates and recipe.statistics == "batch" else 0,
        updates_enabled=recipe.updates,
        trained_with="batch" if recipe.statistics == "batch" else "moving",
        weights_moved=True,
        weights_averaged=True if recipe.average else None,
        affine_moved=any(not np.array_equal(a, b) for a, b in zip(affine, _affine(model), strict=True)),
        batch_size=recipe.batch,
    )
    test = EvalSet(dataset.test, **form)
    return Patient(model, test.grouped() if recipe.by_class else test, EvalSet(split.take(order), **form), facts, start)


def _affine(model: keras.Model) -> list[np.ndarray]:
    return [np.array(one) for layer in bn_layers(model) for one in (layer.gamma, layer.beta) if one is not None]


def _built(recipe: Recipe, body: Body, size: int, classes: int) -> keras.Model:
    backbone = body.build(size)
    if not body.real:
        backbone = adopt(backbone, unbiased=body.unbiased)
        if recipe.start == "source":
            for variable, array in zip(backbone.variables, _source_weights(recipe.body, size), strict=True):
                variable.assign(array)
    elif recipe.start == "scratch":
        fresh = networks.build(
            "keras_applications", image_size=size, outputs=None,
            arguments=find_row("keras/mobilenet_0.25").arguments,
        ).model  # fmt: skip
        backbone = adopt(fresh, unbiased=False)
    return attach_head(backbone, classes, dropout=recipe.dropout, seed=recipe.seed)


def _source_weights(name: str, size: int) -> list[np.ndarray]:
    """A thin network's weights after training on the first five classes of its task."""
    path = WORK / f"{name}-{size}.npz"
    if not path.exists():
        task = data("demo-source" if name == "tiny" else "cifar10-first")
        recipe = Recipe(name, start="scratch", steps=150 if name == "tiny" else 400, decay=0.97, seed=100)
        keras.utils.set_random_seed(100)
        model = _built(recipe, BODIES[name], size, len(task.class_names))
        for layer in bn_layers(model):
            layer.momentum = recipe.decay
        form = {"batch_size": 64, "image_size": size, "preprocessing": find_preprocessing(BODIES[name].preprocess)}
        _fit(model, task.train, recipe, form)
        count = len(model.variables) - 2
        path.parent.mkdir(exist_ok=True)
        np.savez(path, *(np.array(variable) for variable in model.variables[:count]))
    with np.load(path) as file:
        return [file[f"arr_{index}"] for index in range(len(file.files))]


def _fit(model: keras.Model, split: Split, recipe: Recipe, form: dict[str, Any]) -> None:
    config = RunConfig(
        "clinic", learning_rate=recipe.learning_rate, optimizer=recipe.optimizer, schedule=recipe.schedule,
        weight_decay=0.05 if recipe.optimizer == "adamw" else 5e-4, clip_norm=None,
    )  # fmt: skip
    variables = model.trainable_variables
    optimizer = optimizers.build(config, variables, steps=recipe.steps)
    if recipe.by_class:
        step = _by_device(model, optimizer, variables, model.output_shape[-1])
    else:
        step = TrainStep(model, optimizer, variables, config).traced()
    average = [np.array(variable) for variable in variables] if recipe.average else []
    done, epoch = 0, 0
    while done < recipe.steps:
        for images, labels in _epoch(split, recipe, form, epoch):
            loss, _ = step(images, labels)
            done += 1
            if recipe.average:
                for mean, variable in zip(average, variables, strict=True):
                    mean += (1 - recipe.average) * (np.array(variable) - mean)
            if done == recipe.steps:
                break
        epoch += 1
    assert np.isfinite(float(loss)), "the loss is not finite"
    for variable, mean in zip(variables, average, strict=False):
        variable.assign(mean)


def _epoch(split: Split, recipe: Recipe, form: dict[str, Any], epoch: int) -> Any:
    if not recipe.by_class:
        augmentation = Augmentation(split.images.shape[1] // 8 if recipe.augment else 0, recipe.augment)
        return pipeline.train_batches(split, pipeline.Epoch(recipe.seed, epoch, augmentation), **form)
    rng = np.random.default_rng([recipe.seed, epoch])
    groups = [np.flatnonzero(split.labels == label) for label in np.unique(split.labels)]
    own = form["batch_size"] // len(groups)
    steps = len(split) // form["batch_size"]
    ordered = split.take(np.concatenate([rng.choice(group, own) for _ in range(steps) for group in groups]))
    batches = pipeline.eval_batches(ordered, **{**form, "batch_size": own * len(groups)})
    return ((images, labels) for images, labels, _ in batches)


def _by_device(model: keras.Model, optimizer: Any, variables: list[Any], devices: int) -> Callable[[Any, Any], Any]:
    """A training step whose batch is cut into equal parts with batch statistics of their own, gradients averaged."""

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            parts = zip(tf.split(images, devices), tf.split(labels, devices), strict=True)
            losses = [
                tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(some, model(part, training=True)))
                for part, some in parts
            ]
            loss = tf.add_n(losses) / devices
        optimizer.apply(tape.gradient(loss, [one.value for one in variables]), variables)
        return loss, None

    return step


def poison(model: keras.Model, patient: Patient) -> None:
    """One corrupt batch in training whose update is skipped because its gradient is not finite, as loss scaling does:
    the weights stay, the moving statistics do not."""
    images = next(iter(patient.train.batches()))[0]
    model(tf.where(tf.random.uniform(images.shape) < 0.01, 3e38, images) * 10.0, training=True)
