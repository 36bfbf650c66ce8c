"""rich's consoles, tables and bars for this program; apart from `terminal`, because importing rich takes a while."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

import rich.console
from rich.console import JustifyMethod, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from checkpoints.catalog.spec import BackboneSpec
from checkpoints.download.address import Progress as Report
from finetune.cli.terminal import neutral


class Console(rich.console.Console):
    """rich's console. Its own control codes reach the terminal; those in the texts it prints do not."""

    @property
    def file(self) -> IO[str]:
        """The stream itself: during a progress bar rich puts a stand-in in front of it."""
        file: Any = super().file
        while hasattr(file, "rich_proxied_file"):
            file = file.rich_proxied_file
        return cast(IO[str], file)

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print_block(self, block: RenderableType) -> None:
        """Print a table or a text, and an empty line below it."""
        self.print(block)
        self.print()

    def print_fact(self, label: str, text: str) -> None:
        """Print a line of a list of facts; `label` has at most 14 characters."""
        self.print(f"{label:15}{text}", markup=False)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            one if one.control else Segment(neutral(one.text), one.style, one.control) for one in buffer
        )


def progress_console(*, quiet: bool) -> Console:
    """A console on standard error, for progress."""
    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)


def output_console() -> Console:
    """A console on standard output, for results. In a file, no table is cut to a terminal's width."""
    out = Console(highlight=False, soft_wrap=True)
    return out if out.is_terminal else Console(highlight=False, soft_wrap=True, width=1000)


def plain_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, left: Sequence[str] = ()) -> Table:
    """A table without lines; every column but the first holds numbers, aligned to the right.

    Columns whose titles start with one of `left` hold text. Markup in a cell is not interpreted.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(header):
        is_text = title not in ("epoch", "rank", "#") if place == 0 else title.startswith(tuple(left))
        justify: JustifyMethod = "left" if is_text else "right"
        table.add_column(Text(title), justify=justify, overflow="fold", no_wrap=not is_text)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return table


def percent(value: float | None) -> str:
    """A fraction as a percentage with one digit; a dash for None."""
    return "-" if value is None else f"{value:.1%}"


def with_spread(value: float | None, spread: float | None) -> str:
    """A mean accuracy with its standard deviation over seeds, if there is one."""
    return percent(value) if spread is None else f"{percent(value)} ± {100 * spread:.1f}"


@contextmanager
def downloads(*, quiet: bool, files: int) -> Iterator[Callable[[BackboneSpec], Report]]:
    """Progress of several downloads: a bar for each backbone, or one line a file without a terminal.

    Gives a function that makes the `Report` of one backbone.
    """
    console = progress_console(quiet=quiet)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    numbers = itertools.count(1)

    def report_on(spec: BackboneSpec) -> Report:
        place = f"{next(numbers)}/{files}"
        # It is shown from the first byte on: a file that is in the cache gets no bar.
        task = bars.add_task(f"{place} {spec.id}", total=None, visible=False)

        def report(done: int, total: int | None) -> None:
            if not (console.is_terminal or bars.tasks[task].visible):
                size = "" if total is None else f", {total / 2**20:.1f} MiB"
                console.print(f"{place} fetching {spec.id}{size}", markup=False)
            bars.update(task, completed=done, total=total, visible=True)

        return report

    with bars:
        yield report_on
