"""Everything a run needs in memory before its first step, checked as early as it can be."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import keras

from checkpoints import store
from checkpoints.errors import CheckpointError
from finetune.backbone import Backbone, BackboneSpec, check_plan, freezing, load_backbone
from finetune.backbone.head import attach_head
from finetune.batchnorm.surgery import bn_layers
from finetune.config import presets
from finetune.config.run_config import RunConfig
from finetune.config.tracker_setting import absolute_trackers
from finetune.data import batches, sources
from finetune.data.dataset import Dataset
from finetune.data.lazy import LazyImages
from finetune.data.load_data import load_data
from finetune.data.overlap import find_overlap
from finetune.errors import FinetuneError, WrongUse
from finetune.runs import defaults
from finetune.runs.request import check_request
from finetune.training import advice, unfreezing
from finetune.training.display import Display
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.unfreezing import Phase


@dataclass(frozen=True, eq=False)
class Prepared:
    """A completed config with its data, and a model whose switches are set as the plan says."""

    config: RunConfig
    dataset: Dataset
    backbone: Backbone
    model: keras.Model
    phases: tuple[Phase, ...]

    @property
    def plan(self) -> freezing.FreezePlan:
        """Of the last phase: what moves at any time of the run moves there."""
        return self.phases[-1].plan


def prepare(
    config: RunConfig,
    display: Display,
    *,
    load_weights: bool,
    check_data: Callable[[Dataset], None] | None = None,
    distribution: Distribution = ALONE,
) -> Prepared:
    """Check `config`, read data and weights, build the model and plan what trains.

    `load_weights=False` leaves random weights, which a resumed run replaces by its state. `check_data` may refuse the
    data before anything is built for it. The model is made in the scope of `distribution`. Says what was read once all
    of it is known to fit together. Raises WrongUse, FinetuneError, CheckpointError.
    """
    request = check_request(config)
    config, spec = request.config, request.spec
    # A run is evaluated and resumed from anywhere: its data must not depend on where it was started.
    config = replace(config, data=sources.absolute(config.data), tracker=absolute_trackers(config.tracker))
    dataset = _data_and_weights(config, spec, display, weights=load_weights and not config.from_scratch)
    if check_data is not None:
        check_data(dataset)
    dataset = _without_overlap(dataset, config)
    if config.patience is not None and dataset.validation is None:
        raise WrongUse(
            f"--patience {config.patience} waits for a better validation accuracy, and no validation images are held "
            "out: leave --patience out, or give a --validation above 0"
        )
    source_size = int(dataset.train.images.shape[1])
    image_size = config.image_size or defaults.image_size(spec, source_size)
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    with distribution.scope():
        backbone = load_backbone(
            spec,
            image_size=image_size,
            checkpoint=Path(config.checkpoint) if config.checkpoint is not None else None,
            keep_head=len(dataset.class_names) if config.head == "keep" else None,
            features=config.features,
            from_scratch=config.from_scratch or not load_weights,
            bn_epsilon=config.bn_epsilon,
            bn_renorm=config.bn_renorm,
            bn_zero_debias=config.bn_zero_debias,
            progress=display.download,
        )
        model = backbone.model
        if config.head == "swap":
            model = attach_head(
                model, len(dataset.class_names), dropout=config.dropout, hidden=config.hidden, seed=config.seed
            )
    locking = partial(
        freezing.resolve,
        freezing.layer_infos(model, backbone.stages, backbone.scope),
        freeze=request.freeze,
        freeze_until=config.freeze_until,
        bn=request.bn,
        layer_decay=config.layer_decay,
    )
    plan = locking()
    config = defaults.complete(
        replace(config, image_size=image_size),
        spec,
        examples=len(dataset.train),
        source_size=source_size,
        photos=isinstance(dataset.train.images, LazyImages),
        everything=any(layer.trains for layer in plan.layers if layer.layer.stage != freezing.HEAD),
    )
    distribution.check_batch(len(dataset.train), config.batch_size or 1)
    batches.check_augmentation(dataset.train, config)
    phases: tuple[Phase, ...] = (Phase(0, plan),)
    if config.unfreeze_epochs is not None:
        phases = unfreezing.phases(plan, lambda stages: locking(locked=stages), over=config.unfreeze_epochs)
        plan = phases[-1].plan
    for phase in phases:
        check_plan(model, phase.plan)
    per_epoch = batches.steps_per_epoch(dataset.train, config)
    parts = batches.parts_per_step(dataset.train, config)
    steps = per_epoch * ((config.epochs or 0) - phases[-1].first_epoch)
    for layer in bn_layers(model):
        layer.across_replicas = config.bn_sync
    apply_plan(model, plan, config, updates=steps * parts)
    if config.preset is not None:
        display.say(presets.describe(config))
    display.say(f"data: {dataset.source}: {_counts(dataset)}, {len(dataset.class_names)} classes")
    for remark in dataset.remarks:
        display.say(f"data: {remark}")
    if backbone.report is not None:
        display.say(f"weights: {backbone.report.summary()}")
    if backbone.words:
        display.say(backbone.words)
    display.plan(plan, config)
    for concern in advice.warnings(
        config,
        spec,
        batch_statistics=plan.uses_batch_statistics,
        steps=steps,
        per_epoch=per_epoch,
        parts=parts,
        replicas=distribution.replicas,
    ):
        display.warn(concern)
    return Prepared(config, dataset, backbone, model, phases)


def _without_overlap(dataset: Dataset, config: RunConfig) -> Dataset:
    """`dataset` itself where no test image is a training image, with a remark where the user says that it may be, or a
    published data set has it so, whose figures are compared with others'. FinetuneError otherwise."""
    found = find_overlap(dataset)
    if found is None:
        return dataset
    if config.allow_overlap or not os.path.isabs(config.data):
        return replace(dataset, remarks=(*dataset.remarks, f"{found}; the test accuracy counts them"))
    raise FinetuneError(
        f"{found}: an accuracy on images that were trained on says nothing; take them out of one of the two, or give "
        "--allow-overlap to run all the same"
    )


def apply_plan(model: keras.Model, plan: freezing.FreezePlan, config: RunConfig, *, updates: int) -> None:
    """Set the layers' switches as `plan` and a completed config say; `updates` of moving statistics are those of the
    last phase, which every layer that trains has at least."""
    freezing.apply(model, plan, decay=float(config.bn_decay), updates=config.bn_updates == "on", steps=updates)


def _counts(dataset: Dataset) -> str:
    held_out = f", {len(dataset.validation)} validation" if dataset.validation else ""
    return f"{len(dataset.train)} training{held_out}, {len(dataset.test)} test images"


def _data_and_weights(config: RunConfig, spec: BackboneSpec, display: Display, *, weights: bool) -> Dataset:
    """The data, once both it and the weights are on this machine: offline, one message names every missing file."""
    missing = []
    try:
        if weights and config.checkpoint is None and spec.source not in ("file", "hub"):
            store.locate(spec, with_head=config.head == "keep", progress=display.download)
    except CheckpointError as error:
        missing.append(error)
    try:
        dataset = load_data(config, progress=display.download, on_scan=display.on_scan)
    except CheckpointError as error:
        missing.append(error)
    if missing:
        raise CheckpointError("\n".join(str(error) for error in missing))
    return dataset
