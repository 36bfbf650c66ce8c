"""What is printed: names from files and folders cannot control the terminal, and tables never cut a cell."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

import click

from finetune.text import printable

Columns = dict[str, Callable[[Any], object]]
"""The columns of a table by their titles, each a function of an item."""
_KEPT = "\n\t"


def neutral(text: str) -> str:
    """`text` with control and hidden characters written as `\\x1b` and the like; line ends and tabs stay."""
    if all(letter.isprintable() or letter in _KEPT for letter in text):
        return text
    return "".join(letter if letter in _KEPT else printable(letter) for letter in text)


class Neutral:
    """A text stream that writes `neutral` text. rich's control codes pass it, by the `Console` of `console`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.rich_proxied_file = stream

    def write(self, text: str | bytes) -> int:
        """Write `text`. click writes a completion as bytes.

        click also writes empty bytes to ask whether this is a binary stream; the TypeError answers that it is not.
        """
        if isinstance(text, bytes):
            if not text:
                raise TypeError("write() argument must be str, not bytes")
            text = text.decode(errors="replace")
        return self._stream.write(neutral(text))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line."""
        self._stream.writelines(map(neutral, lines))

    def __getattr__(self, name: str) -> Any:
        # With an ASCII locale, click would take the binary stream below and write to it directly.
        if name in ("buffer", "_stream"):
            raise AttributeError(name)
        return getattr(self._stream, name)


@contextlib.contextmanager
def neutral_streams() -> Iterator[None]:
    """Inside, nothing that is printed controls the terminal."""
    with contextlib.redirect_stdout(Neutral(sys.stdout)), contextlib.redirect_stderr(Neutral(sys.stderr)):
        yield


def tabulated(items: Iterable[Any], columns: Columns) -> tuple[list[str], list[list[Any]]]:
    """The header and the rows of a table whose columns, by title, are functions of an item."""
    return list(columns), [[cell(one) for cell in columns.values()] for one in items]


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """Print columns as wide as their longest cell, so that grep finds long names and paths.

    Columns whose titles are in `numbers` are aligned to the right.
    """
    texts = [header, *([printable(str(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        cells = (
            cell.rjust(width) if title in numbers else cell.ljust(width)
            for title, cell, width in zip(header, row, widths, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
