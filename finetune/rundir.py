"""A run is a directory. Its status is derived from the files in it, never stored."""

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from finetune.errors import FinetuneError, WrongUse

FORMAT_VERSION = 1
"""Written into `config.json`; a reader refuses what is newer than itself."""

Status = Literal["done", "interrupted", "started"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix; renamed onto it when the block ends well.

    Whoever reads `path` sees the old file or the new one, whole. The temporary file never outlives the block,
    unless the process is killed; the next writer of the same file then replaces it.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. NaN and infinity become null: they are not JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a run's file; FinetuneError where it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise FinetuneError(f"{path} is missing: is {path.parent} a run directory that has got that far?") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FinetuneError(f"{path} is not JSON ({error}): the run directory is damaged") from None


class RunDir:
    """The files of one run.

    config.json, environment.json, load.json, freeze.json, metrics.jsonl, checkpoints/state.npz (to resume),
    bn_source.npz (the statistics it started from), model.keras, bn.json (after a diagnosis), result.json (last).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def create(cls, path: Path) -> "RunDir":
        """A new directory. WrongUse where something is there already."""
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            status = cls(path).status if (path / "config.json").exists() else None
            advice = {
                None: "give another --run-dir",
                "done": "it holds a finished run; give another --run-dir",
                "interrupted": f"continue it with 'finetune run --resume {path}', or give another --run-dir",
                "started": f"continue it with 'finetune run --resume {path}', or give another --run-dir",
            }[status]
            raise WrongUse(f"{path} is already there: {advice}") from None
        except NotADirectoryError:
            raise WrongUse(f"cannot make {path}: a part of the path is a file; give another --run-dir") from None
        return cls(path)

    @classmethod
    def create_numbered(cls, parent: Path, stem: str) -> "RunDir":
        """`parent/stem-001`, or the next number that is free."""
        stem = stem.replace("/", "-")
        for number in range(1, 100_000):
            path = parent / f"{stem}-{number:03d}"
            try:
                path.mkdir(parents=True)
                return cls(path)
            except FileExistsError:
                if not parent.is_dir():
                    raise WrongUse(f"--runs-dir {parent} is not a directory: give another") from None
        raise FinetuneError(f"{parent} holds 99,999 runs named {stem}: give another --runs-dir")

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """An existing run. FinetuneError where `path` is not one."""
        config = path / "config.json"
        if not config.is_file():
            raise FinetuneError(f"{path} is not a run directory: expected config.json in it, as 'finetune run' writes")
        version = read_json(config).get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise FinetuneError(
                f"{path} has run format {version!r}, but this version of finetune reads up to {FORMAT_VERSION}: upgrade"
            )
        return cls(path)

    @property
    def status(self) -> Status:
        """`done` with a result, `interrupted` with a state to resume from, else `started`."""
        if (self.path / "result.json").exists():
            return "done"
        return "interrupted" if self.state_path.exists() else "started"

    @property
    def state_path(self) -> Path:
        """What a resumed run starts from."""
        return self.path / "checkpoints" / "state.npz"

    @property
    def model_path(self) -> Path:
        """The trained model, stock Keras layers only."""
        return self.path / "model.keras"

    def write(self, name: str, value: Any) -> None:
        """One JSON file of the run."""
        write_json(self.path / name, value)

    def read(self, name: str) -> Any:
        """One JSON file of the run."""
        return read_json(self.path / name)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """All lines of metrics.jsonl, atomically: a killed run leaves no half line and resuming repeats none."""
        with replacing(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in rows))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; FinetuneError where another process holds it."""
        with open(self.path / ".lock", "a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise FinetuneError(f"{self.path} is in use by another process: wait for it, or stop it") from None
            yield


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
