"""Open a `.meta` file with its checkpoint, or a SavedModel that only infers, as a `Subject`.

A SavedModel without a `training` argument was exported without the batch mode, so that is added to its graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from checkpoints.formats import Checkpoint, open_checkpoint
from checkpoints.formats.aliases import with_initial
from checkpoints.formats.keras_metadata import origin
from checkpoints.formats.saved_model import open_by_keys
from finetune.errors import FinetuneError, WrongUse
from finetune.tf_graphs.graph_subject import GraphFacts, GraphSubject, moving_statistics
from finetune.tf_graphs.program import graph_files
from finetune.tf_graphs.program.averages import initial_values, kept_in
from finetune.tf_graphs.program.endings import ACTIVATIONS, Ending, find_ending
from finetune.tf_graphs.program.feeding import scaling_line
from finetune.tf_graphs.program.fold import INSIDE, fold
from finetune.tf_graphs.program.graphdef import MetaGraph, refuse
from finetune.tf_graphs.program.modes import Modes, fed, find_modes, find_wiring, logits_with, with_updates
from finetune.tf_graphs.program.nodes import IMAGES, LOGITS, PLACEHOLDERS, Graph, Node, Ref, Values
from finetune.tf_graphs.program.roles import Input, before_activation, describe, find_input, find_logits, named
from finetune.tf_graphs.program.sites import Layer, find_sites, pair
from finetune.tf_graphs.program.switchless import batchwise, modes_without_switch
from finetune.tf_graphs.writing import GraphFiles

_STEPS = tuple(f"optimizer/{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("_iterations", "iter"))
"""Where Keras 2's optimizers keep the steps they took."""
_KEPT_PIXELS = (
    *("Identity", "Cast", "StridedSlice", "Slice", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"),
    *("ResizeArea", "ReverseV2"),
)
_SCALING = ("Mul", "Sub", "Add", "AddV2", "RealDiv", "Div", "DivNoNan")


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
    path, weights = graph_files.locate_graph(Path(meta), checkpoint)
    saved = graph_files.read_meta_graph(path)
    graph = saved.graph
    known = dict(_feed(graph, text) for text in feeds)
    end, found = (named(graph, logits, "--logits"), f"logits {logits}: as given") if logits else find_logits(graph)
    end, without, sigmoids = before_activation(graph, end)
    images = find_input(graph, end, named(graph, input, "--input") if input else None, layout)
    scaling = scaling_line(graph, graph.only([end.node]), images.ref)
    saved = replace(saved, graph=fed(graph, images, end))
    _refuse_renorm(saved.graph.only([LOGITS]), path)
    switch = named(saved.graph, is_training, "--is-training") if is_training else None
    modes = find_modes(saved.graph, switch, known) or modes_without_switch(saved, known)
    for mode in (modes.batch, modes.moving):
        refuse(mode, path)
    opened = open_checkpoint(weights)
    if not opened.kind.startswith("slim"):
        raise FinetuneError(f"{weights} is no TensorFlow checkpoint: expected the one that {path} belongs to")
    lines = [
        images.how,
        scaling,
        found + without,
        *modes.lines,
        *(f"{ref} = {value}: as given" for ref, value in known.items()),
    ]
    subject = _with_weights(saved, opened, modes, images, lines, use_averages=use_averages)
    ending = find_ending(saved.graph, end) if logits else Ending()
    if sigmoids or ending.mixed or ending.kind == "unknown":
        ending = Ending("sigmoid", saved.graph.producer(end)) if sigmoids else ending
        subject.facts = replace(subject.facts, ending=ending)
    return subject


def _refuse_renorm(graph: Graph, path: Path) -> None:
    """FinetuneError where logits depend on the averages of batch renormalisation, as in its training mode."""
    found = next(
        (name for name in graph_files.variables_of(graph) if name.rpartition("/")[2].startswith("renorm_")), ""
    )
    if found:
        raise FinetuneError(
            f"{path} trains with batch renormalisation (renorm=True, by its variable {found}): in training it "
            "normalises by a mixture of the batch's statistics and of averages, which is neither is_training=False nor "
            "True. Give the graph that was written for tests, with this checkpoint (--meta-graph TEST.meta "
            "--checkpoint PREFIX), which is examined as plain BatchNorm; or the model file of Keras 2, which Keras 2 "
            "runs"
        )


def _with_weights(
    saved: MetaGraph, opened: Checkpoint, modes: Modes, images: Input, lines: list[str], *, use_averages: bool
) -> GraphSubject:
    """The subject of a graph whose modes are found: with its variables, its wiring and what they show of training."""
    whole = fold(saved.graph, modes.known, saved.graph.nodes)
    layers = _with_starts(modes.layers, whole)
    moving = [name for layer in layers for name in (layer.mean, layer.variance)]
    kept = [name for layer in layers for name in layer.kept or ()]
    wiring = find_wiring(whole, moving, saved.collections, kept)
    variables = graph_files.variables_of(modes.moving) | graph_files.variables_of(modes.batch)
    opened = _with_statistics(saved, opened, layers, variables)
    places, averages = graph_files.find_variables(saved, opened, variables, use_averages=use_averages)
    batch = with_updates(whole, wiring, saved.path, modes.batch) or modes.batch
    further = {name: node for name, node in graph_files.variables_of(batch).items() if name not in places}
    try:
        places |= graph_files.find_variables(saved, opened, further)[0]
    except FinetuneError:  # what updates alone read, the checkpoint need not hold
        batch = modes.batch
    if not set(kept) <= set(places):
        layers = tuple(replace(layer, kept=None) for layer in layers)
    files = GraphFiles(saved.path, opened, places)
    step = graph_files.global_step(saved, opened)
    updates = step if wiring.train_op_runs_updates and not opened.absent else None
    statistics = moving_statistics(layers, files.values).values()
    starts = [layer.initial for layer in layers]
    if wiring.run == 0 and all(map(_at_start, statistics, starts)):
        updates = 0
    lines = [*lines, *opened.remarks, *wiring.lines(), *averages.lines()]
    raw = averages.used and not set(moving).isdisjoint(averages.without)
    absent = bool(opened.absent)
    facts = GraphFacts(tuple(lines), step, updates, averages, wiring, statistics_absent=absent, statistics_raw=raw)
    return GraphSubject(saved, replace(modes, batch=batch, layers=layers), images, files, facts)


def _with_statistics(
    saved: MetaGraph, opened: Checkpoint, layers: tuple[Layer, ...], variables: Mapping[str, Node]
) -> Checkpoint:
    """`opened` with the moving statistics that it lacks at their start: a Saver of the trainable variables alone leaves
    them out, and they must be measured before the network is of use."""
    absent = {}
    for layer in layers:
        for name, start in zip((layer.mean, layer.variance), layer.initial, strict=True):
            shape = variables[name].declared_shape() if name in variables else None
            if shape is not None and None not in shape and not graph_files.held(saved, opened, name):
                absent[name] = np.full([size for size in shape if size is not None], start, np.float32)
    return with_initial(opened, absent) if absent else opened


def _with_starts(layers: tuple[Layer, ...], whole: Graph) -> tuple[Layer, ...]:
    """Layers with what their averages start from, and what the updates keep."""
    names = [name for layer in layers for name in (layer.mean, layer.variance)]
    kept, start = kept_in(whole, names), initial_values(whole, names)
    return tuple(
        replace(
            layer,
            kept=(kept[layer.mean], kept[layer.variance]),
            initial=(start.get(layer.mean, 0.0), start.get(layer.variance, 1.0)),
        )
        for layer in layers
    )


def _at_start(statistics: tuple[np.ndarray, np.ndarray], start: tuple[float, float]) -> bool:
    return all(bool(np.all(array == value)) for array, value in zip(statistics, start, strict=True))


def _feed(graph: Graph, text: str) -> tuple[Ref, np.ndarray]:
    """`NAME=VALUE` as a tensor and its value. WrongUse where it is neither."""
    name, equals, value = text.partition("=")
    if not equals:
        raise WrongUse(f"--feed {text}: expected NAME=VALUE, as in --feed keep_prob=1.0")
    ref = named(graph, name, "--feed")
    node = graph.producer(ref)
    dtype = tf.as_dtype(node.data_type() or tf.float32)
    if node.op not in PLACEHOLDERS:
        raise WrongUse(f"--feed {text}: {describe(node)} is no placeholder")
    try:
        if dtype.is_bool:
            flags = {"true": True, "false": False}
            return ref, np.asarray(flags[value.strip().lower()] if not value.strip().isdigit() else bool(int(value)))
        return ref, np.asarray(dtype.as_numpy_dtype(value))
    except (ValueError, KeyError, TypeError):
        raise WrongUse(f"--feed {text}: expected a value of type {dtype.name} for {describe(node)}") from None


def open_exported(directory: Path, output: str | None = None, layout: str | None = None) -> GraphSubject:
    """The SavedModel in `directory` by its signature for serving, with its variables; `output`: one of its several;
    `layout` of its images: one of `roles.LAYOUTS`, by default as the graph shows it.

    The file is not trusted: only operations that compute are run, and it is never loaded as a program. Raises
    FinetuneError where it has no signature for images, hides its BatchNorm, or would run anything else; WrongUse where
    it has no such output; CheckpointError where it is damaged.
    """
    model = graph_files.read_saved_model(directory, output)
    values = Values(model.meta.graph)
    placeholders = [node for node in model.meta.graph.nodes.values() if node.op == "PlaceholderWithDefault"]
    # In serving, placeholders keep their defaults.
    defaults = {Ref(node.name): known for node in placeholders if (known := values.of(node.inputs[0])) is not None}
    graph = fold(model.meta.graph, defaults, [graph_files.OUTPUT])
    graph, ending, found = _logits(graph, model)
    logits = Ref(graph_files.OUTPUT)
    if model.images.node not in graph.nodes:
        raise FinetuneError(
            f"the output of the signature '{model.signature}' of {directory} does not depend on its images: expected a "
            "classifier; export it again"
        )
    images = find_input(graph, logits, model.images, layout)
    moving, _ = logits_with(fed(graph, images, logits), {})
    refuse(moving, directory)
    sites = [site for site in find_sites(moving) if not site.batch]
    trained = [site for site in sites if site.mean not in model.frozen]
    batch = batchwise(moving, trained or sites, model.meta) if sites else moving
    switched = pair(find_sites(batch), sites)
    opened = open_by_keys(directory)
    places, _ = graph_files.find_variables(model.meta, opened, graph_files.variables_of(moving))
    lines = [
        f"signature '{model.signature}' of {directory}, {found}",
        "is_training=True is added to its graph, without dropout and augmentation"
        if sites
        else f"it ({origin(directory)}) has no BatchNormalization that can be reached: its graph nowhere normalises by "
        "variables (it has none, or they are folded into the weights)",
    ]
    if len(trained) < len(sites):
        lines.append(_frozen(len(sites) - len(trained), len(sites)))
    if switched.always_batch:
        lines.append(f"{len(switched.always_batch)} more layers normalise by the batch in any case")
    trained_with: Literal["moving"] | None = "moving" if sites and not trained else None
    step = next((int(opened.read(key)) for key in _STEPS if opened.shapes.get(key) == ()), None)
    facts = GraphFacts(tuple(lines), step, scales_pixels=_scales(moving), ending=ending, trained_with=trained_with)
    modes, files = Modes(batch, moving, _named(switched.layers)), GraphFiles(directory, opened, places, model.twins)
    return GraphSubject(model.meta, modes, images, files, facts)


def _frozen(count: int, of: int) -> str:
    """What a user must know of layers that normalise by moving statistics in training."""
    why = "(they are frozen, or called as base(x, training=False))"
    if count < of:
        return f"{count} of {of} BN layers normalise by their moving statistics in training too {why}, and here"
    return (
        f"all {of} BN layers normalise by their moving statistics in training too {why}: it was trained as it is "
        "evaluated, and with batch statistics it is another model"
    )


def _logits(graph: Graph, model: graph_files.SavedModel) -> tuple[Graph, Ending, str]:
    """The graph without a softmax or sigmoid at its end; what its output was; and words that say so."""
    ending = find_ending(graph, Ref(graph_files.OUTPUT))
    if ending.node is not None and ending.node.op in ACTIVATIONS:
        raise FinetuneError(
            f"{model.meta.path} ends in {ending.node.op}: expected logits, a softmax over classes, or sigmoids"
        )
    if ending.kind not in ("softmax", "sigmoid"):
        return graph, ending, "its output used as logits"
    if ending.node is None:
        return graph, ending, f"its output is a mixture of {'softmaxes' if ending.kind == 'softmax' else 'sigmoids'}"
    graph = graph.with_nodes([ending.node.identity(ending.node.inputs[0])])
    return graph, ending, f"logits: what its {ending.kind} is made of"


def _scales(graph: Graph) -> bool:
    """Whether the first thing the graph does with images, but for resizing and cropping, is to rescale them."""
    consumers, values, name = graph.consumers(), Values(graph), IMAGES
    while len(readers := [one for one in consumers[name] if one.op != "Shape"]) == 1:
        (node,) = readers
        if node.op in _SCALING:
            return any(values.of(ref) is not None for ref in node.inputs)
        if node.op not in _KEPT_PIXELS:
            return False
        name = node.name
    return False


def _named(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Layers without a scope of their own are called by the place of their first site in the graph."""
    scopes = [layer.sites[0].node.rpartition(INSIDE)[2].rpartition("/")[0] for layer in layers]
    paths = [scope.removesuffix("/batchnorm") for scope in scopes]
    root = {path.partition("/")[0] for path in paths if "/" in path}
    if len(root) == 1:
        paths = [path.removeprefix(f"{next(iter(root))}/") for path in paths]
    if len(set(paths)) < len(layers):
        return layers
    names = {layer.name for layer in layers}
    return tuple(
        replace(layer, name=path) if layer.name == layer.mean and path not in names else layer
        for layer, path in zip(layers, paths, strict=True)
    )
