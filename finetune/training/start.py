"""The one door to training: a run, new or resumed, from its config to its result, on the devices it is configured for.

With `multi-worker`, the chief writes the run. The other workers train with it and write nothing.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tensorflow as tf

from finetune._version import PACKAGE
from finetune.batchnorm.statistics import KerasSubject
from finetune.config import RunConfig, with_weights_read
from finetune.data.dataset import Share
from finetune.errors import FinetuneError, Interrupted, WorkerLost, WrongUse
from finetune.files import write_text
from finetune.process import cores, stop_signals
from finetune.runs.directory import EXCLUDED, FORMAT_VERSION, RunDir, check_place
from finetune.runs.model import load_snapshot, refuse_broken_plan, save_snapshot
from finetune.runs.run_data import check_unchanged, describe_data
from finetune.training.display import Display
from finetune.training.distribution.cluster import from_environment
from finetune.training.distribution.connection import connect
from finetune.training.distribution.strategy import Distribution
from finetune.training.feature_cache.extraction import Progress
from finetune.training.feature_cache.preparing import cached_feed
from finetune.training.finish import finish
from finetune.training.loop.state import State, put_back
from finetune.training.loop.train import ImageFeed, train
from finetune.training.observers import FollowingObserver, Recorder
from finetune.training.phases import Prepared
from finetune.training.precision_trial import settle_precision
from finetune.training.prepare import prepare
from finetune.training.proof import Phases
from finetune.training.range_test import settle_learning_rate, write_range_test
from finetune.training.tracking.trackers import open_trackers

_PACKAGES = (PACKAGE, "tensorflow", "keras", "numpy", "pillow")


@dataclass(frozen=True)
class Worker:
    """A worker that is not the chief. `run` is the directory that the chief has written."""

    rank: int
    workers: int
    run: str


def plan(config: RunConfig, *, display: Display | None = None) -> Prepared:
    """What `start` would train, without training or writing anything. A published file is not fetched for it.

    The settings are checked and completed, the data is read, the network built and its freeze plan shown. A checkpoint
    that is given must fit. Raises WrongUse, FinetuneError, CheckpointError.
    """
    return prepare(config, display or Display(), load_weights=config.checkpoint is not None)


def start(
    config: RunConfig, *, run_dir: Path | None = None, runs_dir: Path = Path("runs"), display: Display | None = None
) -> RunDir | Worker:
    """Run `config` in a new directory (`run_dir`, or the next free name in `runs_dir`) to its result.

    With `multi-worker`, every worker calls this. The chief gets the run; the others get a `Worker` and write nothing.
    Everything the config says is checked, and data and weights are read, before the directory is made. What fails
    before the first epoch or saved state removes the directory again.
    Raises WrongUse, FinetuneError, CheckpointError; Interrupted leaves a run that `resume` continues; WorkerLost where
    another worker has gone.
    """
    display = display or Display()
    if config.distribute != "multi-worker" or from_environment().rank == 0:
        check_place(run_dir, runs_dir)
        config = with_weights_read(config)  # by the one that gives the config to the others
    on, config = connect(config.distribute, config, "run", display)
    with on.watching():
        if not on.is_chief:
            return _follow(config, on, display, load_weights=True)
        prepared = prepare(config, display, load_weights=True, distribution=on)
        prepared, precision = settle_precision(prepared, display)
        prepared, tested = settle_learning_rate(prepared, display)
        if run_dir is not None:
            run = RunDir.create_or_take_over(run_dir)
        else:
            run = RunDir.create_numbered(runs_dir, f"{prepared.backbone.spec.label}-{prepared.dataset.name}")
        # The lock first: a process that does not get it must not remove what its holder writes.
        with run.locked(), run.removed_unless_begun():
            run.remove_leftovers()
            run.write("environment.json", _environment(on))
            if prepared.backbone.report is not None:
                run.write("load.json", prepared.backbone.report.to_json())
            phases = Phases(run, prepared, display, resumed=False)
            run.write("data.json", describe_data(prepared.dataset, prepared.config))
            if prepared.config.exclude is not None:
                write_text(run.path / EXCLUDED, Path(prepared.config.exclude).read_text(encoding="utf-8"))
            if precision is not None:
                run.write("precision.json", precision.to_json())
            if tested is not None:
                write_range_test(run, tested)
            save_snapshot(run, KerasSubject(prepared.model).snapshot())
            # Last: a directory without it is not a run, and nothing resumes a run that is half described.
            run.write("config.json", {"format_version": FORMAT_VERSION, **prepared.config.to_json()})
            _train_and_finish(run, prepared, phases, display, on, resume_from=None)
    return run


def resume(path: Path, *, distribute: str | None = None, display: Display | None = None) -> RunDir | Worker:
    """Continue an interrupted run; a finished one is left as it is.

    `distribute` is what to run on now; None: what the run was started on. A worker that does not see the directory
    needs `distribute="multi-worker"`, and gets everything from the chief. Raises as `start`.
    """
    display = display or Display()
    if distribute not in (None, "none", "mirrored", "multi-worker"):
        raise WrongUse(f"--distribute {distribute!r} is not valid: expected one of none, mirrored, multi-worker")
    config = None
    if distribute != "multi-worker" or (path / "config.json").is_file() or from_environment().rank == 0:
        config = RunDir.open(path).config()
        distribute = distribute or config.distribute
    on, config = connect(distribute, config, "run --resume", display)
    with on.watching():
        if on.is_chief:
            return _resume(RunDir.open(path), config, display, on)
        if (weights := on.share(None)) is not None:
            return _follow(config, on, display, load_weights=bool(weights))
        display.say("the run is finished: nothing to do")
        return Worker(on.rank, on.workers, str(path))


def _resume(run: RunDir, config: RunConfig, display: Display, on: Distribution) -> RunDir:
    """Continue the run in the process that writes it. The distribution may have changed."""
    if run.status == "done":
        with suppress(OSError, FinetuneError), run.locked():  # the run may lie in a directory that is read-only
            run.remove_leftovers()
    else:
        with run.locked():
            run.remove_leftovers()
            if RunDir(run.path).status != "done":  # else the process that held the lock until now has finished it
                _continue(run, config, display, on)
                return run
    on.share(None)
    refuse_broken_plan(run)
    display.say(f"{run} is finished: nothing to do")
    return run


def _continue(run: RunDir, config: RunConfig, display: Display, on: Distribution) -> None:
    """Train on from the saved state of the run, or from the beginning where it has none."""
    state = State.load(run.state_path) if run.status == "interrupted" else None
    if state is not None:
        state.check_settings(config)
        run.read("freeze.json", "digests", "stages")  # a damaged one is reported before the data is read
    on.share(state is None)
    check = partial(check_unchanged, run, advice="put it back, or start a new run with 'finetune run --config'")
    prepared = prepare(config, display, load_weights=state is None, check_data=check, distribution=on)
    there = (run.path / "environment.json").is_file()
    before = run.read("environment.json").get("distribution", {}).get("replicas", 1) if there else on.replicas
    if before != on.replicas and prepared.plan.uses_batch_statistics and not config.bn_sync:
        display.warn(
            f"the run was started on {before} replicas and continues on {on.replicas}: without --bn-sync, BatchNorm "
            "now normalises by another number of images"
        )
    phases = Phases(run, prepared, display, resumed=state is not None)
    _train_and_finish(run, prepared, phases, display, on, resume_from=state)


def _train_and_finish(
    run: RunDir, prepared: Prepared, phases: Phases, display: Display, on: Distribution, *, resume_from: State | None
) -> None:
    """Train in the process that writes the run, and write everything up to `result.json`."""
    config, model, dataset = prepared.config, prepared.model, prepared.dataset
    source, settings = load_snapshot(run), config.to_json()
    with (
        _continued_by(run, on),
        open_trackers(config.tracker, run.path, settings=settings, source=source, warn=display.warn) as report,
        ExitStack() as held,  # the cached features, until the test images are scored
    ):
        if on.workers > 1:
            on.share({"run": str(run), "data": dataset.fingerprint()})
        with stop_signals() as requested:
            recorder = Recorder(run, prepared, display, requested, report, source)
            if resume_from is not None:
                put_back(model.variables, resume_from.arrays, "model")  # features are those of its weights
            not_for = None
            if len(prepared.phases) > 1:
                not_for = "layers are unfrozen one after another"
            elif on.replicas > 1:
                not_for = "the run is distributed, and each worker sees images of its own"
            progress = Progress(display.say, display.features, requested, display.warn)
            feed, cached = held.enter_context(cached_feed(model, dataset, config, progress, not_for=not_for)) or (
                ImageFeed(model, dataset, config, share=Share(on.rank, on.workers)),
                None,
            )
            history = train(
                feed,
                config,
                recorder,
                phases=phases,
                rates=prepared.rates,
                resume_from=resume_from,
                distribution=on,
            )
            if requested():
                raise Interrupted("stopped after the last step")
        finish(recorder, phases, feed, history, cached)
        # The run is finished. A worker that leaves before its answer has come here loses nothing.
        with suppress(WorkerLost), on.watching():
            on.meet()


def _follow(config: RunConfig, on: Distribution, display: Display, *, load_weights: bool) -> Worker:
    """Train as a worker that is not the chief: the same steps on its own share of the images, and no files."""
    prepared = prepare(config, Display(), load_weights=load_weights, distribution=on)
    begun = on.share(None)
    if begun["data"] != prepared.dataset.fingerprint():
        raise FinetuneError(
            f"the images of worker {on.rank} ({prepared.dataset.source}) differ from worker 0's: copy them again, or "
            "give --data-dir where the same ones lie"
        )
    run, who = str(begun["run"]), f"worker {on.rank} of {on.workers}"
    display.say(f"{who}: training; {on.cluster.named(0) if on.cluster else 'worker 0'} writes {run}")
    with _continued_by(RunDir(Path(run)), on), stop_signals() as requested:
        feed = ImageFeed(prepared.model, prepared.dataset, prepared.config, share=Share(on.rank, on.workers))
        observer = FollowingObserver(display, requested)
        train(feed, prepared.config, observer, rates=prepared.rates, distribution=on)
        on.meet()
    display.say(f"{who}: finished")
    return Worker(on.rank, on.workers, run)


@contextmanager
def _continued_by(run: RunDir, on: Distribution) -> Iterator[None]:
    """Errors inside say how to continue the run."""
    again = f"continue with{', on every worker' if on.workers > 1 else ''}: {run.resume_command}"
    try:
        with on.watching():
            yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        who = "" if on.is_chief else f"worker {on.rank} of {on.workers}: "
        raise Interrupted(f"{who}{str(stopped) or 'interrupted'}; {again}") from None
    except WorkerLost as lost:
        raise WorkerLost(f"{lost}; {again}") from None
    except OSError as error:
        if run.begun:
            error.add_note(f"continue with: {run.resume_command}")
        raise


def _environment(on: Distribution) -> dict[str, Any]:
    """For `environment.json`: versions, processors and devices."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cores": cores(),
        "devices": [device.device_type for device in tf.config.list_physical_devices()],
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0",
        "distribution": {"workers": on.workers, "replicas": on.replicas},
    }


def _version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
