"""The one way to the terminal: names from files and folders cannot steer it, whoever prints them."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from finetune.text import printable

_KEPT = "\n\t"


def neutral(text: str) -> str:
    """`text` with every control character but line ends and tabs written out as `\\x1b`, and what hides as well."""
    if all(letter.isprintable() or letter in _KEPT for letter in text):
        return text
    return "".join(letter if letter in _KEPT else printable(letter) for letter in text)


class Neutral:
    """A text stream that writes `neutral` text. rich writes past it, by the `Console` of `finetune.cli.console`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.rich_proxied_file = stream

    def write(self, text: str | bytes) -> int:
        """As a stream's. click writes a completion as bytes; none at all is its question whether this is a binary
        stream, which it is not."""
        if isinstance(text, bytes):
            if not text:
                raise TypeError("write() argument must be str, not bytes")
            text = text.decode(errors="replace")
        return self._stream.write(neutral(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """As a stream's."""
        self._stream.writelines(map(neutral, lines))

    def __getattr__(self, name: str) -> Any:
        # Where the locale is ASCII, click would take the bytes below, and write to them.
        if name in ("buffer", "_stream"):
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextlib.contextmanager
def neutral_streams() -> Iterator[None]:
    """Inside, nothing that is printed steers the terminal."""
    with contextlib.redirect_stdout(Neutral(sys.stdout)), contextlib.redirect_stderr(Neutral(sys.stderr)):
        yield
