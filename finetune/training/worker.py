"""The workers of a distributed run that are not the chief."""

from dataclasses import dataclass
from pathlib import Path

from finetune.backbone import freezing
from finetune.config.run_config import RunConfig
from finetune.errors import FinetuneError, Interrupted, WorkerLost
from finetune.process import stop_signals
from finetune.runs.directory import RunDir
from finetune.training.display import Display, Silent
from finetune.training.distribution.strategy import Distribution
from finetune.training.loop.train import train
from finetune.training.observers import FollowingObserver
from finetune.training.prepare import prepare


@dataclass(frozen=True)
class Worker:
    """What a worker has to tell that is not the chief: `run` is where the chief has written."""

    rank: int
    workers: int
    run: str


def follow(config: RunConfig, on: Distribution, display: Display, *, load_weights: bool) -> Worker:
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
            following = FollowingObserver(display, requested)
            train(model, prepared.dataset, prepared.config, following, rates=rates, distribution=on)
            on.meet()
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted(f"{who}: {str(stopped) or 'interrupted'}; {again}") from None
    except WorkerLost as lost:
        raise WorkerLost(f"{lost}; {again}") from None
    display.say(f"{who}: finished")
    return Worker(on.rank, on.workers, run)
