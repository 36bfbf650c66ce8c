"""What a search found, for the end of `finetune batch` and for `finetune report`."""

from collections.abc import Mapping
from typing import Any

from finetune.cli.console import Console, percent, plain_table
from finetune.reporting.words import FEW_TRIALS, brief


def show_search(out: Console, search: Mapping[str, Any], *, table: bool) -> None:
    """Print the best trial as a command and the importance of the settings, with `table` a row for each trial too.

    search: the `search` of summary.json, whose texts are printable.
    """
    metric, best, importance = search["metric"], search["best"], search["importance"]
    if table:
        names = [name.replace("_", "-") for name in search["table"][0]["settings"]]
        rows = [
            (
                one["name"],
                one["state"],
                one["epoch"],
                score_text(metric, one["score"]),
                *map(brief, one["settings"].values()),
            )
            for one in search["table"]
        ]
        out.print_block(plain_table(("trial", "state", "trained", f"val. {metric}", *names), rows, left=("state",)))
    else:
        out.print()
    if best is not None:
        out.print_fact("best", f"{best['name']}, validation {metric} {score_text(metric, best['score'])}")
        out.print_fact("again", best["command"])
    if importance:
        shares = ", ".join(f"{name.replace('_', '-')} {percent(share)}" for name, share in importance.items())
        few = ": so few show little" if search["importance_trials"] < FEW_TRIALS else ""
        out.print_fact("importance", shares)
        out.print_fact("", f"PED-ANOVA, from {search['importance_trials']} finished trials{few}")
    out.print()


def score_text(name: str, value: float | None) -> str:
    """A validation score called `name`."""
    return percent(value) if name != "loss" or value is None else f"{value:.4g}"
