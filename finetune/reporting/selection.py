"""The runs of a report: run directories, and the finished runs of batches."""

from collections.abc import Sequence
from pathlib import Path

from finetune.errors import FinetuneError, WrongUse
from finetune.files import read_json


def select_runs(paths: Sequence[Path]) -> list[Path]:
    """Run directories in the order given. A batch, a directory with summary.json, gives its runs in their ranking.

    Raises WrongUse for a run that is listed twice, FinetuneError where a path is neither a run nor a batch.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "config.json").is_file() or not (path / "summary.json").is_file():
            found.append(_run(path))
        else:
            found += _batch(path)
    seen: dict[Path, Path] = {}
    for one in found:
        twin = seen.setdefault(one.resolve(), one)
        if twin is not one:
            raise WrongUse(f"{one} comes twice: leave one out")
    return found


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its last part, or as many of its last parts as make all names different."""
    parts = [path.absolute().parts for path in paths]
    for length in range(1, max(map(len, parts), default=1) + 1):
        chosen = ["/".join(one[-length:]) for one in parts]
        if len(set(chosen)) == len(chosen):
            return chosen
    return [str(path) for path in paths]


def _run(path: Path) -> Path:
    if path.suffix == ".keras" and (path.parent / "config.json").is_file():
        raise WrongUse(f"{path} is a model: a report is of a whole run, give {path.parent}")
    if not (path / "config.json").is_file():
        raise FinetuneError(
            f"{path} is no run and no batch: expected a directory with config.json in it, as 'finetune run' writes, or "
            "one with summary.json, as 'finetune batch' writes"
            + ("" if path.exists() else "; there is nothing of that name")
        )
    return path


def _batch(path: Path) -> list[Path]:
    where = path / "summary.json"
    jobs = read_json(where).get("jobs")
    if not isinstance(jobs, list) or not all(
        isinstance(job, dict) and isinstance(job.get("name"), str) for job in jobs
    ):
        raise FinetuneError(f"{where} is no summary of a batch: give run directories, or repeat 'finetune batch'")
    # By the job's name, not by the path in the summary: the batch may have been moved.
    found = [path / job["name"] for job in jobs if job.get("state") == "done"]
    missing = [one for one in found if not (one / "config.json").is_file() or one.resolve().parent != path.resolve()]
    if missing:
        raise FinetuneError(f"{missing[0]} is missing, which {where} names: restore it, or repeat 'finetune batch'")
    if not found:
        raise FinetuneError(f"{path} has no finished job: go on with 'finetune batch'")
    return found
