"""TensorBoard: event files written by its own package; TensorFlow is not needed for it."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2, summary_v2
from tensorboard.plugins.hparams.summary import session_end_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from finetune.batchnorm.subject import Snapshot
from finetune.errors import WrongUse
from finetune.training.tracking.trackers import drift, of_epoch, of_result, of_settings, read_notes, write_notes

_FILES = "events.out.tfevents.*"


class TensorBoard:
    """Scalars by step (an epoch's at its last step), HParams, and of every BN layer that has moved the histograms of
    its moving mean, its moving variance, and its drift from the start.

    The logs are in RUN/tensorboard, or in DIR under the run's name; what they already hold is not written again.
    Raises WrongUse where another run's logs are there.
    """

    def __init__(self, place: str | None, run: Path, settings: Mapping[str, Any], source: Snapshot | None) -> None:
        directory = run / "tensorboard" if place is None else Path(place) / run.name
        noted = read_notes(run)
        if noted.get("tensorboard") != str(directory) and place is not None and list(directory.glob(_FILES)):
            raise WrongUse(
                f"{directory} holds logs of another run: give another --tracker tensorboard=DIR, or another --run-dir"
            )
        directory.mkdir(parents=True, exist_ok=True)
        write_notes(run, {**noted, "tensorboard": str(directory)})
        self._source, self._written = source, _written(directory)
        self._writer = EventFileWriter(str(directory))
        trial = f"{run.absolute().parent.name}/{run.name}"
        self._write("_hparams_/session_start_info", 0, summary_v2.hparams_pb(of_settings(settings), trial_id=trial))
        self._writer.flush()

    def step(self, step: int, loss: float) -> None:
        """As `Tracker.step`."""
        self._write("loss/batch", step, loss)

    def epoch(self, history: Sequence[Mapping[str, Any]], statistics: Callable[[], Snapshot]) -> None:
        """As `Tracker.epoch`."""
        for row in history:
            for tag, value in of_epoch(row).items():
                self._write(tag, int(row["step"]), value)
        step, now = int(history[-1]["step"]), statistics()
        moved = drift(now, self._source)
        for layer, values in moved.items():
            shown = layer.replace(".", "/")
            self._write(f"bn_drift/{shown}", step, values)
            for tag, array in zip(("bn_moving_mean", "bn_moving_variance"), now[layer], strict=True):
                self._write(f"{tag}/{shown}", step, array)
        if moved:
            together = np.concatenate(list(moved.values()))
            self._write("bn/drift_from_start_rms", step, float(np.sqrt(np.mean(np.square(together)))))
        self.flush()

    def flush(self) -> None:
        """As `Tracker.flush`."""
        self._writer.flush()

    def end(self, result: Mapping[str, Any]) -> None:
        """As `Tracker.end`."""
        for tag, value in of_result(result).items():
            self._write(tag, int(result["steps"]), value)

    def close(self, status: str) -> None:
        """As `Tracker.close`. An interrupted run is left open: it goes on in the same log."""
        if status != "interrupted":
            known = api_pb2.STATUS_SUCCESS if status == "finished" else api_pb2.STATUS_FAILURE
            self._write("_hparams_/session_end_info", 0, session_end_pb(known))
        self._writer.close()

    def _write(self, tag: str, step: int, value: Any) -> None:
        """Write a float as a scalar, an array as a histogram if it is finite, and a message of HParams as it is."""
        array = isinstance(value, np.ndarray)
        if (tag, step) in self._written or (array and not np.isfinite(value).all()):
            return
        self._written.add((tag, step))
        if array or isinstance(value, float):
            value = (histogram_pb if array else scalar_pb)(tag, value)
        # Where TensorFlow is imported some of these are messages of its own classes, to the bit the same.
        summary = summary_pb2.Summary.FromString(value.SerializeToString())
        self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))


open_tracker = TensorBoard


def _written(directory: Path) -> set[tuple[str, int]]:
    """(tag, step) of everything in the event files of `directory`; of one that is cut off, of its whole records."""
    found = set()
    for path in sorted(directory.glob(_FILES)):
        for event in EventFileLoader(str(path)).Load():
            found |= {(value.tag, int(event.step)) for value in event.summary.value}
    return found
