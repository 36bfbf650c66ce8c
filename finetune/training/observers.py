"""Observers of the loop: one writes the run's files, the other, of the further workers, writes nothing.

With `--diagnose-every`, the first one also diagnoses the model every K epochs; the result is logged like any metric.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Snapshot
from finetune.data import batches
from finetune.data.batches import EvalSet, training_subset
from finetune.diagnosis.evidence import Facts
from finetune.diagnosis.measure import examine
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.verdict import judge
from finetune.runs.directory import RunDir
from finetune.training.display import Display
from finetune.training.loop.state import State
from finetune.training.loop.train import Observer
from finetune.training.phases import Prepared
from finetune.training.tracking.trackers import Report

IMAGES = 1_000
"""Validation images examined, and training images: a checkup costs six passes over them."""


class FollowingObserver(Observer):
    """The observer of a further worker: it shows the steps and writes nothing."""

    def __init__(self, display: Display, requested: Callable[[], bool]) -> None:
        self.display, self._requested = display, requested

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After a step: shown."""
        self.display.step(epoch=epoch, step=step, steps=steps, images=images, loss=loss)

    def stop_requested(self) -> bool:
        """Whether the user asked this process to stop."""
        return self._requested()


class Recorder(FollowingObserver):
    """The observer of the chief: it writes the run's files. `averages`: the averaged weights of a run with `ema`.

    source: the moving statistics that the run started from. report: calls the trackers. `started`: by the monotonic
    clock, in seconds.
    """

    def __init__(
        self,
        run: RunDir,
        prepared: Prepared,
        display: Display,
        requested: Callable[[], bool],
        report: Report,
        source: Snapshot | None,
    ) -> None:
        super().__init__(display, requested)
        self.run, self.prepared, self.report = run, prepared, report
        self.started = time.monotonic()
        self.averages: dict[str, np.ndarray] | None = None
        self._statistics = KerasSubject(prepared.model).snapshot
        self._checkup = Checkup(prepared, source) if prepared.config.diagnose_every else None

    def on_step(self, *, epoch: int, step: int, steps: int, images: int, loss: float) -> None:
        """After a step: shown and tracked."""
        super().on_step(epoch=epoch, step=step, steps=steps, images=images, loss=loss)
        self.report(lambda one: one.step(step, loss))

    def on_epoch(self, history: list[dict[str, Any]]) -> None:
        """After an epoch, before its state is saved: written, tracked, shown, with a checkup where one is due."""
        row = history[-1]
        if self._checkup is not None and self._checkup.due(row["epoch"]):
            row["bn"] = self._checkup.row(row["epoch"])
        self.run.write_metrics(history)
        self.report(lambda one: one.epoch(history, self._statistics))
        self.display.epoch(row)

    def on_averages(self, weights: dict[str, np.ndarray]) -> None:
        """Keep them for the end of the run."""
        self.averages = weights

    def save(self, state: State) -> None:
        """Save the state after the trackers: a saved state never holds epochs that they lack."""
        self.report(lambda one: one.flush())
        self.run.state_path.parent.mkdir(exist_ok=True)
        state.save(self.run.state_path)


class Checkup:
    """Examines the model of a run on validation images (training images where none are held out), never on test images.

    `source` are the moving statistics the run started from.
    """

    def __init__(self, prepared: Prepared, source: Snapshot | None) -> None:
        config, dataset = prepared.config, prepared.dataset
        self._prepared, self._source, self._subject = prepared, source, KerasSubject(prepared.model)
        # Each kind of statistics is traced once for all checkups: the weights change, the graph does not.
        self._subject.forward = cache(self._subject.forward)  # type: ignore[method-assign]
        form = batches.form(config)
        images = max(IMAGES, len(dataset.class_names))
        self._train = EvalSet(training_subset(dataset.train, config, images), **form)
        self._held_out = EvalSet(dataset.validation, **form).some(IMAGES) if dataset.validation else self._train

    def due(self, epoch: int) -> bool:
        """Whether a checkup follows `epoch`, counted from 1."""
        return epoch % (self._prepared.config.diagnose_every or 1) == 0 and bool(self._subject.layers)

    def row(self, epoch: int) -> dict[str, Any]:
        """`bn` of the row of `epoch`: the cause and its figures, accuracies as fractions. The model is unchanged."""
        config = self._prepared.config
        evidence = examine(
            self._subject,
            test=self._held_out,
            train=self._train,
            source=self._source,
            facts=Facts(
                decay=float(config.bn_decay),
                updates=self._prepared.updates(epoch),
                updates_enabled=config.bn_updates == "on",
                trained_with="batch" if self._prepared.plan_of(epoch).uses_batch_statistics else "moving",
                weights_moved=True,
                batch_size=config.batch_size,
            ),
            extent="quick",
        )
        verdict = judge(evidence, Commands("RUN"))
        modes = evidence.test
        return {
            "cause": verdict.cause,
            "is_training_false": modes.is_training_false.accuracy,
            "is_training_true": modes.is_training_true.accuracy,
            "recalibrated": modes.recalibrated.accuracy,
            "images": modes.is_training_false.examples,
            "largest_mean_shift": max(layer.mean_shift for layer in evidence.layers),
            "share_left": evidence.shares[0].share if evidence.shares else None,
        }
