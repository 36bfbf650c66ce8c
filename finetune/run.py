"""A run from its config to its result: data, backbone, head, plan, training, proof, evaluation, files."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from finetune import averaging, batches, environment, freezing, lr_range, models, proof
from finetune import config as configs
from finetune.batchnorm import decay
from finetune.batchnorm.statistics import KerasSubject, recalibrate
from finetune.batchnorm.subject import Statistics
from finetune.batchnorm.surgery import bn_layers
from finetune.checkup import Checkup
from finetune.config import FORMAT_VERSION, RunConfig
from finetune.data.dataset import Dataset
from finetune.errors import FinetuneError, Interrupted
from finetune.evaluation import Evaluator
from finetune.mirroring import Mirrored
from finetune.phases import Phases
from finetune.preparation import Prepared, prepare
from finetune.progress import Display, Silent, stop_signals
from finetune.rundir import RunDir, check_place
from finetune.training.loop import train
from finetune.training.state import State

RECALIBRATION_IMAGES = 10_000
"""Precise BN needs 1k to 10k images (Wu & Johnson 2021, section 3.2)."""


def start(
    config: RunConfig, *, run_dir: Path | None = None, runs_dir: Path = Path("runs"), display: Display | None = None
) -> RunDir:
    """Run `config` in a new directory (`run_dir`, or the next free name in `runs_dir`) to its result.

    Everything the config says is checked, and data and weights are read, before the directory is made; what fails
    before the first epoch or saved state takes the directory with it.
    Raises WrongUse, FinetuneError, CheckpointError; Interrupted leaves a run that `resume` continues.
    """
    display = display or Silent()
    check_place(run_dir, runs_dir)
    prepared, tested = lr_range.settle(prepare(config, display, load_weights=True), display)
    surroundings, digests = environment.describe(), proof.digests(prepared.model)
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
        run.write("data.json", models.describe_data(prepared.dataset))
        if tested is not None:
            lr_range.write(run, tested)
        models.save_snapshot(run, KerasSubject(prepared.model).snapshot())
        # Last: a directory without it is no run, and nothing would resume it half described.
        run.write("config.json", {"format_version": FORMAT_VERSION, **prepared.config.to_json()})
        _train_and_finish(run, prepared, display, digests, resume_from=None)
    return run


def resume(path: Path, *, display: Display | None = None) -> RunDir:
    """Continue an interrupted run; a finished one is left as it is."""
    display = display or Silent()
    run = RunDir.open(path)
    if run.status == "done":
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
        check = partial(models.check_unchanged, run, advice=advice)
        prepared = prepare(config, display, load_weights=state is None, check_data=check)
        if state is None:
            digests = proof.digests(prepared.model)
            run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": digests})
        elif digests.keys() != proof.expected_to_move(prepared.model).keys():
            raise FinetuneError(f"{run.path / 'freeze.json'} is of another model: the run directory is damaged")
        _train_and_finish(run, prepared, display, digests, resume_from=state)
    return run


def _train_and_finish(
    run: RunDir, prepared: Prepared, display: Display, digests: dict[str, str], *, resume_from: State | None
) -> None:
    """`digests` are the variables' before training: the proof compares with them at the end."""
    try:
        _to_result(run, prepared, display, digests, resume_from=resume_from)
    except (Interrupted, KeyboardInterrupt) as stopped:
        words = str(stopped) or "interrupted"
        raise Interrupted(f"{words}; continue with: {run.resume_command}") from None
    except OSError as error:
        if run.begun:
            error.add_note(f"continue with: {run.resume_command}")
        raise


def _to_result(
    run: RunDir, prepared: Prepared, display: Display, digests: dict[str, str], *, resume_from: State | None
) -> None:
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    started = time.monotonic()
    expected = proof.expected_to_move(model)
    with stop_signals() as requested:
        checkup = Checkup(prepared, models.load_snapshot(run)) if config.diagnose_every else None
        phases = Phases(run, prepared, display)
        recorder = _Recorder(run, display, requested, checkup, phases)
        rates = freezing.rates_by_variable(model, prepared.plan)
        history = train(
            model, dataset, config, recorder, stretches=phases.stretches(), rates=rates, resume_from=resume_from
        )
        if requested():
            raise Interrupted("stopped after the last step")
    proofs, updates = phases.close(), phases.updates(len(history))
    recalibrated = bool(config.recalibrate_at_end) and _recalibrate_updating(model, dataset, config, display)
    evaluator = Evaluator(KerasSubject(model), on_batch=display.batch)

    def score() -> dict[str, Any]:
        display.say("evaluating on test images")
        ways: dict[str, Statistics] = {"is_training_false": "moving", "is_training_true": "batch"}
        test = batches.evaluation(dataset.test, config)
        return {name: evaluator.evaluate(test, statistics).to_json() for name, statistics in ways.items()}

    weights: dict[str, Any] = {"kind": "best-epoch" if config.patience else "last-step"}
    if recorder.averages is not None and config.ema is not None:
        recalibrate = partial(_recalibrate_updating, model, dataset, config, display)
        weights = averaging.take_over(
            run, model, recorder.averages, decay=config.ema, score=score, recalibrate=recalibrate
        )
        recalibrated = weights["statistics"] == "recalibrated"
    proved = proof.prove(digests, proof.digests(model), expected)
    kept = proved.holds and all(one["holds"] for one in proofs)
    test = score()
    flipped = None
    if config.tta == "flip":
        both = Evaluator(Mirrored(KerasSubject(model)), on_batch=display.batch)
        flipped = both.evaluate(batches.evaluation(dataset.test, config), "moving")
    models.save(model, run.model_path)
    rows = [*history, *({"kind": "test", "statistics": name, **value} for name, value in test.items())]
    run.write_metrics(rows)
    bn_decay = float(config.bn_decay)
    run.write(
        "result.json",
        {
            "test": test,
            "weights": weights,
            "tta": {"kind": config.tta, "is_training_false": flipped.to_json()} if flipped else None,
            "validation_accuracy": history[-1].get("validation_accuracy"),
            "bn": {
                "layers": len(bn_layers(model)),
                "decay": bn_decay,
                "updates": updates,
                "renorm": config.bn_renorm,
                "zero_debias": config.bn_zero_debias,
                "residual": decay.residual(bn_decay, updates),
                "residual_mean": decay.residual(bn_decay, updates, zero_debias=config.bn_zero_debias),
                "recalibrated": recalibrated,
            },
            "proof": {**proved.to_json(), "holds": kept, **({"phases": proofs} if proofs else {})},
            "class_names": list(dataset.class_names),
            "data_fingerprint": dataset.fingerprint(),
            "train_images": len(dataset.train),
            "skipped_images": len(dataset.skipped),
            "epochs": len(history),
            "steps": history[-1]["step"],
            "train_seconds": round(sum(row["seconds"] for row in history), 1),
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_mib": environment.peak_memory_mib(),
        },
    )
    run.state_path.unlink(missing_ok=True)
    if not kept:
        moved = [*proved.moved_though_frozen, *(path for one in proofs for path in one["moved_though_frozen"])]
        raise FinetuneError(
            f"{run}: the freeze plan was not kept: {len(set(moved))} frozen variables moved "
            f"({', '.join(moved[:3])}), {len(proved.unmoved)} of {proved.moving} that should move "
            "did not; see result.json, and report this as a defect"
        )


def _recalibrate_updating(model: keras.Model, dataset: Dataset, config: RunConfig, display: Display) -> bool:
    """Recalibrate what the plan lets update; frozen statistics stay, to the bit. Whether any were recalibrated."""
    fixed = {layer.name for layer in bn_layers(model) if not (layer.statistics == "batch" and layer.updates)}
    if len(fixed) == len(bn_layers(model)):
        return False
    display.say("recalibrating the moving statistics on training images")
    subject = KerasSubject(model)
    before = subject.snapshot()
    subset = models.training_subset(dataset.train, config, max(RECALIBRATION_IMAGES, len(dataset.class_names)))
    recalibrate(subject, (images for images, _, _ in batches.evaluation(subset, config)))
    after = subject.snapshot()
    subject.restore({name: before[name] if name in fixed else after[name] for name in after})
    return True


class _Recorder:
    """The loop's observer: writes the run's files and passes on to the display."""

    def __init__(
        self, run: RunDir, display: Display, requested: Callable[[], bool], checkup: Checkup | None, phases: Phases
    ) -> None:
        self._run, self._display, self.stop_requested, self._checkup = run, display, requested, checkup
        self._phases = phases
        self.on_step = display.step
        self.averages: dict[str, np.ndarray] | None = None

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        row = history[-1]
        if self._checkup is not None and self._checkup.due(row["epoch"]):
            epoch = row["epoch"]
            row["bn"] = self._checkup.row(
                updates=self._phases.updates(epoch), batch=self._phases.batch_statistics(epoch)
            )
        self._run.write_metrics(history)
        self._display.epoch(row)

    def on_averages(self, weights: dict[str, np.ndarray]) -> None:
        self.averages = weights

    def save(self, state: State) -> None:
        self._run.state_path.parent.mkdir(exist_ok=True)
        state.save(self._run.state_path)
