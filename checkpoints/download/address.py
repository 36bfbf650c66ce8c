"""What is known of a download before any library of HTTP is imported."""

from collections.abc import Callable
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from checkpoints.errors import CheckpointError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that lie on disk and the bytes of the whole file (None where the server does not say)."""


def file_name(url: str) -> str:
    """The last part of a URL's path. Raises CheckpointError where there is none."""
    try:
        name = PurePosixPath(unquote(urlsplit(url).path)).name
    except ValueError:
        name = ""
    if name in ("", "..") or set(name) & set("\\\0"):
        raise CheckpointError(f"{url!r} does not name a file: expected http(s)://host/.../file")
    return name
