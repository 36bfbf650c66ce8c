"""Progress of several downloads, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from checkpoints.catalog.spec import BackboneSpec
from checkpoints.download.transport import Progress as Report
from finetune.cli.console import Console


@contextmanager
def downloads(*, quiet: bool, files: int) -> Iterator[Callable[[BackboneSpec], Report]]:
    """Gives what makes the bar of one backbone: bytes, speed, time left. Without a terminal a line for each file."""
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    begun = 0

    def of(spec: BackboneSpec) -> Report:
        nonlocal begun
        begun += 1
        number = begun
        task: TaskID | None = None

        def report(done: int, total: int | None) -> None:
            nonlocal task
            if task is None:  # nothing is shown of what lies in the cache
                task = bars.add_task(f"{number}/{files} {spec.id}", total=total)
                if not console.is_terminal:
                    size = "" if total is None else f", {total / 2**20:.1f} MiB"
                    console.print(f"{number}/{files} fetching {spec.id}{size}", markup=False)
            bars.update(task, completed=done, total=total)

        return report

    with bars:
        yield of
