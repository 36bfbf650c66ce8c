"""A run from its config to its result: data, backbone, head, plan, training, proof, evaluation, files."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from checkpoints import catalog, store
from checkpoints.errors import CheckpointError
from finetune import backbone as backbones
from finetune import batches, environment, freezing, models, proof
from finetune import config as configs
from finetune.batchnorm import decay, statistics
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.surgery import bn_layers
from finetune.classifier import attach_head
from finetune.config import RunConfig
from finetune.data.dataset import Dataset
from finetune.data.preprocessing import find as find_preprocessing
from finetune.errors import FinetuneError, Interrupted
from finetune.evaluation import Evaluator
from finetune.progress import Display, Silent, stop_signals
from finetune.rundir import FORMAT_VERSION, RunDir, replacing
from finetune.training import defaults
from finetune.training.loop import train
from finetune.training.state import State

RECALIBRATION_IMAGES = 10_000
"""Precise BN needs 1k to 10k images (Wu & Johnson 2021, section 3.2)."""


def start(
    config: RunConfig, *, run_dir: Path | None = None, runs_dir: Path = Path("runs"), display: Display | None = None
) -> RunDir:
    """Run `config` in a new directory (`run_dir`, or the next free name in `runs_dir`) to its result.

    Everything the config says is checked, and data and weights are read, before the directory is made.
    Raises WrongUse, FinetuneError, CheckpointError; Interrupted leaves a run that `resume` continues.
    """
    display = display or Silent()
    if run_dir is not None and run_dir.exists():
        RunDir.create(run_dir)
    prepared = _Prepared.of(config, display, load_weights=True)
    run = (
        RunDir.create(run_dir)
        if run_dir is not None
        else RunDir.create_numbered(runs_dir, f"{prepared.config.backbone}-{prepared.config.data}")
    )
    with run.locked():
        run.write("environment.json", environment.describe())
        if prepared.backbone.report is not None:
            run.write("load.json", prepared.backbone.report.to_json())
        run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": proof.digests(prepared.model)})
        models.save_snapshot(run, statistics.snapshot(prepared.model))
        # Last: a directory without it is no run, and nothing would resume it half described.
        run.write("config.json", {"format_version": FORMAT_VERSION, **prepared.config.to_json()})
        _train_and_finish(run, prepared, display, resume_from=None)
    return run


def resume(path: Path, *, display: Display | None = None) -> RunDir:
    """Continue an interrupted run; a finished one is left as it is."""
    display = display or Silent()
    run = RunDir.open(path)
    if run.status == "done":
        display.say(f"{run} is finished: nothing to do")
        return run
    with run.locked():
        config = configs.from_mapping(run.read("config.json"), where=str(run.path / "config.json"))
        state = State.load(run.state_path) if run.status == "interrupted" else None
        prepared = _Prepared.of(config, display, load_weights=state is None)
        if state is None:
            run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": proof.digests(prepared.model)})
        _train_and_finish(run, prepared, display, resume_from=state)
    return run


class _Prepared:
    """Everything a run needs in memory before its first step."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        backbone: backbones.Backbone,
        model: keras.Model,
        plan: freezing.FreezePlan,
    ) -> None:
        self.config, self.dataset, self.backbone = config, dataset, backbone
        self.model, self.plan = model, plan

    @classmethod
    def of(cls, config: RunConfig, display: Display, *, load_weights: bool) -> "_Prepared":
        spec = catalog.find(config.backbone)
        configs.check(config)
        freeze = [freezing.parse_freeze_rule(text) for text in config.freeze]
        bn = [parse_bn_rule(text) for text in config.bn]
        if config.preprocess:
            find_preprocessing(config.preprocess)
        if config.image_size:
            backbones.check_image_size(spec, config.image_size)
        dataset = _data_and_weights(config, spec, display, weights=load_weights and not config.from_scratch)
        display.say(f"data: {dataset.source}: {len(dataset.train)} training, {len(dataset.test)} test images")
        source_size = int(dataset.train.images.shape[1])
        image_size = config.image_size or defaults.image_size(spec, source_size)
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            import tensorflow as tf

            tf.config.experimental.enable_op_determinism()
        backbone = backbones.load(
            spec,
            image_size=image_size,
            checkpoint=Path(config.checkpoint) if config.checkpoint else None,
            from_scratch=config.from_scratch or not load_weights,
            bn_epsilon=config.bn_epsilon,
            progress=display.download,
        )
        if backbone.report is not None:
            display.say(f"weights: {backbone.report.summary()}")
        model = attach_head(
            backbone.model,
            len(dataset.class_names),
            dropout=config.dropout,
            hidden=config.hidden,
            seed=config.seed,
        )
        plan = freezing.resolve(
            freezing.layer_infos(model, backbone.stages, backbone.scope),
            freeze=freeze,
            freeze_until=config.freeze_until,
            bn=bn,
        )
        config = defaults.complete(
            replace(config, image_size=image_size),
            spec,
            examples=len(dataset.train),
            source_size=source_size,
            everything=any(layer.trains for layer in plan.layers if layer.layer.stage != freezing.HEAD),
        )
        freezing.apply(model, plan, decay=float(config.bn_decay), updates=config.bn_updates == "on")
        display.plan(plan, config)
        return cls(config, dataset, backbone, model, plan)


def _data_and_weights(config: RunConfig, spec: catalog.BackboneSpec, display: Display, *, weights: bool) -> Dataset:
    """The data, once both it and the weights are on this machine: offline, one message names every missing file."""
    missing = []
    try:
        if weights and config.checkpoint is None:
            store.locate(spec, with_head=False, progress=display.download)
    except CheckpointError as error:
        missing.append(error)
    try:
        dataset = models.load_data(config, progress=display.download)
    except CheckpointError as error:
        missing.append(error)
    if missing:
        raise CheckpointError("\n".join(str(error) for error in missing))
    return dataset


def _train_and_finish(run: RunDir, prepared: _Prepared, display: Display, *, resume_from: State | None) -> None:
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    started = time.monotonic()
    expected = proof.expected_to_move(model)
    with stop_signals() as requested:
        observer = _Recorder(run, display, requested)
        try:
            history = train(model, dataset, config, observer, resume_from=resume_from)
        except Interrupted as stopped:
            raise Interrupted(f"{stopped}; continue with: finetune run --resume {run}") from None
    updates = history[-1]["step"] if prepared.plan.uses_batch_statistics and config.bn_updates == "on" else 0
    if config.recalibrate_at_end and bn_layers(model):
        display.say("recalibrating the moving statistics on training images")
        _recalibrate_updating(model, dataset, config)
    proved = proof.prove(run.read("freeze.json")["digests"], proof.digests(model), expected)
    display.say("evaluating on test images")
    evaluator = Evaluator(model, on_batch=display.batch)
    test = {
        "is_training_false": evaluator.evaluate(batches.evaluation(dataset.test, config), "moving"),
        "is_training_true": evaluator.evaluate(batches.evaluation(dataset.test, config), "batch"),
    }
    models.save(model, run.model_path)
    rows = [*history, *({"kind": "test", "statistics": name, **value.to_json()} for name, value in test.items())]
    run.write_metrics(rows)
    bn_decay = float(config.bn_decay)
    run.write(
        "result.json",
        {
            "test": {name: value.to_json() for name, value in test.items()},
            "validation_accuracy": history[-1].get("validation_accuracy"),
            "bn": {
                "layers": len(bn_layers(model)),
                "decay": bn_decay,
                "updates": updates,
                "residual": decay.residual(bn_decay, updates),
                "recalibrated": bool(config.recalibrate_at_end),
            },
            "proof": proved.to_json(),
            "class_names": list(dataset.class_names),
            "data_fingerprint": dataset.fingerprint(),
            "train_images": len(dataset.train),
            "epochs": len(history),
            "steps": history[-1]["step"],
            "train_seconds": round(sum(row["seconds"] for row in history), 1),
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_mib": environment.peak_memory_mib(),
        },
    )
    run.state_path.unlink(missing_ok=True)
    if not proved.holds:
        raise FinetuneError(
            f"{run}: the freeze plan was not kept: {len(proved.moved_though_frozen)} frozen variables moved "
            f"({', '.join(proved.moved_though_frozen[:3])}), {len(proved.unmoved)} of {proved.moving} that should move "
            "did not; see result.json, and report this as a defect"
        )


def _recalibrate_updating(model: keras.Model, dataset: Dataset, config: RunConfig) -> None:
    """Recalibrate what the plan lets update; frozen statistics stay, to the bit."""
    fixed = {layer.name for layer in bn_layers(model) if not (layer.statistics == "batch" and layer.updates)}
    before = statistics.snapshot(model)
    subset = models.training_subset(dataset.train, config, RECALIBRATION_IMAGES)
    statistics.recalibrate(model, (images for images, _, _ in batches.evaluation(subset, config)))
    after = statistics.snapshot(model)
    statistics.restore(model, {name: before[name] if name in fixed else after[name] for name in after})


class _Recorder:
    """The loop's observer: writes the run's files and passes on to the display."""

    def __init__(self, run: RunDir, display: Display, requested: Callable[[], bool]) -> None:
        self._run, self._display, self.stop_requested = run, display, requested
        self.on_step = display.step

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        self._run.write_metrics(history)
        self._display.epoch(history[-1])

    def save(self, state: State) -> None:
        self._run.state_path.parent.mkdir(exist_ok=True)
        with replacing(self._run.state_path) as temporary:
            state.save(temporary)
