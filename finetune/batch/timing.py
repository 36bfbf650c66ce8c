"""How long the rest will take: from measurements of this batch only, never from a guess."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.batch.status import JobStatus


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until all is done, and how many measured jobs that is taken from."""

    seconds: float
    measured: int


def left(standings: Sequence[JobStatus], pixels: Mapping[str, int | None], slots: int) -> TimeLeft | None:
    """What pending, interrupted and running jobs still take on `slots` workers; None without any measurement.

    `pixels` gives each job's work by its name (`Survey.pixels`). A job is taken to need its pixels at the mean speed
    of the measured jobs of its backbone, or of all where none of its backbone is measured. Measured are finished
    jobs by their wall time; while there is none, running ones by their last epoch.
    """
    known = [(one, seconds) for one in standings if (seconds := _whole_seconds(one)) and pixels.get(one.job.name)]
    measured = [pair for pair in known if pair[0].state == "done"] or known
    if not measured:
        return None
    total = longest = 0.0
    for one in standings:
        if one.state in ("done", "failed"):
            continue
        work = pixels.get(one.job.name)
        if not work:
            return None
        like = [pair for pair in measured if pair[0].job.config.backbone == one.job.config.backbone] or measured
        speed = sum(pixels[done.job.name] or 0 for done, _ in like) / sum(seconds for _, seconds in like)
        part = 1.0 - (one.epoch / one.epochs if one.epochs else 0.0)
        seconds = work * part / speed
        total, longest = total + seconds, max(longest, seconds)
    return TimeLeft(max(total / max(slots, 1), longest), len(measured))


def _whole_seconds(one: JobStatus) -> float | None:
    """What the whole job took, or takes at the speed of its last epoch."""
    if one.state == "done":
        return max(one.seconds, one.train_seconds or 0.0) or None
    if one.state == "running" and one.epoch_seconds and one.epochs:
        return one.epoch_seconds * one.epochs
    return None
