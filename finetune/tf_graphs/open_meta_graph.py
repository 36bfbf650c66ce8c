"""Open a `.meta` file with its checkpoint as a `Subject`, whatever program wrote them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.formats import Checkpoint, open_checkpoint
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.graph_subject import GraphFacts, GraphSubject, moving_statistics
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.graphdef import MetaGraph, refuse
from finetune.tf_graphs.program.metagraph import (
    Averages,
    all_initial,
    find_variables,
    global_step,
    load_variables,
    locate_graph,
    read_meta_graph,
    variables_of,
)
from finetune.tf_graphs.program.modes import Modes, computing, fed, find_modes, without_dropout
from finetune.tf_graphs.program.nodes import IMAGES, LOGITS, PLACEHOLDERS, Graph, Ref, data_type, first_of
from finetune.tf_graphs.program.roles import Input, describe, find_input, find_logits, named
from finetune.tf_graphs.program.wiring import Wiring, find_wiring
from finetune.tf_graphs.session import GraphSession
from finetune.tf_graphs.writing import TrainingFiles


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

    checkpoint: the file of the weights, by default the one the .meta belongs to. input, logits, is_training: names of
    tensors; they are found where the graph leaves no choice. layout: one of `roles.LAYOUTS`, by default by the input's
    shape. feeds: `NAME=VALUE` of other placeholders. use_averages: read weights from their moving averages.

    The file is not trusted: only operations that compute are run. Raises FinetuneError, WrongUse or CheckpointError
    where something is missing, ambiguous, or does not fit.
    """
    path, weights = locate_graph(Path(meta), checkpoint)
    saved = read_meta_graph(path)
    graph = saved.graph
    known = dict(_feed(graph, text) for text in feeds)
    end, found = (named(graph, logits, "--logits"), f"logits {logits}: as given") if logits else find_logits(graph)
    _require_no_softmax(graph, end)
    images = find_input(graph, end, named(graph, input, "--input") if input else None, layout)
    graph = fed(graph, images, end)
    modes = find_modes(graph, named(graph, is_training, "--is-training") if is_training else None, known)
    for mode in (modes.batch, modes.moving):
        refuse(mode, path)
    opened = open_checkpoint(weights)
    if not opened.kind.startswith("slim"):
        raise FinetuneError(f"{weights} is no TensorFlow checkpoint: expected the one that {path} belongs to")
    lines = [images.how, found, *modes.lines, *(f"{ref} = {value}: as given" for ref, value in known.items())]
    return _with_weights(replace(saved, graph=graph), opened, modes, images, lines, use_averages=use_averages)


def _with_weights(
    saved: MetaGraph, opened: Checkpoint, modes: Modes, images: Input, lines: list[str], *, use_averages: bool
) -> GraphSubject:
    layers, whole = modes.layers, fold(saved.graph, modes.known, saved.graph.nodes)
    wiring = find_wiring(whole, [name for layer in layers for name in (layer.mean, layer.variance)], saved.collections)
    variables = variables_of(modes.moving) | variables_of(modes.batch)
    places, averages = find_variables(saved, opened, variables, use_averages=use_averages)
    values = load_variables(opened, places)
    updating = _updating(whole, wiring, saved, values)
    session = GraphSession(saved, updating or modes.batch, modes.moving, images, values)
    step = global_step(saved, opened)
    updates = step if wiring.train_op_runs_updates else None
    if wiring.run == 0 and all_initial(moving_statistics(layers, values)):
        updates = 0
    switched = f"{len(layers)} BN layer{'s' if len(layers) > 1 else ''} switched, {session.outputs} logits"
    lines = [*lines, switched, *wiring.lines(), *_averages_lines(averages)]
    facts = GraphFacts(step, updates, averages, wiring, tuple(lines))
    origin = TrainingFiles(saved.path, opened, places)
    return GraphSubject(session, layers, values, origin, facts, wiring.updates if updating else ())


def _updating(whole: Graph, wiring: Wiring, saved: MetaGraph, values: dict[str, np.ndarray]) -> Graph | None:
    """The graph under batch statistics with its updates, which are only run to measure the decay.

    None where they cannot be run.
    """
    if not wiring.updates:
        return None
    roots = [LOGITS, *wiring.updates]
    graph = without_dropout(computing(whole.only(roots)).only(roots), roots).graph
    try:
        refuse(graph, saved.path, updating=True)
    except FinetuneError:
        return None
    given = {*values, IMAGES}
    needed = [*variables_of(graph), *(n.name for n in graph.nodes.values() if n.op in ("Placeholder", "PlaceholderV2"))]
    return graph if given >= set(needed) else None


def _averages_lines(averages: Averages) -> list[str]:
    if not averages.averaged:
        return []
    used = "used" if averages.used else "not used"
    lines = [f"averages of {len(averages.averaged)} variables in the checkpoint, {used}"]
    if averages.used and averages.without:
        lines.append(f"without an average, so read as they are: {first_of(averages.without)}")
    return lines


def _require_no_softmax(graph: Graph, logits: Ref) -> None:
    node = graph.producer(graph.source(logits))
    if node.op in ("Softmax", "LogSoftmax"):
        raise WrongUse(
            f"--logits {logits} are probabilities ({node.op} {node.name}), but the loss needs the logits before the "
            f"softmax: give --logits {node.inputs[0]}"
        )


def _feed(graph: Graph, text: str) -> tuple[Ref, np.ndarray]:
    """`NAME=VALUE` as a tensor and its value. WrongUse where it is neither."""
    name, equals, value = text.partition("=")
    if not equals:
        raise WrongUse(f"--feed {text}: expected NAME=VALUE, as in --feed keep_prob=1.0")
    ref = named(graph, name, "--feed")
    node = graph.producer(ref)
    dtype = tf.as_dtype(data_type(node) or tf.float32)
    if node.op not in PLACEHOLDERS:
        raise WrongUse(f"--feed {text}: {describe(node)} is no placeholder")
    try:
        if dtype.is_bool:
            flags = {"true": True, "false": False}
            return ref, np.asarray(flags[value.strip().lower()] if not value.strip().isdigit() else bool(int(value)))
        return ref, np.asarray(dtype.as_numpy_dtype(value))
    except (ValueError, KeyError, TypeError):
        raise WrongUse(f"--feed {text}: expected a value of type {dtype.name} for {describe(node)}") from None
