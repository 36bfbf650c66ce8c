"""Files that are written whole or not at all, locks, and JSON and `.npz` read with errors a user can act on."""

import errno
import fcntl
import json
import os
import re
import socket
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.atomic import naming, replacing
from finetune.errors import FinetuneError
from finetune.text import first_line


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Create the parent directories of `path`; those created are removed again where the block fails."""
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # where another process has put something in it meanwhile
            for parent in made:
                parent.rmdir()
        raise


class Held(FinetuneError):
    """Another process holds a lock. `holder` says which one, for use in a sentence: `process 4711 on host`."""

    def __init__(self, name: object, holder: str) -> None:
        super().__init__(f"{name} is in use by {holder}: wait for it, or stop it")
        self.holder = holder


@contextmanager
def locked(path: Path, *, name: object = None, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, exclusively or `shared`; create it if needed. Raises Held where another process does.

    `name` is what the lock protects, for the error. The system releases the lock when its process ends, in any way. The
    number in the file only shows users which process it was. Raises FileNotFoundError where there is no such folder.
    """
    with open(path, "a+", encoding="utf-8", errors="replace") as handle:
        try:
            with naming(path, instead_of=path):
                fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            handle.seek(0)
            found = re.fullmatch(r"(\d{1,10}) (\S{1,255})\n", handle.read(300))
            raise Held(name or path, f"process {found[1]} on {found[2]}" if found else "another process") from None
        if not shared:
            with suppress(OSError):  # on a full disk it stays empty
                handle.truncate(0)
                handle.write(f"{os.getpid()} {socket.gethostname() or 'localhost'}\n")
                handle.flush()
        yield


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, whatever the locale."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON. NaN and infinity become null: they are not JSON."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. FinetuneError where it is missing, not readable, not JSON or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FinetuneError(f"{path} is missing: check the name, and that it was copied with the rest") from None
    except IsADirectoryError:
        raise FinetuneError(f"{path} is a directory: expected a JSON file; give a file in it") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FinetuneError(
            f"{path} is not JSON ({error}): it is damaged or another kind of file; restore it from a copy"
        ) from None
    if not isinstance(value, dict):
        raise FinetuneError(
            f"{path} holds a JSON {_JSON_TYPES.get(type(value), 'number')}, expected an object {{...}}: it is "
            "damaged or another kind of file"
        )
    return value


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an `.npz` atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        content: dict[str, Any] = dict(arrays)
        np.savez(file, **content)


_DAMAGE = (OSError, ValueError, KeyError, EOFError, RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise for an `.npz` that is damaged; zipfile's NotImplementedError is a RuntimeError."""


def read_arrays(path: Path, *, advice: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`; nothing in it is ever unpickled.

    Raises FileNotFoundError where there is none, FinetuneError ending in `advice` where it is damaged.
    """
    try:
        if not zipfile.is_zipfile(path) and path.is_file():
            raise ValueError("it is cut off, or no .npz at all")
        with np.load(path, allow_pickle=False) as file:
            for one in file.zip.infolist():
                if one.compress_type != zipfile.ZIP_STORED:  # as np.savez writes it: nothing unpacks to more than it is
                    raise ValueError(f"it holds {one.filename!r} compressed")
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise FinetuneError(f"{path} is damaged ({reason}): {advice}") from None


_JSON_TYPES = {list: "list", str: "text", type(None): "null", bool: "true or false"}


def finite(value: Any) -> Any:
    """`value` with NaN and infinity replaced by None, all through its dicts and lists."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
