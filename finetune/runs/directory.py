"""A run is a directory. Its status is derived from the files in it, never stored."""

import csv
import errno
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from checkpoints.atomic import TEMPORARY
from finetune._version import PACKAGE, __version__, install_line
from finetune.config import RunConfig, from_mapping
from finetune.errors import FinetuneError, Interrupted, WorkerLost, WrongUse
from finetune.files import Held, finite, locked, read_json, to_json, write_text

FORMAT_VERSION = 1
"""Written into `config.json`. A reader refuses a newer format than its own."""
AVERAGE = "average"
"""The key of `config.json` that says which runs a model is the average of."""
EXCLUDED = "exclude.txt"
"""A run's copy of the list of images that it left out."""
_BEFORE_CONFIG = (
    *(".lock", "environment.json", "load.json", "freeze.json", "data.json", EXCLUDED),
    *("precision.json", "lr_range.json", "lr_range.svg", "bn_source.npz"),
)
"""Files that a new run writes before `config.json`, which marks the directory as a run."""

Status = Literal["done", "interrupted", "started"]


class RunDir:
    """The files of one run.

    config.json, environment.json, load.json, freeze.json, exclude.txt (with --exclude), metrics.jsonl, metrics.csv,
    checkpoints/state.npz (to resume), bn_source.npz (the statistics it started from), model.keras, predictions.npz,
    MODEL_CARD.md, bn.json (after a diagnosis), result.json (written last, so its presence means the run finished).
    """

    def __init__(self, path: Path, made: tuple[Path, ...] = ()) -> None:
        self.path = path
        self._made = made

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, path: Path) -> "RunDir":
        """A new directory. WrongUse where something is there already."""
        made = tuple(parent for parent in path.parents if not parent.exists())
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            raise _already_there(path)
        # It appears with its lock file in it, by which `_killed_at_its_start` recognises it.
        begun = path.with_name(TEMPORARY + path.name)
        try:
            begun.mkdir(exist_ok=True)
            with suppress(Held), locked(begun / ".lock"):  # here fails what cannot be locked
                pass
            os.rename(begun, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):  # another process was first
                raise _already_there(path) from None
            shutil.rmtree(begun, ignore_errors=True)
            _remove_empty(made)
            error.filename, error.filename2 = str(path), None
            raise
        return cls(path, made)

    @classmethod
    def create_or_take_over(cls, path: Path) -> "RunDir":
        """As `create`, or a directory that a killed process had begun and no process holds.

        Only for a path given by the user: of two processes that look for the next free number, one would take the
        other's directory.
        """
        return cls(path) if _killed_at_its_start(path) else cls.create(path)

    @classmethod
    def create_numbered(cls, parent: Path, stem: str) -> "RunDir":
        """`parent/stem-001`, or the next number that is free."""
        stem = stem.replace("/", "-")
        for number in range(1, 100_000):
            with suppress(WrongUse):
                return cls.create(parent / f"{stem}-{number:03d}")
        raise FinetuneError(f"{parent} holds 99,999 runs named {stem}: give another --runs-dir")

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """An existing run. FinetuneError where `path` is not one."""
        if not (path / "config.json").is_file():
            raise FinetuneError(
                f"{path} is not a run directory: expected one with config.json in it, as 'finetune run' writes"
                + ("" if path.exists() else "; there is nothing of that name")
            )
        read_config_file(path / "config.json")
        return cls(path)

    @property
    def status(self) -> Status:
        """`done` with a result, `interrupted` with a state to resume from, else `started`."""
        if (self.path / "result.json").exists():
            return "done"
        return "interrupted" if self.state_path.exists() else "started"

    @property
    def begun(self) -> bool:
        """Whether there is training progress that a resumed run keeps."""
        return self.state_path.exists() or (self.path / "metrics.jsonl").exists()

    @property
    def resume_command(self) -> str:
        """The command that continues it."""
        return f"finetune run --resume {shlex.quote(str(self.path))}"

    @property
    def state_path(self) -> Path:
        """The state that a resumed run starts from."""
        return self.path / "checkpoints" / "state.npz"

    @property
    def model_path(self) -> Path:
        """The trained model, stock Keras layers only."""
        return self.path / "model.keras"

    @property
    def predictions_path(self) -> Path:
        """The predictions of test images with `is_training=False`, as `finetune.evaluation.predictions` keeps them."""
        return self.path / "predictions.npz"

    def write(self, name: str, value: Any) -> None:
        """One JSON file of the run."""
        write_text(self.path / name, to_json(value, indent=2) + "\n")

    def read(self, name: str, *keys: str) -> dict[str, Any]:
        """One JSON file of the run; FinetuneError where it lacks one of `keys`."""
        value = read_json(self.path / name)
        lacking = [key for key in keys if key not in value]
        if lacking:
            raise FinetuneError(
                f"{self.path / name} has no '{lacking[0]}': it is damaged; restore it from a copy, or repeat the run "
                f"with: finetune run --config {shlex.quote(str(self.path / 'config.json'))}"
            )
        return value

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write all lines of metrics.jsonl, and the same as metrics.csv. Both atomically: a killed run leaves no
        partial line, and resuming repeats none."""
        write_text(self.path / "metrics.jsonl", "".join(to_json(row) + "\n" for row in rows))
        write_text(self.path / "metrics.csv", _csv(rows))

    def config(self) -> RunConfig:
        """The checked settings in config.json. FinetuneError where it is damaged or of a newer format."""
        path = self.path / "config.json"
        return from_mapping(read_config_file(path), where=str(path))

    def class_names(self) -> list[str]:
        """Of label 0 and up: from the result, or before there is one, from the data that the run read.

        FinetuneError where the file has no list of names.
        """
        name = "result.json" if self.status == "done" else "data.json"
        names = self.read(name, "class_names")["class_names"]
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            raise FinetuneError(f"{self.path / name} has no list of names in class_names: restore it from a copy")
        return names

    @property
    def multi_label(self) -> bool:
        """Whether the images of the run may have several labels; runs of earlier versions had one."""
        noted = self.path / "data.json"
        return noted.is_file() and self.read("data.json").get("multi_label") is True

    def thresholds(self, classes: int) -> tuple[float | None, ...] | None:
        """The threshold of each class, chosen on validation images; None of a class that had none of these. None where
        a run had no validation images, or is of an earlier version. FinetuneError where result.json is damaged."""
        rows = self.read("result.json").get("thresholds")
        if rows is None:
            return None
        try:
            found = tuple(None if row["threshold"] is None else float(row["threshold"]) for row in rows)
        except (TypeError, KeyError, ValueError):
            found = ()
        if len(found) != classes:
            raise FinetuneError(
                f"{self.path / 'result.json'} has no threshold for each of {classes} classes: restore it from a copy"
            )
        return found

    def temperature(self) -> float:
        """By which the logits are divided before probabilities are made of them; 1 where a run did not --calibrate.
        FinetuneError where result.json is damaged."""
        scaling = self.read("result.json").get("temperature_scaling")
        try:
            value = 1.0 if scaling is None else float(scaling["temperature"])
        except (TypeError, KeyError, ValueError):
            value = 0.0
        if not 0 < value < float("inf"):
            raise FinetuneError(
                f"{self.path / 'result.json'} has a temperature_scaling without a temperature above 0: restore it from "
                "a copy"
            )
        return value

    def epochs(self) -> list[dict[str, Any]]:
        """The rows of finished epochs so far; FinetuneError where metrics.jsonl is damaged."""
        path = self.path / "metrics.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            return []
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise FinetuneError(f"{path} is not JSON lines ({error}): it is damaged; restore it from a copy") from None
        return [row for row in rows if isinstance(row, dict) and row.get("kind") == "epoch"]

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for this process; FinetuneError where another process holds it."""
        return locked(self.path / ".lock", name=self)

    def remove_leftovers(self) -> None:
        """Remove partial files of a killed process, and the state of a finished run. Only for the holder of the lock:
        no other process is then writing files of these names."""
        for folder in (self.path, self.state_path.parent):
            for path in folder.glob(TEMPORARY + "*"):
                path.unlink(missing_ok=True)
        if self.status == "done":
            self.state_path.unlink(missing_ok=True)

    @contextmanager
    def removed_unless_begun(self) -> Iterator[None]:
        """Remove the directory where the block fails before the first epoch or state was written."""
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, Interrupted | WorkerLost) and (self.path / "config.json").exists()
            if not self.begun and not stopped:
                shutil.rmtree(self.path, ignore_errors=True)
                _remove_empty(self._made)
            raise


def _remove_empty(folders: tuple[Path, ...]) -> None:
    """Remove folders, the innermost first, up to one into which something has moved meanwhile."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _csv(rows: list[dict[str, Any]]) -> str:
    """A column for every key of any row, in the order they come; `bn.cause` is the `cause` in a row's `bn`."""
    flat = [
        {
            inner: value
            for name, outer in row.items()
            for inner, value in (
                {f"{name}.{key}": one for key, one in outer.items()} if isinstance(outer, dict) else {name: outer}
            ).items()
        }
        for row in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(finite(row) for row in flat)
    return text.getvalue()


def check_place(run_dir: Path | None, runs_dir: Path, *, option: str = "--run-dir") -> None:
    """Before any work: WrongUse or FinetuneError where no run directory could be made there. `option` gives it."""
    if run_dir is not None and (run_dir.exists() or run_dir.is_symlink()) and not _killed_at_its_start(run_dir):
        raise _already_there(run_dir, option)
    option, path = ("--runs-dir", runs_dir) if run_dir is None else (option, run_dir)
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise WrongUse(f"cannot make {option} {path}: {there} is a file, not a directory; give another {option}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FinetuneError(
            f"cannot make {option} {path}: no permission to write in {there}; give another {option}, or change the "
            "owner or mode"
        )


def _killed_at_its_start(path: Path) -> bool:
    """Whether the directory `path` holds only the first files of a run, and no process holds its lock. The lock file is
    written first, so a folder without one is not a run's."""
    if path.is_symlink() or not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    known = {*_BEFORE_CONFIG, *(TEMPORARY + name for name in (*_BEFORE_CONFIG, "config.json"))}
    if ".lock" not in names or not names <= known:
        return False
    try:
        with locked(path / ".lock"):
            return True
    except (OSError, Held):
        return False


def _already_there(path: Path, option: str = "--run-dir") -> WrongUse:
    if not (path / "config.json").exists():
        return WrongUse(f"{path} is already there and is not overwritten: give another {option}")
    run = RunDir(path)
    if run.status == "done":
        return WrongUse(f"{path} is already there, it holds a finished run: give another {option}")
    return WrongUse(f"{path} is already there: give another {option}, or continue it with: {run.resume_command}")


def read_config_file(path: Path) -> dict[str, Any]:
    """The keys and values of a `config.json`. Only its format is checked.

    A list of excluded images is read from the copy beside it, which is that of the run wherever it lies now.

    Raises FinetuneError where it is missing, no JSON object, or of a newer format than this version reads.
    """
    values = read_json(path)
    values.pop(AVERAGE, None)
    version = values.pop("format_version", FORMAT_VERSION)
    if type(version) is not int or version < 1:
        raise FinetuneError(
            f"{path} has format_version {version!r}, expected a number from 1 to {FORMAT_VERSION}: it is damaged; "
            "restore it from a copy"
        )
    if version > FORMAT_VERSION:
        raise FinetuneError(
            f"{path} has format_version {version}, written by {_writer(path)}, but this is finetune {__version__}, "
            f"which reads up to {FORMAT_VERSION}: upgrade it with: {install_line(options='--upgrade')}"
        )
    if values.get("exclude") is not None and (copy := path.absolute().with_name(EXCLUDED)).is_file():
        values["exclude"] = str(copy)
    return values


def refuse_average(path: Path) -> None:
    """WrongUse where a `config.json` is that of an average: its settings are those of the first run in it."""
    runs = made_from(path)
    if runs:
        raise WrongUse(
            f"{path} is of an average of {len(runs)} runs, which 'finetune run' cannot repeat: give the config.json of "
            f"a run, such as {Path(runs[0]) / 'config.json'}, or repeat 'finetune average'"
        )


def made_from(path: Path) -> list[str]:
    """The runs whose average the run of this `config.json` is; empty where it was trained."""
    made = read_json(path).get(AVERAGE)
    return [str(one) for one in made.get("runs", [])] if isinstance(made, dict) else []


def _writer(path: Path) -> str:
    """The finetune version that wrote a `config.json`, if the `environment.json` next to it has one."""
    try:
        packages = read_json(path.with_name("environment.json")).get("packages")
    except (FinetuneError, OSError):
        packages = None
    version = packages.get(PACKAGE) if isinstance(packages, dict) else None
    return f"finetune {version[:40]}" if isinstance(version, str) else "a newer finetune"
