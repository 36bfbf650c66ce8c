"""Trackers by name, all told the same."""

import difflib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from finetune.batchnorm.subject import Snapshot
from finetune.errors import FinetuneError, Interrupted, WrongUse

Status = Literal["finished", "interrupted", "failed"]

_NEEDS = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
"""What each kind imports; the extra of the same name installs it."""


class Tracker(Protocol):
    """One place a run is told to. Every call may raise whatever its library raises.

    What a resumed run tells again is left out: its epochs are told from the first one on.
    """

    def step(self, step: int, loss: float) -> None:
        """After a training step, counted from 1: the mean loss of its batch."""

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """After an epoch, the rows of metrics.jsonl so far; `statistics` gives the moving statistics of now."""

    def flush(self) -> None:
        """The run has saved its state: what was told before it will not be told again."""

    def end(self, result: Mapping[str, Any]) -> None:
        """The content of result.json."""

    def close(self, status: Status) -> None:
        """Nothing more comes, or not in this process."""


class Trackers:
    """Any number of trackers, none of which can end a run."""

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]) -> None:
        self._trackers, self._warn = dict(trackers), warn

    def step(self, step: int, loss: float) -> None:
        """As `Tracker.step`."""
        self._tell(lambda one: one.step(step, loss))

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """As `Tracker.epoch`."""
        self._tell(lambda one: one.epoch(history, statistics))

    def flush(self) -> None:
        """As `Tracker.flush`."""
        self._tell(lambda one: one.flush())

    def end(self, result: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        self._tell(lambda one: one.end(result))

    def close(self, status: Status) -> None:
        """As `Tracker.close`."""
        self._tell(lambda one: one.close(status))

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for kind, tracker in list(self._trackers.items()):
            try:
                call(tracker)
            except Exception as error:  # a library of somebody else's, a server that is gone: the run goes on
                del self._trackers[kind]
                self._warn(
                    f"the {kind} tracker failed ({_reason(error)}): it is told nothing more; the run goes on, its own "
                    "files are complete"
                )


def check(trackers: Sequence[str]) -> None:
    """WrongUse for a tracker that is not known or comes twice, FinetuneError where its package is not installed."""
    kinds = [_parsed(text)[0] for text in trackers]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise WrongUse(f"--tracker {kind} comes twice: leave one out")
        missing = [package for package in _NEEDS[kind] if find_spec(package) is None]
        if missing:
            raise FinetuneError(
                f"--tracker {kind} needs the package '{missing[0]}', which is not installed: "
                f'pip install "finetune-backbones[{kind}]"'
            )


def absolute(trackers: Sequence[str]) -> tuple[str, ...]:
    """The same with absolute paths: a run is resumed from anywhere."""
    return tuple(
        text if place is None or "://" in place else f"{kind}={os.path.abspath(os.path.expanduser(place))}"
        for text in trackers
        for kind, place in [_parsed(text)]
    )


@contextmanager
def opened(
    trackers: Sequence[str],
    run: Path,
    *,
    settings: Mapping[str, Any],
    source: Snapshot | None,
    warn: Callable[[str], None],
) -> Iterator[Trackers]:
    """The trackers of the run in directory `run`, told at the end how the block ended.

    settings: of the run's config. source: the moving statistics it started from. FinetuneError where one cannot be
    opened: no step has been trained then.
    """
    found: dict[str, Tracker] = {}
    for text in trackers:
        kind, place = _parsed(text)
        module = importlib.import_module(f"finetune.training.tracking.to_{kind}")
        try:
            found[kind] = module.open_tracker(place, run, settings=settings, source=source)
        except FinetuneError:
            raise
        except Exception as error:
            raise FinetuneError(
                f"--tracker {text} cannot be opened ({_reason(error)}): mend it, give another place, or leave it out"
            ) from None
    all_of_them = Trackers(found, warn)
    try:
        yield all_of_them
    except BaseException as error:
        all_of_them.close("interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed")
        raise
    all_of_them.close("finished")


def _parsed(text: str) -> tuple[str, str | None]:
    """(kind, place) of `kind` or `kind=place`."""
    kind, separator, place = text.partition("=")
    if kind not in _NEEDS:
        near = difflib.get_close_matches(kind, _NEEDS, n=1)
        raise WrongUse(
            f"unknown tracker '{kind}' in --tracker: {f'did you mean {near[0]}? ' if near else ''}expected "
            "tensorboard[=DIR] or mlflow[=DIR|URI]"
        )
    if separator and not place.strip():
        raise WrongUse(f"--tracker '{text}' has no place after '=': give {kind}=DIR, or {kind} alone")
    if kind == "tensorboard" and "://" in place:
        raise WrongUse(f"--tracker {text}: expected a directory; TensorBoard's event files go to disk")
    if "@" in place.partition("://")[2].partition("/")[0]:
        raise WrongUse(
            "--tracker mlflow=URI has a name or password in it, and config.json would keep them: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    return kind, place if separator else None


def _reason(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]
