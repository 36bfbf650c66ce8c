"""A TF1 graph as a `Subject`, to evaluate and to examine like a Keras model.

Both modes of the graph are side by side in one session, with one set of variables, for any number of images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from finetune.batchnorm.scores import SUMS, ByScores, Scores, sum_to_one
from finetune.batchnorm.statistics import Moments, pool
from finetune.batchnorm.subject import BNInfo, Forward, Snapshot, Statistics, kept
from finetune.errors import FinetuneError
from finetune.text import first_line
from finetune.tf_graphs.program.endings import Ending
from finetune.tf_graphs.program.graph_files import Averages, variables_of
from finetune.tf_graphs.program.graphdef import MetaGraph, import_graph
from finetune.tf_graphs.program.modes import Modes, Wiring
from finetune.tf_graphs.program.nodes import IMAGES, LOGITS, Graph, Node, Ref, first_of
from finetune.tf_graphs.program.roles import Input
from finetune.tf_graphs.program.sites import Layer
from finetune.tf_graphs.writing import GraphFiles

_SIZES, _COUNT = (32, 64, 96, 224, 299), 8
"""Sides in px to try with a network that takes images of any size, and how many images."""


@dataclass(frozen=True)
class _Variable:
    given: Any
    assign: Any
    value: Any


@dataclass(frozen=True)
class GraphFacts:
    """What a graph and its checkpoint show without being run.

    step: the global step. updates: how many updates the moving statistics took, None where that is not known. It is all
    steps where the train op runs the updates, and 0 where it does not and the statistics are still 0 and 1.
    lines: how everything was found, to print. scales_pixels: whether the graph begins by rescaling its images, so that
    it prepares pixels itself. ending: what its output is. trained_with: "moving" where no layer normalised by batches.
    statistics_absent: whether the checkpoint lacks some, read as their start; statistics_raw: whether only weights are
    averages.
    """

    lines: tuple[str, ...]
    step: int | None = None
    updates: int | None = None
    averages: Averages = field(default_factory=Averages)
    wiring: Wiring = field(default_factory=Wiring)
    scales_pixels: bool = False
    ending: Ending = field(default_factory=Ending)
    trained_with: Literal["moving"] | None = None
    statistics_absent: bool = False
    statistics_raw: bool = False


class GraphSubject(ByScores):
    """A TF1 graph with the variables of a checkpoint; see `finetune.batchnorm.subject.Subject`.

    The two graphs of `modes` are imported under `batch/` and `moving/` and read the same variables, whose values come
    from `files`. The first may hold updates of the moving statistics. Raises FinetuneError where TensorFlow does not
    take the graphs.

    name: the file of the graph. checkpoint: the file of the weights, a prefix or a V1 file. layers: those that the
    training switch switches. batch_size: the number of images the graph takes at once, None where it takes any.
    input_size: height and width in px, None where it takes any; channels: of its images.
    takes_pixels: whether it takes whole numbers from 0 to 255 and prepares them itself. layout: of its input.

    `forward` takes float32 images `[batch, height, width, 3]`; they are converted to the layout and type that `images`
    describes. Where the graph takes `batch_size` images only, more are run in parts, whose statistics are pooled. Under
    moving statistics, the last part is filled up with images that are not counted.
    """

    def __init__(self, meta: MetaGraph, modes: Modes, images: Input, files: GraphFiles, facts: GraphFacts) -> None:
        values = files.values
        self.name, self.facts, self.checkpoint = str(meta.path), facts, files.checkpoint.path
        self.batch_size, self.input_size, self.layout = images.batch_size, images.size, images.layout
        self._axes, self._dtype, self.channels = images.axes, tf.as_dtype(images.dtype), images.channels
        self.takes_pixels = bool(self._dtype.is_integer)
        self._layers, self._files = modes.layers, files
        wiring = facts.wiring
        self._updates = [name for name in (*wiring.updates, *wiring.serving) if name in modes.batch.nodes]
        inputs = [site.x.node for layer in modes.layers[-1:] for site in layer.sites]
        self._below = modes.batch.ancestors(inputs, control=False)
        self._tf = tf.Graph()
        self._variables: dict[str, _Variable] = {}
        with self._tf.as_default():
            for mode, graph in (("batch", modes.batch), ("moving", modes.moving)):
                import_graph(graph, meta, mode)
                for name, node in variables_of(graph).items():
                    if name not in self._variables:
                        self._variables[name] = self._variable(mode, node)
        self._session = tf.compat.v1.Session(graph=self._tf, config=_config(modes.batch, modes.moving))
        self._assign(values)
        self._moving = moving_statistics(modes.layers, values)

        def array(name: str | None) -> np.ndarray | None:
            return _flat(values[name]) if name is not None and name in values else None

        self.layers = [
            BNInfo(one.name, one.epsilon, array(one.gamma), array(one.beta), one.initial) for one in modes.layers
        ]

    @cached_property
    def kernels(self) -> dict[str, np.ndarray]:
        """The variables that the last BN layer's input depends on, other than BatchNorm's own."""
        own = {one for layer in self._layers for one in (layer.mean, layer.variance, layer.gamma, layer.beta)}
        return {name: value for name, value in self._files.values.items() if name in self._below and name not in own}

    @property
    def outputs(self) -> int:
        """The number of classes."""
        return self.scores.classes

    @cached_property
    def scores(self) -> Scores:
        """What the graph's own outputs are, by running it once where its shapes do not show their number."""
        shape = self._tensor("batch", LOGITS).shape
        if shape.rank is not None and shape.rank >= 2 and shape[-1] is not None:
            return self._of_units(int(shape[-1]))
        return self._of_units(self._raw("moving")(self._example())[0].shape[-1])

    def _of_units(self, units: int) -> Scores:
        ending = self.facts.ending
        probabilities = ending.mixed or (ending.kind == "unknown" and units > 1 and self._sums_to_one)
        kind = {"per_label": ending.kind == "sigmoid" and units > 1, "softmax": ending.kind == "softmax"}
        return Scores(units, probabilities=probabilities, **kind)

    @cached_property
    def _sums_to_one(self) -> bool:
        """Whether the outputs are probabilities on every image of an example."""
        try:
            return sum_to_one(self._raw("moving")(self._example())[0])
        except FinetuneError:  # it takes no noise
            return False

    def forward(self, statistics: Statistics) -> Forward:
        """Without dropout and without updates. FinetuneError where images do not fit the graph.

        Under batch statistics, that includes a number of images whose last part would have to be filled up.
        """
        raw = self._raw(statistics)

        def run(images: Any) -> tuple[np.ndarray, Any]:
            outputs, moments = raw(images)
            return np.asarray(self._of_units(outputs.shape[-1]).logits(outputs)), moments

        return run

    def _raw(self, statistics: Statistics) -> Forward:
        """As `forward`, to the graph's own outputs `[batch, units]`."""
        layers = self._layers if statistics == "batch" else ()
        with self._tf.as_default():
            moments = [
                _moments(self._tensor("batch", str(site.x)), site.axes, len(self._moving[layer.name][0]))
                for layer in layers
                for site in layer.sites
            ]
        fetches, given = (self._tensor(statistics, LOGITS), moments), self._tensor(statistics, IMAGES)

        def run(images: Any) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, float]]]:
            images = np.asarray(images)
            size = self.batch_size or len(images)
            if layers and len(images) % size:
                raise FinetuneError(
                    f"{self.name} takes exactly {size} images at once, and statistics of a batch filled up would be "
                    f"wrong: it was given {len(images)}; give at least {size} images, in batches of that size"
                )
            logits, measured = [], []
            for start in range(0, len(images), size):
                part = images[start : start + size]
                filled = part if len(part) == size else part[np.arange(size) % len(part)]
                values, of_sites = self._run(fetches, {given: self._converted(filled)})
                logits.append(self._two_axes(np.asarray(values), size)[: len(part)])
                measured.append(of_sites)
            pooled = iter(pool(measured))
            # One triple for each layer, over all sites where it is used.
            merged = [reduce(Moments.merge, islice(pooled, len(layer.sites))) for layer in layers]
            return np.concatenate(logits), [(one.mean, one.variance, one.count) for one in merged]

        return run

    def snapshot(self) -> Snapshot:
        """A copy of every moving statistic."""
        return {name: (mean.copy(), variance.copy()) for name, (mean, variance) in self._moving.items()}

    def restore(self, saved: Snapshot) -> None:
        """Make `saved` the moving statistics, in memory."""
        values = self.by_variable(saved)
        self._assign(values)
        self._moving = moving_statistics(self._layers, values)

    def write(self, out: Path) -> None:
        """Write a copy of the files with the moving statistics that the subject now has; all other tensors stay.

        A TF1 checkpoint is written as V2 with the prefix `out`, and its .meta is copied. A SavedModel is copied to the
        directory `out`. Raises CheckpointError where `out` exists, FinetuneError where it cannot be written.
        """
        self._files.write(out, self.by_variable(self._moving))

    def statistics_by_updates(self, images: np.ndarray, start: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The moving statistics after one run of the graph's own updates on `images`, from `start` everywhere.

        `images` are as many as the graph takes at once. The result is float64 `[channels]` by layer. The subject's own
        moving statistics stay as they are.
        """
        operations = [self._tf.get_operation_by_name(f"batch/{name}") for name in self._updates]
        names = {layer.name: layer.kept or (layer.mean, layer.variance) for layer in self._layers}
        read = {layer: [self._variables[name].value for name in pair] for layer, pair in names.items()}
        with kept(self):
            pairs = [(names[layer], arrays) for layer, arrays in self._moving.items()]
            self._assign(
                {name: np.full_like(a, start) for pair, arrays in pairs for name, a in zip(pair, arrays, strict=True)}
            )
            self._run(operations, {self._tensor("batch", IMAGES): self._converted(images)})
            found = self._run(read, {}).items()
        return {name: (_flat(mean, np.float64), _flat(variance, np.float64)) for name, (mean, variance) in found}

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
            images = self._example()
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
        many = f"{len(self.layers)} BN layer{'s' if len(self.layers) > 1 else ''} switched, {self.outputs} logits"
        found = sorted({f"{value:g}" for value in self.decay.values() if value is not None}, key=float)
        measured = [f"decay {first_of(found)}, measured by running the updates once"] if found else []
        words = [self.scores.words] if self.scores.words else []
        sums = [SUMS] if self.facts.ending.kind == "unknown" and self.scores.probabilities else []
        return (*self.facts.lines, many, *sums, *words, *measured)

    def by_variable(self, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """The moving statistics of a snapshot by the names of the graph's variables."""
        pairs = [((layer.mean, layer.variance), snapshot[layer.name]) for layer in self._layers]
        return {name: value for names, pair in pairs for name, value in zip(names, pair, strict=True)}

    def _assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Set variables by their names; the arrays are reshaped to them."""
        feed = {}
        for name, value in values.items():
            given = self._variables[name].given
            shape = value.shape if given.shape.rank is None else tuple(given.shape)
            feed[given] = np.asarray(value, given.dtype.as_numpy_dtype).reshape(shape)
        self._run([self._variables[name].assign for name in values], feed)

    def _example(self) -> np.ndarray:
        """Noise that the graph takes, float32 `[batch, height, width, 3]`. FinetuneError where it takes none."""
        run = self._raw("moving")
        sizes = [self.input_size] if self.input_size else [(side, side) for side in _SIZES]
        for size in sizes:
            noise = np.random.default_rng(0).normal(size=(self.batch_size or _COUNT, *size, self.channels))
            images = (np.clip(noise * 60 + 120, 0, 255) if self.takes_pixels else noise).astype(np.float32)
            try:
                run(images)
            except FinetuneError:
                if size == sizes[-1]:
                    raise
            else:
                break
        return images

    def _two_axes(self, logits: np.ndarray, count: int) -> np.ndarray:
        """Logits `[batch, outputs]`, also of a fully convolutional network (`[batch, 1, 1, outputs]`) and of one unit
        (`[batch]`)."""
        if logits.ndim == 1:
            logits = logits[:, np.newaxis]
        if logits.ndim > 2 and logits.size == count * logits.shape[-1]:
            logits = logits.reshape(count, -1)
        if logits.ndim != 2 or len(logits) != count:
            raise FinetuneError(
                f"the logits of {self.name} have the shape {list(logits.shape)} for {count} images: expected "
                "[batch, classes]; name others with --logits"
            )
        return logits

    def _converted(self, images: np.ndarray) -> np.ndarray:
        """Images in the layout and type of the graph's input."""
        size, layout, dtype = self.input_size, self.layout, self._dtype
        if size is not None and images.shape[1:3] != size:
            raise FinetuneError(
                f"{self.name} takes images of {size[0]} x {size[1]} px, but was given {images.shape[1]} x "
                f"{images.shape[2]} px: resize them with --image-size {size[0]}"
            )
        if layout.endswith("nchw"):
            images = np.transpose(images, (0, 3, 1, 2))
        if layout.startswith("flat"):
            images = images.reshape(len(images), *self._axes)
        if dtype.is_integer:
            images = np.rint(images)
            low, high = float(images.min()), float(images.max())
            if low < dtype.min or high > dtype.max:
                raise FinetuneError(
                    f"{self.name} takes {dtype.name} pixels, but was given values from {low:g} to {high:g}: it "
                    "prepares images itself, so give --preprocess raw"
                )
        return np.ascontiguousarray(images, dtype.as_numpy_dtype)

    def _tensor(self, mode: str, name: str) -> Any:
        return self._tf.get_tensor_by_name(f"{mode}/{name}" if ":" in name else f"{mode}/{name}:0")

    def _variable(self, mode: str, node: Node) -> _Variable:
        """The operations that set and read a variable, of a resource or of TF1's own kind."""
        tensor = self._tensor(mode, str(Ref(node.name)))
        dtype, shape = tf.as_dtype(node.attr["dtype"].type), node.attr["shape"].shape
        given = tf.compat.v1.placeholder(dtype, tf.TensorShape(shape))
        if node.op == "VarHandleOp":
            assign = tf.raw_ops.AssignVariableOp(resource=tensor, value=given)
            return _Variable(given, assign, tf.raw_ops.ReadVariableOp(resource=tensor, dtype=dtype))
        return _Variable(given, tf.raw_ops.Assign(ref=tensor, value=given).op, tf.identity(tensor))

    def _run(self, fetches: Any, feed: Mapping[Any, Any]) -> Any:
        """Run in the session. FinetuneError where TensorFlow refuses, but for a lack of memory."""
        try:
            return self._session.run(fetches, feed)
        except tf.errors.ResourceExhaustedError:
            raise
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise FinetuneError(f"the graph of {self.name} cannot be run: {first_line(error)}") from None


def moving_statistics(layers: tuple[Layer, ...], values: Mapping[str, np.ndarray]) -> Snapshot:
    """The moving statistics of each layer among the values of the variables, float32 `[channels]`."""
    return {layer.name: (_flat(values[layer.mean]), _flat(values[layer.variance])) for layer in layers}


def _flat(value: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    return np.array(value, dtype).reshape(-1)


def _moments(x: Any, axes: tuple[int, ...], channels: int) -> tuple[Any, Any, Any]:
    """(mean, population variance, N) of `x` over `axes`, within 1e-6 of NumPy in float64, so that they can be pooled.

    Virtual batches, which are normalised each on its own, are pooled.

    As in `finetune.batchnorm.layer`, values are centred before they are squared, and no more than one row is summed in
    float32.
    """
    row, rest = (axes[-1], axes[:-1]) if len(axes) > 1 else (None, axes)
    x = tf.cast(x, tf.float64 if row is None else tf.float32)
    mean = tf.reduce_mean(x, axes, keepdims=True)
    centred = x - mean
    shape = tf.shape(x, out_type=tf.int64)
    n = tf.cast(tf.reduce_prod(tf.gather(shape, list(axes))), tf.float64)

    def averaged(values: Any) -> Any:
        part = values if row is None else tf.reduce_sum(values, row, keepdims=True)
        return tf.reduce_sum(tf.cast(part, tf.float64), rest, keepdims=True) / n

    shift, square = averaged(centred), averaged(centred * centred)
    means = tf.reshape(tf.cast(mean, tf.float64) + shift, [-1, channels])
    variances = tf.reshape(square - shift * shift, [-1, channels])
    pooled = tf.reduce_mean(means, 0)
    batches = tf.cast(tf.shape(means)[0], tf.float64)
    return pooled, tf.reduce_mean(variances + (means - pooled) ** 2, 0), n * batches


def _config(*graphs: Graph) -> Any:
    """Options of the session, by the layout that the graphs were written for."""
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    first = any(
        node.attr["data_format"].s in (b"NCHW", b"NCDHW")
        for graph in graphs
        for node in graph.nodes.values()
        if "data_format" in node.attr
    )
    if first and not tf.config.list_physical_devices("GPU"):
        # The graph was written for a GPU. On a CPU there are no kernels for channels that come first.
        config.graph_options.rewrite_options.cpu_layout_conversion = rewriter_config_pb2.RewriterConfig.NCHW_TO_NHWC
    return config
