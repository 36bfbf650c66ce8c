"""A run as a `.keras` file of stock layers, which Keras loads in safe mode without this package."""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from finetune.batchnorm.surgery import to_stock
from finetune.errors import FinetuneError
from finetune.inference.export import pixels
from finetune.inference.export.exportable import CARD, INPUT, Runtime, Source
from finetune.inference.export.exported import Exported


def check(source: Source) -> None:
    """FinetuneError for a run on a Hub module."""
    if source.module is not None:
        raise FinetuneError(
            f"{source.path} holds the Hub module {source.module}, which is no Keras layer: a .keras file of it would "
            "need this package and the module; export it with --format savedmodel"
        )


def write(source: Source, out: Path) -> Exported:
    """Write the model: one input, logits `[batch, classes]`. BatchNorm is not folded: the model stays trainable.

    `finetune.json` is one more file inside the archive. Keras ignores it, and drops it when it saves the model again.
    """
    model = source.stock
    if source.with_preprocessing:
        model = _with_pixels(source, model)
    size = sum(int(np.prod(variable.shape)) * 4 for variable in model.variables)
    # As in finetune.backbone.keras_file: HDF5 crashes the process where the disk is full.
    if shutil.disk_usage(out.parent).free < size + 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    model.save(out)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CARD, source.card_text())
    what = f"Keras {keras.__version__} model of stock layers, {model.count_params():,} parameters, to logits"
    return Exported("keras", out, (out,), what, (*source.notes(), f"class names: {CARD} in the archive"))


def open_runtime(source: Source, out: Path) -> Runtime:
    """`keras.saving.load_model` in safe mode."""
    return keras_runtime(keras.saving.load_model(out, compile=False, safe_mode=True))


def keras_runtime(model: keras.Model) -> Runtime:
    """A Keras model in inference mode, traced."""
    signature = [tf.TensorSpec(model.input_shape, model.input.dtype)]
    traced = tf.function(lambda images: model(images, training=False), input_signature=signature, autograph=False)
    return lambda images: np.asarray(traced(tf.constant(images))).reshape(len(images), -1)


def _with_pixels(source: Source, model: keras.Model) -> keras.Model:
    images = keras.Input(tuple(source.shape[1:]), dtype="uint8", name=INPUT)
    x = pixels.layers(images, source.network, source.preprocessing, native=source.native, geometry=source.geometry)
    # Flat: a model within a model would hide its layers from the reader of the file.
    copy = to_stock(model)
    logits = copy._run_through_graph([x], call_fn=lambda operation, *args, **kwargs: operation(*args, **kwargs))
    return keras.Model(images, logits, name=model.name)
