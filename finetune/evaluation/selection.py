"""Which epoch of a run is the best: by the validation score that `select_by` names. No TensorFlow."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of metrics.jsonl."""


def score_name(select_by: str) -> str:
    """The key of a score in `Evaluation.to_json`, and after `validation_` in a row."""
    return select_by.replace("-", "_")


def selection_score(row: Row, select_by: str) -> float | None:
    """The validation score of an epoch; larger is better, so a loss is negative. None where it is not known."""
    value = row.get(f"validation_{score_name(select_by)}")
    if value is None or not math.isfinite(value):
        return None
    return -float(value) if select_by == "loss" else float(value)


def kept_epoch(rows: Sequence[Row], *, patience: bool, select_by: str = "accuracy") -> Row | None:
    """The epoch whose weights a run kept: with `patience` the best one, the first of equals, else the last one.

    None where no epoch has the score.
    """
    scored = [row for row in rows if selection_score(row, select_by) is not None]
    if not scored:
        return None
    return max(scored, key=lambda row: selection_score(row, select_by) or 0.0) if patience else scored[-1]


def common_selection(every: Iterable[str | None]) -> str:
    """By which score runs are ranked together, from the `select_by` of each: accuracy, unless all name another."""
    names = {one or "accuracy" for one in every}
    return names.pop() if len(names) == 1 else "accuracy"
