"""The workers of a distributed run that are not the chief."""

from dataclasses import dataclass
from pathlib import Path

from finetune.backbone import freezing
from finetune.config import RunConfig
from finetune.data.dataset import Share
from finetune.errors import FinetuneError, Interrupted, WorkerLost
from finetune.process import stop_signals
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.distribution.strategy import Distribution
from finetune.training.loop.train import ImageFeed, train
from finetune.training.observers import FollowingObserver
from finetune.training.prepare import prepare


@dataclass(frozen=True)
class Worker:
    """A worker that is not the chief. `run` is the directory that the chief has written."""

    rank: int
    workers: int
    run: str


def follow(config: RunConfig, on: Distribution, display: Display, *, load_weights: bool) -> Worker:
    """Train as a worker that is not the chief: the same steps on its own share of the images, and no files."""
    prepared = prepare(config, Display(), load_weights=load_weights, distribution=on)
    begun = on.share(None)
    run = str(begun["run"])
    if begun["data"] != prepared.dataset.fingerprint():
        raise FinetuneError(
            f"the images of worker {on.rank} ({prepared.dataset.source}) differ from worker 0's: copy them again, or "
            "give --data-dir where the same ones lie"
        )
    who = f"worker {on.rank} of {on.workers}"
    display.say(f"{who}: training; {on.cluster.named(0) if on.cluster else 'worker 0'} writes {run}")
    again = f"continue with, on every worker: {RunDir(Path(run)).resume_command}"
    try:
        with stop_signals() as requested, on.watching():
            model = prepared.model
            rates = freezing.rates_by_variable(model, prepared.plan)
            feed = ImageFeed(model, prepared.dataset, prepared.config, share=Share(on.rank, on.workers))
            train(feed, prepared.config, FollowingObserver(display, requested), rates=rates, distribution=on)
            on.meet()
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted(f"{who}: {str(stopped) or 'interrupted'}; {again}") from None
    except WorkerLost as lost:
        raise WorkerLost(f"{lost}; {again}") from None
    display.say(f"{who}: finished")
    return Worker(on.rank, on.workers, run)
