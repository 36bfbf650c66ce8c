"""Open a SavedModel that only infers as a `Subject`. Its graph was exported without the batch mode, so it is added."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from checkpoints.formats.saved_model import open_by_keys
from finetune.errors import FinetuneError
from finetune.tf_graphs.graph_subject import GraphFacts, GraphSubject
from finetune.tf_graphs.program.batchwise import batchwise
from finetune.tf_graphs.program.fold import INSIDE, fold
from finetune.tf_graphs.program.graphdef import refuse
from finetune.tf_graphs.program.metagraph import Averages, find_variables, load_variables, variables_of
from finetune.tf_graphs.program.modes import fed, logits_with
from finetune.tf_graphs.program.nodes import IMAGES, Graph, Ref, Values
from finetune.tf_graphs.program.roles import find_input
from finetune.tf_graphs.program.saved_graph import OUTPUT, SavedModel, read_saved_model
from finetune.tf_graphs.program.sites import Layer, Site, find_sites, pair
from finetune.tf_graphs.program.wiring import Wiring
from finetune.tf_graphs.session import GraphSession
from finetune.tf_graphs.writing import ExportedFiles

_ACTIVATIONS = ("Sigmoid", "Relu", "Relu6", "Tanh", "Elu", "Selu", "Softplus")
_SCALING = ("Mul", "Sub", "Add", "AddV2", "RealDiv", "Div", "DivNoNan")


def open_exported(directory: Path) -> GraphSubject:
    """The SavedModel in `directory` by its signature for serving, with its variables.

    The file is not trusted: only operations that compute are run, and it is never loaded as a program. Raises
    FinetuneError where it has no signature for images, hides its BatchNorm, or would run anything else;
    CheckpointError where it is damaged.
    """
    model = read_saved_model(directory)
    graph = fold(model.meta.graph, _defaults(model.meta.graph), [OUTPUT])
    logits, found = _logits(graph, model)
    if model.images.node not in graph.nodes:
        raise FinetuneError(
            f"the output of the signature '{model.signature}' of {directory} does not depend on its images: expected a "
            "classifier; export it again"
        )
    images = find_input(graph, logits, model.images, None)
    moving = logits_with(fed(graph, images, logits), {}).graph
    refuse(moving, directory)
    sites = [site for site in find_sites(moving) if not site.batch]
    if not sites:
        raise FinetuneError(
            f"{directory} has no BatchNormalization that can be reached: it takes no training argument, and its graph "
            "nowhere normalises by variables (it has none, or they are folded into the weights); there is nothing to "
            "examine. Examine the model it was exported from"
        )
    batch = batchwise(moving, sites, model.meta)
    switched = pair(find_sites(batch), sites)
    layers = _named(switched.layers)
    opened = open_by_keys(directory)
    places, _ = find_variables(model.meta, opened, variables_of(moving))
    values = load_variables(opened, places)
    session = GraphSession(model.meta, batch, moving, images, values)
    lines = [
        f"signature '{model.signature}' of {directory}, {found}",
        f"{len(layers)} BN layer{'s' if len(layers) > 1 else ''}, {session.outputs} logits; it was exported without "
        "is_training=True, which is added to its graph",
    ]
    if switched.always_batch:
        lines.append(f"{len(switched.always_batch)} more layers normalise by the batch in any case")
    facts = GraphFacts(None, None, Averages((), (), False), Wiring(0, (), None, None), tuple(lines))
    origin = ExportedFiles(directory, opened, places, model.twins)
    return GraphSubject(session, layers, values, origin, facts, scales_pixels=_scales(moving))


def _defaults(graph: Graph) -> dict[Ref, np.ndarray]:
    """The known defaults of placeholders, which keep them in serving."""
    values = Values(graph)
    nodes = [node for node in graph.nodes.values() if node.op == "PlaceholderWithDefault"]
    return {Ref(node.name): value for node in nodes if (value := values.of(node.inputs[0])) is not None}


def _logits(graph: Graph, model: SavedModel) -> tuple[Ref, str]:
    """The output, or what its softmax reads where it ends in one; and words that say which."""
    ref, found = Ref(OUTPUT), "its output used as logits"
    while (node := graph.producer(ref)).op in ("Identity", "StopGradient", "IdentityN", "Softmax", "LogSoftmax"):
        if node.op in ("Softmax", "LogSoftmax"):
            found = "logits: what its softmax is made of"
        ref = node.inputs[ref.output]
    if node.op in _ACTIVATIONS:
        raise FinetuneError(f"{model.meta.path} ends in {node.op}: expected logits, or a softmax over classes")
    return ref, found


def _scales(graph: Graph) -> bool:
    """Whether the first thing the graph does with images is to rescale them."""
    consumers, values, name = graph.consumers(), Values(graph), IMAGES
    while len(readers := consumers[name]) == 1:
        (node,) = readers
        if node.op in _SCALING:
            return any(values.of(ref) is not None for ref in node.inputs)
        if node.op not in ("Identity", "Cast"):
            return False
        name = node.name
    return False


def _named(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Layers without a scope of their own are called by the place of their first site in the graph."""
    paths = [_path(layer.sites[0]) for layer in layers]
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


def _path(site: Site) -> str:
    scope = site.node.rpartition(INSIDE)[2].rpartition("/")[0]
    return scope.removesuffix("/batchnorm")
