"""What a batch looks like: a line per event, a live table in a terminal, the ranked table at the end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from finetune.batch.call import Display, Progress
from finetune.batch.summary import summarise
from finetune.cli.console import Console
from finetune.evaluation.significance import ranking_words

if TYPE_CHECKING:
    from finetune.batch.folder import BatchFolder
    from finetune.batch.status import JobStatus
    from finetune.batch.summary import Summary

_ROWS = 12
"""Running jobs shown at most."""


class BatchDisplay(Display):
    """Progress on standard error: lines for what happened; in a terminal, below them, what runs now."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._drawn = 0.0
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """A line."""
        self._console.print(text, markup=False)

    def show(self, progress: Progress) -> None:
        """Draw the live table anew, a few times a second at most."""
        self._progress = progress
        if self._console.is_terminal and time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            self._live.update(_live_table(progress), refresh=True)

    def settled(self, standing: "JobStatus") -> None:
        """A line with the result or the reason."""
        name, state = standing.job.name, standing.state
        after = f"{standing.seconds:.0f} s" if standing.seconds else ""
        if state == "done":
            figures = [f"test {percent(standing.test)}"]
            if standing.validation is not None:
                figures.insert(0, f"validation {percent(standing.validation)}")
            note = f"  [{standing.note}]" if standing.note else ""
            self.say(f"done         {name}  {', '.join(figures)}  {after}{note}")
        else:
            self.say(f"{state:12} {name}  {standing.error or ''}")
        if not self._console.is_terminal and self._progress is not None:
            self.say(f"             {_headline(self._progress.standings, self._progress)}")

    @contextmanager
    def running(self) -> Iterator["BatchDisplay"]:
        """The live table lives inside."""
        if not self._console.is_terminal or self._console.quiet:
            yield self
            return
        with self._live:
            yield self


def _output() -> Console:
    """Standard output; in a file no table is cut to a terminal's width."""
    out = Console(highlight=False, soft_wrap=True)
    return out if out.is_terminal else Console(highlight=False, soft_wrap=True, width=1000)


def show_summary(summary: "Summary", place: "BatchFolder") -> None:
    """The ranked table, what it is ranked by, and where the files are."""
    out = _output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ["rank", "job", *(["seeds"] if summary.seeds else []), "validation", "test", "against the best"]
    for column in columns:
        right = column in ("rank", "seeds", "validation", "test")
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for group in summary.groups:
        table.add_row(
            "" if group.rank is None else str(group.rank),
            group.name,
            *([f"{len(group.done)}/{len(group.standings)}"] if summary.seeds else []),
            _with_spread(group.validation, group.validation_spread),
            _with_spread(group.test, group.test_spread),
            Text(group.verdict),
        )
        for standing in group.standings:
            words = standing.note if standing.state == "done" else f"{standing.state} {standing.error or ''}".strip()
            if words:
                name = "" if standing.job.name == group.name else f"  {standing.job.name}: "
                table.add_row("", Text(f"  {name}{words}", style="" if standing.state == "done" else "red"))
    out.print(table)
    out.print()
    if any(group.rank for group in summary.groups):
        out.print(ranking_words(summary.ranked_by, one="job"), markup=False)
        spread = "± is the standard deviation over seeds; " if summary.seeds else ""
        out.print(f"{spread}within noise: |difference in test| <= 2 standard errors, see summary.json", markup=False)
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts.items())
    out.print(f"{counts}; summary.csv, summary.json and the runs are in {place}", markup=False)


def show_plan(rows: Sequence[dict[str, Any]], estimate: dict[str, Any], place: "BatchFolder") -> None:
    """`--dry-run`: a line per job, and what all of them amount to."""
    out = _output()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("#", "job", "state", "px", "batch", "epochs", "images", "steps"):
        left = column in ("job", "state")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "job", overflow="fold")
    for row in rows:
        cells = [row[name] for name in ("image_size", "batch_size", "epochs", "images", "steps")]
        cells = ["?" if cell is None else f"{cell:,}" for cell in cells]
        table.add_row(str(row["index"]), row["name"], row["state"], *cells)
    out.print(table)
    out.print()
    out.print(f"{len(rows)} jobs in {place}, {estimate['to_run']} to run: {estimate['words']}", markup=False)


def percent(value: float | None) -> str:
    """With one digit, as a test set of ten thousand deserves."""
    return "-" if value is None else f"{value:.1%}"


def duration(seconds: float) -> str:
    """Roughly, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _with_spread(value: float | None, spread: float | None) -> str:
    return percent(value) if spread is None else f"{percent(value)} ± {100 * spread:.1f}"


def _headline(standings: Sequence["JobStatus"], progress: Progress) -> str:
    summary = summarise(standings)
    parts = [f"{count} {state}" for state, count in summary.counts.items()]
    best = next((group for group in summary.groups if group.rank == 1), None)
    if best is not None:
        value = best.validation if summary.ranked_by == "validation" else best.test
        parts.append(f"best so far {best.name} ({summary.ranked_by} {percent(value)})")
    if progress.left is not None and progress.left.seconds > 0:
        parts.append(f"about {duration(progress.left.seconds)} left, going by {progress.left.measured} measured")
    return ", ".join(parts)


def _live_table(progress: Progress) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("running", "epoch", "step", "validation", "images/s"):
        table.add_column(column, justify="left" if column == "running" else "right", no_wrap=True)
    running = [one for one in progress.standings if one.state == "running"]
    for one in running[:_ROWS]:
        table.add_row(
            Text(one.job.name),
            f"{one.epoch}/{one.epochs}" if one.epochs else "starting",
            f"{one.step}/{one.steps}" if one.steps else "",
            percent(one.validation),
            f"{one.images_per_second:.0f}" if one.images_per_second else "",
        )
    if len(running) > _ROWS:
        table.add_row(f"... and {len(running) - _ROWS} more")
    failed = [one for one in progress.standings if one.state == "failed"]
    lines = [Text(f"failed {one.job.name}: {one.error}", style="red", overflow="ellipsis") for one in failed[-5:]]
    return Group(table, *lines, Text(_headline(progress.standings, progress)))
