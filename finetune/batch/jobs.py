"""The jobs file: `[defaults]`, `[matrix]` whose lists are crossed, and `[[job]]`; what it asks for, as RunConfigs."""

import difflib
import itertools
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.batch import job_names, paths
from finetune.config import LISTS, SETTINGS, RunConfig, from_mapping, named
from finetune.errors import FinetuneError, WrongUse

MANY = 100
"""More jobs than this are most often a mistake in a matrix: they must be asked for by their number."""
_AT_MOST = 100_000

Settings = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of the batch. `index` counts from 1 in the file's order; `group` is what repeats with other seeds share;
    `differs` is what this job sets beyond the file's defaults."""

    index: int
    name: str
    group: str
    config: RunConfig
    differs: Settings


def read(path: Path, *, seeds: int | None = None, really: int | None = None) -> tuple[Job, ...]:
    """The jobs of the file at `path`, in its order, every setting checked.

    `seeds` (default: `seeds` of [defaults], or 1) repeats every job with its seed, seed + 1, ...; `really` is the
    number of jobs where they are more than MANY. Raises WrongUse and FinetuneError that name the file and the place.
    """
    file = _File(path)
    repeats = file.seeds if seeds is None else _check_seeds(seeds, "--seeds")
    if repeats > 1 and "seed" in file.matrix:
        raise WrongUse(
            f"{path}: 'seed' is in [matrix], and seeds = {repeats} repeats every job with further seeds: leave one out"
        )
    crossed = math.prod(len(values) for values in file.matrix.values()) if file.matrix else 0
    if (crossed + len(file.own)) * repeats > _AT_MOST:
        raise WrongUse(
            f"{path} asks for {(crossed + len(file.own)) * repeats:,} jobs: expected at most {_AT_MOST:,}; shorten the "
            "lists of [matrix], or divide it into several files"
        )
    asked = [*file.combinations(), *file.own]
    if not asked:
        raise WrongUse(f"{path} asks for no job: give [matrix] lists, [[job]] tables, or fewer 'exclude'")
    if len(asked) * repeats > MANY and really != len(asked) * repeats:
        raise WrongUse(
            f"{path} asks for {len(asked) * repeats} jobs, more than {MANY}: if that is meant, say so with "
            f"--yes-really {len(asked) * repeats}" + ("" if really is None else f" (not {really})")
        )
    jobs = list(_repeated(path, _named(path, file, asked), repeats))
    job_names.refuse_duplicates(path, [job.name for job in jobs])
    return tuple(jobs)


def select(jobs: tuple[Job, ...], wanted: tuple[str, ...]) -> tuple[Job, ...]:
    """The jobs of these names or numbers, in the file's order; all where none are given. WrongUse for another."""
    chosen = set()
    for word in wanted:
        found = [job for job in jobs if job.name == word] or [job for job in jobs if str(job.index) == word]
        if not found:
            near = difflib.get_close_matches(word, [job.name for job in jobs], n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected a number from 1 to {len(jobs)}, or a job's name"
            raise WrongUse(f"--only {word!r} is no job of the file: {hint} '--dry-run' lists them")
        chosen.add(found[0].index)
    return tuple(job for job in jobs if not wanted or job.index in chosen)


class _File:
    """The parts of a jobs file, each checked where it stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _parse(path)
        for key in content:
            if key not in ("defaults", "matrix", "job"):
                raise WrongUse(f"unknown key '{key}' in {path}: {_place_for(key)}")
        self.defaults, self.seeds = self._read_defaults(content.get("defaults", {}))
        self.matrix, self._exclude = self._read_matrix(content.get("matrix", {}))
        self.own = self._read_own(content.get("job", []))

    def combinations(self) -> Iterator[tuple[str | None, Settings]]:
        """(None, settings) of the crossed lists without what is excluded."""
        if not self.matrix:
            return
        used = [False] * len(self._exclude)
        for values in itertools.product(*self.matrix.values()):
            settings = dict(zip(self.matrix, values, strict=True))
            hits = [all(_same(settings[key], value) for key, value in rule.items()) for rule in self._exclude]
            used = [before or hit for before, hit in zip(used, hits, strict=True)]
            if not any(hits):
                yield None, settings
        for rule, was_used in zip(self._exclude, used, strict=True):
            if not was_used:
                raise WrongUse(f"{self.path}: exclude {rule} matches no combination of [matrix]: correct or remove it")

    def _read_defaults(self, table: Any) -> tuple[Settings, int]:
        table = dict(self._table(table, "[defaults]"))
        seeds = _check_seeds(table.pop("seeds", 1), f"seeds in [defaults] of {self.path}")
        return self._settings(table, "[defaults]"), seeds

    def _read_matrix(self, table: Any) -> tuple[dict[str, list[Any]], list[Settings]]:
        table = dict(self._table(table, "[matrix]"))
        exclude = table.pop("exclude", [])
        matrix: dict[str, list[Any]] = {}
        for key, values in table.items():
            if not isinstance(values, list) or not values:
                if named(key) not in SETTINGS:
                    self._settings({key: values}, "[matrix]")  # says which key was meant
                raise WrongUse(f"{key} in [matrix] of {self.path} is {values!r}: expected a list of values to cross")
            name = named(key)
            if name in matrix:
                raise WrongUse(f"'{name}' comes twice in [matrix] of {self.path}, spelt in two ways: leave one out")
            if name in LISTS and not all(isinstance(value, list) for value in values):
                raise WrongUse(
                    f"{key} in [matrix] of {self.path} is {values!r}: each of its values is a list itself, such as "
                    f"{key} = [{json.dumps(values)}, []]"
                )
            matrix[name] = [self._settings({key: value}, "[matrix]")[name] for value in values]
            for first, second in itertools.combinations(matrix[name], 2):
                if _same(first, second):
                    raise WrongUse(f"{key} in [matrix] of {self.path} has {first!r} twice: remove one")
        if exclude and not (isinstance(exclude, list) and all(isinstance(rule, dict) and rule for rule in exclude)):
            raise WrongUse(
                f"exclude in [matrix] of {self.path} is {exclude!r}: expected a list of tables, such as "
                'exclude = [{backbone = "resnet_v1_50", epochs = 3}]'
            )
        rules = [self._settings(rule, "exclude") for rule in exclude]
        for rule in rules:
            for name in rule:
                if name not in matrix:
                    raise WrongUse(
                        f"exclude in [matrix] of {self.path} names '{name}', which is not crossed: expected some of "
                        f"{', '.join(matrix)}"
                    )
        return matrix, rules

    def _read_own(self, tables: Any) -> list[tuple[str | None, Settings]]:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise WrongUse(f"'job' in {self.path} is no list of tables: begin every job with [[job]], double brackets")
        found = []
        for number, table in enumerate(tables, 1):
            own = dict(table)
            name = own.pop("name", None)
            place = f"[[job]] {number}" + (f" ({name})" if isinstance(name, str) else "")
            found.append((job_names.given(name, f"{place} of {self.path}"), self._settings(own, place)))
        return found

    def _table(self, value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise WrongUse(f"{place} in {self.path} is {value!r}: expected a table of settings")
        return value

    def _settings(self, table: dict[str, Any], place: str) -> Settings:
        """The table under RunConfig's own names with absolute paths, each value checked by RunConfig's own table."""
        where = f"{place} of {self.path}"
        placeholder = {} if "backbone" in table else {"backbone": ""}
        checked = checked_config({**placeholder, **table}, where)
        return {
            name: paths.absolute(name, getattr(checked, name), self.path.absolute().parent)
            for name in map(named, table)
        }


def checked_config(settings: Settings, where: str) -> RunConfig:
    """A RunConfig from settings; WrongUse that always says `where`."""
    try:
        return from_mapping(settings, where=where)
    except WrongUse as error:
        message = str(error)
        raise WrongUse(message if where in message else f"{where}: {message}") from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FinetuneError(f"{path} is missing: give the jobs file, a .toml with [matrix] or [[job]]") from None
    except IsADirectoryError:
        raise FinetuneError(f"{path} is a directory: give the jobs file, a .toml with [matrix] or [[job]]") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise WrongUse(f'{path} is not TOML ({error}): correct it there; text stands in "quotes"') from None


def _place_for(key: str) -> str:
    near = difflib.get_close_matches(key, ("defaults", "matrix", "job"), n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    if named(key) in SETTINGS or key == "seeds":
        return f"'{key}' is a setting: put it below [defaults]"
    return "expected [defaults], [matrix] and [[job]]"


def _check_seeds(value: Any, what: str) -> int:
    if type(value) is not int or not 1 <= value <= 1000:
        raise WrongUse(f"{what} is {value!r}: expected a whole number from 1 to 1000, how often every job is repeated")
    return value


def _same(first: Any, second: Any) -> bool:
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def _named(
    path: Path, file: _File, asked: list[tuple[str | None, Settings]]
) -> Iterator[tuple[str, Settings, RunConfig]]:
    taken: set[str] = {name.casefold() for name, _ in asked if name}
    seen: dict[str, Settings] = {}
    for name, settings in asked:
        chosen = name
        if chosen is None:
            chosen = job_names.of(settings)
            if chosen.casefold() in taken and not _same(seen.get(chosen.casefold()), settings):
                chosen = job_names.distinct(chosen, settings)
            taken.add(chosen.casefold())
            seen.setdefault(chosen.casefold(), settings)
        where = f"job {chosen} of {path}"
        merged = {**file.defaults, **settings}
        if "backbone" not in merged:
            raise WrongUse(
                f'{where} names no backbone: put backbone = "resnet_v1_50" into [defaults] or [[job]], or a list of '
                "them into [matrix]; 'finetune backbones list' lists them"
            )
        yield chosen, settings, checked_config(merged, where)


def _repeated(path: Path, named: Iterator[tuple[str, Settings, RunConfig]], repeats: int) -> Iterator[Job]:
    """The first repeat keeps the job's name, so that a batch that is done can be repeated with further seeds."""
    index = 0
    for name, settings, config in named:
        for repeat in range(repeats):
            index += 1
            seed = config.seed + repeat
            if not repeat:
                yield Job(index, name, name, config, settings)
                continue
            again = checked_config({**config.to_json(), "seed": seed}, f"job {name} of {path}")
            yield Job(index, f"{name}-seed_{seed}", name, again, {**settings, "seed": seed})
