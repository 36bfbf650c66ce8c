"""A graph in memory: both ways side by side in one session, with one set of variables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from finetune.errors import FinetuneError
from finetune.tf_graphs.program import variables
from finetune.tf_graphs.program.graphdef import to_graph_def
from finetune.tf_graphs.program.metagraph import MetaGraph
from finetune.tf_graphs.program.nodes import IMAGES, LOGITS, Graph, Node, Ref
from finetune.tf_graphs.program.sites import Site

Measured = tuple[np.ndarray, np.ndarray, float]
"""(mean, population variance, N), float64 `[channels]`."""


@dataclass(frozen=True)
class _Variable:
    given: Any
    assign: Any
    value: Any


class Running:
    """Two folded graphs imported under `batch/` and `moving/`, which read the same variables.

    Raises FinetuneError where TensorFlow does not take them.
    """

    def __init__(self, meta: MetaGraph, batch: Graph, moving: Graph) -> None:
        self._path = meta.path
        self._tf = tf.Graph()
        self._variables: dict[str, _Variable] = {}
        with self._tf.as_default():
            for way, graph in (("batch", batch), ("moving", moving)):
                operations = meta.stripped if meta.stripped.op else None
                try:
                    tf.import_graph_def(to_graph_def(graph, meta.versions), name=way, producer_op_list=operations)
                except (ValueError, TypeError, tf.errors.OpError) as error:
                    raise FinetuneError(
                        f"TensorFlow {tf.__version__} does not take the graph of {meta.path} ({_line(error)}): it was "
                        "written by another version, or is damaged"
                    ) from None
                for name in variables.of(graph):
                    if name not in self._variables:
                        self._variables[name] = self._variable(way, graph.nodes[name])
        self._session = tf.compat.v1.Session(graph=self._tf, config=_config(batch, moving))

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Set variables by their names; the arrays are reshaped to them."""
        feed = {}
        for name, value in values.items():
            given = self._variables[name].given
            shape = value.shape if given.shape.rank is None else tuple(given.shape)
            feed[given] = np.asarray(value, given.dtype.as_numpy_dtype).reshape(shape)
        self._run([self._variables[name].assign for name in values], feed)

    def logits(self, way: str) -> Callable[[np.ndarray], np.ndarray]:
        """A function from images as the graph takes them to its logits."""
        fetch, given = self._tensor(way, LOGITS), self._tensor(way, IMAGES)
        return lambda images: np.asarray(self._run(fetch, {given: images}))

    def measuring(self, sites: Sequence[Site]) -> Callable[[np.ndarray], tuple[np.ndarray, list[Measured]]]:
        """A function from images to logits under batch statistics, and what each site saw."""
        with self._tf.as_default():
            moments = [_moments(self._tensor("batch", str(site.x)), site.axes) for site in sites]
        fetches, given = (self._tensor("batch", LOGITS), moments), self._tensor("batch", IMAGES)
        return lambda images: self._run(fetches, {given: images})

    def updated(self, updates: Iterable[str], images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """Run the assignments `updates` once on `images`; the values of the variables `names` afterwards."""
        operations = [self._tf.get_operation_by_name(f"batch/{name}") for name in updates]
        self._run(operations, {self._tensor("batch", IMAGES): images})
        return [np.asarray(value) for value in self._run([self._variables[name].value for name in names], {})]

    def outputs(self) -> int | None:
        """The number of logits, where the graph says it."""
        shape = self._tensor("batch", LOGITS).shape
        return None if shape.rank is None or shape.rank < 2 or shape[-1] is None else int(shape[-1])

    def _tensor(self, way: str, name: str) -> Any:
        return self._tf.get_tensor_by_name(f"{way}/{name}" if ":" in name else f"{way}/{name}:0")

    def _variable(self, way: str, node: Node) -> _Variable:
        tensor = self._tensor(way, str(Ref(node.name)))
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
            raise FinetuneError(f"the graph of {self._path} cannot be run: {_line(error)}") from None


def _moments(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """(mean, population variance, N) of `x` over `axes`, exact enough to pool from: 1e-6 of NumPy in float64.

    As in `finetune.batchnorm.layer`: nothing cancels around the mean in float32, and no more than one row is summed
    in float32.
    """
    if len(axes) > 1:
        x = tf.cast(x, tf.float32)
        row, rest = axes[-1], axes[:-1]
    else:
        x, row, rest = tf.cast(x, tf.float64), None, axes
    mean = tf.reduce_mean(x, axes, keepdims=True)
    centred = x - mean
    shape = tf.shape(x, out_type=tf.int64)
    n = tf.cast(tf.reduce_prod(tf.gather(shape, list(axes))), tf.float64)

    def averaged(values: Any) -> Any:
        part = values if row is None else tf.reduce_sum(values, row, keepdims=True)
        return tf.reduce_sum(tf.cast(part, tf.float64), rest if row is not None else axes, keepdims=True) / n

    shift, square = averaged(centred), averaged(centred * centred)
    return (
        tf.reshape(tf.cast(mean, tf.float64) + shift, [-1]),
        tf.reshape(square - shift * shift, [-1]),
        n,
    )


def _config(*graphs: Graph) -> Any:
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    first = any(
        node.attr["data_format"].s in (b"NCHW", b"NCDHW")
        for graph in graphs
        for node in graph.nodes.values()
        if "data_format" in node.attr
    )
    if first and not tf.config.list_physical_devices("GPU"):
        # Written for a GPU; on a CPU there are no kernels for channels that come first.
        config.graph_options.rewrite_options.cpu_layout_conversion = rewriter_config_pb2.RewriterConfig.NCHW_TO_NHWC
    return config


def _line(error: Exception) -> str:
    text = getattr(error, "message", None) or str(error)
    return str(text).strip().partition("\n")[0][:300] or type(error).__name__
