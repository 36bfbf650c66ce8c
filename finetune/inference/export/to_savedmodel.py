"""A run as a TF2 SavedModel, for TensorFlow Serving, TensorFlow.js's converter and `tf.saved_model.load`."""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from checkpoints.cache.disk import written_by_tensorflow
from finetune.inference.export import frozen as inference
from finetune.inference.export.exportable import Source
from finetune.inference.export.exported import Exported
from finetune.inference.export.frozen import INPUT, LOGITS, PROBABILITIES
from finetune.inference.export.trial import Run

LABELS, CARD = "labels.txt", "finetune.json"


def check(source: Source) -> None:
    """Whatever the run holds, it has this form."""
    inference.check(source)


def write(source: Source, out: Path) -> Exported:
    """Write the directory `out`: signature `serving_default`, `images` to `logits` and `probabilities`; signature
    `class_names`, of no argument, to their names; and `labels.txt` and `finetune.json` among its assets."""
    frozen = inference.freeze(source)
    module = tf.Module()
    names = tf.constant([name.encode() for name in source.class_names])
    serve = tf.function(
        lambda images: dict(zip((LOGITS, PROBABILITIES), frozen.function(images), strict=True)),
        input_signature=[inference.input_spec(source)],
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


def open_runtime(source: Source, out: Path) -> Run:
    """`tf.saved_model.load` and its signature."""
    loaded = tf.saved_model.load(str(out))
    serve = loaded.signatures["serving_default"]

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(serve(**{INPUT: tf.constant(images)})[LOGITS])

    run._kept = loaded  # type: ignore[attr-defined]  # the signature refers to what it is part of weakly
    return run
