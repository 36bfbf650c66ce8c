"""A key of everything features depend on: equal keys mean equal features, whatever the run, its seed or file names."""

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import PIL
import tensorflow as tf

from finetune.batchnorm.layer import BatchNorm
from finetune.batchnorm.module_parts import Module
from finetune.data import pipeline
from finetune.data.dataset import Split
from finetune.data.geometry import CENTRE, Geometry
from finetune.data.lazy import LazyImages, in_threads
from finetune.data.preprocessing import AnyPreprocessing, CustomPreprocessing
from finetune.text import ImageSize
from finetune.training.feature_cache.cut import nodes
from finetune.training.feature_cache.entry import ID

VERSION = 3
"""Of what a key is made of, of how photos are decoded and features computed (3: by products, in larger batches), and of
an entry's files (2: with checksums). What is written under another one is never read."""

_UNSEEN = (
    *("name", "trainable", "momentum", "statistics", "updates", "unbiased", "renormalise", "zero_debias", "run_steps"),
    *("seed", "synchronized", "renorm", "renorm_clipping", "renorm_momentum"),
)
"""Settings of a layer that do not affect its output in inference, in addition to initializers and regularizers."""
_CHUNK = 256
"""Images hashed at once by a thread."""


def of_network(below: keras.Model) -> str:
    """Hex digest of what `below` computes: its operations, their connections, the value of every weight, and the
    library that runs them. Names do not matter, nor do settings that only training uses."""
    digest = hashlib.sha256(f"{VERSION} {tf.__version__} {keras.__version__}".encode())
    numbers: dict[int, int] = {id(below.input): 0}
    digest.update(repr((below.input.shape, str(below.input.dtype))).encode())
    met: dict[int, int] = {}
    for node in nodes(below):
        operation = node.operation
        first, layer = id(operation) not in met, met.setdefault(id(operation), len(met))
        config = _config(operation) if first else None
        named = {name: value for name, value in node.arguments.kwargs.items() if name not in ("training", "mask")}
        arguments = keras.tree.map_structure(
            lambda one: f"tensor {numbers[id(one)]}" if isinstance(one, keras.KerasTensor) else one,
            [node.arguments.args, named],
        )
        digest.update(_json([type(operation).__name__, layer, config, arguments]))
        if first and isinstance(operation, keras.layers.Layer):
            for weight in operation.weights:
                value = np.ascontiguousarray(weight)
                digest.update(repr((value.shape, str(value.dtype))).encode())
                digest.update(hashlib.sha256(value.tobytes()).digest())
        for tensor in node.output_tensors:
            numbers[id(tensor)] = len(numbers)
    digest.update(_json(numbers[id(below.output)]))
    return digest.hexdigest()


def of_pixels(
    split: Split, *, image_size: ImageSize, preprocessing: AnyPreprocessing, geometry: Geometry = CENTRE
) -> str:
    """Hex digest of how images of this kind become the network's input: the output for two images of noise.

    It covers everything that preprocessing and resizing do, the user's own code included. For photos that are decoded
    at their size, it covers Pillow's version too, and how their bytes are read in this data set.
    """
    images = split.at(image_size, geometry).images
    shape = images.shape[1:]
    noise = np.random.default_rng(VERSION).integers(0, 256, (2, *shape), np.uint8).astype(images.dtype)
    pixels = np.asarray(pipeline.prepared(tf.constant(noise), image_size, preprocessing, geometry))
    digest = hashlib.sha256(repr((shape, pixels.shape, str(pixels.dtype))).encode() + pixels.tobytes())
    if geometry != CENTRE:
        digest.update(repr(geometry).encode())
    if isinstance(split.images, LazyImages):
        digest.update(f"Pillow {PIL.__version__}".encode())
        digest.update(split.images.photos.reading().encode())
    if isinstance(preprocessing, CustomPreprocessing):
        digest.update(_source(preprocessing.function))
    return digest.hexdigest()


def of_images(split: Split) -> np.ndarray:
    """The name of each image, `[n]` of `entry.ID`: a digest of its pixels, or of the bytes it is stored as."""

    def hashed(chunk: int) -> bytes:
        numbers = range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(split)))
        return _names(_contents(split.images, numbers))

    return np.frombuffer(b"".join(in_threads(hashed, range(-(-len(split) // _CHUNK)))), ID)


def of_mirrored(ids: np.ndarray) -> np.ndarray:
    """The names of the mirror images of images named `ids`."""
    raw = ids.tobytes()
    return np.frombuffer(_names(b"mirrored" + raw[at : at + ID.itemsize] for at in range(0, len(raw), ID.itemsize)), ID)


def of_places(count: int) -> np.ndarray:
    """Names for the places of a fixed sequence, `[count]` of `entry.ID`."""
    return np.frombuffer(_names(str(place).encode() for place in range(count)), ID)


def _names(contents: Iterable[Any]) -> bytes:
    return b"".join(hashlib.blake2b(content, digest_size=ID.itemsize).digest() for content in contents)


def combined(**parts: Any) -> str:
    """One key, 64 hexadecimal digits, of named JSON values."""
    return hashlib.sha256(_json([VERSION, sorted(parts.items())])).hexdigest()


def _contents(images: Any, numbers: range) -> Iterator[Any]:
    if isinstance(images, LazyImages):
        yield from (images.photos.content(int(images.chosen[number])) for number in numbers)
    else:
        yield from (np.ascontiguousarray(images[number]).data for number in numbers)


def _config(operation: Any) -> Any:
    config = operation.get_config()
    unseen = (*_UNSEEN, *(name for name in config if name.endswith(("_initializer", "_regularizer", "_constraint"))))
    kept = {name: value for name, value in config.items() if name not in unseen}
    if isinstance(operation, BatchNorm):
        kept["class"] = "BatchNorm"
    if isinstance(operation, Module):
        kept["graph"] = operation.graph_digest()
    return kept


def _source(function: Any) -> bytes:
    """The source text of the module that defines a user's function, where there is one."""
    try:
        return inspect.getsource(inspect.getmodule(function) or function).encode()
    except (OSError, TypeError):
        return repr(function).encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=lambda one: f"{type(one).__name__}: {one}").encode()
