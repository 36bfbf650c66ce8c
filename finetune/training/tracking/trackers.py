"""Experiment trackers, opened by name; each gets the same values."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from finetune.batchnorm.subject import Snapshot
from finetune.config import parse_tracker
from finetune.errors import FinetuneError, Interrupted
from finetune.files import read_json, to_json, write_text

Status = Literal["finished", "interrupted", "failed"]

_NOTES = "tracking.json"


class Tracker(Protocol):
    """One experiment tracker of a run. Every call may raise whatever its library raises.

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


class Trackers:
    """Any number of trackers, none of which can end a run."""

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]) -> None:
        self._trackers, self._warn = dict(trackers), warn

    def step(self, step: int, loss: float) -> None:
        """As `Tracker.step`."""
        self._report(lambda one: one.step(step, loss))

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """As `Tracker.epoch`."""
        self._report(lambda one: one.epoch(history, statistics))

    def flush(self) -> None:
        """As `Tracker.flush`."""
        self._report(lambda one: one.flush())

    def end(self, result: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        self._report(lambda one: one.end(result))

    def close(self, status: Status) -> None:
        """As `Tracker.close`."""
        self._report(lambda one: one.close(status))

    def _report(self, call: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # a third-party library, a server that is gone: the run continues
                del self._trackers[kind]
                self._warn(
                    f"the {kind} tracker failed ({_reason(error)}): it is closed; the run continues, its own "
                    "files are complete"
                )


@contextmanager
def open_trackers(
    trackers: Sequence[str],
    run: Path,
    *,
    settings: Mapping[str, Any],
    source: Snapshot | None,
    warn: Callable[[str], None],
) -> Iterator[Trackers]:
    """The trackers of the run in directory `run`. They are closed with the status the block ended with.

    settings: of the run's config. source: the moving statistics it started from. FinetuneError where a tracker cannot
    be opened: no step has been trained then.
    """
    found: dict[str, Tracker] = {}
    for text in trackers:
        kind, place = parse_tracker(text)
        module = importlib.import_module(f"finetune.training.tracking.to_{kind}")
        try:
            found[kind] = module.open_tracker(place, run, settings=settings, source=source)
        except FinetuneError:
            raise
        except Exception as error:
            raise FinetuneError(
                f"--tracker {text} cannot be opened ({_reason(error)}): repair it, give another place, or leave it out"
            ) from None
    all_of_them = Trackers(found, warn)
    try:
        yield all_of_them
    except BaseException as error:
        all_of_them.close("interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed")
        raise
    all_of_them.close("finished")


def read_notes(run: Path) -> dict[str, Any]:
    """`tracking.json`: where each tracker of a run logs, so that a resumed run continues there. Empty for a new run.

    FinetuneError where the file is damaged."""
    return read_json(run / _NOTES) if (run / _NOTES).is_file() else {}


def write_notes(run: Path, value: dict[str, Any]) -> None:
    """Replace `tracking.json`, atomically."""
    write_text(run / _NOTES, to_json(value, indent=2) + "\n")


def _reason(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
