"""The one door to training: connect the devices a run is configured for, then start or resume it on them."""

from pathlib import Path

from finetune.config import RunConfig
from finetune.errors import WrongUse
from finetune.runs.directory import RunDir, check_place
from finetune.training import chief
from finetune.training.display import Display
from finetune.training.distribution.cluster import from_environment
from finetune.training.distribution.connection import connect
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
    if config.distribute != "multi-worker" or from_environment().rank == 0:
        check_place(run_dir, runs_dir)
    on, config = connect(config.distribute, config, "run", display)
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
        raise WrongUse(f"--distribute {distribute!r} is not valid: expected one of none, mirrored, multi-worker")
    config = None
    there = (path / "config.json").is_file()
    if there or distribute != "multi-worker" or from_environment().rank == 0:
        config = RunDir.open(path).config()
        distribute = distribute or config.distribute
    on, config = connect(distribute, config, "run --resume", display)
    with on.watching():
        if on.is_chief:
            return chief.resume(path, display=display, distribution=on)
        weights = on.share(None)
        if weights is None:
            display.say("the run is finished: nothing to do")
            return Worker(on.rank, on.workers, str(path))
        return follow(config, on, display, load_weights=bool(weights))
