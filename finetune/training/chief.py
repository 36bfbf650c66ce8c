"""The process that writes a run, from its config to its result."""

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from finetune.backbone import freezing
from finetune.batchnorm.statistics import KerasSubject
from finetune.config import RunConfig
from finetune.data.dataset import Share
from finetune.errors import FinetuneError, Interrupted, WorkerLost
from finetune.process import stop_signals
from finetune.runs.directory import FORMAT_VERSION, RunDir, check_place
from finetune.runs.model import load_snapshot, refuse_broken_plan, save_snapshot
from finetune.runs.run_data import check_unchanged, describe_data
from finetune.training import environment, proof
from finetune.training.display import Display
from finetune.training.distribution.strategy import Distribution
from finetune.training.feature_cache.extraction import Progress
from finetune.training.feature_cache.preparing import cached_feed
from finetune.training.finish import Outcome, finish
from finetune.training.loop.state import State, put_back
from finetune.training.loop.train import ImageFeed, train
from finetune.training.observers import Recorder
from finetune.training.periodic_diagnosis import Checkup
from finetune.training.phases import Phases
from finetune.training.prepare import Prepared, prepare
from finetune.training.range_test import settle_learning_rate, write_range_test
from finetune.training.tracking.trackers import Report, open_trackers


def start(
    config: RunConfig, *, run_dir: Path | None, runs_dir: Path, display: Display, distribution: Distribution
) -> RunDir:
    """`finetune.training.start.start` in the process that writes the run; `distribution` is connected."""
    check_place(run_dir, runs_dir)
    prepared = prepare(config, display, load_weights=True, distribution=distribution)
    prepared, tested = settle_learning_rate(prepared, display)
    surroundings = environment.describe() | {
        "distribution": {"workers": distribution.workers, "replicas": distribution.replicas}
    }
    digests = proof.digests(prepared.model)
    if run_dir is not None:
        run = RunDir.create_or_take_over(run_dir)
    else:
        run = RunDir.create_numbered(runs_dir, f"{prepared.backbone.spec.label}-{prepared.dataset.name}")
    # The lock first: a process that does not get it must not remove what its holder writes.
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
        # Last: a directory without it is not a run, and nothing resumes a run that is half described.
        run.write("config.json", {"format_version": FORMAT_VERSION, **prepared.config.to_json()})
        _Chief(run, prepared, display, distribution, digests).train_and_finish(None)
    return run


def resume(path: Path, *, display: Display, distribution: Distribution) -> RunDir:
    """`finetune.training.start.resume` in the process that writes the run. The distribution may have changed."""
    run = RunDir.open(path)
    if run.status == "done":
        with suppress(OSError, FinetuneError), run.locked():  # the run may lie in a directory that is read-only
            run.remove_leftovers()
        return _finished(run, display, distribution)
    with run.locked():
        run.remove_leftovers()
        if RunDir.open(path).status == "done":  # by the process that held the lock until now
            return _finished(run, display, distribution)
        config = run.config()
        state = State.load(run.state_path) if run.status == "interrupted" else None
        digests: dict[str, str] = {}
        if state is not None:
            state.check_settings(config)
            digests = run.read("freeze.json", "digests", "stages")["digests"]
        advice = "put it back, or start a new run with 'finetune run --config'"
        check = partial(check_unchanged, run, advice=advice)
        distribution.share(state is None)
        prepared = prepare(config, display, load_weights=state is None, check_data=check, distribution=distribution)
        _warn_of_other_replicas(run, prepared, display, distribution.replicas)
        if state is None:
            digests = proof.digests(prepared.model)
            run.write("freeze.json", {"stages": prepared.plan.stages(), "digests": digests})
        elif digests.keys() != proof.expected_to_change(prepared.model).keys():
            raise FinetuneError(f"{run.path / 'freeze.json'} is of another model: the run directory is damaged")
        _Chief(run, prepared, display, distribution, digests).train_and_finish(state)
    return run


def _finished(run: RunDir, display: Display, distribution: Distribution) -> RunDir:
    distribution.share(None)
    refuse_broken_plan(run)
    display.say(f"{run} is finished: nothing to do")
    return run


def _warn_of_other_replicas(run: RunDir, prepared: Prepared, display: Display, replicas: int) -> None:
    there = (run.path / "environment.json").is_file()
    before = run.read("environment.json").get("distribution", {}).get("replicas", 1) if there else replicas
    if before != replicas and prepared.plan.uses_batch_statistics and not prepared.config.bn_sync:
        display.warn(
            f"the run was started on {before} replicas and continues on {replicas}: without --bn-sync, BatchNorm "
            "now normalises by another number of images"
        )


@dataclass(frozen=True, eq=False)
class _Chief:
    """A prepared run in its directory. `digests` are the variables' before training, for the proof at the end."""

    run: RunDir
    prepared: Prepared
    display: Display
    distribution: Distribution
    digests: dict[str, str]

    def train_and_finish(self, resume_from: State | None) -> None:
        """Train, and write everything up to `result.json`. Errors say how to continue."""
        run, config, on = self.run, self.prepared.config, self.distribution
        again = "continue with, on every worker" if on.workers > 1 else "continue with"
        try:
            source, settings = load_snapshot(run), config.to_json()
            with (
                on.watching(),
                open_trackers(
                    config.tracker, run.path, settings=settings, source=source, warn=self.display.warn
                ) as report,
                ExitStack() as held,
            ):
                if on.workers > 1:
                    on.share({"run": str(run), "data": self.prepared.dataset.fingerprint()})
                outcome = self._train(report, held, resume_from)
                finish(run, self.prepared, self.display, report, outcome)
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

    def _train(self, report: Report, held: ExitStack, resume_from: State | None) -> Outcome:
        """Train to the last step. `held` keeps cached features until the test images are scored."""
        run, prepared, display, on = self.run, self.prepared, self.display, self.distribution
        config, model, dataset = prepared.config, prepared.model, prepared.dataset
        started = time.monotonic()
        expected = proof.expected_to_change(model, prepared.plan)
        with stop_signals() as requested:
            checkup = Checkup(prepared, load_snapshot(run)) if config.diagnose_every else None
            phases = Phases(run, prepared, display)
            recorder = Recorder(run, model, display, report, requested, checkup, phases)
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
                rates=freezing.rates_by_variable(model, prepared.plan),
                resume_from=resume_from,
                distribution=on,
            )
            if requested():
                raise Interrupted("stopped after the last step")
        return Outcome(history, recorder.averages, phases, self.digests, expected, started, feed, cached)
