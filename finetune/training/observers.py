"""Observers of the loop: one writes the run's files, the other, of the further workers, writes nothing."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.loop.state import State
from finetune.training.periodic_diagnosis import Checkup
from finetune.training.phases import Phases
from finetune.training.tracking.trackers import Trackers


class Recorder:
    """The loop's observer. `averages`: the averaged weights, at the end of a run with `ema`."""

    def __init__(
        self,
        run: RunDir,
        model: keras.Model,
        display: Display,
        trackers: Trackers,
        requested: Callable[[], bool],
        checkup: Checkup | None,
        phases: Phases,
    ) -> None:
        self._run, self._display, self.stop_requested, self._checkup = run, display, requested, checkup
        self._trackers, self._statistics = trackers, KerasSubject(model).snapshot
        self._phases = phases
        self.averages: dict[str, np.ndarray] | None = None

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After a step: shown and tracked."""
        self._display.step(epoch=epoch, step=step, steps=steps, images=images, loss=loss)
        self._trackers.step(step, loss)

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        """After an epoch, before its state is saved: written, tracked, shown, with a checkup where one is due."""
        row = history[-1]
        if self._checkup is not None and self._checkup.due(row["epoch"]):
            epoch = row["epoch"]
            row["bn"] = self._checkup.row(
                updates=self._phases.updates(epoch), batch=self._phases.batch_statistics(epoch)
            )
        self._run.write_metrics(history)
        self._trackers.epoch(history, self._statistics)
        self._display.epoch(row)

    def on_averages(self, weights: dict[str, np.ndarray]) -> None:
        """Kept for the end."""
        self.averages = weights

    def save(self, state: State) -> None:
        """Trackers first: a state never knows of epochs that they do not."""
        self._trackers.flush()
        self._run.state_path.parent.mkdir(exist_ok=True)
        state.save(self._run.state_path)


class FollowingObserver:
    """The loop's observer where nothing is written."""

    def __init__(self, display: Display, requested: Any) -> None:
        self.on_step, self.stop_requested = display.step, requested

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        """Nothing: the chief writes."""

    def on_averages(self, weights: Any) -> None:
        """Nothing: the chief keeps them."""

    def save(self, state: State) -> None:
        """Nothing: the chief saves."""
