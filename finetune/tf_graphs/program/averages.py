"""Which variables are the moving averages of which moments, by what is assigned to them. Names play no part."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from checkpoints.formats.operations import ASSIGNMENTS, FUSED, VARIABLES
from finetune.tf_graphs.program.nodes import SWITCHES, Graph, Node, Ref, Values
from finetune.tf_graphs.program.sites import AVERAGING, Site, SiteReader

_ARITHMETIC = frozenset({
    "Add", "AddN", "AddV2", "Cast", "CheckNumerics", "ConcatV2", "Div", "ExpandDims", "Identity", "IdentityN",
    "Maximum", "Merge", "Mul", "Neg", "Pack", "PreventGradient", "ReadVariableOp", "RealDiv", "RefIdentity", "RefMerge",
    "Reshape", "Select", "SelectV2", "Snapshot", "Squeeze", "StopGradient", "Sub", *SWITCHES,
})  # fmt: skip
"""What an average is made with: assign(m, m * decay + mean * (1 - decay)), of one tower or of several."""


class Average(NamedTuple):
    """The variables of a site's averages: (moving mean, moving variance)."""

    mean: str
    variance: str


@dataclass
class _Moments:
    """The moments a tensor is made of, each as (the node that computes it, where what it is taken of comes from).

    through: variables that are assigned on the way.
    """

    means: set[tuple[str, Ref]] = field(default_factory=set)
    variances: set[tuple[str, Ref]] = field(default_factory=set)
    through: set[str] = field(default_factory=set)

    @property
    def found(self) -> set[tuple[str, Ref]]:
        """What the tensor is: a variance may be made of a mean as well."""
        return self.variances or self.means


def find_averages(graph: Graph, sites: Iterable[Site]) -> dict[str, Average]:
    """The averages of the moments that normalise at each of `sites`, by the site's node, where there are any.

    `graph` is the whole graph, with its updates. Where a variable only serves to compute another one, as the biased
    average of `zero_debias` does, the other is meant.
    """
    reader, fed, found = _MomentsReader(graph), _assigned_moments(graph), {}
    for site in sites:
        mean, variance = (_average(own, fed, kind) for own, kind in zip(reader.of(site), (False, True), strict=True))
        if mean and variance:
            found[site.node] = Average(mean, variance)
    return found


def averaged(graph: Graph) -> list[str]:
    """Every variable that averages means or variances."""
    return [name for name, moments in _assigned_moments(graph).items() if moments.found]


def _assigned_moments(graph: Graph) -> dict[str, _Moments]:
    """The moments that each variable is assigned."""
    reader, found = _MomentsReader(graph), dict[str, _Moments]()
    for node in graph.nodes.values():
        target = graph.source(node.inputs[0]).node if node.op in ASSIGNMENTS and len(node.inputs) > 1 else ""
        if target and graph.nodes[target].op in VARIABLES:
            reader.read(node.inputs[1], found.setdefault(target, _Moments()))
    return found


def _average(own: set[tuple[str, Ref]], fed: dict[str, _Moments], variance: bool) -> str | None:
    """The variable that averages one of these moments: the same node, else of the same tensor."""
    alike = {name: each for name, each in fed.items() if bool(each.variances) == variance}
    tensors = {ref for _, ref in own}
    for found in (
        [name for name, each in alike.items() if each.found & own],
        [name for name, each in alike.items() if tensors & {ref for _, ref in each.found}],
    ):
        serving = set().union(*(alike[name].through - {name} for name in found))
        if found:
            return next((name for name in found if name not in serving), found[0])
    return None


class _MomentsReader:
    def __init__(self, graph: Graph) -> None:
        self._graph, self._sites, self._values = graph, SiteReader(graph), Values(graph)

    def of(self, site: Site) -> Sequence[set[tuple[str, Ref]]]:
        """The means and the variances that normalise at a site under batch statistics."""
        node = self._graph.nodes[site.node]
        if node.op in FUSED:
            return {(node.name, site.origin)}, {(node.name, site.origin)}
        if site.entries is None:
            return set(), set()
        mean, variance = (
            self.read(self._graph.nodes[name].inputs[number], _Moments())
            for name, number in (site.entries.mean, site.entries.variance)
        )
        return mean.means, variance.variances

    def read(self, ref: Ref, found: _Moments) -> _Moments:
        """`found` with the moments that a tensor is made of by the arithmetic of averages."""
        seen, waiting = set[Ref](), [ref]
        while waiting:
            ref = waiting.pop()
            node = self._graph.producer(ref)
            if ref in seen:
                continue
            seen.add(ref)
            if node.op in FUSED and ref.output in (1, 2):
                moments = found.means if ref.output == 1 else found.variances
                moments.add((node.name, self._graph.source(node.inputs[0])))
            elif node.op in AVERAGING:
                waiting += self._moment(node, found)
            elif node.op in ASSIGNMENTS:
                found.through.add(self._graph.source(node.inputs[0]).node)
                waiting += node.inputs[1:]
            elif node.op in _ARITHMETIC:
                waiting += [*node.inputs, *self._assigned(node)]
        return found

    def _moment(self, node: Node, found: _Moments) -> Sequence[Ref]:
        """Add the moment that a node averages. What is averaged over towers or virtual batches is returned instead."""
        of = self._graph.producer(self._graph.source(node.inputs[0]))
        if of.op in ("Pack", "ConcatV2"):
            return of.inputs
        axes = self._values.of(of.inputs[1]) if of.op in AVERAGING else None
        if axes is not None and 0 in axes:  # a moment already, of each virtual batch
            return node.inputs[:1]
        if (variance := self._sites.moments(Ref(node.name))) is not None:
            found.variances.add((node.name, self._graph.source(variance[0])))
        else:
            centred = of.op == "Sub"  # shifted, as `tf.nn.moments` did in TensorFlow 1.1
            x = of.inputs[0] if centred else node.inputs[0]
            found.means.add((node.name, self._graph.source(x)))
        return ()

    def _assigned(self, node: Node) -> Sequence[Ref]:
        """What a variable was assigned before it is read, as zero-debiased averages are."""
        before = [self._graph.nodes[name] for name in node.control if node.op == "ReadVariableOp"]
        return [Ref(each.name) for each in before if each.op in ASSIGNMENTS and each.inputs[0] == node.inputs[0]]


def kept_in(graph: Graph, variables: Iterable[str]) -> dict[str, str]:
    """Where the share of the old value is kept at an update of each of `variables`.

    That is the variable itself or, with `zero_debias`, the biased average it is computed from.
    """
    found = {name: name for name in variables}
    reader = _MomentsReader(graph)
    for node in graph.nodes.values():
        target = graph.source(node.inputs[0]).node if node.op in ASSIGNMENTS and len(node.inputs) > 1 else ""
        if target in found:
            found[target] = next(iter(reader.read(node.inputs[1], _Moments()).through - {target}), found[target])
    return found


def initial_values(graph: Graph, variables: Iterable[str]) -> dict[str, float]:
    """The number that all elements of each of `variables` start from, where the graph shows one."""
    wanted, found = set(variables), {}
    for node in graph.nodes.values():
        target = graph.source(node.inputs[0]).node if node.op in ("Assign", "AssignVariableOp") else ""
        if target in wanted:
            value = graph.producer(graph.source(node.inputs[1]))
            if value.op == "Fill":
                value = graph.producer(graph.source(value.inputs[1]))
            proto = value.attr["value"].tensor if value.op == "Const" else None
            if proto is not None and proto.dtype == tf.float32.as_datatype_enum:
                # The tensor may be larger than what is written here, so it is not made.
                written = proto.tensor_content[: len(proto.tensor_content) // 4 * 4]
                values = np.unique(proto.float_val or np.frombuffer(written, np.float32))
                if len(values) < 2:
                    found[target] = float(values[0]) if len(values) else 0.0
    return found
