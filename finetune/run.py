"""A run from its config to its result: data, backbone, head, plan, training, proof, evaluation, files."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import keras

from finetune import batches, card, environment, models, proof, rundata, tracking
from finetune import config as configs
from finetune.batchnorm import decay
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.surgery import bn_layers
from finetune.checkup import Checkup
from finetune.config import FORMAT_VERSION, RunConfig
from finetune.data.dataset import Dataset
from finetune.distribution.strategy import ALONE, Distribution
from finetune.errors import FinetuneError, Interrupted, WorkerLost
from finetune.features.preparing import Telling, cached_feed
from finetune.preparation import Prepared, prepare
from finetune.progress import Display, Silent, stop_signals
from finetune.rundir import RunDir, check_place
from finetune.training.feed import ImageFeed
from finetune.training.loop import train
from finetune.training.state import State, put_back

RECALIBRATION_IMAGES = 10_000
"""Precise BN needs 1k to 10k images (Wu & Johnson 2021, section 3.2)."""


def start(
    config: RunConfig,
    *,
    run_dir: Path | None = None,
    runs_dir: Path = Path("runs"),
    display: Display | None = None,
    distribution: Distribution | None = None,
) -> RunDir:
    """Run `config` in a new directory (`run_dir`, or the next free name in `runs_dir`) to its result.

    Everything the config says is checked, and data and weights are read, before the directory is made; what fails
    before the first epoch or saved state takes the directory with it. `distribution` is what `config.distribute` asks
    for, connected (`finetune.launch`); of several processes only the chief calls this.
    Raises WrongUse, FinetuneError, CheckpointError; Interrupted leaves a run that `resume` continues.
    """
    display, on = display or Silent(), distribution or ALONE
    if config.distribute != "none" and distribution is None:
        raise ValueError(
            f"distribute is '{config.distribute}': call finetune.launch.start, which connects what it takes"
        )
    check_place(run_dir, runs_dir)
    prepared = prepare(config, display, load_weights=True, distribution=on)
    surroundings, digests = environment.describe() | {"distribution": on.describe()}, proof.digests(prepared.model)
    run = (
        RunDir.create(run_dir)
        if run_dir is not None
        else RunDir.create_numbered(runs_dir, f"{prepared.backbone.spec.label}-{prepared.dataset.name}")
    )
    with run.removed_unless_begun(), run.locked():
        run.write("environment.json", surroundings)
        if prepared.backbone.report is not None:
            run.write("load.json", prepared.backbone.report.to_json())
        run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": digests})
        run.write("data.json", rundata.describe_data(prepared.dataset))
        models.save_snapshot(run, KerasSubject(prepared.model).snapshot())
        # Last: a directory without it is no run, and nothing would resume it half described.
        run.write("config.json", {"format_version": FORMAT_VERSION, **prepared.config.to_json()})
        _train_and_finish(run, prepared, display, digests, resume_from=None, on=on)
    return run


def resume(path: Path, *, display: Display | None = None, distribution: Distribution | None = None) -> RunDir:
    """Continue an interrupted run; a finished one is left as it is. `distribution` as in `start`, and by default none:
    what a run is distributed over may change between its parts."""
    display, on = display or Silent(), distribution or ALONE
    run = RunDir.open(path)
    if run.status == "done":
        on.share(None)
        display.say(f"{run} is finished: nothing to do")
        return run
    with run.locked():
        where = run.path / "config.json"
        config = configs.from_mapping(configs.read_file(where), where=str(where))
        state = State.load(run.state_path) if run.status == "interrupted" else None
        digests: dict[str, str] = {}
        if state is not None:
            state.check_settings(config)
            digests = run.read("freeze.json", "digests", "stages")["digests"]
        advice = "put it back, or start a new run with 'finetune run --config'"
        check = partial(rundata.check_unchanged, run, advice=advice)
        on.share(state is None)
        prepared = prepare(config, display, load_weights=state is None, check_data=check, distribution=on)
        there = (run.path / "environment.json").is_file()
        then = run.read("environment.json").get("distribution", {}).get("replicas", 1) if there else on.replicas
        if then != on.replicas and prepared.plan.uses_batch_statistics and not config.bn_sync:
            display.warn(
                f"the run was started on {then} replicas and goes on on {on.replicas}: without --bn-sync, BatchNorm "
                "now normalises by another number of images"
            )
        if state is None:
            digests = proof.digests(prepared.model)
            run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": digests})
        elif digests.keys() != proof.expected_to_move(prepared.model).keys():
            raise FinetuneError(f"{run.path / 'freeze.json'} is of another model: the run directory is damaged")
        _train_and_finish(run, prepared, display, digests, resume_from=state, on=on)
    return run


def _train_and_finish(
    run: RunDir,
    prepared: Prepared,
    display: Display,
    digests: dict[str, str],
    *,
    resume_from: State | None,
    on: Distribution,
) -> None:
    """`digests` are the variables' before training: the proof compares with them at the end."""
    again = "continue with, on every worker" if on.workers > 1 else "continue with"
    try:
        source, settings = models.load_snapshot(run), prepared.config.to_json()
        with (
            on.watching(),
            tracking.opened(
                prepared.config.tracker, run.path, settings=settings, source=source, warn=display.warn
            ) as trackers,
            ExitStack() as held,
        ):
            on.share(str(run))
            _to_result(run, prepared, display, trackers, digests, held, resume_from=resume_from, on=on)
            on.meet()
    except (Interrupted, KeyboardInterrupt) as stopped:
        words = str(stopped) or "interrupted"
        raise Interrupted(f"{words}; {again}: {run.resume_command}") from None
    except WorkerLost as lost:
        raise WorkerLost(f"{lost}; {again}: {run.resume_command}") from None
    except OSError as error:
        if run.begun:
            error.add_note(f"continue with: {run.resume_command}")
        raise


def _to_result(
    run: RunDir,
    prepared: Prepared,
    display: Display,
    trackers: tracking.Trackers,
    digests: dict[str, str],
    held: ExitStack,
    *,
    resume_from: State | None,
    on: Distribution,
) -> None:
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    started = time.monotonic()
    expected = proof.expected_to_move(model)
    with stop_signals() as requested:
        checkup = Checkup(prepared, models.load_snapshot(run)) if config.diagnose_every else None
        recorder = _Recorder(run, model, display, trackers, requested, checkup)
        if resume_from is not None:
            put_back(model.variables, resume_from.arrays, "model")  # features are those of its weights
        telling = Telling(display.say, display.features, requested)
        cached = held.enter_context(cached_feed(model, dataset, config, telling, distributed=on.replicas > 1))
        feed = cached and cached[0]
        history = train(model, dataset, config, recorder, feed=feed, resume_from=resume_from, distribution=on)
        if requested():
            raise Interrupted("stopped after the last step")
    updates = history[-1]["step"] if prepared.plan.uses_batch_statistics and config.bn_updates == "on" else 0
    recalibrates = bool(config.recalibrate_at_end) and any(map(_updates, bn_layers(model)))
    if recalibrates:
        display.say("recalibrating the moving statistics on training images")
        _recalibrate_updating(model, dataset, config)
    proved = proof.prove(digests, proof.digests(model), expected)
    display.say("evaluating on test images")
    whole = feed or ImageFeed(model, dataset, config)
    evaluator, images = whole.scoring("test", "moving", on_batch=display.batch)
    passed = evaluator.examine(images, "moving")
    evaluator, images = whole.scoring("test", "batch", on_batch=display.batch)
    test = {"is_training_false": passed.evaluation, "is_training_true": evaluator.evaluate(images, "batch")}
    models.save(model, run.model_path)
    passed.images.save(run.predictions_path)
    rows = [*history, *({"kind": "test", "statistics": name, **value.to_json()} for name, value in test.items())]
    run.write_metrics(rows)
    bn_decay = float(config.bn_decay)
    result = {
        "test": {name: value.to_json() for name, value in test.items()},
        "validation_accuracy": history[-1].get("validation_accuracy"),
        "bn": {
            "layers": len(bn_layers(model)),
            "decay": bn_decay,
            "updates": updates,
            "renorm": config.bn_renorm,
            "zero_debias": config.bn_zero_debias,
            "residual": decay.residual(bn_decay, updates),
            "residual_mean": decay.residual(bn_decay, updates, zero_debias=config.bn_zero_debias),
            "recalibrated": recalibrates,
        },
        "proof": proved.to_json(),
        "cached_features": cached and cached[1],
        "class_names": list(dataset.class_names),
        "data_fingerprint": dataset.fingerprint(),
        "train_images": len(dataset.train),
        "skipped_images": len(dataset.skipped),
        "epochs": len(history),
        "steps": history[-1]["step"],
        "train_seconds": round(sum(row["seconds"] for row in history), 1),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": environment.peak_memory_mib(),
    }
    card.write(run, prepared, result, passed.images)
    trackers.end(result)
    run.write("result.json", result)
    run.state_path.unlink(missing_ok=True)
    if not proved.holds:
        raise FinetuneError(
            f"{run}: the freeze plan was not kept: {len(proved.moved_though_frozen)} frozen variables moved "
            f"({', '.join(proved.moved_though_frozen[:3])}), {len(proved.unmoved)} of {proved.moving} that should move "
            "did not; see result.json, and report this as a defect"
        )


def _recalibrate_updating(model: keras.Model, dataset: Dataset, config: RunConfig) -> None:
    """Recalibrate what the plan lets update; frozen statistics stay, to the bit."""
    fixed = {layer.name for layer in bn_layers(model) if not _updates(layer)}
    subject = KerasSubject(model)
    before = subject.snapshot()
    subset = models.training_subset(dataset.train, config, max(RECALIBRATION_IMAGES, len(dataset.class_names)))
    recalibrate(subject, (images for images, _, _ in batches.evaluation(subset, config)))
    after = subject.snapshot()
    subject.restore({name: before[name] if name in fixed else after[name] for name in after})


def _updates(layer: Any) -> bool:
    return bool(layer.statistics == "batch" and layer.updates)


class _Recorder:
    """The loop's observer: writes the run's files and passes on to the display."""

    def __init__(
        self,
        run: RunDir,
        model: keras.Model,
        display: Display,
        trackers: tracking.Trackers,
        requested: Callable[[], bool],
        checkup: Checkup | None,
    ) -> None:
        self._run, self._display, self.stop_requested, self._checkup = run, display, requested, checkup
        self._trackers, self._statistics = trackers, KerasSubject(model).snapshot

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        self._display.step(epoch=epoch, step=step, steps=steps, images=images, loss=loss)
        self._trackers.step(step, loss)

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        row = history[-1]
        if self._checkup is not None and self._checkup.due(row["epoch"]):
            row["bn"] = self._checkup.row(steps=row["step"])
        self._run.write_metrics(history)
        self._trackers.epoch(history, self._statistics)
        self._display.epoch(row)

    def save(self, state: State) -> None:
        self._trackers.flush()
        self._run.state_path.parent.mkdir(exist_ok=True)
        state.save(self._run.state_path)
