"""A run as a TF2 SavedModel, for TensorFlow Serving, TensorFlow.js's converter and `tf.saved_model.load`."""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.atomic import written_by_tensorflow
from finetune.inference.export.exportable import CARD, LABELS, Source
from finetune.inference.export.exported import Exported, Runtime
from finetune.inference.export.frozen import INPUT, LOGITS, PROBABILITIES, check_frozen, freeze, input_spec


def check(source: Source) -> None:
    """As `check_frozen`: every model can be written as a SavedModel."""
    check_frozen(source)


def write(source: Source, out: Path) -> Exported:
    """Write the directory `out`.

    Signature `serving_default`: `images` to `logits` and `probabilities`. Signature `class_names`, without arguments:
    the class names. Assets: `labels.txt` and `finetune.json`.
    """
    frozen = freeze(source)
    module = tf.Module()
    names = tf.constant([name.encode() for name in source.class_names])
    serve = tf.function(
        lambda images: dict(zip((LOGITS, PROBABILITIES), frozen.function(images), strict=True)),
        input_signature=[input_spec(source)],
        autograph=False,
    )
    module.serve = serve
    module.class_names = tf.function(lambda: {"class_names": names}, input_signature=[], autograph=False)
    with tempfile.TemporaryDirectory() as folder:
        assets = {LABELS: source.labels_text(), CARD: source.card_text()}
        for name, text in assets.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        module.assets = [tf.saved_model.Asset(str(Path(folder) / name)) for name in assets]
        signatures = {"serving_default": module.serve, "class_names": module.class_names}
        with written_by_tensorflow(out):
            tf.saved_model.save(module, str(out), signatures=signatures)
    files = tuple(sorted(path for path in out.rglob("*") if path.is_file()))
    what = f"TF2 SavedModel, {INPUT} -> {LOGITS}, {PROBABILITIES}; {frozen.folded}"
    notes = (*source.notes(), f"class names: signature class_names, and assets/{LABELS}")
    return Exported("savedmodel", out, files, what, notes)


def open_runtime(source: Source, out: Path) -> Runtime:
    """`tf.saved_model.load` and its signature."""
    loaded = tf.saved_model.load(str(out))
    serve = loaded.signatures["serving_default"]

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(serve(**{INPUT: tf.constant(images)})[LOGITS])

    run._kept = loaded  # type: ignore[attr-defined]  # the signature refers to its model weakly
    return run
