"""Weights & Biases: its own client, offline unless WANDB_MODE says otherwise."""

import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Read when wandb is imported. It would report its own errors to its maker, also where a run stays offline.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from finetune.batchnorm.subject import Snapshot
from finetune.errors import FinetuneError
from finetune.training.tracking.trackers import (
    FILES,
    Tracker,
    of_epoch,
    of_result,
    of_settings,
    read_notes,
    write_notes,
)

PROJECT = "finetune"
_MODES = ("online", "offline", "disabled")
_TIMEOUTS: dict[str, Any] = {"init_timeout": 30.0, "finish_timeout": 60.0}
"""Seconds to wait for a server, unless WANDB_INIT_TIMEOUT and WANDB_FINISH_TIMEOUT are set. What was not sent in time
stays in the run's directory."""


class Wandb(Tracker):
    """Settings as config, epochs as history by step, test results as summary, the run's small files as files.

    A row that was logged is noted in tracking.json, so a resumed run does not log it again. The loss of every batch is
    not logged: most of it would be sent over the network.
    """

    def __init__(self, run: Any, directory: Path, notes: dict[str, Any]) -> None:
        self._run, self._directory, self._notes = run, directory, notes

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """As `Tracker.epoch`."""
        for row in history:
            if row["step"] > self._notes["wandb"]["step"]:
                self._run.log(of_epoch(row), step=int(row["step"]), commit=True)
                self._notes["wandb"]["step"] = int(row["step"])
        write_notes(self._directory, {**read_notes(self._directory), **self._notes})

    def end(self, result: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        self._run.summary.update(of_result(result))

    def close(self, status: str) -> None:
        """As `Tracker.close`; a finished run's small files are kept with it."""
        if status == "finished" and os.path.isdir(self._run.dir):  # WANDB_MODE=disabled makes no files
            for name in FILES:
                if (self._directory / name).is_file():
                    # A copy: wandb would make a link with an absolute path, and a run directory may be moved.
                    copy = shutil.copy(self._directory / name, self._run.dir)
                    self._run.save(copy, base_path=self._run.dir, policy="now")
        self._run.finish(exit_code={"finished": 0, "interrupted": 130, "failed": 1}[status])


def open_tracker(place: str | None, run: Path, settings: Mapping[str, Any], source: Snapshot | None) -> Wandb:
    """The wandb run that tracking.json names, else a new one; its files are in RUN/wandb.

    `place` is PROJECT or ENTITY/PROJECT; without it WANDB_PROJECT, or "finetune". FinetuneError for an unknown
    WANDB_MODE.
    """
    mode: Any = os.environ.get("WANDB_MODE") or "offline"
    if mode not in _MODES:
        raise FinetuneError(f"WANDB_MODE is '{mode}': expected one of {', '.join(_MODES)}; without it a run is offline")
    entity, _, project = (place or "").rpartition("/")
    notes = {"wandb": read_notes(run).get("wandb") or {"id": secrets.token_hex(4), "step": 0}}
    timeouts = {name: one for name, one in _TIMEOUTS.items() if f"WANDB_{name.upper()}" not in os.environ}
    write_notes(run, {**read_notes(run), **notes})  # first: a run that is killed meanwhile goes on under the same id
    opened = wandb.init(
        dir=run,
        id=notes["wandb"]["id"],
        name=run.name,
        entity=entity or None,
        project=project or os.environ.get("WANDB_PROJECT") or PROJECT,
        config=of_settings(settings),
        resume="allow" if mode == "online" else None,
        # In a notebook the user may have a run of their own, and files of theirs are none of this run's business.
        settings=wandb.Settings(
            mode=mode, silent=True, console="off", disable_git=True, save_code=False, reinit="create_new", **timeouts
        ),
    )
    return Wandb(opened, run, notes)
