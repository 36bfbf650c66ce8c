"""A graph in memory: both modes side by side in one session, with one set of variables, for any number of images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from finetune.batchnorm.subject import Statistics
from finetune.errors import FinetuneError
from finetune.tf_graphs.program.graph_files import variables_of
from finetune.tf_graphs.program.graphdef import MetaGraph, first_line, import_graph
from finetune.tf_graphs.program.nodes import IMAGES, LOGITS, Graph, Node, Ref
from finetune.tf_graphs.program.roles import Input
from finetune.tf_graphs.program.sites import Site

Measured = tuple[np.ndarray, np.ndarray, float]
"""(mean, population variance, N), float64 `[channels]`."""
_SIZES = (32, 64, 96, 224, 299)
"""Sides in px to try with a network that takes images of any size."""
_COUNT = 8


@dataclass(frozen=True)
class _Variable:
    given: Any
    assign: Any
    value: Any


class GraphSession:
    """Two folded graphs, imported under `batch/` and `moving/`, which read the same variables.

    Images are float32 `[batch, height, width, 3]`; they are converted to the layout and type that `images` describes.
    `values` are those of the variables. Raises FinetuneError where TensorFlow does not take the graphs.
    """

    def __init__(
        self, meta: MetaGraph, batch: Graph, moving: Graph, images: Input, values: Mapping[str, np.ndarray]
    ) -> None:
        self.name, self.images = str(meta.path), images
        self._dtype = tf.as_dtype(images.dtype)
        self._tf = tf.Graph()
        self._variables: dict[str, _Variable] = {}
        with self._tf.as_default():
            for mode, graph in (("batch", batch), ("moving", moving)):
                import_graph(graph, meta, mode)
                for name, node in variables_of(graph).items():
                    if name not in self._variables:
                        self._variables[name] = self._variable(mode, node)
        self._session = tf.compat.v1.Session(graph=self._tf, config=_config(batch, moving))
        self.assign(values)

    @property
    def takes_pixels(self) -> bool:
        """Whether the graph takes whole numbers."""
        return bool(self._dtype.is_integer)

    @cached_property
    def outputs(self) -> int:
        """The number of logits, by running the graph once where its shapes do not show it."""
        shape = self._tensor("batch", LOGITS).shape
        if shape.rank is not None and shape.rank >= 2 and shape[-1] is not None:
            return int(shape[-1])
        return int(self.forward("moving")(self.example())[0].shape[-1])

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Set variables by their names; the arrays are reshaped to them."""
        feed = {}
        for name, value in values.items():
            given = self._variables[name].given
            shape = value.shape if given.shape.rank is None else tuple(given.shape)
            feed[given] = np.asarray(value, given.dtype.as_numpy_dtype).reshape(shape)
        self._run([self._variables[name].assign for name in values], feed)

    def forward(
        self, mode: Statistics, sites: Sequence[Site] = ()
    ) -> Callable[[Any], tuple[np.ndarray, list[list[Measured]]]]:
        """A function from images to logits `[batch, outputs]`, and to the statistics of each site in each part.

        Where the graph takes a fixed number of images, they are run in parts. The last part is filled up with images
        whose logits are left out, which changes no logit under moving statistics. With `sites`, FinetuneError where it
        would have to be filled up.
        """
        with self._tf.as_default():
            moments = [_moments(self._tensor(mode, str(site.x)), site.axes) for site in sites]
        fetches, given = (self._tensor(mode, LOGITS), moments), self._tensor(mode, IMAGES)

        def run(images: Any) -> tuple[np.ndarray, list[list[Measured]]]:
            images = np.asarray(images)
            size = self.images.batch_size or len(images)
            if sites and len(images) % size:
                raise FinetuneError(
                    f"{self.name} takes exactly {size} images at once, and statistics of a batch filled up would be "
                    f"wrong: it was given {len(images)}; give at least {size} images, in batches of that size"
                )
            logits, measured = [], []
            for start in range(0, len(images), size):
                part = images[start : start + size]
                filled = part if len(part) == size else part[np.arange(size) % len(part)]
                values, statistics = self._run(fetches, {given: self._converted(filled)})
                logits.append(self._two_axes(np.asarray(values), size)[: len(part)])
                measured.append(statistics)
            return np.concatenate(logits), measured

        return run

    def updated(self, updates: Iterable[str], images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Run the assignments `updates` once on `images`; the values of the variables `names` afterwards."""
        operations = [self._tf.get_operation_by_name(f"batch/{name}") for name in updates]
        self._run(operations, {self._tensor("batch", IMAGES): self._converted(images)})
        return [np.asarray(value) for value in self._run([self._variables[name].value for name in names], {})]

    def example(self) -> np.ndarray:
        """Noise that the graph takes, float32 `[batch, height, width, 3]`. FinetuneError where it takes none."""
        run = self.forward("moving")
        sizes = [self.images.size] if self.images.size else [(side, side) for side in _SIZES]
        for size in sizes:
            noise = np.random.default_rng(0).normal(size=(self.images.batch_size or _COUNT, *size, 3))
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
        """Logits `[batch, outputs]`, also of a fully convolutional network, which gives `[batch, 1, 1, outputs]`."""
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
        size, layout, dtype = self.images.size, self.images.layout, self._dtype
        if size is not None and images.shape[1:3] != size:
            raise FinetuneError(
                f"{self.name} takes images of {size[0]} x {size[1]} px, but was given {images.shape[1]} x "
                f"{images.shape[2]} px: resize them with --image-size {size[0]}"
            )
        if layout.endswith("nchw"):
            images = np.transpose(images, (0, 3, 1, 2))
        if layout.startswith("flat"):
            images = images.reshape(len(images), -1)
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
        tensor = self._tensor(mode, str(Ref(node.name)))
        dtype, shape = tf.as_dtype(node.attr["dtype"].type), node.attr["shape"].shape
        given = tf.compat.v1.placeholder(dtype, tf.TensorShape(shape))
        if node.op == "VarHandleOp":
            assign = tf.raw_ops.AssignVariableOp(resource=tensor, value=given)
            return _Variable(given, assign, tf.raw_ops.ReadVariableOp(resource=tensor, dtype=dtype))
        return _Variable(given, tf.raw_ops.Assign(ref=tensor, value=given).op, tf.identity(tensor))

    def _run(self, fetches: Any, feed: Mapping[Any, Any]) -> Any:
        try:
            return self._session.run(fetches, feed)
        except tf.errors.ResourceExhaustedError:
            raise
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise FinetuneError(f"the graph of {self.name} cannot be run: {first_line(error)}") from None


def _moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """(mean, population variance, N) of `x` over `axes`, within 1e-6 of NumPy in float64, so that they can be pooled.

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
    return tf.reshape(tf.cast(mean, tf.float64) + shift, [-1]), tf.reshape(square - shift * shift, [-1]), n


def _config(*graphs: Graph) -> Any:
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
