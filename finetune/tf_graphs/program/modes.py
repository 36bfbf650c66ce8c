"""The two modes of a graph, by batch and by moving statistics, without dropout, and the switch that chooses the mode.

Dropout is taken out: with the training switch on, it would be measured along with BatchNorm. The wiring shows how a
graph updates its moving statistics, and whether its train op does.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from checkpoints.formats.operations import ASSIGNMENTS, RANDOM, VARIABLES
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.graphdef import ALLOWED, parse_ref, refuse
from finetune.tf_graphs.program.nodes import (
    IMAGES,
    LOGITS,
    PLACEHOLDERS,
    SWITCHES,
    Graph,
    Node,
    Ref,
    first_of,
    new_node,
)
from finetune.tf_graphs.program.roles import Input, describe, listed
from finetune.tf_graphs.program.sites import Layer, SwitchedLayers, find_sites, pair

_KEEP = re.compile(r"keep", re.IGNORECASE)
_DROP = re.compile(r"drop", re.IGNORECASE)
_THRESHOLDS = frozenset({"Floor", "GreaterEqual", "Greater", "Less", "LessEqual"})
_ELEMENTWISE = frozenset({"Mul", "Add", "AddV2", "Sub", "Identity", "Cast", "LogicalNot", "StopGradient"})
_SCALINGS = frozenset({"Mul", "RealDiv", "Div"})
_CONDITIONS = {**dict.fromkeys(SWITCHES, 1), **dict.fromkeys(("If", "StatelessIf"), 0)}
"""Operations that decide by a condition -> the number of the input that holds it."""
_SOURCES = PLACEHOLDERS | VARIABLES | {"Const"}
_MOST_CONDITIONS = 16
UPDATE_OPS, TRAIN_OP = "update_ops", "train_op"
_APPLY = re.compile(r"^(Resource)?(Sparse)?Apply[A-Z]")


@dataclass(frozen=True)
class Modes:
    """batch, moving: what runs for the logits under either value of the switch, without dropout.

    layers: those that the switch switches. known: its value that selects batch statistics, and values of placeholders.
    lines: what was found, to print.
    """

    batch: Graph
    moving: Graph
    layers: tuple[Layer, ...]
    known: Mapping[Ref, np.ndarray] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


def fed(graph: Graph, images: Input, logits: Ref) -> Graph:
    """`graph` with a placeholder `IMAGES` in place of its images, wherever they came from, and a node `LOGITS`."""
    own = new_node(IMAGES, "Placeholder", dtype=images.dtype, shape=tf.TensorShape(images.shape))
    end = replace(graph.producer(logits), name=LOGITS).identity(logits)
    return graph.with_nodes([own, end]).rewired({images.ref: Ref(IMAGES)})


def find_modes(graph: Graph, switch: Ref | None, known: Mapping[Ref, np.ndarray]) -> Modes | None:
    """Both modes of `graph` (already `fed`), by `switch` or by the one tensor that switches its BatchNorm.

    None where nothing does. Raises FinetuneError where `switch` is no switch, where there
    are several, or where a placeholder has no value.
    """
    needed = graph.only([LOGITS])
    if switch is not None and switch.node not in needed.nodes:
        raise WrongUse(f"--is-training {switch}: the logits do not depend on it; they take {listed(needed)}")
    how = "as given" if switch else "found"
    found: dict[Ref, Modes] = {}
    for refs in ([switch],) if switch else (_switches(needed, known), _conditions(needed, known)):
        found = found or {ref: modes for ref in refs if (modes := _by(needed, ref, known, how))}
    if len(found) == 1:
        return found.popitem()[1]
    if found:
        names = ", ".join(map(str, found))
        raise FinetuneError(
            f"several tensors switch BatchNorm: {names}. Choose one with --is-training and feed the others"
        )
    if switch is not None:
        raise FinetuneError(
            f"--is-training {switch} switches no BatchNorm between batch and moving statistics; the logits take "
            f"{listed(needed)}"
        )
    return None


def _switches(graph: Graph, known: Mapping[Ref, np.ndarray]) -> list[Ref]:
    """Scalar placeholders and variables that can mean yes or no, those of type bool first."""
    found = {}
    for node in graph.nodes.values():
        dtype = tf.as_dtype(node.data_type() or tf.string)
        scalar = node.declared_shape() == ()
        number = scalar and (dtype.is_integer or (dtype.is_floating and node.op in PLACEHOLDERS))
        if (node.op in VARIABLES or _is_scalar_placeholder(node)) and (dtype.is_bool or number):
            found[Ref(node.name)] = dtype.is_bool
    return sorted((ref for ref in found if ref not in known), key=lambda ref: not found[ref])


def _conditions(graph: Graph, known: Mapping[Ref, np.ndarray]) -> list[Ref]:
    """What conditions are computed to, as from a text or from a part of a tensor; few, as each is tried."""
    read = (graph.source(node.inputs[_CONDITIONS[node.op]]) for node in graph.nodes.values() if node.op in _CONDITIONS)
    found = dict.fromkeys(ref for ref in read if ref not in known and graph.producer(ref).op not in _SOURCES)
    return [*found][:_MOST_CONDITIONS]


def _is_scalar_placeholder(node: Node) -> bool:
    return node.op in PLACEHOLDERS and node.declared_shape() in ((), None)


def _by(graph: Graph, switch: Ref, known: Mapping[Ref, np.ndarray], how: str) -> Modes | None:
    """The modes by one tensor, None where it switches nothing."""
    dtype = tf.as_dtype(graph.producer(switch).data_type() or tf.bool).as_numpy_dtype
    yes, no = np.asarray(True, dtype), np.asarray(False, dtype)
    with_yes, with_no = (logits_with(graph, {**known, switch: value}) for value in (yes, no))
    nodes = {**with_yes[0].nodes, **with_no[0].nodes}
    guessed = guesses(nodes)
    if guessed:
        with_yes, with_no = (logits_with(graph, {**known, **guessed, switch: value}) for value in (yes, no))
    for (batch, cut), (moving, _), training in ((with_yes, with_no, yes), (with_no, with_yes, no)):
        switched = pair(find_sites(batch), find_sites(moving))
        if switched.layers:
            require_values(batch, moving)
            lines = [
                f"training switch {describe(graph.producer(switch))}: {how}; {bool(training)} is batch statistics",
                *lines_of(guessed, nodes, switched, batch, cut),
            ]
            known = {**known, **guessed, switch: training}
            return Modes(batch, moving, switched.layers, known, tuple(lines))
    return None


def logits_with(graph: Graph, known: Mapping[Ref, np.ndarray]) -> tuple[Graph, list[str]]:
    """The nodes that run for the logits when the tensors of `known` have these values; see `without_dropout`."""
    folded = fold(graph, known, [LOGITS])
    return without_dropout(computing(folded).only([LOGITS]), [LOGITS])


def computing(graph: Graph) -> Graph:
    """`graph` without side effects: no updates of averages, checks or printing.

    Control inputs are kept only where a condition or a loop is still in the graph. There they tell TensorFlow that a
    branch is not taken.
    """
    conditions = any(node.op in ("Switch", "RefSwitch", "Enter", "RefEnter") for node in graph.nodes.values())
    kept = {name for name, node in graph.nodes.items() if conditions and node.op != "NoOp" and node.op in ALLOWED}
    nodes = {
        name: replace(node, control=tuple(each for each in node.control if each in kept))
        for name, node in graph.nodes.items()
    }
    return Graph(nodes, graph.functions)


def guesses(nodes: Mapping[str, Node]) -> dict[Ref, np.ndarray]:
    """Values that turn dropout off: the share kept is 1, the share dropped 0, a switch off."""
    guessed = {}
    for node in nodes.values():
        if not _is_scalar_placeholder(node) or node.name == IMAGES:
            continue
        dtype = tf.as_dtype(node.data_type() or tf.string)
        value: object = None
        if dtype.is_bool and node.op != "PlaceholderWithDefault":
            value = False
        elif dtype.is_floating and (_KEEP.search(node.name) or _DROP.search(node.name)):
            value = 1.0 if _KEEP.search(node.name) else 0.0
        if value is not None:
            guessed[Ref(node.name)] = np.asarray(value, dtype.as_numpy_dtype)
    return guessed


def require_values(*graphs: Graph) -> None:
    """FinetuneError where a placeholder other than the images has no value in either mode."""
    missing = {
        node.name: node
        for graph in graphs
        for node in graph.nodes.values()
        if node.op in ("Placeholder", "PlaceholderV2") and node.name != IMAGES
    }
    if missing:
        names = first_of(map(describe, missing.values()))
        raise FinetuneError(
            f"the logits depend on {names} as well: give it a value with --feed {next(iter(missing))}=VALUE"
        )


def lines_of(
    guessed: Mapping[Ref, np.ndarray], nodes: Mapping[str, Node], switched: SwitchedLayers, batch: Graph, cut: list[str]
) -> list[str]:
    """What to print of guessed values, dropout, other randomness, and layers that are the same in both modes."""
    lines = [
        f"{describe(nodes[ref.node])} = {value}: guessed; --feed {ref.node}=VALUE overrides it"
        for ref, value in guessed.items()
    ]
    if cut:
        lines.append(f"dropout off in both modes: cut at {first_of(cut)}")
    if random := [node.name for node in batch.nodes.values() if node.op in RANDOM]:
        lines.append(f"still random with batch statistics, which makes their figures vary: {first_of(random)}")
    for names, always in ((switched.always_batch, "batch"), (switched.always_moving, "moving")):
        if names:
            many = f"{len(names)} BN layers use" if len(names) > 1 else "1 BN layer uses"
            lines.append(f"{many} {always} statistics in both modes: {first_of(names)}")
    return lines


def without_dropout(graph: Graph, roots: Iterable[str]) -> tuple[Graph, list[str]]:
    """`graph` with every dropout passing its input on unchanged, neither masked nor scaled; the nodes where it was cut.

    A dropout is a product with (or a selection by) a mask that compares or floors random numbers, as every
    `tf.nn.dropout` since 0.x builds it. A mask over whole images (stochastic depth) is one as well.
    """
    consumers = graph.consumers()
    mended: dict[str, Node] = {}
    for node in graph.nodes.values():
        if node.op in RANDOM:
            for end, kept in _masked(graph, consumers, node):
                mended[end.name] = end.identity(_unscaled(graph, kept))
    graph = graph.with_nodes(mended.values())
    # Cuts inside conditions may leave nodes of which only the shape was used.
    graph = graph.only(roots)
    return graph, [name for name in mended if name in graph.nodes]


def _masked(graph: Graph, consumers: dict[str, list[Node]], random: Node) -> list[tuple[Node, Ref]]:
    """(the node that masks, the input it masks) for each mask made of these random numbers."""
    found, seen = [], set()
    waiting = [(random.name, False)]
    noise = {random.name}
    while waiting:
        name, mask = waiting.pop()
        for reader in consumers[name]:
            if (reader.name, mask) in seen:
                continue
            seen.add((reader.name, mask))
            kept = [ref for ref in reader.inputs if ref.node not in noise]
            if mask and reader.op in ("Select", "SelectV2"):
                found.append((reader, reader.inputs[1] if not _scalar(graph, reader.inputs[1]) else reader.inputs[2]))
            elif mask and reader.op == "Mul" and len(kept) == 1 and not _scalar(graph, kept[0]):
                found.append((reader, kept[0]))
            elif reader.op in _THRESHOLDS or reader.op in _ELEMENTWISE:
                noise.add(reader.name)
                waiting.append((reader.name, mask or reader.op in _THRESHOLDS))
    return found


def _unscaled(graph: Graph, ref: Ref) -> Ref:
    """The tensor before it was divided by the share that is kept."""
    node = graph.producer(ref)
    if node.op not in _SCALINGS:
        return ref
    left, right = node.inputs
    if _scalar(graph, right):
        return left
    return right if node.op == "Mul" and _scalar(graph, left) else ref


def _scalar(graph: Graph, ref: Ref, depth: int = 0) -> bool:
    """Whether a tensor is certainly a single number: constants, placeholders and their arithmetic."""
    node = graph.producer(ref)
    if node.op == "Const":
        value = node.constant_value
        return value is not None and value.shape == ()
    if node.op in PLACEHOLDERS:
        # A share to keep is often a placeholder without a shape. No placeholder but the images goes through dropout.
        return node.declared_shape() in ((), None) and bool(node.inputs or node.name != IMAGES)
    return (
        node.op in (*_ELEMENTWISE, "RealDiv", "Div", "Reciprocal")
        and depth < 20
        and all(_scalar(graph, each, depth + 1) for each in node.inputs)
    )


@dataclass(frozen=True)
class Wiring:
    """The updates of moving statistics in a graph.

    collected: operations in the collection UPDATE_OPS. updates: assignments to moving statistics (node names) that
    depend on the images. run: how many of them the train op depends on, None where the graph has no train op or no
    updates. optimizer: the type of the first update of weights, None where there is none.
    """

    collected: int = 0
    updates: tuple[str, ...] = ()
    run: int | None = None
    optimizer: str | None = None
    serving: tuple[str, ...] = ()

    @property
    def train_op_runs_updates(self) -> bool | None:
        """Whether every update runs in a training step, None where the graph does not show it."""
        return None if self.run is None else self.run == len(self.updates)

    def lines(self) -> list[str]:
        """One or two lines for people."""
        if not self.updates:
            return ["the graph holds no update of its moving statistics: it was written without its training part"]
        kept = f", {self.collected} operations in UPDATE_OPS" if self.collected else ", none of them in UPDATE_OPS"
        many = f"{len(self.updates)} update{'s' if len(self.updates) > 1 else ''}"
        return [f"{many} of moving statistics in the graph{kept}", self.sentence]

    @property
    def sentence(self) -> str:
        """Whether a training step runs the updates."""
        what = f"{self.collected} update operations" if self.collected else f"{len(self.updates)} updates"
        if self.run is None:
            return "the graph has no train op: whether it runs the updates is not known"
        if self.run == 0:
            return f"the graph's train op ({self.optimizer}) does not depend on its {what}"
        if self.run < len(self.updates):
            return f"the graph's train op ({self.optimizer}) runs only {self.run} of the {len(self.updates)} updates"
        return f"the graph's train op ({self.optimizer}) runs all {self.run} updates"


def find_wiring(
    graph: Graph, moving: Iterable[str], collections: Mapping[str, tuple[str, ...]], kept: Iterable[str] = ()
) -> Wiring:
    """The wiring of a whole graph, folded for batch statistics, whose images are the placeholder `IMAGES`.

    `moving` are the variables of the moving statistics, `collections` those of the meta graph, `kept` what the moving
    statistics are computed from.
    """
    moving, kept = set(moving), set(kept)
    seen = _depending_on_images(graph)  # Initialising and restoring do not.
    assigned = {
        node.name: graph.source(node.inputs[0]).node
        for node in graph.nodes.values()
        if node.op in ASSIGNMENTS and any(ref.node in seen for ref in node.inputs[1:])
    }
    updates = [name for name, target in assigned.items() if target in moving]
    serving = tuple(name for name, target in assigned.items() if target in kept - moving)
    applying = [node.name for node in graph.nodes.values() if _APPLY.match(node.op)]
    roots = [name for text in collections.get(TRAIN_OP, ()) if (name := parse_ref(text).node) in graph.nodes]
    optimizer = graph.nodes[applying[0]].op if applying else None
    run = None
    if updates and (roots or applying):
        # Updates may come before a train op, or before a node that waits for it: `tf.group(train_op, *update_ops)`.
        needed = graph.ancestors(graph.descendants([*roots, *applying], control=True))
        run = sum(name in needed for name in updates)
    optimizer = optimizer or (roots[0] if roots else None)
    return Wiring(len(collections.get(UPDATE_OPS, ())), tuple(updates), run, optimizer, serving)


def _depending_on_images(graph: Graph) -> set[str]:
    """The nodes that are computed from the images. A variable's value is, where it is read after such an assignment:
    the zero-debiased average of a resource variable reads the one that is not debiased."""
    seen: set[str] = set()
    begin = [IMAGES] if IMAGES in graph.nodes else []
    while begin:
        seen |= graph.descendants(begin)
        written = {name: graph.source(graph.nodes[name].inputs[0]) for name in seen if _assigns(graph.nodes[name])}
        begin = [
            node.name
            for node in graph.nodes.values()
            if node.op == "ReadVariableOp" and node.name not in seen
            if graph.source(node.inputs[0]) in {written[name] for name in node.control if name in written}
        ]
    return seen


def _assigns(node: Node) -> bool:
    return node.op in ASSIGNMENTS and bool(node.inputs)


def with_updates(whole: Graph, wiring: Wiring, path: object, batch: Graph) -> Graph | None:
    """`batch`, the graph under batch statistics, with its updates, which are only run to measure the decay.

    `whole` is folded for batch statistics. None where the updates cannot be run.
    """
    if not wiring.updates:
        return None
    roots = [LOGITS, *wiring.updates, *wiring.serving]
    graph, _ = without_dropout(computing(whole.only(roots)).only(roots), roots)
    graph = graph.with_nodes(batch.nodes.values()).only(roots)
    try:
        refuse(graph, path, updating=True)
    except FinetuneError:
        return None
    given = {node.name for node in graph.nodes.values() if node.op in ("Placeholder", "PlaceholderV2")}
    return graph if given <= {IMAGES} else None
