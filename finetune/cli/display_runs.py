"""Several runs side by side in a terminal, and the pieces a single run is shown with as well."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from finetune.cli.console import Console
from finetune.reporting.words import seconds, setting

CLASSES, RUNS = 25, 12
"""Up to so many classes of so many runs are compared in a table."""


def show_side_by_side(out: Console, report: Mapping[str, Any]) -> None:
    """The ranking, and F1 by class. Every text in `report` is printable."""
    _ranking(out, report)
    _by_class(out, report["runs"])
    show_remarks(out, report["runs"])
    out.print("one run in full: finetune report RUN; all as a page: --html FILE", markup=False)


def _ranking(out: Console, report: Mapping[str, Any]) -> None:
    runs = report["runs"]
    table = table_of("rank", "run", "test", "is_training=True", "validation", left=("run",))
    table.add_column("against the best", overflow="fold")
    for run in runs:
        test = run["test"]
        table.add_row(
            str(run["rank"] or ""),
            Text(run["name"]),
            with_error(test["is_training_false"]) if test else run["status"],
            percent(test["is_training_true"]["accuracy"]) if test else "-",
            percent(run["validation_accuracy"]),
            Text(run["verdict"]),
        )
    out.print(table)
    out.print()
    table = table_of("run", "calibration error", "training", "images/s")
    table.add_column("settings that differ", overflow="fold")
    for run in runs:
        rate = run["cost"]["images_per_second"]
        table.add_row(
            Text(run["name"]),
            percent(run["calibration"]["expected_error"]) if run["test"] else "-",
            seconds(run["cost"]["train_seconds"]),
            f"{rate:.0f}" if rate else "-",
            Text(", ".join(f"{name} {setting(value)}" for name, value in run["settings"].items())),
        )
    out.print(table)
    out.print()
    if any(len(group["runs"]) > 1 for group in report["groups"]):
        table = table_of("rank", "runs that differ in the seed only", "validation", "test", left=("runs that",))
        table.add_column("against the best")
        for group in report["groups"]:
            table.add_row(
                str(group["rank"]),
                Text(group["name"]),
                _with_spread(group["validation_accuracy"], group["validation_accuracy_spread"]),
                _with_spread(group["test_accuracy"], group["test_accuracy_spread"]),
                Text(group["verdict"]),
            )
        out.print(table)
        out.print("± is the standard deviation over them")
        out.print()
    if report["ranking"]:
        out.print(report["ranking"], markup=False)
        out.print("± behind a run's test accuracy is the standard error of a test set of this size; within noise:")
        out.print(f"  {report['within_noise_paired']}; else {report['within_noise']}", markup=False)
    for remark in report["remarks"]:
        out.print(remark, style="yellow", markup=False)
    out.print()


def _by_class(out: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    known = [run for run in runs if run.get("classes")]
    names = [[one["name"] for one in run["classes"]] for run in known]
    if len(known) < 2 or any(one != names[0] for one in names) or len(names[0]) > CLASSES or len(known) > RUNS:
        return
    table = table_of("F1 by class", *(run["name"] for run in known))
    for place, name in enumerate(names[0]):
        table.add_row(Text(name), *(percent(run["classes"][place]["f1"]) for run in known))
    out.print(table)
    out.print()


def show_remarks(out: Console, runs: Sequence[Mapping[str, Any]]) -> None:
    """What a reader must know of each."""
    for run in runs:
        for remark in run["remarks"]:
            out.print(f"{run['name']}: {remark}", style="yellow", markup=False)


def percent(value: float | None) -> str:
    """With one digit; nothing measured is a dash."""
    return "-" if value is None else f"{value:.1%}"


def with_error(test: Mapping[str, Any]) -> str:
    """An accuracy with its standard error."""
    return f"{percent(test['accuracy'])} ± {percent(test['standard_error'])}"


def _with_spread(value: float | None, spread: float | None) -> str:
    return percent(value) if spread is None else f"{percent(value)} ± {100 * spread:.1f}"


def table_of(first: str, *others: str, left: Sequence[str] = ()) -> Table:
    """A table without lines: words to the left, and in the columns whose titles start with one of `left`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(Text(first), overflow="fold", justify="right" if first in ("epoch", "rank") else "left")
    for column in others:
        words = any(column.startswith(start) for start in left)
        table.add_column(Text(column), justify="left" if words else "right", overflow="fold", no_wrap=not words)
    return table
