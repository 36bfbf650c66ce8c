"""Grad-CAM: where in an image a network found what speaks for a class (Selvaraju et al. 2017, section 3).

For class c, each map A^k of a layer is weighted by the mean over its places of the slope dy^c/dA^k, where y^c is the
logit of c. The heat map is ReLU(sum_k weight_k A^k). Where one linear layer follows global average pooling, the weights
are its own, divided by the number of places: the heat map is then that of CAM (Zhou et al. 2016).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from finetune.backbone.endpoints import find_layer
from finetune.batchnorm.scores import Scores
from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.subject import Runnable
from finetune.config import RunConfig
from finetune.data import batches
from finetune.data.dataset import Split
from finetune.errors import FinetuneError, WrongUse
from finetune.runs.model import open_trained
from finetune.runs.run_data import as_seen

_LISTED = 12


@dataclass(frozen=True, eq=False)
class GradCam:
    """A network of which heat maps are made. layer: the one whose maps they are made of; find it with `grad_cam_of`."""

    model: keras.Model
    scores: Scores | None
    layer: Any

    def traced(self) -> Callable[[Any, Any], tf.Tensor]:
        """(preprocessed images `[batch, ...]`, classes int `[batch]`) to heat maps, float32 `[batch, height, width]` of
        the layer's size, 0 or more. BatchNorm uses its moving statistics, dropout is off."""
        both = keras.Model(self.model.inputs[0], [self.layer.output, self.model.outputs[0]])

        def run(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
            maps, outputs = both(images, training=False)
            logits = self.scores.logits(outputs) if self.scores else outputs
            logit = tf.gather(logits, classes, batch_dims=1)
            if self.scores is not None and self.scores.units == 1:
                # The logits are [0, z]: what speaks for class 0 is -z.
                logit -= tf.gather(logits, 1 - classes, batch_dims=1)
            (slopes,) = tf.gradients(logit, maps)
            weights = tf.reduce_mean(slopes, axis=[1, 2], keepdims=True)
            return tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))

        taken = tf.TensorSpec([None, *self.model.input_shape[1:]], tf.float32)
        signature = [taken, tf.TensorSpec([None], tf.int64)]
        traced = tf.function(run, input_signature=signature, autograph=False)
        return traced.get_concrete_function()  # type: ignore[no-any-return]

    def heat_maps(self, split: Split, config: RunConfig) -> Iterator[np.ndarray]:
        """The heat map of each image of a split, in its order: float32 `[height, width]`, of the class that the split
        has as its label. Images are prepared as in evaluation."""
        forward = self.traced()
        for images, classes, counted in batches.evaluation(split, config):
            yield from np.asarray(forward(images, classes))[np.asarray(counted)]


def grad_cam_of(subject: Runnable, *, layer: str | None = None, name: str) -> GradCam:
    """Grad-CAM of a subject, of the last layer that gives maps, or of `layer`: a Keras layer or an end point of slim.

    `name` is the model's, for messages. Raises FinetuneError for a network that is no Keras model or has no maps,
    WrongUse for a layer that gives none.
    """
    if not isinstance(subject, KerasSubject):
        raise FinetuneError(
            f"{name} is a TensorFlow graph, of which no heat maps are made: expected a run or a Keras model; leave out "
            "--explain"
        )
    model = subject.model
    found = {operation.name: operation for operation in map_layers(model)}
    if not found:
        raise FinetuneError(
            f"{name} has no layer that gives maps [batch, height, width, channels] of more than one place, so there is "
            "no place to show: heat maps need a network of convolutions; leave out --explain"
        )
    if layer is None:
        return GradCam(model, subject.scores, list(found.values())[-1])
    chosen = found.get(layer) or find_layer(model, layer, stages={})
    if chosen.name not in found:
        last = ", ".join(list(found)[-_LISTED:])
        raise WrongUse(
            f"--explain-layer {layer}: its output {list(chosen.output.shape)} has no maps of more than one place: "
            f"expected one of the {len(found)} layers that have; the last ones: {last}"
        )
    return GradCam(model, subject.scores, chosen)


def map_layers(model: keras.Model) -> list[Any]:
    """The layers and operations of a flat model that give learned maps `[batch, height, width, channels]` of more than
    one place, from the input to the output.

    Layers in front of the first weights only prepare pixels. Tensors with the channels first, which
    `finetune.batchnorm.flatten` leaves between two of its own layers, are left out.
    """
    found: list[Any] = []
    learned: set[str] = set()
    turned: set[str] = set()
    for operation in model.operations:
        nodes = getattr(operation, "_inbound_nodes", [])
        given = {one._keras_history.operation.name for node in nodes for one in node.input_tensors}
        output = operation.output if len(nodes) == 1 and not isinstance(operation, keras.layers.InputLayer) else None
        norm = isinstance(operation, keras.layers.BatchNormalization | keras.layers.Normalization)
        if given & learned or (getattr(operation, "weights", None) and not norm):
            learned.add(operation.name)
        if operation.name.endswith(".back") or (given & turned and not operation.name.endswith(".moved")):
            turned.add(operation.name)
        shape = getattr(output, "shape", ())
        if len(shape) == 4 and shape[1:3] != (1, 1) and operation.name in learned - turned:
            found.append(operation)
    return found


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Where a network found a class in an image.

    Attributes:
        image: The name of the image: its path, or its number.
        label: The number of the class.
        class_name: Its name.
        probability: Of the class, in [0, 1].
        layer: The layer whose maps are weighted.
        pixels: What the network sees of the image, before the preprocessing: uint8 `[height, width, channels]`.
        heat: float32 `[height, width]` of the layer's size, 0 or more; all 0 where nothing speaks for the class.
    """

    image: str
    label: int
    class_name: str
    probability: float
    layer: str
    pixels: np.ndarray
    heat: np.ndarray

    @property
    def lines(self) -> tuple[str, str]:
        """Two lines of text that describe it."""
        nothing = "" if self.heat.max() > 0 else ": nothing speaks for it"
        return f"{self.class_name} {self.probability:.1%}{nothing}", f"Grad-CAM of {self.layer}"


@dataclass(frozen=True, eq=False)
class Explained:
    """Images with the network that classified them. split: their labels are the classes explained."""

    network: GradCam
    split: Split
    config: RunConfig

    @property
    def layer(self) -> str:
        """The name of the layer whose maps are weighted."""
        return str(self.network.layer.name)

    def heat_maps(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(what the network sees, uint8 `[height, width, channels]`; where it found the class, float32 `[height,
        width]` of the layer's size, 0 or more) of each image, in their order. Computed while they are drawn."""
        pixels = as_seen(self.split, self.config).images
        for number, heat in enumerate(self.network.heat_maps(self.split, self.config)):
            yield np.asarray(pixels[number : number + 1])[0], heat


def heat_maps_of_run(run: Path, split: Split) -> tuple[str, np.ndarray]:
    """(layer, heat maps float32 `[n, height, width]`) of a run's model, for the images of a split and the classes that
    it has as labels. Raises as `grad_cam_of`, and as `open_trained`."""
    trained = open_trained(run)
    network = grad_cam_of(KerasSubject(trained.model), name=str(run))
    return str(network.layer.name), np.stack(list(network.heat_maps(split, trained.config)))
