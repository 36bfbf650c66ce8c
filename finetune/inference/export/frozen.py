"""The graph in inference formats: images to class probabilities, BatchNorm folded, weights as constants."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from finetune.errors import FinetuneError
from finetune.inference.export import pixels
from finetune.inference.export.exportable import Source
from finetune.inference.export.folding import fold

INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
"""Names of the input and the outputs in every inference format."""

_MOST_BYTES = 2**31 - 2**20
"""Limit of a protocol buffer, and so of a graph with its constants."""


@dataclass(frozen=True, eq=False)
class Frozen:
    """`function`: a ConcreteFunction without variables, `images` to a list of logits and probabilities, both float32
    `[batch, classes]`. folded: in words, how many BatchNorm layers were folded."""

    function: Any
    folded: str


def check_frozen(source: Source) -> None:
    """FinetuneError where the export would have to hold preprocessing that is Python code."""
    if source.with_preprocessing:
        pixels.check(source.preprocessing)


def input_spec(source: Source) -> tf.TensorSpec:
    """Shape, dtype and name of the export's input."""
    return tf.TensorSpec(source.shape, tf.uint8 if source.with_preprocessing else tf.float32, name=INPUT)


@lru_cache(maxsize=1)
def freeze(source: Source) -> Frozen:
    """The frozen graph of a run's model, the same one for all formats. Raises FinetuneError for more than 2 GiB."""
    folded = fold(source.stock)
    model = folded.model

    def run(images: tf.Tensor) -> list[tf.Tensor]:
        if source.with_preprocessing:
            images = pixels.resized(images, source.side, photos=source.photos)
            images = source.preprocessing.apply(images)
        logits = tf.cast(model(images, training=False), tf.float32)
        return [logits, tf.nn.softmax(logits)]

    concrete = tf.function(run, input_signature=[input_spec(source)], autograph=False).get_concrete_function()
    if sum(variable.dtype.size * variable.shape.num_elements() for variable in concrete.variables) > _MOST_BYTES:
        raise FinetuneError(
            f"{source.path} has more than 2 GiB of weights, which no graph with constants holds: export it with "
            "--format keras"
        )
    words = folded.summary() if source.module is None else "the module's BatchNorm as it is"
    return Frozen(convert_variables_to_constants_v2(concrete), words)
