"""Everything a run needs in memory before its first step, checked as early as it can be."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from checkpoints import store
from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint, open_checkpoint
from checkpoints.formats.aliases import averaged
from checkpoints.matching.fit import measurable
from finetune.backbone import Backbone, BackboneSpec, check_plan, freezing, head_outputs, load_backbone
from finetune.backbone.head import LabelOutputs, attach_head
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.surgery import BatchNormOptions, bn_layers
from finetune.config import RunConfig, absolute_trackers, presets
from finetune.data import batches
from finetune.data.balance import class_weights
from finetune.data.batches import training_subset
from finetune.data.dataset import Dataset
from finetune.data.lazy import LazyImages
from finetune.data.load_data import absolute, load_data
from finetune.data.overlap import find_overlap
from finetune.errors import FinetuneError, WrongUse
from finetune.runs.request import Resolved, check_request, complete, default_image_size
from finetune.training import advice
from finetune.training.display import Display
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.phases import Phase, Prepared, gradual

STATISTICS_IMAGES = 2_000
"""Training images on which statistics that a file lacks are measured."""


def prepare(
    config: RunConfig,
    display: Display,
    *,
    load_weights: bool,
    check_data: Callable[[Dataset], None] | None = None,
    distribution: Distribution = ALONE,
) -> Prepared:
    """Check `config`, read data and weights, build the model and plan which layers train.

    `load_weights=False` leaves random weights, which a resumed run replaces by its state. `check_data` may refuse the
    data before anything is built for it. The model is made in the scope of `distribution`. What was read is reported
    once all of it is known to fit together. Raises WrongUse, FinetuneError, CheckpointError.
    """
    request = check_request(config)
    # A run is evaluated and resumed from anywhere: its data must not depend on where it was started.
    config = request.config
    config = replace(config, data=absolute(config.data), tracker=absolute_trackers(config.tracker))
    dataset = read_data(config, request.spec, display, weights=load_weights, check=check_data)
    config = replace(config, select_by=config.select_by or ("map" if dataset.multi_label else "accuracy"))
    opened = open_given_checkpoint(config, request.spec) if load_weights else None
    catalogued = None if request.spec.whole_model else opened
    if config.head == "keep" and catalogued and dataset.lacks_background(head_outputs(request.spec, catalogued)):
        config, dataset = replace(config, background_class=True), dataset.with_background()
    image_size = config.image_size or default_image_size(request.spec, min(dataset.train.images.shape[1:3]))
    request = replace(request, config=replace(config, image_size=image_size))
    with distribution.scope():
        backbone, model = build_model(request, dataset, display, opened, load_weights=load_weights)
    prepared = plan_training(request, dataset, backbone, model)
    if backbone.report is not None and backbone.report.absent:
        measure_statistics(prepared, display)
    distribution.check_batch(len(dataset.train), prepared.config.batch_size or 1)
    announce(prepared, display, replicas=distribution.replicas)
    return prepared


def read_data(
    config: RunConfig, spec: BackboneSpec, display: Display, *, weights: bool, check: Callable[[Dataset], None] | None
) -> Dataset:
    """The data, once it is on this machine, and with `weights` the published weights as well. `check` may refuse it.

    Offline, one message names every missing file. Raises CheckpointError, FinetuneError, WrongUse.
    """
    missing = []
    weights = weights and not config.from_scratch and config.checkpoint is None
    try:
        if weights and spec.source != "hub" and not spec.whole_model:
            store.locate(spec, with_head=config.head == "keep", progress=display.download)
    except CheckpointError as error:
        missing.append(error)
    try:
        dataset = load_data(config, progress=display.download, on_scan=display.on_scan)
    except CheckpointError as error:
        missing.append(error)
    if missing:
        raise CheckpointError("\n".join(str(error) for error in missing))
    if check is not None:
        check(dataset)
    if config.patience is not None and dataset.validation is None:
        raise WrongUse(
            f"--patience {config.patience} waits for a better validation accuracy, and no validation images are held "
            "out: leave --patience out, or give a --validation above 0"
        )
    if config.select_by not in (None, "accuracy") and dataset.validation is None:
        raise WrongUse(
            f"--select-by {config.select_by} is a score of validation images, and none are held out: leave --select-by "
            "out, or give a --validation above 0"
        )
    if config.calibrate and dataset.validation is None:
        raise WrongUse(
            "--calibrate fits the temperature on validation images, and none are held out: leave --calibrate out, or "
            "give a --validation above 0"
        )
    if dataset.multi_label:
        check_labels(config)
    elif config.select_by == "map":
        raise WrongUse(
            f"--select-by map is a score of several labels an image, and {dataset.source} has one: give accuracy, "
            "balanced-accuracy, macro-f1 or loss"
        )
    class_weights(dataset, config)  # before anything is built: the names of classes may be wrong
    return _without_overlap(dataset, config)


def check_labels(config: RunConfig) -> None:
    """WrongUse for settings that several labels an image do not go with."""
    several = "the data has several labels an image, and"
    if config.sampler == "balanced":
        raise WrongUse(
            f"--sampler balanced: {several} an image of a rare label has frequent ones too: give --class-weights "
            "balanced"
        )
    if config.select_by == "balanced-accuracy":
        raise WrongUse(f"--select-by balanced-accuracy: {several} no one class each: give map, macro-f1 or accuracy")
    if config.calibrate:
        raise WrongUse(f"--calibrate: {several} a temperature is of one softmax over the classes: leave it out")
    if config.distribute == "multi-worker":
        raise WrongUse(
            f"--distribute multi-worker: {several} their mean average precision needs all images in one process: give "
            "--distribute mirrored, or none"
        )


def open_given_checkpoint(config: RunConfig, spec: BackboneSpec) -> Checkpoint | None:
    """The user's file, or the published one if its averages are wanted. Raises CheckpointError, WrongUse."""
    if config.checkpoint is None and not config.from_averages:
        return None
    if spec.source == "hub":
        raise WrongUse(
            f"{spec.id} has its weights in it: leave out --{'checkpoint' if config.checkpoint else 'from-averages'}"
        )
    if config.checkpoint is None and spec.whole_model:
        raise WrongUse("--from-averages is for a TF1 checkpoint: give it with --checkpoint PATH, or leave it out")
    opened = open_checkpoint(
        Path(config.checkpoint) if config.checkpoint else store.locate(spec, with_head=config.head == "keep")
    )
    if config.from_averages:
        found = averaged(opened, "--from-averages")
        opened = replace(found.checkpoint, remarks=(*opened.remarks, f"--from-averages: {found.summary()}"))
    return opened if spec.whole_model else measurable(opened, spec)


def measure_statistics(prepared: Prepared, display: Display) -> None:
    """Measure the moving statistics, which the file lacks, on training images, before anything is trained on them."""
    display.say("measuring the moving statistics, which the file lacks, on training images")
    config, train = prepared.config, prepared.dataset.train
    subset = training_subset(train, config, max(STATISTICS_IMAGES, len(prepared.dataset.class_names)))
    recalibrate(KerasSubject(prepared.model), (images for images, _, _ in batches.evaluation(subset, config)))


def build_model(
    request: Resolved, dataset: Dataset, display: Display, opened: Checkpoint | None, *, load_weights: bool
) -> tuple[Backbone, keras.Model]:
    """The backbone with its weights, and the model with the head for the classes of `dataset`."""
    config, classes = request.config, len(dataset.class_names)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    backbone = load_backbone(
        request.spec,
        image_size=config.image_size or 0,
        checkpoint=opened,
        head=None if config.head == "swap" else LabelOutputs(classes) if dataset.multi_label else classes,
        features=config.features,
        from_scratch=config.from_scratch or not load_weights,
        batchnorm=BatchNormOptions(config.bn_epsilon, config.bn_renorm, config.bn_zero_debias),
        progress=display.download,
    )
    if config.head == "keep":
        return backbone, backbone.model
    model = attach_head(backbone.model, classes, dropout=config.dropout, hidden=config.hidden, seed=config.seed)
    return backbone, model


def plan_training(request: Resolved, dataset: Dataset, backbone: Backbone, model: keras.Model) -> Prepared:
    """Complete the config, plan which layers train in which epochs, and set the model's switches."""
    config, spec = request.config, request.spec
    resolve = partial(
        freezing.resolve,
        freezing.layer_infos(model, backbone.stages, backbone.scope),
        freeze=request.freeze,
        freeze_until=config.freeze_until,
        bn=request.bn,
        layer_decay=config.layer_decay,
    )
    plan = resolve()
    config = complete(
        config,
        spec,
        examples=len(dataset.train),
        source_size=min(dataset.train.images.shape[1:3]),
        photos=isinstance(dataset.train.images, LazyImages),
        everything=any(layer.trains for layer in plan.layers if layer.layer.stage != freezing.HEAD),
    )
    batches.check_augmentation(dataset.train, config)
    dataset = replace(dataset, remarks=(*dataset.remarks, *batches.fitting(dataset.train, config)))
    phases: tuple[Phase, ...] = (Phase(0, plan),)
    if config.unfreeze_epochs is not None:
        phases = gradual(plan, lambda stages: resolve(locked=stages), over=config.unfreeze_epochs)
    for phase in phases:
        check_plan(model, phase.plan)
    for layer in bn_layers(model):
        layer.across_replicas = config.bn_sync
    prepared = Prepared(config, dataset, backbone, model, phases)
    prepared.apply(prepared.plan)
    return prepared


def announce(prepared: Prepared, display: Display, *, replicas: int) -> None:
    """Report what was read, which layers train, and the warnings."""
    config, dataset, backbone = prepared.config, prepared.dataset, prepared.backbone
    if config.preset is not None:
        display.say(presets.describe(config))
    held_out = f", {len(dataset.validation)} validation" if dataset.validation else ""
    counts = f"{len(dataset.train)} training{held_out}, {len(dataset.test)} test images"
    what = f"labels, {_cardinality(dataset)}" if dataset.multi_label else "classes"
    display.say(f"data: {dataset.source}: {counts}, {len(dataset.class_names)} {what}")
    for remark in dataset.remarks:
        display.say(f"data: {remark}")
    if (weights := class_weights(dataset, config)) is not None:
        low, high = (f"{weights[at]:.3g} ({dataset.class_names[at]})" for at in (weights.argmin(), weights.argmax()))
        display.say(f"class weights: from {low} to {high}")
    if backbone.report is not None:
        display.say(f"weights: {backbone.report.summary()}")
    if backbone.words:
        display.say(backbone.words)
    display.plan(prepared.plan, config)
    for concern in advice.warnings(prepared, replicas=replicas):
        display.warn(concern)


def _cardinality(dataset: Dataset) -> str:
    """How many labels a training image has: the mean, and how many images have none."""
    each = dataset.train.labels.sum(axis=1, dtype=np.int64)
    none = int((each == 0).sum())
    return f"{each.mean():.2f} an image on average" + (f", {none} training images without any" if none else "")


def _without_overlap(dataset: Dataset, config: RunConfig) -> Dataset:
    """`dataset` itself where no test image is also a training image.

    With a remark where the user allows it, or a published data set has it so: its figures are compared with others'.
    FinetuneError otherwise."""
    found = find_overlap(dataset)
    if found is None:
        return dataset
    if config.allow_overlap or not os.path.isabs(config.data):
        return replace(dataset, remarks=(*dataset.remarks, f"{found}; the test accuracy counts them"))
    raise FinetuneError(
        f"{found}: an accuracy on images that were trained on says nothing; take them out of one of the two, or give "
        "--allow-overlap to run all the same"
    )
