"""Observers of the loop: one writes the run's files, the other, of the further workers, writes nothing."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.loop.state import State
from finetune.training.loop.train import Observer
from finetune.training.periodic_diagnosis import Checkup
from finetune.training.phases import Phases
from finetune.training.tracking.trackers import Report


class Recorder(Observer):
    """The observer of the chief: it writes the run's files. `averages`: the averaged weights of a run with `ema`."""

    def __init__(
        self,
        run: RunDir,
        model: keras.Model,
        display: Display,
        report: Report,
        requested: Callable[[], bool],
        checkup: Checkup | None,
        phases: Phases,
    ) -> None:
        self._run, self._display, self._requested, self._checkup = run, display, requested, checkup
        self._report, self._statistics = report, KerasSubject(model).snapshot
        self._phases = phases
        self.averages: dict[str, np.ndarray] | None = None

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After a step: shown and tracked."""
        self._display.step(epoch=epoch, step=step, steps=steps, images=images, loss=loss)
        self._report(lambda one: one.step(step, loss))

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        """After an epoch, before its state is saved: written, tracked, shown, with a checkup where one is due."""
        row = history[-1]
        if self._checkup is not None and self._checkup.due(row["epoch"]):
            epoch = row["epoch"]
            row["bn"] = self._checkup.row(
                updates=self._phases.updates(epoch), batch=self._phases.batch_statistics(epoch)
            )
        self._run.write_metrics(history)
        self._report(lambda one: one.epoch(history, self._statistics))
        self._display.epoch(row)

    def stop_requested(self) -> bool:
        """Whether the user asked the run to stop."""
        return self._requested()

    def on_averages(self, weights: dict[str, np.ndarray]) -> None:
        """Keep them for the end of the run."""
        self.averages = weights

    def save(self, state: State) -> None:
        """Save the state after the trackers: a saved state never holds epochs that they lack."""
        self._report(lambda one: one.flush())
        self._run.state_path.parent.mkdir(exist_ok=True)
        state.save(self._run.state_path)


class FollowingObserver(Observer):
    """The observer of a further worker: it shows the steps and writes nothing."""

    def __init__(self, display: Display, requested: Callable[[], bool]) -> None:
        self._display, self._requested = display, requested

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After a step: shown."""
        self._display.step(epoch=epoch, step=step, steps=steps, images=images, loss=loss)

    def stop_requested(self) -> bool:
        """Whether this worker was asked to stop."""
        return self._requested()
