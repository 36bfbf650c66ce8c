"""A TF1 graph as a `Subject`: what evaluates and examines a model of ours evaluates and examines it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.batchnorm.statistics import Moments
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics
from finetune.errors import FinetuneError
from finetune.tf_graphs.feeding import Feeding
from finetune.tf_graphs.program.bn_layers import Layer
from finetune.tf_graphs.program.roles import Input
from finetune.tf_graphs.program.variables import Averages
from finetune.tf_graphs.program.wiring import Wiring
from finetune.tf_graphs.session import Measured, Running
from finetune.tf_graphs.writing import Origin, write


@dataclass(frozen=True)
class GraphFacts:
    """What graph and checkpoint say besides accuracies.

    step: the global step. updates: how many updates the moving statistics took, where that is known: all steps where
    the train op runs them, none where it does not and they are still 0 and 1; None otherwise.
    decay: by layer, measured by running its update; None where it has none, or one of another form.
    update_ops: operations in the collection UPDATE_OPS. lines: how everything was found, to print.
    """

    step: int | None
    updates: int | None
    decay: Mapping[str, float | None]
    update_ops: int
    train_op_runs_updates: bool | None
    averages: Averages
    wiring: Wiring
    lines: tuple[str, ...]


class GraphSubject:
    """A TF1 graph with the variables of a checkpoint; see `finetune.batchnorm.subject.Subject`.

    Its `forward` takes float32 images `[batch, height, width, 3]` and lays them as the graph takes them. Where the
    graph takes `batch_size` images only, more are run in parts, whose statistics are pooled; under moving statistics
    the last part is filled up with images that are not counted. Made by `open_graph`.
    """

    def __init__(
        self,
        name: str,
        running: Running,
        images: Input,
        layers: tuple[Layer, ...],
        moving: Snapshot,
        origin: Origin,
        updates: tuple[str, ...],
        affine: Mapping[str, tuple[np.ndarray | None, np.ndarray | None]],
    ) -> None:
        self._name, self._running, self._layers = name, running, layers
        self._feeding = Feeding(name, images)
        self._origin, self._updates, self._affine = origin, updates, dict(affine)
        self._moving = {key: (mean.copy(), variance.copy()) for key, (mean, variance) in moving.items()}
        self._outputs = running.outputs()
        self.facts: GraphFacts

    @property
    def name(self) -> str:
        """The file of the graph."""
        return self._name

    @property
    def outputs(self) -> int:
        """Number of logits."""
        if self._outputs is None:
            self._outputs = int(self.forward("moving")(self._example())[0].shape[-1])
        return self._outputs

    @property
    def layers(self) -> list[BNInfo]:
        """The layers that the training switch switches."""
        return [BNInfo(one.name, one.epsilon, *self._affine.get(one.name, (None, None))) for one in self._layers]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint the weights are from: its prefix, or the V1 file."""
        return self._origin.checkpoint.path

    @property
    def batch_size(self) -> int | None:
        """The number of images the graph takes at once, None where it takes any: batches of an evaluation need it."""
        return self._feeding.batch_size

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width of the images in pixels, None where the graph takes any."""
        return self._feeding.size

    @property
    def takes_pixels(self) -> bool:
        """Whether the graph takes whole numbers from 0 to 255 and prepares them itself."""
        return self._feeding.pixels

    def require_classes(self, count: int, *, offset: int = 0) -> None:
        """FinetuneError where the graph's logits are not `count` classes behind `offset` others."""
        if self.outputs != count + offset:
            raise FinetuneError(
                f"{self._name} has {self.outputs} logits, but the data has {count} classes: give the data it was "
                "trained on, or other logits by --logits"
            )

    def forward(self, statistics: Statistics) -> Forward:
        """Without dropout and without updates. FinetuneError where images do not fit the graph."""
        if statistics == "moving":
            run = self._running.logits("moving")
            return lambda images: (self._feeding.in_parts(images, lambda part: (run(part), []))[0], [])
        sites = [site for layer in self._layers for site in layer.sites]
        measure = self._running.measuring(sites)

        def forward(images: Any) -> tuple[np.ndarray, list[Measured]]:
            self._feeding.require_whole(len(images))
            logits, parts = self._feeding.in_parts(images, measure)
            return logits, list(self._pooled(parts))

        return forward

    def snapshot(self) -> Snapshot:
        """A copy of every moving statistic."""
        return {name: (mean.copy(), variance.copy()) for name, (mean, variance) in self._moving.items()}

    def restore(self, saved: Snapshot) -> None:
        """Make `saved` the moving statistics, in memory."""
        values = {}
        for layer in self._layers:
            mean, variance = saved[layer.name]
            values[layer.mean], values[layer.variance] = mean, variance
        self._running.assign(values)
        self._moving = {layer.name: _copied(*saved[layer.name]) for layer in self._layers}

    def _example(self) -> np.ndarray:
        """Images of noise that the graph takes. FinetuneError where it takes none."""
        run = self._running.logits("moving")
        return self._feeding.example(run)

    def statistics_by_updates(self, images: np.ndarray, start: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The moving statistics after one run of the graph's own updates on `images`, from `start` everywhere.

        `images` are as many as the graph takes at once; float64 `[channels]` by layer. The moving statistics are
        afterwards what they were.
        """
        names = [name for layer in self._layers for name in (layer.mean, layer.variance)]
        before = self.snapshot()
        try:
            self.restore({key: (np.full_like(a, start), np.full_like(b, start)) for key, (a, b) in before.items()})
            values = self._running.updated(self._updates, self._feeding.laid(images), names)
        finally:
            self.restore(before)
        flat = [np.asarray(value, np.float64).reshape(-1) for value in values]
        return {layer.name: (flat[2 * i], flat[2 * i + 1]) for i, layer in enumerate(self._layers)}

    def decay(self) -> dict[str, float | None]:
        """The share of the old value each layer's update keeps, by layer: measured, on noise.

        From 0 an update leaves (1 - decay) times the batch's statistic, from 1 it leaves the decay more.
        None where a layer has no update, or one of another form.
        """
        found: dict[str, float | None] = {layer.name: None for layer in self._layers}
        if not self._updates:
            return found
        try:
            images = self._example()
            zero, one = (self.statistics_by_updates(images, start) for start in (0.0, 1.0))
        except FinetuneError:  # a graph that takes neither noise nor this number of images may take real ones
            return found
        for name in found:
            kept = [float(np.median(b - a)) for a, b in zip(zero[name], one[name], strict=True)]
            # What is not updated keeps all; where mean and variance differ, the slower one is what lags.
            found[name] = max((round(each, 6) for each in kept if 0 <= each < 1 - 1e-7), default=None)
        return found

    def write_checkpoint(self, prefix: Path, snapshot: Snapshot) -> None:
        """Write the checkpoint this was read from with the moving statistics of `snapshot`, as a TF1 checkpoint (V2)
        that the same Saver restores; every other tensor is bit-equal. The .meta is copied beside it.

        Raises CheckpointError where something of that name is there already, FinetuneError where it cannot be written.
        """
        values = {}
        for layer in self._layers:
            values[layer.mean], values[layer.variance] = snapshot[layer.name]
        write(self._origin, prefix, values)

    def _pooled(self, parts: list[list[Measured]]) -> Iterator[Measured]:
        """One triple for each layer, over all its parts and over all places where it is used."""
        start = 0
        for layer in self._layers:
            rows = [row for part in parts for row in part[start : start + len(layer.sites)]]
            start += len(layer.sites)
            mean, variance, count = rows[0]
            pooled = Moments(float(count), mean, variance)
            for mean, variance, count in rows[1:]:
                pooled = pooled.merge(Moments(float(count), mean, variance))
            yield pooled.mean, pooled.variance, pooled.count


def _copied(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.array(mean, np.float32), np.array(variance, np.float32)
