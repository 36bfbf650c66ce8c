"""The batch as one ranked table: seeds pooled, noise told from difference, written after every job."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.batch.folder import BatchFolder
from finetune.batch.status import STATES, JobStatus
from finetune.evaluation.significance import FORMULA, Repeats, difference_words, rank_results
from finetune.files import to_json, write_text


@dataclass(frozen=True)
class Group:
    """The repeats of one job with other seeds. Means and standard deviations (n - 1) are over its `done` jobs.

    rank: from 1; None where nothing is done. verdict: "best", "= best within noise", or how far the mean test accuracy
    is from the best group's.
    """

    name: str
    standings: tuple[JobStatus, ...]
    rank: int | None = None
    verdict: str = ""

    @property
    def done(self) -> tuple[JobStatus, ...]:
        """The repeats that have a result."""
        return tuple(standing for standing in self.standings if standing.state == "done")

    @property
    def results(self) -> Repeats:
        """What they came to."""
        return Repeats(
            self.name,
            test=tuple(one.test for one in self.done),
            validation=tuple(one.validation for one in self.done),
            examples=min((one.examples or 1 for one in self.done), default=1),
        )

    @property
    def test(self) -> float | None:
        """Mean test accuracy."""
        return self.results.mean

    @property
    def test_spread(self) -> float | None:
        """Its standard deviation over seeds; None for fewer than two."""
        return self.results.spread

    @property
    def validation(self) -> float | None:
        """Mean validation accuracy; None where a repeat has none."""
        return self.results.validation_mean

    @property
    def validation_spread(self) -> float | None:
        """Its standard deviation over seeds."""
        return self.results.validation_spread

    @property
    def variance(self) -> float:
        """Of the mean test accuracy, from a finite test set and from the seeds where there are several."""
        return self.results.variance


@dataclass(frozen=True)
class Summary:
    """All jobs and their groups, the best first. `ranked_by` is "validation" or "test"."""

    standings: tuple[JobStatus, ...]
    groups: tuple[Group, ...]
    ranked_by: str

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by state, of the states that occur."""
        found = {state: sum(one.state == state for one in self.standings) for state in STATES}
        return {state: count for state, count in found.items() if count}

    @property
    def complete(self) -> bool:
        """Whether every job is done."""
        return all(one.state == "done" for one in self.standings)

    @property
    def seeds(self) -> bool:
        """Whether some job is repeated."""
        return any(len(group.standings) > 1 for group in self.groups)

    @property
    def columns(self) -> list[str]:
        """The settings that differ among the jobs, in the order they first come in the file; the seed is apart."""
        names = list(dict.fromkeys(name for one in self.standings for name in one.job.differs if name != "seed"))
        return [name for name in names if len({repr(getattr(one.job.config, name)) for one in self.standings}) > 1]

    def to_json(self, place: BatchFolder) -> dict[str, Any]:
        """For `summary.json`."""
        return {
            "schema_version": 1,
            "runs_dir": str(place.path.absolute()),
            "ranked_by": f"{self.ranked_by}_accuracy",
            "within_noise": FORMULA,
            "counts": self.counts,
            "groups": [_group_json(group) for group in self.groups],
            "jobs": [_job_json(one, group, place, self.columns) for group in self.groups for one in group.standings],
        }


def summarise(standings: Sequence[JobStatus]) -> Summary:
    """Rank what is done: by validation accuracy where every finished job has one, else by test accuracy.

    To choose by test accuracy is to train on the test set a little, so it is the last resort, and said.
    """
    names = dict.fromkeys(one.job.group for one in standings)
    groups = [Group(name, tuple(one for one in standings if one.job.group == name)) for name in names]
    with_result = [group for group in groups if group.done]
    by, order = rank_results([group.results for group in with_result])
    ordered = [with_result[position] for position in order]
    ranked = [
        Group(
            group.name,
            group.standings,
            place,
            difference_words(group.results, ordered[0].results) if group is not ordered[0] else "best",
        )
        for place, group in enumerate(ordered, 1)
    ]
    return Summary(tuple(standings), (*ranked, *(group for group in groups if not group.done)), by)


def write(place: BatchFolder, summary: Summary) -> None:
    """`summary.json` and `summary.csv`, each replaced atomically."""
    value = summary.to_json(place)
    write_text(place.path / "summary.json", to_json(value, indent=2) + "\n")
    text = io.StringIO()
    settings = [f"setting_{name}" for name in summary.columns]
    fields = [name for name in value["jobs"][0] if name != "settings"] if value["jobs"] else []
    writer = csv.DictWriter(text, [*fields[:4], *settings, *fields[4:]], lineterminator="\n")
    writer.writeheader()
    for row in value["jobs"]:
        own = {f"setting_{name}": _cell(row["settings"].get(name)) for name in summary.columns}
        writer.writerow({name: _cell(cell) for name, cell in {**row, **own}.items() if name != "settings"})
    write_text(place.path / "summary.csv", text.getvalue())


def files(place: BatchFolder) -> tuple[Path, Path]:
    """Where `write` puts them."""
    return place.path / "summary.json", place.path / "summary.csv"


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "rank": group.rank,
        "name": group.name,
        "verdict": group.verdict,
        "seeds": [one.job.config.seed for one in group.standings],
        "done": len(group.done),
        "test_accuracy": group.test,
        "test_accuracy_spread": group.test_spread,
        "validation_accuracy": group.validation,
        "validation_accuracy_spread": group.validation_spread,
    }


def _job_json(one: JobStatus, group: Group, place: BatchFolder, columns: list[str]) -> dict[str, Any]:
    config = one.job.config
    return {
        "rank": group.rank,
        "name": one.job.name,
        "group": one.job.group,
        "state": one.state,
        "seed": config.seed,
        "validation_accuracy": one.validation if one.state == "done" else None,
        "test_accuracy": one.test,
        "test_accuracy_batch_statistics": one.test_batch,
        "test_images": one.examples,
        "verdict": group.verdict,
        "epochs": one.epochs,
        "batch_size": one.batch_size,
        "learning_rate": one.learning_rate,
        "train_seconds": one.train_seconds,
        "images_per_second": one.images_per_second,
        "attempts": one.attempts,
        "note": one.note,
        "error": one.error,
        "run": str(place.run(one.job).path.absolute()),
        "log": str(place.log(one.job).absolute()),
        "settings": {name: getattr(config, name) for name in columns},
    }


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value
