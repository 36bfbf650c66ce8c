"""A run on one device, several, or several machines: connect what it takes, then start or resume it there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.backbone import freezing
from finetune.config import checking as configs
from finetune.config.checking import RunConfig
from finetune.errors import FinetuneError, Interrupted, WorkerLost, WrongUse
from finetune.runs.directory import RunDir, check_place
from finetune.training import chief as runs
from finetune.training.display import Display, Silent, stop_signals
from finetune.training.distribution import cluster as clusters
from finetune.training.distribution.connection import mirrored, multi_worker
from finetune.training.distribution.strategy import Distribution
from finetune.training.loop.loop import train
from finetune.training.loop.state import State
from finetune.training.prepare import prepare


@dataclass(frozen=True)
class Worker:
    """What a worker has to tell that is not the chief: `run` is where the chief has written."""

    rank: int
    workers: int
    run: str


def start(
    config: RunConfig, *, run_dir: Path | None = None, runs_dir: Path = Path("runs"), display: Display | None = None
) -> RunDir | Worker:
    """`finetune.training.chief.start` on what `config.distribute` says. With `multi-worker`, every worker calls this; the chief
    gets the run, the others a `Worker`, and have written nothing.

    Raises what `finetune.training.chief.start` raises; WorkerLost where another worker has gone.
    """
    display = display or Silent()
    if config.distribute == "none":
        return runs.start(config, run_dir=run_dir, runs_dir=runs_dir, display=display)
    if config.distribute == "mirrored":
        on = mirrored(display.warn)
        return runs.start(config, run_dir=run_dir, runs_dir=runs_dir, display=display, distribution=on)
    if clusters.from_environment().rank == 0:
        check_place(run_dir, runs_dir)
    on, settings = multi_worker(config.to_json(), "run", display.say)
    config = configs.from_mapping(settings, where="the chief's settings")
    with on.watching():
        if on.is_chief:
            return runs.start(config, run_dir=run_dir, runs_dir=runs_dir, display=display, distribution=on)
        return _follow(config, on, display, load_weights=True)


def resume(path: Path, *, distribute: str | None = None, display: Display | None = None) -> RunDir | Worker:
    """`finetune.training.chief.resume` on what `distribute` says; None: on what the run was started with.

    A worker that does not see the directory needs `distribute="multi-worker"`, and takes everything from the chief.
    """
    display = display or Silent()
    if distribute not in (None, "none", "mirrored", "multi-worker"):
        raise WrongUse(f"--distribute {distribute!r} will not do: expected one of none, mirrored, multi-worker")
    there = (path / "config.json").is_file()
    if there or distribute != "multi-worker":
        where = RunDir.open(path).path / "config.json"
        config = configs.from_mapping(configs.read_file(where), where=str(where))
        distribute = distribute or config.distribute
    if distribute == "none":
        return runs.resume(path, display=display)
    if distribute == "mirrored":
        return runs.resume(path, display=display, distribution=mirrored(display.warn))
    if not there and clusters.from_environment().rank == 0:
        RunDir.open(path)
    on, settings = multi_worker(config.to_json() if there else None, "run --resume", display.say)
    with on.watching():
        if on.is_chief:
            return runs.resume(path, display=display, distribution=on)
        weights = on.share(None)
        if weights is None:
            display.say("the run is finished: nothing to do")
            return Worker(on.rank, on.workers, str(path))
        config = configs.from_mapping(settings, where="the chief's settings")
        return _follow(config, on, display, load_weights=bool(weights))


def _follow(config: RunConfig, on: Distribution, display: Display, *, load_weights: bool) -> Worker:
    """What a worker does that is not the chief: the same steps on its own share, and no files."""
    prepared = prepare(config, Silent(), load_weights=load_weights, distribution=on)
    begun = on.share(None)
    run = str(begun["run"])
    if begun["data"] != prepared.dataset.fingerprint():
        raise FinetuneError(
            f"the images of worker {on.rank} ({prepared.dataset.source}) are not those of worker 0: copy them anew, or "
            "give --data-dir where the same ones lie"
        )
    who = f"worker {on.rank} of {on.workers}"
    display.say(f"{who}: training; {on.cluster.named(0) if on.cluster else 'worker 0'} writes {run}")
    again = f"continue with, on every worker: {RunDir(Path(run)).resume_command}"
    try:
        with stop_signals() as requested, on.watching():
            model = prepared.model
            rates = freezing.rates_by_variable(model, prepared.plan)
            following = _Following(display, requested)
            train(model, prepared.dataset, prepared.config, following, rates=rates, distribution=on)
            on.meet()
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted(f"{who}: {str(stopped) or 'interrupted'}; {again}") from None
    except WorkerLost as lost:
        raise WorkerLost(f"{lost}; {again}") from None
    display.say(f"{who}: finished")
    return Worker(on.rank, on.workers, run)


class _Following:
    """The loop's observer where nothing is written."""

    def __init__(self, display: Display, requested: Any) -> None:
        self.on_step, self.stop_requested = display.step, requested

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        pass

    def on_averages(self, weights: Any) -> None:
        pass

    def save(self, state: State) -> None:
        pass
