"""What `finetune batch` shows: a line per event, a live table in a terminal, the ranked table at the end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from finetune.batch.folder import BatchFolder
from finetune.batch.status import Display, JobStatus, Progress
from finetune.batch.summary import Group as SummaryGroup
from finetune.batch.summary import Summary, summarise
from finetune.cli.console import output_console, percent, plain_table, progress_console, with_spread
from finetune.cli.display_search import score_text, show_search
from finetune.cli.terminal import Columns, tabulated
from finetune.evaluation.significance import ranking_words
from finetune.reporting import words
from finetune.reporting.words import brief
from finetune.text import all_printable

_ROWS = 12
"""Running jobs shown at most."""


class BatchDisplay(Display):
    """Progress on standard error: a line per event; in a terminal, the running jobs below them."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = progress_console(quiet=quiet)
        self._live = Live(console=self._console, transient=True, auto_refresh=False)
        self._drawn = 0.0
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def show(self, progress: Progress) -> None:
        """Draw the live table again, a few times a second at most."""
        self._progress = progress
        if self._console.is_terminal and time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            self._live.update(_live_table(progress), refresh=True)

    def job_ended(self, status: JobStatus) -> None:
        """Print a line with the result or the reason."""
        name, state = status.job.name, status.state
        if state == "done":
            validation = "" if status.validation is None else f"validation {percent(status.validation)}, "
            after = f"{status.seconds:.0f} s" if status.seconds else ""
            note = f"  [{status.note}]" if status.note else ""
            self.say(f"done         {name}  {validation}test {percent(status.test)}  {after}{note}")
        else:
            self.say(f"{state:12} {name}  {status.error or status.note}")
        if not self._console.is_terminal and self._progress is not None:
            self.say(f"             {_headline(self._progress)}")

    @contextmanager
    def running(self) -> Iterator["BatchDisplay"]:
        """Inside, a terminal has the live table."""
        if not self._console.is_terminal or self._console.quiet:
            yield self
            return
        with self._live:
            yield self


def show_summary(summary: Summary, folder: BatchFolder) -> None:
    """Print the ranked table, how it is ranked, and where the files are."""
    out = output_console()
    seeds, by = ["seeds"] if summary.seeds else [], summary.select_by
    shown = [] if by == "accuracy" else [f"val. {by}", f"test {by}"]
    settings = [] if summary.search is None else summary.columns
    rows: list[tuple[object, ...]] = []
    for group in summary.groups:
        results = group.results
        rows.append(
            (
                group.rank or "",
                group.name,
                *(brief(getattr(group.statuses[0].job.config, name)) for name in settings),
                *(f"{len(group.done)}/{len(group.statuses)}" for _ in seeds),
                *(score_text(by, score) for score in (group.scores() if shown else ())),
                with_spread(results.validation_mean, results.validation_spread),
                with_spread(results.mean, results.spread),
                _pruned(group) or group.verdict,
            )
        )
        for status in group.statuses:
            done = status.settled
            remark = status.note if done else f"{status.state} {status.error or status.note}".strip()
            if remark and status.state != "pruned":
                name = "" if status.job.name == group.name else f"  {status.job.name}: "
                rows.append(("", Text(f"  {name}{remark}", style="" if done else "red")))
    named = [name.replace("_", "-") for name in settings]
    header = ("rank", "job", *named, *seeds, *shown, "validation", "test", "against the best")
    out.print_block(plain_table(header, rows, left=("job", "against")))
    if any(group.rank for group in summary.groups):
        out.print(ranking_words(summary.ranked_by, one="job", score=by), markup=False)
        spread = "± is the standard deviation over seeds; " if summary.seeds else ""
        out.print(f"{spread}within noise: |difference in test| <= 2 standard errors, see summary.json", markup=False)
    if summary.search is not None:
        show_search(out, all_printable(summary.search), table=False)
    counts = ", ".join(f"{count} {state}" for state, count in summary.counts.items())
    out.print(f"{counts}; summary.csv, summary.json and the runs are in {folder}", markup=False)


def _pruned(group: SummaryGroup) -> str:
    """What the table says of a trial that a search has stopped; empty for others."""
    one = group.statuses[0]
    if one.state != "pruned":
        return ""
    score = -one.score if group.select_by == "loss" and one.score is not None else one.score
    return f"pruned after epoch {one.epoch} of {one.epochs}, at best {score_text(group.select_by, score)}"


def show_plan(rows: Sequence[dict[str, Any]], estimate: dict[str, Any], folder: BatchFolder) -> None:
    """Print what `--dry-run` found: a line per job, and the total of all jobs."""
    out = output_console()
    numbers = ("image_size", "batch_size", "epochs", "images", "steps")
    cells = [
        (
            row["index"],
            row["name"],
            row["state"],
            *(
                "?" if row[name] is None else str(row[name]) if isinstance(row[name], str) else f"{row[name]:,}"
                for name in numbers
            ),
        )
        for row in rows
    ]
    header = ("#", "job", "state", "px", "batch", "epochs", "images", "steps")
    out.print_block(plain_table(header, cells, left=("job", "state")))
    out.print(f"{len(rows)} jobs in {folder}, {estimate['to_run']} to run: {estimate['words']}", markup=False)


def _headline(progress: Progress) -> str:
    summary = summarise(progress.statuses)
    parts = [f"{count} {state}" for state, count in summary.counts.items()]
    parts += [f"{progress.to_come} to be proposed"] * bool(progress.to_come)
    best = next((group for group in summary.groups if group.rank == 1), None)
    if best is not None:
        by, value = summary.ranked_by, percent(best.results.mean)
        if by == "validation":
            by = "validation" if summary.select_by == "accuracy" else f"validation {summary.select_by}"
            value = score_text(summary.select_by, best.scores()[0])
        parts.append(f"best so far {best.name} ({by} {value})")
    remaining = progress.remaining
    if remaining is not None and remaining.seconds > 0:
        parts.append(f"about {words.seconds(remaining.seconds)} left ({remaining.measured} measured)")
    return ", ".join(parts)


def _live_table(progress: Progress) -> RenderableType:
    columns: Columns = {
        "running": lambda one: one.job.name,
        "epoch": lambda one: f"{one.epoch}/{one.epochs}" if one.epochs else "starting",
        "step": lambda one: f"{one.step}/{one.steps}" if one.steps else "",
        "validation": lambda one: percent(one.validation),
        "images/s": lambda one: f"{one.images_per_second:.0f}" if one.images_per_second else "",
    }
    running = [one for one in progress.statuses if one.state == "running"]
    table = plain_table(*tabulated(running[:_ROWS], columns))
    table.columns[0].no_wrap = True
    if len(running) > _ROWS:
        table.add_row(f"... and {len(running) - _ROWS} more")
    failed = [one for one in progress.statuses if one.state == "failed"]
    lines = [Text(f"failed {one.job.name}: {one.error}", style="red", overflow="ellipsis") for one in failed[-5:]]
    return Group(table, *lines, Text(_headline(progress)))
