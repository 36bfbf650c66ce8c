"""A TF1 graph as a `Subject`, to evaluate and to examine like a Keras model.

Its checkpoint or SavedModel can be written again with other moving statistics and nothing else changed.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from checkpoints.atomic import naming, remove_abandoned, replacing, working_folder
from checkpoints.errors import CheckpointError
from checkpoints.formats import Checkpoint
from checkpoints.formats.slim import everything, write_slim
from finetune.batchnorm.statistics import Moments, pool
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graph_files import Averages, cuts
from finetune.tf_graphs.program.graphdef import Saved, first_line
from finetune.tf_graphs.program.modes import Wiring
from finetune.tf_graphs.program.nodes import first_of
from finetune.tf_graphs.program.sites import Layer
from finetune.tf_graphs.session import GraphSession, Measured


@dataclass(frozen=True)
class TrainingFiles:
    """A `.meta` and its checkpoint. places: where each variable is read from, its own tensor or its average."""

    meta: Path
    checkpoint: Checkpoint
    places: Mapping[str, Saved]

    def write(self, out: Path, values: Mapping[str, np.ndarray]) -> None:
        """Write a checkpoint of the prefix `out`, and its .meta, with `values` in place of what the variables hold.

        CheckpointError where `out` exists, FinetuneError where it cannot be written; nothing is left behind then.
        """
        meta = out.with_name(out.name + ".meta")
        _require_free(meta, out)
        arrays = everything(self.checkpoint)
        for name, value in values.items():
            _put(arrays, self.places[name], value)
        try:
            with replacing(meta) as temporary:
                temporary.write_bytes(self.meta.read_bytes())
                write_slim(out, arrays)
        except tf.errors.OpError as error:
            raise FinetuneError(f"cannot write {out}: {first_line(error)}") from None


@dataclass(frozen=True)
class ExportedFiles:
    """A SavedModel. twins: further places of a variable, which are written where they hold the same value now."""

    directory: Path
    checkpoint: Checkpoint
    places: Mapping[str, Saved]
    twins: Mapping[str, Sequence[Saved]]

    def write(self, out: Path, values: Mapping[str, np.ndarray]) -> None:
        """Write a SavedModel to the directory `out`, with `values` in place of what the variables hold.

        The fingerprint is left out: it is of the old variables, and loading does not need it. CheckpointError where
        `out` exists, FinetuneError where it cannot be written; nothing is left behind then.
        """
        parent = out.absolute().parent
        remove_abandoned(parent, f".{out.name}.")
        _require_free(out)
        arrays = everything(self.checkpoint)
        for name, value in values.items():
            before = arrays[self.places[name].key]
            twins = [one for one in self.twins.get(name, ()) if np.array_equal(arrays[one.key], before, equal_nan=True)]
            for place in (self.places[name], *twins):
                _put(arrays, place, value)
        try:
            with naming(out, instead_of=parent), working_folder(parent, f".{out.name}.") as temporary:
                left_out = shutil.ignore_patterns("fingerprint.pb", "variables.index", "variables.data-*")
                shutil.copytree(self.directory, temporary / "copy", ignore=left_out, symlinks=False)
                write_slim(temporary / "copy" / "variables" / "variables", arrays)
                (temporary / "copy").rename(out)
        except tf.errors.OpError as error:
            raise FinetuneError(f"cannot write {out}: {first_line(error)}") from None
        except shutil.Error as error:
            raise FinetuneError(f"cannot copy {self.directory} to {out}: {error.args[0][0][2]}") from None


Origin = TrainingFiles | ExportedFiles
"""The files a graph was opened from."""


def _require_free(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise CheckpointError(f"{path} is already there and is not overwritten: give another name")
    if not paths[0].absolute().parent.is_dir():
        raise FinetuneError(f"there is no directory {paths[0].parent}: make it, or give another name")


def _put(arrays: dict[str, np.ndarray], place: Saved, value: np.ndarray) -> None:
    held = np.array(arrays[place.key])
    part = cuts(place, held.shape)
    held[part] = np.asarray(value).reshape(held[part].shape).astype(held.dtype)
    arrays[place.key] = held


@dataclass(frozen=True)
class GraphFacts:
    """What a graph and its checkpoint show without being run.

    step: the global step. updates: how many updates the moving statistics took, None where that is not known. It is all
    steps where the train op runs the updates, and 0 where it does not and the statistics are still 0 and 1.
    lines: how everything was found, to print.
    """

    step: int | None
    updates: int | None
    averages: Averages
    wiring: Wiring
    lines: tuple[str, ...]


class GraphSubject:
    """A TF1 graph with the variables of a checkpoint; see `finetune.batchnorm.subject.Subject`.

    values: the variables that `session` was given. updates: assignments to moving statistics that it can run.
    scales_pixels: whether the graph begins by rescaling its images, so that it prepares pixels itself.

    name: the file of the graph. checkpoint: the file of the weights, a prefix or a V1 file. layers: those that the
    training switch switches. batch_size: the number of images the graph takes at once, None where it takes any.
    input_size: height and width in px, None where it takes any. takes_pixels: whether it takes whole numbers from 0 to
    255 and prepares them itself.

    `forward` takes float32 images `[batch, height, width, 3]`. Where the graph takes `batch_size` images only, more are
    run in parts, whose statistics are pooled. Under moving statistics, the last part is filled up with images that are
    not counted.
    """

    def __init__(
        self,
        session: GraphSession,
        layers: tuple[Layer, ...],
        values: Mapping[str, np.ndarray],
        origin: Origin,
        facts: GraphFacts,
        updates: tuple[str, ...] = (),
        *,
        scales_pixels: bool = False,
    ) -> None:
        self.name, self.outputs, self.checkpoint = session.name, session.outputs, origin.checkpoint.path
        self.batch_size, self.input_size = session.images.batch_size, session.images.size
        self.takes_pixels, self.scales_pixels = session.takes_pixels, scales_pixels
        self.facts = facts
        self._session, self._layers, self._origin, self._updates = session, layers, origin, updates
        self._moving = moving_statistics(layers, values)

        def array(name: str | None) -> np.ndarray | None:
            return _flat(values[name]) if name is not None and name in values else None

        self.layers = [BNInfo(one.name, one.epsilon, array(one.gamma), array(one.beta)) for one in layers]

    def forward(self, statistics: Statistics) -> Forward:
        """Without dropout and without updates. FinetuneError where images do not fit the graph."""
        layers = self._layers if statistics == "batch" else ()
        run = self._session.forward(statistics, [site for layer in layers for site in layer.sites])

        def forward(images: Any) -> tuple[np.ndarray, list[Measured]]:
            logits, parts = run(images)
            sites = iter(pool(parts))
            # One triple for each layer, over all sites where it is used.
            merged = [reduce(Moments.merge, islice(sites, len(layer.sites))) for layer in layers]
            return logits, [(one.mean, one.variance, one.count) for one in merged]

        return forward

    def snapshot(self) -> Snapshot:
        """A copy of every moving statistic."""
        return {name: (mean.copy(), variance.copy()) for name, (mean, variance) in self._moving.items()}

    def restore(self, saved: Snapshot) -> None:
        """Make `saved` the moving statistics, in memory."""
        self._session.assign(self._by_variable(saved))
        self._moving = {one.name: (_flat(saved[one.name][0]), _flat(saved[one.name][1])) for one in self._layers}

    def write(self, out: Path) -> None:
        """Write a copy of the files with the moving statistics that the subject now has; all other tensors stay.

        A TF1 checkpoint is written as V2 with the prefix `out`, and its .meta is copied. A SavedModel is copied to the
        directory `out`. Raises CheckpointError where `out` exists, FinetuneError where it cannot be written.
        """
        self._origin.write(out, self._by_variable(self._moving))

    def statistics_by_updates(self, images: np.ndarray, start: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The moving statistics after one run of the graph's own updates on `images`, from `start` everywhere.

        `images` are as many as the graph takes at once. The result is float64 `[channels]` by layer. The subject's own
        moving statistics stay as they are.
        """
        names = [name for layer in self._layers for name in (layer.mean, layer.variance)]
        before = self.snapshot()
        try:
            self.restore({key: (np.full_like(a, start), np.full_like(b, start)) for key, (a, b) in before.items()})
            values = self._session.updated(self._updates, images, names)
        finally:
            self.restore(before)
        flat = [np.asarray(value, np.float64).reshape(-1) for value in values]
        return {layer.name: (flat[2 * i], flat[2 * i + 1]) for i, layer in enumerate(self._layers)}

    @cached_property
    def decay(self) -> dict[str, float | None]:
        """The share of the old value that each layer's update keeps, measured by running the updates on noise.

        From 0, an update leaves (1 - decay) times the batch's statistic; from 1, it leaves the decay more. None for a
        layer without an update, or with one of another form.
        """
        found: dict[str, float | None] = {layer.name: None for layer in self._layers}
        if not self._updates:
            return found
        try:
            images = self._session.example()
            zero, one = (self.statistics_by_updates(images, start) for start in (0.0, 1.0))
        except FinetuneError:  # a graph that takes neither noise nor this number of images may take real ones
            return found
        for name in found:
            kept = [float(np.median(b - a)) for a, b in zip(zero[name], one[name], strict=True)]
            # A statistic without an update keeps all. Where mean and variance differ, the slower one lags.
            found[name] = max((round(each, 6) for each in kept if 0 <= each < 1 - 1e-7), default=None)
        return found

    @property
    def lines(self) -> tuple[str, ...]:
        """How everything was found and the decay that was measured, to print."""
        found = sorted({f"{value:g}" for value in self.decay.values() if value is not None}, key=float)
        measured = f"decay {first_of(found)}, measured by running the updates once"
        return (*self.facts.lines, measured) if found else self.facts.lines

    def _by_variable(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        pairs = [((layer.mean, layer.variance), snapshot[layer.name]) for layer in self._layers]
        return {name: value for names, pair in pairs for name, value in zip(names, pair, strict=True)}


def moving_statistics(layers: tuple[Layer, ...], values: Mapping[str, np.ndarray]) -> Snapshot:
    """The moving statistics of each layer among the values of the variables, float32 `[channels]`."""
    return {layer.name: (_flat(values[layer.mean]), _flat(values[layer.variance])) for layer in layers}


def _flat(value: np.ndarray) -> np.ndarray:
    return np.array(value, np.float32).reshape(-1)
