"""The batch as one ranked table, written after every job: seeds are pooled, and differences within noise marked."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.batch.folder import BatchFolder
from finetune.batch.status import STATES, JobStatus
from finetune.evaluation.selection import common_selection, score_name
from finetune.evaluation.significance import FORMULA, Repeats, difference_words, mean_of, rank_results
from finetune.files import to_json, write_text

_AS_IN_STATUS = (
    *("epochs", "batch_size", "learning_rate", "train_seconds", "images_per_second", "attempts", "note", "error"),
)
"""Columns of a job that are attributes of its `JobStatus`."""


@dataclass(frozen=True)
class Group:
    """The repeats of one job with other seeds.

    select_by: the validation score that ranks the groups. rank: from 1; None if no repeat is done. verdict: "best",
    "= best within noise", or the difference between its mean test accuracy and that of the best group.
    """

    name: str
    statuses: tuple[JobStatus, ...]
    rank: int | None = None
    verdict: str = ""
    select_by: str = "accuracy"

    @property
    def done(self) -> tuple[JobStatus, ...]:
        """The repeats that have a result."""
        return tuple(status for status in self.statuses if status.state == "done")

    @property
    def results(self) -> Repeats:
        """The accuracies of the `done` repeats, with their means and their standard deviations (n - 1) over seeds."""
        return Repeats(
            self.name,
            test=tuple(one.test for one in self.done),
            validation=tuple(one.validation for one in self.done),
            examples=min((one.examples or 1 for one in self.done), default=1),
            selected=self._selected if self.select_by != "accuracy" else None,
        )

    @property
    def _selected(self) -> tuple[float | None, ...]:
        return tuple(one.selected(self.select_by) for one in self.done)

    def scores(self) -> tuple[float | None, float | None]:
        """(validation, test): means of the score `select_by` over the `done` repeats; None where one has none."""
        if self.select_by == "accuracy":
            return self.results.validation_mean, self.results.mean
        found = [-one if self.select_by == "loss" and one is not None else one for one in self._selected]
        tested = [one.test_score(self.select_by) for one in self.done]
        return mean_of(found), mean_of(tested)


@dataclass(frozen=True)
class Summary:
    """All jobs and their groups, the best first. `ranked_by` is "validation" or "test", by the score `select_by`.

    search: the outcome of a search (`Search.outcome`); None for another batch.
    """

    statuses: tuple[JobStatus, ...]
    groups: tuple[Group, ...]
    ranked_by: str
    select_by: str = "accuracy"
    search: dict[str, Any] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of jobs in each state that occurs."""
        found = {state: sum(one.state == state for one in self.statuses) for state in STATES}
        return {state: count for state, count in found.items() if count}

    @property
    def complete(self) -> bool:
        """Whether every job is done, or pruned by a search."""
        return all(one.settled for one in self.statuses)

    @property
    def seeds(self) -> bool:
        """Whether some job is repeated."""
        return any(len(group.statuses) > 1 for group in self.groups)

    @property
    def columns(self) -> list[str]:
        """The settings that differ among the jobs, in the order of the file; the seed has a column of its own."""
        names = list(dict.fromkeys(name for one in self.statuses for name in one.job.differs if name != "seed"))
        return [name for name in names if len({repr(getattr(one.job.config, name)) for one in self.statuses}) > 1]

    def to_json(self, folder: BatchFolder) -> dict[str, Any]:
        """The content of `summary.json`."""
        return {
            "schema_version": 1,
            "runs_dir": str(folder.path.absolute()),
            "ranked_by": f"{self.ranked_by}_{'accuracy' if self.ranked_by == 'test' else score_name(self.select_by)}",
            "within_noise": FORMULA,
            "counts": self.counts,
            **({} if self.search is None else {"search": self.search}),
            "groups": [_group_json(group) for group in self.groups],
            "jobs": [_job_json(one, group, folder, self.columns) for group in self.groups for one in group.statuses],
        }


def summarise(statuses: Sequence[JobStatus], search: dict[str, Any] | None = None) -> Summary:
    """Rank the jobs that are done: by validation accuracy if every finished job has one, else by test accuracy. Another
    score that all jobs `select_by` takes the place of validation accuracy.

    Choosing by test accuracy fits the choice to the test set, so it is the last resort and the summary reports it.
    """
    names = dict.fromkeys(one.job.group for one in statuses)
    scores = (one.select_by or one.job.config.select_by for one in statuses)
    by_score = common_selection(score for score in scores if score)
    groups = [
        Group(name, tuple(one for one in statuses if one.job.group == name), select_by=by_score) for name in names
    ]
    with_result = [group for group in groups if group.done]
    by, order = rank_results([group.results for group in with_result])
    ordered = [with_result[position] for position in order]
    ranked = [
        replace(group, rank=place, verdict=difference_words(group.results, ordered[0].results) if place > 1 else "best")
        for place, group in enumerate(ordered, 1)
    ]
    return Summary(tuple(statuses), (*ranked, *(group for group in groups if not group.done)), by, by_score, search)


def write_summary(folder: BatchFolder, summary: Summary) -> None:
    """Write `summary.json` and `summary.csv`, each replaced atomically."""
    value = summary.to_json(folder)
    write_text(folder.path / "summary.json", to_json(value, indent=2) + "\n")
    text = io.StringIO()
    settings = [f"setting_{name}" for name in summary.columns]
    fields = [name for name in value["jobs"][0] if name != "settings"] if value["jobs"] else []
    writer = csv.DictWriter(text, [*fields[:4], *settings, *fields[4:]], lineterminator="\n")
    writer.writeheader()
    for row in value["jobs"]:
        own = {f"setting_{name}": _cell(row["settings"].get(name)) for name in summary.columns}
        writer.writerow({name: _cell(cell) for name, cell in {**row, **own}.items() if name != "settings"})
    write_text(folder.path / "summary.csv", text.getvalue())


def _group_json(group: Group) -> dict[str, Any]:
    results = group.results
    validation, test = group.scores()
    return {
        "rank": group.rank,
        "name": group.name,
        "verdict": group.verdict,
        "seeds": [one.job.config.seed for one in group.statuses],
        "done": len(group.done),
        "test_accuracy": results.mean,
        "test_accuracy_spread": results.spread,
        "validation_accuracy": results.validation_mean,
        "validation_accuracy_spread": results.validation_spread,
        "select_by": group.select_by,
        "validation_selected": validation,
        "test_selected": test,
    }


def _job_json(one: JobStatus, group: Group, folder: BatchFolder, columns: list[str]) -> dict[str, Any]:
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
        **{
            f"{split}_{name}": found.get(f"{prefix}{name}") if one.state == "done" else None
            for name in ("balanced_accuracy", "macro_f1", "map")
            for split, prefix, found in (("validation", "validation_", one.kept), ("test", "", one.test_scores))
        },
        "verdict": group.verdict,
        **{name: getattr(one, name) for name in _AS_IN_STATUS},
        "run": str(folder.run(one.job).path.absolute()),
        "log": str(folder.log(one.job).absolute()),
        "settings": {name: getattr(config, name) for name in columns},
    }


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value
