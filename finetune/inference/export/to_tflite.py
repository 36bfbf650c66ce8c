"""A run as a TFLite (LiteRT) model, for phones and small devices; float32, not quantised."""

import logging
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from finetune.errors import FinetuneError
from finetune.inference.export import to_savedmodel
from finetune.inference.export.exportable import CARD, LABELS, Source
from finetune.inference.export.exported import Exported, Runtime
from finetune.inference.export.frozen import INPUT, LOGITS, PROBABILITIES, check_frozen
from finetune.process import cores, silent_descriptor


def check(source: Source) -> None:
    """As `check_frozen`. Operations that TFLite lacks are found by `write`."""
    check_frozen(source)


def write(source: Source, out: Path) -> Exported:
    """Write `out`: signature `serving_default`, `images` to `logits` and `probabilities`, any number of images.

    `labels.txt` and `finetune.json` are in a zip archive at the end of the file, as TFLite's associated files are:
    `unzip -p model.tflite labels.txt` prints one. Raises FinetuneError for an operation that TFLite does not have.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = to_savedmodel.write(source, Path(folder) / "model")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder + "/model", signature_keys=["serving_default"])
        try:
            with _quiet():
                content = converter.convert()
        except Exception as error:  # the converter raises what its parts raise
            raise FinetuneError(
                f"{source.path} has an operation that TFLite does not have ({_reason(error)}): export it with --format "
                "savedmodel or onnx"
            ) from None
    out.write_bytes(content)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(LABELS, source.labels_text())
        archive.writestr(CARD, source.card_text())
    what = f"TFLite float32, {INPUT} -> {LOGITS}, {PROBABILITIES}; {written.what.partition('; ')[2]}"
    notes = (*source.notes(), f"class names: {LABELS} attached to the file ('unzip -p {out.name} {LABELS}')")
    return Exported("tflite", out, (out,), what, notes)


def open_runtime(source: Source, out: Path) -> Runtime:
    """TensorFlow's TFLite interpreter, by its signature."""
    with warnings.catch_warnings(), silent_descriptor():  # it prints which delegate it made
        warnings.simplefilter("ignore")  # that the interpreter has moved to a package of its own
        interpreter = tf.lite.Interpreter(model_path=str(out), num_threads=cores())
        runner = interpreter.get_signature_runner("serving_default")

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(runner(**{INPUT: images})[LOGITS])

    run._kept = interpreter  # type: ignore[attr-defined]  # the runner refers to it weakly
    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's log of its passes. Its errors are exceptions too, so none is lost."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "op" in line), lines[0] if lines else type(error).__name__)[:300]
