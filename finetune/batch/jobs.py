"""Read a jobs file into RunConfigs: `[defaults]`, `[matrix]`, whose lists are crossed, and `[[job]]`. Of `[search]`,
`finetune.batch.search` makes jobs.

A job's run directory is named after its settings, in characters that are safe in every file system.
"""

import difflib
import hashlib
import itertools
import json
import math
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from finetune.config import BALANCED, LISTS, PATHS, SETTINGS, RunConfig, from_mapping, named
from finetune.data.load_data import absolute
from finetune.errors import FinetuneError, WrongUse
from finetune.text import did_you_mean

MANY = 100
"""More jobs than this are most often a mistake in a matrix, so the user must confirm their number."""
_AT_MOST = 100_000
_PART, _WHOLE = 40, 100
"""Most characters of one setting and of a name."""

_KEYS = ("defaults", "matrix", "job", "search")
_PREFIXES = ("hub:", "kerashub:")
"""In front of backbones that are named by a handle or a folder."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of the batch.

    index: counts from 1 in the file's order. group: the name that repeats with other seeds share.
    differs: the settings of this job that are not the file's defaults.
    """

    index: int
    name: str
    group: str
    config: RunConfig
    differs: Settings


def read_jobs(path: Path, *, seeds: int | None = None, really: int | None = None) -> tuple[Job, ...]:
    """The jobs of the file at `path`, in its order, every setting checked.

    `seeds` (default: `seeds` of [defaults], or 1) repeats every job with its seed, seed + 1, ...; `really` is the
    number of jobs if they are more than MANY. Raises WrongUse and FinetuneError that name the file and the place.
    """
    return JobsFile(path).read_jobs(seeds=seeds, really=really)


def select_jobs(jobs: tuple[Job, ...], wanted: tuple[str, ...]) -> tuple[Job, ...]:
    """The jobs with these names or numbers, in the file's order; all if none are given. WrongUse for an unknown one."""
    chosen = set()
    for word in wanted:
        found = [job for job in jobs if job.name == word] or [job for job in jobs if str(job.index) == word]
        if not found:
            names = f"expected a number from 1 to {len(jobs)}, or a job's name; "
            hint = did_you_mean(word, (job.name for job in jobs)) or names
            raise WrongUse(f"--only {word!r} is not a job of the file: {hint}'--dry-run' lists them")
        chosen.add(found[0].index)
    return tuple(job for job in jobs if not wanted or job.index in chosen)


class JobsFile:
    """The parts of a jobs file, each checked with its place in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _parse(path)
        for key in content:
            if key not in _KEYS:
                raise WrongUse(f"unknown key '{key}' in {path}: {_place_for(key)}")
        defaults = dict(self._table(content.get("defaults", {}), "[defaults]"))
        self.seeds = check_seeds(defaults.pop("seeds", 1), f"seeds in [defaults] of {self.path}")
        self.defaults = self.settings(defaults, "[defaults]")
        self.matrix, self._exclude = self._read_matrix(content.get("matrix", {}))
        self.own = self._read_own(content.get("job", []))
        self.search: Settings | None = None
        if "search" in content:
            self.search = self._table(content["search"], "[search]")
            if "matrix" in content or "job" in content:
                raise WrongUse(f"{path}: [search] chooses the jobs itself: leave [matrix] and [[job]] out")

    def read_jobs(self, *, seeds: int | None, really: int | None) -> tuple[Job, ...]:
        """As the function `read_jobs`."""
        path = self.path
        repeats = self.seeds if seeds is None else check_seeds(seeds, "--seeds")
        if repeats > 1 and "seed" in self.matrix:
            raise WrongUse(
                f"{path}: 'seed' is in [matrix], and seeds = {repeats} repeats every job with further seeds: leave one "
                "out"
            )
        crossed = math.prod(len(values) for values in self.matrix.values()) if self.matrix else 0
        most = (crossed + len(self.own)) * repeats
        if most > _AT_MOST:
            raise WrongUse(
                f"{path} asks for {most:,} jobs: expected at most {_AT_MOST:,}; shorten the lists of [matrix], or "
                "divide it into several files"
            )
        asked = [*self.combinations(), *self.own]
        if not asked:
            raise WrongUse(f"{path} asks for no job: give [matrix] lists, [[job]] tables, or fewer 'exclude'")
        count = len(asked) * repeats
        if count > MANY and really != count:
            raise WrongUse(
                f"{path} asks for {count} jobs, more than {MANY}: if you mean it, give --yes-really {count}"
                + ("" if really is None else f" (not {really})")
            )
        jobs = tuple(self.jobs(asked, repeats))
        refuse_duplicates(path, [job.name for job in jobs])
        return jobs

    def combinations(self) -> Iterator[tuple[str | None, Settings]]:
        """(None, settings) for each combination of the crossed lists that is not excluded."""
        if not self.matrix:
            return
        used = [False] * len(self._exclude)
        for values in itertools.product(*self.matrix.values()):
            settings = dict(zip(self.matrix, values, strict=True))
            hits = [all(same(settings[key], value) for key, value in rule.items()) for rule in self._exclude]
            used = [before or hit for before, hit in zip(used, hits, strict=True)]
            if not any(hits):
                yield None, settings
        for rule, was_used in zip(self._exclude, used, strict=True):
            if not was_used:
                raise WrongUse(f"{self.path}: exclude {rule} matches no combination of [matrix]: correct or remove it")

    def jobs(self, asked: list[tuple[str | None, Settings]], repeats: int) -> Iterator[Job]:
        """Every job with `repeats` seeds; a job without a name of its own gets one from its settings.

        The first seed keeps the name, so a finished batch can be repeated with more seeds.
        """
        index = itertools.count(1)
        used: dict[str, Settings | None] = {name.casefold(): None for name, _ in asked if name}
        for name, settings in asked:
            if name is None:
                name = job_name(settings)
                if name.casefold() in used and not same(used[name.casefold()], settings):
                    name = f"{name}-{_digest(settings)}"  # they differ only in characters that names cannot have
                used.setdefault(name.casefold(), settings)
            where = f"job {name} of {self.path}"
            config = self.config(settings, where)
            yield Job(next(index), name, name, config, settings)
            for seed in range(config.seed + 1, config.seed + repeats):
                again = _checked({**config.to_json(), "seed": seed}, where)
                yield Job(next(index), f"{name}-seed_{seed}", name, again, {**settings, "seed": seed})

    def config(self, settings: Settings, where: str) -> RunConfig:
        """The defaults with these settings, checked; errors name `where`."""
        merged = {**self.defaults, **settings}
        if "backbone" not in merged:
            raise WrongUse(
                f'{where} names no backbone: put backbone = "resnet_v1_50" into [defaults] or [[job]], or a list '
                "of them into [matrix]; 'finetune backbones list' lists them"
            )
        return _checked(merged, where)

    def _read_matrix(self, table: Any) -> tuple[dict[str, list[Any]], list[Settings]]:
        table = dict(self._table(table, "[matrix]"))
        exclude = table.pop("exclude", [])
        matrix: dict[str, list[Any]] = {}
        for key, values in table.items():
            if not isinstance(values, list) or not values:
                if named(key) not in SETTINGS:
                    self.settings({key: values}, "[matrix]")  # raises with the closest valid key
                raise WrongUse(f"{key} in [matrix] of {self.path} is {values!r}: expected a list of values to cross")
            name = named(key)
            if name in matrix:
                raise WrongUse(f"'{name}' comes twice in [matrix] of {self.path}, spelt in two ways: leave one out")
            matrix[name] = self.choices(key, values, "[matrix]")
        if exclude and not (isinstance(exclude, list) and all(isinstance(rule, dict) and rule for rule in exclude)):
            raise WrongUse(
                f"exclude in [matrix] of {self.path} is {exclude!r}: expected a list of tables, such as "
                'exclude = [{backbone = "resnet_v1_50", epochs = 3}]'
            )
        rules = [self.settings(rule, "exclude") for rule in exclude]
        for name in itertools.chain.from_iterable(rules):
            if name not in matrix:
                raise WrongUse(
                    f"exclude in [matrix] of {self.path} names '{name}', which is not crossed: expected some of "
                    f"{', '.join(matrix)}"
                )
        return matrix, rules

    def choices(self, key: str, values: list[Any], place: str) -> list[Any]:
        """The values that are listed for a setting, each checked; no two are the same."""
        name = named(key)
        if name in LISTS and not all(isinstance(value, list) for value in values):
            raise WrongUse(
                f"{key} in {place} of {self.path} is {values!r}: each of its values is a list itself, such as "
                f"{key} = [{json.dumps(values)}, []]"
            )
        found = [self.settings({key: value}, place)[name] for value in values]
        for first, second in itertools.combinations(found, 2):
            if same(first, second):
                raise WrongUse(f"{key} in {place} of {self.path} has {first!r} twice: remove one")
        return found

    def _read_own(self, tables: Any) -> list[tuple[str | None, Settings]]:
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise WrongUse(f"'job' in {self.path} is no list of tables: begin every job with [[job]], double brackets")
        found = []
        for number, table in enumerate(tables, 1):
            own = dict(table)
            name = own.pop("name", None)
            place = f"[[job]] {number}" + (f" ({name})" if isinstance(name, str) else "")
            found.append((safe_name(name, f"{place} of {self.path}"), self.settings(own, place)))
        return found

    def _table(self, value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise WrongUse(f"{place} in {self.path} is {value!r}: expected a table of settings")
        return value

    def settings(self, table: dict[str, Any], place: str) -> Settings:
        """The table with the names of RunConfig and absolute paths, each value checked as RunConfig checks it."""
        where = f"{place} of {self.path}"
        placeholder = {} if "backbone" in table else {"backbone": ""}
        checked = _checked({**placeholder, **table}, where)
        folder = self.path.absolute().parent
        return {name: _absolute(name, getattr(checked, name), folder) for name in map(named, table)}


def _checked(settings: Settings, where: str) -> RunConfig:
    """A RunConfig from settings. Every WrongUse it raises contains `where`."""
    try:
        return from_mapping(settings, where=where)
    except WrongUse as error:
        message = str(error)
        raise WrongUse(message if where in message else f"{where}: {message}") from None


def _absolute(name: str, value: Any, folder: Path) -> Any:
    """The value of setting `name`, absolute if it is a path: jobs run from anywhere. `folder` is the jobs file's."""
    if name == "data":
        return absolute(value, below=folder)
    if name == "backbone":
        return _absolute_backbone(value, folder)
    if name == "class_weights" and (value == BALANCED or not isinstance(value, str)):
        return value
    if name not in (*PATHS, "class_weights") or value is None:
        return value
    return os.path.abspath(folder / os.path.expanduser(value))


def _absolute_backbone(value: str, folder: Path) -> str:
    """A file or folder is looked up beside the jobs file; a name of the catalogue, of a preset and a Hub handle stay as
    they are."""
    prefix, name = _split_backbone(value)
    path = folder / os.path.expanduser(name)
    if not name.startswith((".", "~")):
        if not name or not path.exists():
            return value
        with suppress(CheckpointError):
            find_row(value)
            return value
    return prefix + os.path.abspath(path)


def _split_backbone(value: str) -> tuple[str, str]:
    """(prefix, the rest) of a backbone; "" for one without a prefix."""
    prefix = next((one for one in _PREFIXES if value.startswith(one)), "")
    return prefix, value.removeprefix(prefix)


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "missing" if isinstance(error, FileNotFoundError) else "a directory"
        raise FinetuneError(f"{path} is {what}: give the jobs file, a .toml with [matrix] or [[job]]") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise WrongUse(f'{path} is not TOML ({error}): correct it there; text stands in "quotes"') from None


def _place_for(key: str) -> str:
    near = difflib.get_close_matches(key, _KEYS, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    if named(key) in SETTINGS or key == "seeds":
        return f"'{key}' is a setting: put it below [defaults]"
    return "expected [defaults], [matrix] and [[job]], or [search]"


def check_seeds(value: Any, what: str) -> int:
    """`value`, how often every job is repeated. WrongUse that calls it `what` if it is not from 1 to 1000."""
    if type(value) is not int or not 1 <= value <= 1000:
        raise WrongUse(f"{what} is {value!r}: expected a whole number from 1 to 1000, how often every job is repeated")
    return value


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal as TOML writes them, where `true` is not 1."""
    return bool(first == second) and isinstance(first, bool) == isinstance(second, bool)


def job_name(settings: dict[str, Any]) -> str:
    """The name of a job with these settings, such as `resnet_v1_50-bn_decay_0.95`.

    It depends on nothing else, so adding or removing other jobs does not rename this one.
    """
    parts = [_shortened(_part(name, value), _PART, value) for name, value in settings.items()]
    return _shortened("-".join(parts), _WHOLE, settings) or "defaults"


def safe_name(name: Any, where: str) -> str | None:
    """The user's name for a job, made safe: slashes, control characters and leading dots are replaced.

    Raises WrongUse if no letter or digit remains.
    """
    if name is None:
        return None
    safe = _safe(name) if isinstance(name, str) else ""
    if not safe:
        raise WrongUse(f"name {name!r} in {where} is not valid: expected text with letters or digits in it")
    return _shortened(safe, _WHOLE, name)


def refuse_duplicates(path: Path, names: Sequence[str]) -> None:
    """Raise WrongUse if two jobs have one name. Case does not count: some file systems ignore it."""
    first: dict[str, int] = {}
    for index, name in enumerate(names, 1):
        before = first.setdefault(name.casefold(), index)
        if before != index:
            raise WrongUse(
                f"{path}: jobs {before} and {index} are both called '{name}': give one of them another 'name', or "
                "remove it if it is the same job"
            )


def _part(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    if name == "backbone":
        path = Path(_split_backbone(str(value))[1])
        if path.is_absolute():
            return _safe(path.parent.name if path.name == "model.keras" else path.name)
        return _safe(str(value).replace("/", "-"))
    if isinstance(value, list | tuple):
        return _safe(f"{name}_{'_'.join(str(one).replace('*', 'all') for one in value) or 'none'}")
    if value and (name in PATHS or (name in ("data", "class_weights") and os.path.isabs(str(value)))):
        return _safe(f"{name}_{Path(value).name}")
    return _safe(f"{name}_{value}")


def _safe(text: str) -> str:
    """ASCII letters, digits and `. _ + -`, the first and last a letter or digit; accents are dropped."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\.\.+", ".", re.sub(r"[^A-Za-z0-9.+-]+", "_", plain)).strip("._+-")


def _shortened(text: str, most: int, of: Any) -> str:
    return text if len(text) <= most else f"{text[: most - 7].rstrip('._+-')}-{_digest(of)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
