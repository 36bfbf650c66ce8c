"""`[search]` of a jobs file: trials whose settings are drawn from a space, each a job of the batch.

The study is the batch's folder. The settings of a trial are in its job record and its scores in its run directory, so a
search that was killed at any moment goes on with the trials that exist.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from finetune._version import install_line
from finetune.batch.folder import BatchFolder
from finetune.batch.jobs import Job, JobsFile, Settings, check_seeds
from finetune.batch.search_space import Space, draw, read_space
from finetune.batch.status import JobStatus
from finetune.config import LISTS, SETTINGS, RunConfig
from finetune.errors import FinetuneError, WrongUse
from finetune.evaluation.selection import common_selection
from finetune.text import did_you_mean

DRAWN = 10
"""The first trials of TPE are those of a random search: it has nothing to learn from yet (Optuna's default)."""
_KEYS = ("trials", "sampler", "metric", "prune", "seed", "space")


@dataclass(frozen=True)
class Search:
    """What `[search]` asks for.

    sampler: "tpe" or "random". metric: the validation score to improve, a value of `select_by`; None where the data of
    a trial decides, when it runs: the mean average precision of images with several labels, else accuracy.
    """

    file: JobsFile
    space: Space
    trials: int
    sampler: str
    metric: str | None
    prune: bool
    seed: int

    @property
    def beforehand(self) -> bool:
        """Whether the settings of every trial are known before the first one runs."""
        return self.sampler == "random" or self.trials <= DRAWN

    def check(self) -> None:
        """FinetuneError where Optuna is needed and not installed."""
        asked = 'sampler = "tpe"' if self.sampler == "tpe" else "prune = true"
        if (self.sampler == "tpe" or self.prune) and find_spec("optuna") is None:
            raise FinetuneError(
                f"{asked} in [search] of {self.file.path} needs Optuna, which is not installed: "
                f'{install_line("search")}; or set sampler = "random" and prune = false, which need nothing'
            )

    def jobs(self, folder: BatchFolder) -> tuple[Job, ...]:
        """The trials whose settings are known: drawn at random, or recorded in `folder` when TPE proposed them."""
        found = (self._known(number, folder) for number in range(1, self.trials + 1))
        return tuple(job for job in found if job is not None)

    def samples(self) -> tuple[Job, ...]:
        """Jobs that together have both ends of every interval and every choice, to be checked before anything runs."""
        most = max(len(one.tested) for one in self.space.values())
        return tuple(
            self._job(0, {name: one.tested[place % len(one.tested)] for name, one in self.space.items()})
            for place in range(most)
        )

    def next_job(self, trials: Sequence[JobStatus]) -> Job | None:
        """The job that TPE proposes after `trials`, all that are known; None where there are enough."""
        known = {one.job.index for one in trials}
        number = next((number for number in range(1, self.trials + 1) if number not in known), None)
        if number is None:
            return None
        for one in trials:
            self._check_scored(one)
        from finetune.batch.optuna_study import suggest

        return self._job(number, suggest(self.space, trials, seed=self.seed, number=number))

    def is_pruned(self, trial: JobStatus, trials: Sequence[JobStatus]) -> bool:
        """Whether the running `trial` is to be stopped after its present epoch, as worse than most of `trials`."""
        if not self.prune or not trial.scores or trial.epoch >= (trial.epochs or 0):
            return False
        from finetune.batch.optuna_study import is_pruned

        return is_pruned(self.space, trial, [one for one in trials if one.state == "done" and one.score is not None])

    def outcome(self, trials: Sequence[JobStatus]) -> dict[str, Any]:
        """For `summary.json`: what was asked for, the best trial, every trial, and what the settings matter."""
        scored = [one for one in trials if one.state == "done" and one.score is not None]
        best = max(scored, key=lambda one: one.score or 0.0, default=None)
        metric = self.metric or common_selection(one.select_by for one in trials if one.select_by)
        return {
            "sampler": self.sampler,
            "trials": self.trials,
            "metric": metric,
            "prune": self.prune,
            "seed": self.seed,
            "best": None if best is None else {**self._row(best), "command": best.job.config.as_command()},
            "importance": self._importance(scored),
            "importance_trials": len(scored),
            "table": [self._row(one) for one in trials],
        }

    def _row(self, one: JobStatus) -> dict[str, Any]:
        settings = {name: getattr(one.job.config, name) for name in self.space}
        score = one.score if self.metric != "loss" or one.score is None else -one.score
        return {"name": one.job.name, "state": one.state, "score": score, "epoch": one.epoch, "settings": settings}

    def _importance(self, scored: Sequence[JobStatus]) -> dict[str, float] | None:
        if find_spec("optuna") is None:
            return None
        from finetune.batch.optuna_study import importance

        return importance(self.space, scored)

    def _known(self, number: int, folder: BatchFolder) -> Job | None:
        if self.sampler == "random" or number <= DRAWN:
            return self._job(number, draw(self.space, seed=self.seed, number=number))
        recorded = folder.requested(_name(number))
        if recorded is None:
            return None
        settings: Settings = {}
        for name, one in self.space.items():
            value = tuple(recorded[name]) if name in LISTS and name in recorded else recorded.get(name)
            if one.encode(value) is None:
                raise WrongUse(
                    f"{self.file.path} has changed since {_name(number)} in {folder} was run: {name} is {value!r} "
                    "there, which is not in [search.space]; restore the space, or give another --runs-dir"
                )
            settings[name] = value
        return self._job(number, settings)

    def _job(self, number: int, settings: Settings) -> Job:
        config = self.file.config(settings, f"[search] of {self.file.path}")
        return Job(number, _name(number), _name(number), config, settings)

    def _check_scored(self, one: JobStatus) -> None:
        if one.state == "done" and one.score is None:
            raise FinetuneError(
                f"{one.job.name} has no validation {one.select_by or 'accuracy'}, which [search] of {self.file.path} is"
                " to improve: expected validation images; set validation = 0.1 in [defaults], and give another "
                "--runs-dir"
            )


def read_search(file: JobsFile, *, seeds: int | None = None) -> Search | None:
    """The search that a jobs file asks for, every value checked; None for a file without `[search]`."""
    table = file.search
    if table is None:
        return None
    where = f"[search] of {file.path}"
    for key in table:
        if key not in _KEYS:
            hint = did_you_mean(key, _KEYS)
            setting = "a setting goes into [defaults] or [search.space]; " if key.replace("-", "_") in SETTINGS else ""
            raise WrongUse(f"unknown key '{key}' in {where}: {hint}{setting}expected {', '.join(_KEYS)}")
    if (file.seeds if seeds is None else check_seeds(seeds, "--seeds")) > 1:
        raise WrongUse(f"{where} and seeds contradict each other: repeat the best trial with further seeds afterwards")
    trials, seed = (_whole(table, key, *bounds, where) for key, bounds in _BOUNDS.items())
    choices = {key: _choice(table, key, known, where) for key, known in _CHOICES.items()}
    prune = table.get("prune", False)
    if not isinstance(prune, bool):
        raise WrongUse(f"prune in {where} is {prune!r}: expected true or false")
    space = read_space(file, table.get("space"))
    for name in ("select_by", "seed"):
        if name in space:
            raise WrongUse(f"{name} in [search.space] of {file.path} makes no trial better: put it into [defaults]")
    _put_metric(file, choices["metric"])
    config = _check_pairs(file, space)
    return Search(file, space, trials, choices["sampler"], config.select_by, prune, seed)


_BOUNDS = {"trials": (20, 1, 10_000), "seed": (0, 0, 2**31 - 1)}
_CHOICES = {"sampler": ("tpe", "random"), "metric": SETTINGS["select_by"].check.choices}


def _whole(table: Settings, key: str, default: int, least: int, most: int, where: str) -> int:
    value = table.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise WrongUse(f"{key} in {where} is {value!r}: expected a whole number from {least} to {most}")
    return value


def _choice(table: Settings, key: str, known: Sequence[str], where: str) -> str:
    value = table.get(key, "" if key == "metric" else known[0])
    if key in table and value not in known:
        hint = did_you_mean(str(value), known)
        raise WrongUse(f"{key} in {where} is {value!r}: {hint}expected one of {', '.join(known)}")
    return str(value)


def _put_metric(file: JobsFile, metric: str) -> None:
    """Let every trial select its epoch by `metric`, if it is given: the search and the ranking then have one score."""
    given = file.defaults.get("select_by", metric)
    if metric and given != metric:
        raise WrongUse(
            f'metric = "{metric}" in [search] of {file.path} and select-by = "{given}" in [defaults] contradict each '
            "other: give one of them, or the same"
        )
    if metric:
        file.defaults["select_by"] = metric


def _check_pairs(file: JobsFile, space: Space) -> RunConfig:
    """Check that any two tested values go together: a contradiction is one of two settings. Return one config."""
    where = f"[search.space] of {file.path}"
    config = file.config({name: one.tested[0] for name, one in space.items()}, where)
    for (first, one), (second, other) in itertools.combinations(space.items(), 2):
        rest = {name: each.tested[0] for name, each in space.items()}
        for pair in itertools.product(one.tested, other.tested):
            file.config({**rest, first: pair[0], second: pair[1]}, where)
    return config


def _name(number: int) -> str:
    return f"trial-{number:03d}"
