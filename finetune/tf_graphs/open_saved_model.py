"""A SavedModel that only infers, as a `Subject`: its graph is given the batch way that it was exported without."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from checkpoints.formats.saved_model import open_by_keys
from finetune.errors import FinetuneError
from finetune.tf_graphs.graph_subject import GraphFacts, GraphSubject
from finetune.tf_graphs.open_meta_graph import flat_value
from finetune.tf_graphs.program import variables
from finetune.tf_graphs.program.allowed import refuse
from finetune.tf_graphs.program.batchwise import batchwise
from finetune.tf_graphs.program.bn_layers import Layer, pair
from finetune.tf_graphs.program.constants import Values
from finetune.tf_graphs.program.fold import fold
from finetune.tf_graphs.program.modes import fed, way
from finetune.tf_graphs.program.nodes import IMAGES, Graph, Ref
from finetune.tf_graphs.program.roles import Input, find_input
from finetune.tf_graphs.program.saved_graph import OUTPUT, SavedModel, read
from finetune.tf_graphs.program.sites import Site, find_sites
from finetune.tf_graphs.program.variables import Averages
from finetune.tf_graphs.program.wiring import Wiring
from finetune.tf_graphs.session import Running
from finetune.tf_graphs.writing import Origin, write_saved_model

_ACTIVATIONS = ("Sigmoid", "Relu", "Relu6", "Tanh", "Elu", "Selu", "Softplus")
_SCALING = ("Mul", "Sub", "Add", "AddV2", "RealDiv", "Div", "DivNoNan")
_MARK = ".body/"


class ExportedSubject(GraphSubject):
    """A SavedModel without a `training` argument. Made by `open_exported`."""

    _model: SavedModel
    scales_pixels: bool
    """Whether the first thing its graph does with images is to rescale them: it prepares pixels itself."""

    def write_copy(self, directory: Path) -> None:
        """Write a copy of the SavedModel to `directory` with the moving statistics the subject now has.

        Every other tensor and the graph are the same; Keras's second copies of the statistics go with them. Raises
        CheckpointError where `directory` is there already, FinetuneError where it cannot be written.
        """
        values, snapshot = {}, self.snapshot()
        for layer in self._layers:
            values[layer.mean], values[layer.variance] = snapshot[layer.name]
        twins = {
            name: [place for twin in self._model.twins.get(name, ()) for place in self._model.meta.saved.get(twin, ())]
            for name in values
        }
        write_saved_model(self._model.directory, self._origin, directory, values, twins)


def open_exported(directory: Path) -> ExportedSubject:
    """The SavedModel in `directory` by its signature for serving, with its variables.

    The file is not trusted: nothing in it is run but operations that compute, and it is never loaded as a program.
    Raises FinetuneError where it has no signature for images, hides its BatchNorm, or would run anything else;
    CheckpointError where its variables are damaged.
    """
    model = read(directory)
    graph = fold(model.meta.graph, _defaults(model.meta.graph), [OUTPUT])
    logits, found = _logits(graph, model)
    images = find_input(graph, logits, _depended_on(graph, model), None)
    said = [f"signature '{model.signature}' of {directory}, {found}"]
    moving = way(fed(graph, images, logits), {}).graph
    refuse(moving, directory)
    sites = [site for site in find_sites(moving) if not site.batch]
    if not sites:
        raise FinetuneError(
            f"{directory} has no BatchNormalization that can be reached: it takes no training argument, and its graph "
            "nowhere normalises by variables (it has none, or they are folded into the weights); there is nothing to "
            "examine. Examine the model it was exported from"
        )
    batch = batchwise(moving, sites, model.meta.versions, directory)
    paired = pair(find_sites(batch), sites)
    layers = _named(paired.layers)
    opened = open_by_keys(directory)
    names = variables.of(moving)
    places, _ = variables.places(moving, model.meta, opened, names, use_averages=False)
    values = {name: variables.load(opened, place) for name, place in places.items()}
    running = Running(model.meta, batch, moving)
    running.assign(values)
    subject = ExportedSubject(
        str(directory),
        running,
        images,
        layers,
        {layer.name: (flat_value(values[layer.mean]), flat_value(values[layer.variance])) for layer in layers},
        Origin(model.meta.path, opened, places),
        (),
        {layer.name: (_array(values, layer.gamma), _array(values, layer.beta)) for layer in layers},
    )
    subject._model, subject.scales_pixels = model, _scales(moving, images)
    many = f"{len(layers)} BN layer{'s' if len(layers) > 1 else ''}"
    said.append(f"{many}, {subject.outputs} logits; is_training=True is made of the graph: it was exported without")
    if paired.always_batch:
        said.append(f"{len(paired.always_batch)} more normalise by the batch in any case")
    nothing = Wiring(0, (), None, None)
    subject.facts = GraphFacts(None, None, {}, 0, None, Averages((), (), False), nothing, tuple(said))
    return subject


def _defaults(graph: Graph) -> dict[Ref, np.ndarray]:
    """Placeholders with a default that is known: serving leaves them at it."""
    values = Values(graph)
    found = {
        Ref(node.name): values.of(node.inputs[0])
        for node in graph.nodes.values()
        if node.op == "PlaceholderWithDefault"
    }
    return {ref: value for ref, value in found.items() if value is not None}


def _depended_on(graph: Graph, model: SavedModel) -> Ref:
    if model.images.node not in graph.nodes:
        raise FinetuneError(
            f"the signature '{model.signature}' of {model.directory} gives what does not depend on its images: "
            "expected a classifier; export it again"
        )
    return model.images


def _logits(graph: Graph, model: SavedModel) -> tuple[Ref, str]:
    """What the output is made of: in front of a softmax, where there is one; and words that say so."""
    ref, said = Ref(OUTPUT), "its output taken for logits"
    while True:
        ref = _renamed(graph, ref)
        node = graph.producer(ref)
        if node.op not in ("Softmax", "LogSoftmax"):
            break
        ref, said = node.inputs[0], "logits: what its softmax is made of"
    if node.op in _ACTIVATIONS:
        raise FinetuneError(f"{model.directory} ends in {node.op}: expected logits, or a softmax over classes")
    return ref, said


def _renamed(graph: Graph, ref: Ref) -> Ref:
    """Back through what only gives a tensor another name."""
    while (node := graph.producer(ref)).op in ("Identity", "StopGradient", "IdentityN"):
        ref = node.inputs[ref.output]
    return ref


def _scales(graph: Graph, images: Input) -> bool:
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
    """Layers whose variables share their scope with others' are called by where they are in the graph."""
    paths = [_path(layer.sites[0]) for layer in layers]
    root = {path.partition("/")[0] for path in paths if "/" in path}
    if len(root) == 1:
        paths = [path.removeprefix(f"{next(iter(root))}/") for path in paths]
    if len(set(paths)) < len(layers):
        return layers
    taken = {layer.name for layer in layers}
    return tuple(
        replace(layer, name=path) if layer.name == layer.mean and path not in taken else layer
        for layer, path in zip(layers, paths, strict=True)
    )


def _path(site: Site) -> str:
    scope = site.node.rpartition(_MARK)[2].rpartition("/")[0]
    return scope.removesuffix("/batchnorm")


def _array(values: Mapping[str, np.ndarray], name: str | None) -> np.ndarray | None:
    return flat_value(values[name]) if name is not None and name in values else None
