"""The one door to training: connect the devices a run is configured for, then start or resume it on them."""

from pathlib import Path

from finetune.config import RunConfig, from_mapping
from finetune.errors import WrongUse
from finetune.runs.directory import RunDir, check_place
from finetune.training import chief
from finetune.training.display import Display
from finetune.training.distribution.cluster import from_environment
from finetune.training.distribution.connection import mirrored, multi_worker
from finetune.training.distribution.strategy import ALONE
from finetune.training.prepare import Prepared, prepare
from finetune.training.worker import Worker as Worker
from finetune.training.worker import follow


def plan(config: RunConfig, *, display: Display | None = None) -> Prepared:
    """What `start` would train, without loading weights, training or writing anything.

    The settings are checked and completed, the data is read, the network built and its freeze plan shown.
    Raises WrongUse, FinetuneError, CheckpointError.
    """
    return prepare(config, display or Display(), load_weights=False)


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
    if config.distribute != "multi-worker":
        on = mirrored(display.warn) if config.distribute == "mirrored" else ALONE
        return chief.start(config, run_dir=run_dir, runs_dir=runs_dir, display=display, distribution=on)
    if from_environment().rank == 0:
        check_place(run_dir, runs_dir)
    on, settings = multi_worker(config.to_json(), "run", display.say)
    config = from_mapping(settings, where="the chief's settings")
    with on.watching():
        if on.is_chief:
            return chief.start(config, run_dir=run_dir, runs_dir=runs_dir, display=display, distribution=on)
        return follow(config, on, display, load_weights=True)


def resume(path: Path, *, distribute: str | None = None, display: Display | None = None) -> RunDir | Worker:
    """Continue an interrupted run; a finished one is left as it is.

    `distribute` is what to run on now; None: what the run was started on. A worker that does not see the directory
    needs `distribute="multi-worker"`, and gets everything from the chief. Raises as `start`.
    """
    display = display or Display()
    if distribute not in (None, "none", "mirrored", "multi-worker"):
        raise WrongUse(f"--distribute {distribute!r} will not do: expected one of none, mirrored, multi-worker")
    there = (path / "config.json").is_file()
    if there or distribute != "multi-worker":
        config = RunDir.open(path).config()
        distribute = distribute or config.distribute
    if distribute != "multi-worker":
        on = mirrored(display.warn) if distribute == "mirrored" else ALONE
        return chief.resume(path, display=display, distribution=on)
    if not there and from_environment().rank == 0:
        RunDir.open(path)
    on, settings = multi_worker(config.to_json() if there else None, "run --resume", display.say)
    with on.watching():
        if on.is_chief:
            return chief.resume(path, display=display, distribution=on)
        weights = on.share(None)
        if weights is None:
            display.say("the run is finished: nothing to do")
            return Worker(on.rank, on.workers, str(path))
        config = from_mapping(settings, where="the chief's settings")
        return follow(config, on, display, load_weights=bool(weights))
