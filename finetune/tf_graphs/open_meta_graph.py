"""Open a `.meta` file with its checkpoint, whatever wrote it, as a `Subject`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.formats import Checkpoint, open_checkpoint
from finetune.batchnorm.subject import Snapshot
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.graph_subject import GraphFacts, GraphSubject
from finetune.tf_graphs.program import metagraph, variables
from finetune.tf_graphs.program.allowed import refuse
from finetune.tf_graphs.program.dropout import without_dropout
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.metagraph import MetaGraph
from finetune.tf_graphs.program.modes import Ways, computing, fed, find_ways
from finetune.tf_graphs.program.nodes import IMAGES, LOGITS, PLACEHOLDERS, Graph, Ref, data_type
from finetune.tf_graphs.program.roles import Input, describe, find_input, find_logits, named
from finetune.tf_graphs.program.variables import Averages
from finetune.tf_graphs.program.wiring import Wiring, wiring
from finetune.tf_graphs.session import Running
from finetune.tf_graphs.writing import Origin

_SHOWN = 4


def open_graph(
    meta: Path,
    checkpoint: Path | None = None,
    *,
    input: str | None = None,
    logits: str | None = None,
    is_training: str | None = None,
    layout: str | None = None,
    feeds: Sequence[str] = (),
    use_averages: bool = False,
) -> GraphSubject:
    """The graph of `meta` (a .meta file, a checkpoint's prefix or a training directory) with its weights.

    checkpoint: where the weights are, by default what the .meta belongs to. input, logits, is_training: tensors by
    name, found where that is clear. layout: one of `roles.LAYOUTS`, by default as the input's shape says.
    feeds: `NAME=VALUE` of other placeholders. use_averages: read weights from their moving averages.

    The file is not trusted: nothing in it is run but operations that compute. Raises FinetuneError, WrongUse or
    CheckpointError where something is missing, not clear, or does not fit.
    """
    path, weights = metagraph.locate(Path(meta), checkpoint)
    saved = metagraph.read(path)
    graph = saved.graph
    known = dict(_feed(graph, text) for text in feeds)
    end, said = (named(graph, logits, "--logits"), f"logits {logits}: as given") if logits else find_logits(graph)
    _require_no_softmax(graph, end)
    images = find_input(graph, end, named(graph, input, "--input") if input else None, layout)
    graph = fed(graph, images, end)
    ways = find_ways(graph, named(graph, is_training, "--is-training") if is_training else None, known)
    for way in (ways.batch, ways.moving):
        refuse(way.graph, path)
    lines = [images.how, said, *ways.lines, *(f"{ref} = {value}: as given" for ref, value in known.items())]
    opened = open_checkpoint(weights)
    if not opened.kind.startswith("slim"):
        raise FinetuneError(f"{weights} is no TensorFlow checkpoint: expected the one that {path} belongs to")
    lines = [images.how, said, *ways.lines, *(f"{ref} = {value}: as given" for ref, value in known.items())]
    return _with_weights(saved, opened, graph, ways, images, lines, use_averages=use_averages)


def _with_weights(
    saved: MetaGraph,
    opened: Checkpoint,
    graph: Graph,
    ways: Ways,
    images: Input,
    lines: list[str],
    *,
    use_averages: bool,
) -> GraphSubject:
    layers = ways.paired.layers
    whole = fold(graph, {**ways.known, ways.switch: ways.training}, graph.nodes)
    wires = wiring(whole, [name for layer in layers for name in (layer.mean, layer.variance)], saved.collections)
    names = dict.fromkeys([*variables.of(ways.moving.graph), *variables.of(ways.batch.graph)])
    places, averages = variables.places(graph, saved, opened, names, use_averages=use_averages)
    values = {name: variables.load(opened, place) for name, place in places.items()}
    updating = _updating(whole, wires, saved, values)
    running = Running(saved, updating or ways.batch.graph, ways.moving.graph)
    running.assign(values)
    moving = {layer.name: (flat_value(values[layer.mean]), flat_value(values[layer.variance])) for layer in layers}
    subject = GraphSubject(
        str(saved.path),
        running,
        images,
        layers,
        moving,
        Origin(saved.path, opened, places),
        wires.updates if updating else (),
        {layer.name: (_array(values, layer.gamma), _array(values, layer.beta)) for layer in layers},
    )
    decay = subject.decay()
    subject.facts = _facts(subject, variables.step(saved, opened), moving, decay, averages, wires, lines)
    return subject


def _updating(whole: Graph, wires: Wiring, saved: MetaGraph, values: dict[str, np.ndarray]) -> Graph | None:
    """The training way with its updates, None where they cannot be run: they are only run to measure the decay."""
    if not wires.updates:
        return None
    roots = [LOGITS, *wires.updates]
    graph = without_dropout(computing(whole.only(roots)).only(roots), roots).graph
    try:
        refuse(graph, saved.path, updating=True)
    except FinetuneError:
        return None
    fed_all = all(
        node.op not in ("Placeholder", "PlaceholderV2") or node.name == IMAGES for node in graph.nodes.values()
    )
    return graph if fed_all and values.keys() >= set(variables.of(graph)) else None


def _facts(
    subject: GraphSubject,
    step: int | None,
    moving: Snapshot,
    decay: dict[str, float | None],
    averages: Averages,
    wires: Wiring,
    lines: list[str],
) -> GraphFacts:
    runs = wires.train_op_runs_updates
    updates = step if runs else None
    if wires.run == 0 and variables.initial(moving):
        updates = 0
    said = [
        *lines,
        f"{len(moving)} BN layer{'s' if len(moving) > 1 else ''} switched, {subject.outputs} logits",
        *wires.lines(),
    ]
    found = sorted({value for value in decay.values() if value is not None})
    if found:
        said.append(
            f"decay {', '.join(f'{value:g}' for value in found[:_SHOWN])}, measured by running the updates once"
        )
    if averages.averaged:
        used = "used" if averages.used else "not used"
        said.append(f"averages of {len(averages.averaged)} variables in the checkpoint, {used}")
        if averages.used and averages.without:
            more = f" and {len(averages.without) - _SHOWN} more" if len(averages.without) > _SHOWN else ""
            said.append(f"without an average, so read as they are: {', '.join(averages.without[:_SHOWN])}{more}")
    return GraphFacts(step, updates, decay, wires.collected, runs, averages, wires, tuple(said))


def _array(values: dict[str, np.ndarray], name: str | None) -> np.ndarray | None:
    return flat_value(values[name]) if name in values else None


def flat_value(value: np.ndarray) -> np.ndarray:
    """A variable as a subject has it: float32 `[channels]`."""
    return np.asarray(value, np.float32).reshape(-1)


def _require_no_softmax(graph: Graph, logits: Ref) -> None:
    node = graph.producer(graph.source(logits))
    if node.op in ("Softmax", "LogSoftmax"):
        raise WrongUse(
            f"--logits {logits} are probabilities ({node.op} {node.name}): the loss needs what they are made of; "
            f"give --logits {node.inputs[0]}"
        )


def _feed(graph: Graph, text: str) -> tuple[Ref, np.ndarray]:
    """`NAME=VALUE` as a tensor and its value. WrongUse where it is neither."""
    name, equals, value = text.partition("=")
    if not equals:
        raise WrongUse(f"--feed {text}: expected NAME=VALUE, as in --feed keep_prob=1.0")
    ref = named(graph, name, "--feed")
    node = graph.producer(ref)
    dtype = tf.as_dtype(data_type(node) or tf.float32)
    words = {"true": True, "false": False}
    try:
        if node.op not in PLACEHOLDERS:
            raise WrongUse(f"--feed {text}: {describe(node)} is no placeholder")
        if dtype.is_bool:
            return ref, np.asarray(words[value.strip().lower()] if not value.strip().isdigit() else bool(int(value)))
        return ref, np.asarray(dtype.as_numpy_dtype(value))
    except (ValueError, KeyError, TypeError):
        raise WrongUse(f"--feed {text}: expected a value of type {dtype.name} for {describe(node)}") from None
