"""A run from its config to its result: data, backbone, head, plan, training, proof, evaluation, files."""

import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from finetune.backbone import freezing
from finetune.batchnorm.statistics import KerasSubject
from finetune.config.run_config import RunConfig
from finetune.errors import FinetuneError, Interrupted, WorkerLost
from finetune.process import stop_signals
from finetune.runs.config_file import FORMAT_VERSION
from finetune.runs.directory import RunDir, check_place
from finetune.runs.model import load_snapshot, refuse_broken_plan, save_snapshot
from finetune.runs.run_data import check_unchanged, describe_data
from finetune.training import proof
from finetune.training.display import Display, Silent
from finetune.training.distribution.strategy import ALONE, Distribution
from finetune.training.environment import describe
from finetune.training.feature_cache.preparing import Progress, cached_feed
from finetune.training.finish import Outcome, finish
from finetune.training.loop.state import State, put_back
from finetune.training.loop.train import train
from finetune.training.observers import Recorder
from finetune.training.periodic_diagnosis import Checkup
from finetune.training.phases import Phases
from finetune.training.prepare import Prepared, prepare
from finetune.training.range_test import settle_learning_rate, write_range_test
from finetune.training.tracking.trackers import Trackers, opened


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
    for, connected (`finetune.training.start`); of several processes only the chief calls this.
    Raises WrongUse, FinetuneError, CheckpointError; Interrupted leaves a run that `resume` continues.
    """
    display, on = display or Silent(), distribution or ALONE
    if config.distribute != "none" and distribution is None:
        raise ValueError(
            f"distribute is '{config.distribute}': call finetune.launch.start, which connects what it takes"
        )
    check_place(run_dir, runs_dir)
    prepared, tested = settle_learning_rate(prepare(config, display, load_weights=True, distribution=on), display)
    surroundings, digests = describe() | {"distribution": on.describe()}, proof.digests(prepared.model)
    run = (
        RunDir.create_or_take_over(run_dir)
        if run_dir is not None
        else RunDir.create_numbered(runs_dir, f"{prepared.backbone.spec.label}-{prepared.dataset.name}")
    )
    # The lock first: who does not get it must not remove what its holder writes.
    with run.locked(), run.removed_unless_begun():
        run.remove_leftovers()
        run.write("environment.json", surroundings)
        if prepared.backbone.report is not None:
            run.write("load.json", prepared.backbone.report.to_json())
        run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": digests})
        run.write("data.json", describe_data(prepared.dataset))
        if tested is not None:
            write_range_test(run, tested)
        save_snapshot(run, KerasSubject(prepared.model).snapshot())
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
        with suppress(OSError, FinetuneError), run.locked():  # it may lie where nobody may write
            run.remove_leftovers()
        return _finished(run, display, on)
    with run.locked():
        run.remove_leftovers()
        if RunDir.open(path).status == "done":  # by who held it until now
            return _finished(run, display, on)
        config = run.config()
        state = State.load(run.state_path) if run.status == "interrupted" else None
        digests: dict[str, str] = {}
        if state is not None:
            state.check_settings(config)
            digests = run.read("freeze.json", "digests", "stages")["digests"]
        advice = "put it back, or start a new run with 'finetune run --config'"
        check = partial(check_unchanged, run, advice=advice)
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


def _finished(run: RunDir, display: Display, on: Distribution) -> RunDir:
    on.share(None)
    refuse_broken_plan(run)
    display.say(f"{run} is finished: nothing to do")
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
        source, settings = load_snapshot(run), prepared.config.to_json()
        with (
            on.watching(),
            opened(prepared.config.tracker, run.path, settings=settings, source=source, warn=display.warn) as trackers,
            ExitStack() as held,
        ):
            if on.workers > 1:
                on.share({"run": str(run), "data": prepared.dataset.fingerprint()})
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
    trackers: Trackers,
    digests: dict[str, str],
    held: ExitStack,
    *,
    resume_from: State | None,
    on: Distribution,
) -> None:
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    started = time.monotonic()
    expected = proof.expected_to_move(model, prepared.plan)
    with stop_signals() as requested:
        checkup = Checkup(prepared, load_snapshot(run)) if config.diagnose_every else None
        phases = Phases(run, prepared, display)
        recorder = Recorder(run, model, display, trackers, requested, checkup, phases)
        if resume_from is not None:
            put_back(model.variables, resume_from.arrays, "model")  # features are those of its weights
        telling = Progress(display.say, display.features, requested, display.warn)
        not_for = "the run is distributed, and each worker sees images of its own" if on.replicas > 1 else None
        if len(prepared.phases) > 1:
            not_for = "layers are unfrozen one after another"
        feed, cached = held.enter_context(cached_feed(model, dataset, config, telling, not_for=not_for)) or (None, None)
        history = train(
            model,
            dataset,
            config,
            recorder,
            feed=feed,
            stretches=phases.stretches(),
            rates=freezing.rates_by_variable(model, prepared.plan),
            resume_from=resume_from,
            distribution=on,
        )
        if requested():
            raise Interrupted("stopped after the last step")
    trained = Outcome(history, recorder.averages, phases, digests, expected, started, feed, cached)
    finish(run, prepared, display, trackers, trained)
