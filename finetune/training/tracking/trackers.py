"""Experiment trackers, opened by name; each gets the same values, under the same names."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.batchnorm.subject import Snapshot
from finetune.config import parse_tracker
from finetune.errors import FinetuneError, Interrupted
from finetune.files import read_json, to_json, write_text
from finetune.reporting.words import setting
from finetune.text import first_line

Status = Literal["finished", "interrupted", "failed"]

FILES = ("config.json", "data.json", "environment.json", "result.json", "metrics.csv", "MODEL_CARD.md")
"""The small files of a finished run, which trackers that hold files get."""
_NOTES = "tracking.json"
_NAMES = {
    "train_loss": "loss/train",
    "validation_loss": "loss/validation",
    "train_accuracy": "accuracy/train",
    "validation_accuracy": "accuracy/validation",
    "validation_balanced_accuracy": "balanced_accuracy/validation",
    "validation_macro_f1": "macro_f1/validation",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "seconds": "speed/epoch_seconds",
    "images_per_second": "speed/images_per_second",
}
"""The names that trackers show for the values of a row of metrics.jsonl."""


class Tracker:
    """One experiment tracker of a run; this one keeps nothing. Every call may raise whatever its library raises.

    A resumed run reports its epochs from the first one on; a tracker skips what it already has.
    """

    def step(self, step: int, loss: float) -> None:
        """After a training step, counted from 1: the mean loss of its batch."""

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """After an epoch, the rows of metrics.jsonl so far; `statistics` returns the present moving statistics."""

    def flush(self) -> None:
        """The run has saved its state: values before it are not reported again."""

    def end(self, result: Mapping[str, Any]) -> None:
        """The content of result.json."""

    def close(self, status: Status) -> None:
        """Nothing more is reported, or not by this process."""


Report = Callable[[Callable[[Tracker], None]], None]
"""Takes a call of one tracker and makes it to every tracker of the run."""


@contextmanager
def open_trackers(
    trackers: Sequence[str],
    run: Path,
    *,
    settings: Mapping[str, Any],
    source: Snapshot | None,
    warn: Callable[[str], None],
) -> Iterator[Report]:
    """The trackers of the run in directory `run`. They are closed with the status the block ended with.

    The function that this context gives makes a call to each tracker. A tracker that fails ends no run: it is closed
    with a warning.

    settings: of the run's config. source: the moving statistics it started from. FinetuneError where a tracker cannot
    be opened: no step has been trained then.
    """
    opened: dict[str, Tracker] = {}
    for text in trackers:
        kind, place = parse_tracker(text)
        module = importlib.import_module(f"finetune.training.tracking.to_{kind}")
        try:
            opened[kind] = module.open_tracker(place, run, settings, source)
        except FinetuneError:
            raise
        except Exception as error:
            raise FinetuneError(
                f"--tracker {text} cannot be opened ({first_line(error)}): repair it, give another place, or leave "
                "it out"
            ) from None

    def report(call: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(opened.items()):
            try:
                call(tracker)
            except Exception as error:  # a third-party library, a server that is gone: the run continues
                del opened[kind]
                warn(
                    f"the {kind} tracker failed ({first_line(error)}): it is closed; the run continues, its own "
                    "files are complete"
                )

    status: Status = "finished"
    try:
        yield report
    except BaseException as error:
        status = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        raise
    finally:
        report(lambda one: one.close(status))


def read_notes(run: Path) -> dict[str, Any]:
    """`tracking.json`: where each tracker of a run logs, so that a resumed run continues there. Empty for a new run.

    FinetuneError where the file is damaged."""
    return read_json(run / _NOTES) if (run / _NOTES).is_file() else {}


def write_notes(run: Path, value: dict[str, Any]) -> None:
    """Replace `tracking.json`, atomically."""
    write_text(run / _NOTES, to_json(value, indent=2) + "\n")


def of_epoch(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row of metrics.jsonl; those of a checkup (`--diagnose-every`) are called bn/..."""
    found = {_NAMES.get(name, name): value for name, value in row.items() if name not in ("step", "kind", "bn")}
    found |= {f"bn/{name}": value for name, value in (row.get("bn") or {}).items()}
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """The test images' scores: without a suffix with `is_training=False`, with a suffix with True."""
    ways = {"": "is_training_false", "_is_training_true": "is_training_true"}
    found = {
        f"{measure}/test{suffix}": result["test"][way].get(measure)
        for measure in ("accuracy", "loss", "balanced_accuracy", "macro_f1")
        for suffix, way in ways.items()
    }
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def of_settings(config: Mapping[str, Any]) -> dict[str, bool | float | str]:
    """The settings of a config that are set; a list as one text."""
    return {
        name: setting(value) if isinstance(value, list | tuple | dict) else value
        for name, value in config.items()
        if value is not None and name != "tracker"
    }


def drift(now: Snapshot, source: Snapshot | None) -> dict[str, np.ndarray]:
    """(moving mean - its start) / sigma of the start, float `[channels]`, for each layer whose statistics changed."""
    found = {}
    for name, (mean, variance) in now.items():
        if source is None or name not in source:
            continue
        start, spread = source[name]
        if not (np.array_equal(mean, start) and np.array_equal(variance, spread)):
            # As in BatchNorm, epsilon keeps channels with hardly any variance from a division by zero.
            found[name] = (mean - start) / np.sqrt(np.maximum(spread, 0) + 1e-3)
    return found


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number: trackers take no others."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0
