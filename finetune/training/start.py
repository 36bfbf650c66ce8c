"""A run on one device, several, or several machines: connect what it takes, then start or resume it there."""

from pathlib import Path

from finetune.config.checking import from_mapping
from finetune.config.run_config import RunConfig
from finetune.errors import WrongUse
from finetune.runs.directory import RunDir, check_place
from finetune.training import chief as runs
from finetune.training.display import Display, Silent
from finetune.training.distribution.cluster import from_environment
from finetune.training.distribution.connection import mirrored, multi_worker
from finetune.training.worker import Worker, follow


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
    if from_environment().rank == 0:
        check_place(run_dir, runs_dir)
    on, settings = multi_worker(config.to_json(), "run", display.say)
    config = from_mapping(settings, where="the chief's settings")
    with on.watching():
        if on.is_chief:
            return runs.start(config, run_dir=run_dir, runs_dir=runs_dir, display=display, distribution=on)
        return follow(config, on, display, load_weights=True)


def resume(path: Path, *, distribute: str | None = None, display: Display | None = None) -> RunDir | Worker:
    """`finetune.training.chief.resume` on what `distribute` says; None: on what the run was started with.

    A worker that does not see the directory needs `distribute="multi-worker"`, and takes everything from the chief.
    """
    display = display or Silent()
    if distribute not in (None, "none", "mirrored", "multi-worker"):
        raise WrongUse(f"--distribute {distribute!r} will not do: expected one of none, mirrored, multi-worker")
    there = (path / "config.json").is_file()
    if there or distribute != "multi-worker":
        config = RunDir.open(path).config()
        distribute = distribute or config.distribute
    if distribute == "none":
        return runs.resume(path, display=display)
    if distribute == "mirrored":
        return runs.resume(path, display=display, distribution=mirrored(display.warn))
    if not there and from_environment().rank == 0:
        RunDir.open(path)
    on, settings = multi_worker(config.to_json() if there else None, "run --resume", display.say)
    with on.watching():
        if on.is_chief:
            return runs.resume(path, display=display, distribution=on)
        weights = on.share(None)
        if weights is None:
            display.say("the run is finished: nothing to do")
            return Worker(on.rank, on.workers, str(path))
        config = from_mapping(settings, where="the chief's settings")
        return follow(config, on, display, load_weights=bool(weights))
