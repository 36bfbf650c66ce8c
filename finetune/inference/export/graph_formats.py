"""A run in the inference formats: SavedModel, TFLite (LiteRT) and ONNX, each from one frozen graph.

The graph maps images to logits and class probabilities. BatchNorm is folded, and the weights are constants.
"""

import importlib.util
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from checkpoints.atomic import written_by_tensorflow
from finetune._version import install_line
from finetune.errors import FinetuneError, UserError
from finetune.files import to_json
from finetune.inference.export import pixels
from finetune.inference.export.exportable import CARD, INPUT, LABELS, Runtime, Source
from finetune.inference.export.exported import Exported
from finetune.inference.export.folding import fold
from finetune.process import cores, silent_descriptor
from finetune.text import first_line

OPSET = 17
"""The operator set of ONNX 1.12 (2022). Newer runtimes read it; tf2onnx 1.17 writes up to 18."""

_OUTPUTS = _LOGITS, _PROBABILITIES = "logits", "probabilities"
"""Names of the outputs in every inference format."""
_SIGNATURE = f"{INPUT} -> {', '.join(_OUTPUTS)}"
_MOST_BYTES = 2**31 - 2**20
"""Limit of a protocol buffer, and so of a graph with its constants."""


def _require(form: str, *packages: str, extra: str, otherwise: str = "") -> None:
    """FinetuneError, with the command that installs `extra`, where one of its packages is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise FinetuneError(
            f"--format {form} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            f"installed: {install_line(extra)}{otherwise}"
        )


def _input_spec(source: Source) -> tf.TensorSpec:
    """Shape, dtype and name of the export's input."""
    return tf.TensorSpec(source.shape, tf.uint8 if source.with_preprocessing else tf.float32, name=INPUT)


@lru_cache(maxsize=1)
def _freeze(source: Source) -> tuple[Any, str]:
    """The frozen graph of a run's model, the same one for all formats, and in words how many BatchNorm are folded.

    A ConcreteFunction without variables, `images` to a list of logits and probabilities, both float32
    `[batch, classes]`. Raises FinetuneError for more than 2 GiB.
    """
    folded = fold(source.stock)
    model = folded.model

    def run(images: tf.Tensor) -> list[tf.Tensor]:
        if source.with_preprocessing:
            images = pixels.resized(images, source.network, photos=source.native is None, geometry=source.geometry)
            images = source.preprocessing.apply(images)
        logits = tf.cast(model(images, training=False), tf.float32)
        # Not divided by 1: one operation less, and the bits of every export before there were temperatures.
        scaled = logits if source.temperature == 1 else logits * tf.constant(1 / source.temperature, tf.float32)
        return [logits, tf.sigmoid(scaled) if source.run.multi_label else tf.nn.softmax(scaled)]

    concrete = tf.function(run, input_signature=[_input_spec(source)], autograph=False).get_concrete_function()
    if sum(variable.dtype.size * variable.shape.num_elements() for variable in concrete.variables) > _MOST_BYTES:
        raise FinetuneError(
            f"{source.path} has more than 2 GiB of weights, which no graph with constants holds: export it with "
            "--format keras"
        )
    words = folded.summary() if source.module is None else "the module's BatchNorm as it is"
    return convert_variables_to_constants_v2(concrete), words


def open_frozen(source: Source) -> tuple[Runtime, int]:
    """The graph of all inference formats before it is converted, run by TensorFlow; and its size in bytes."""
    function = _freeze(source)[0]
    size = function.graph.as_graph_def().ByteSize()
    return lambda images: np.asarray(function(tf.constant(images))[0]), size


def write_savedmodel(source: Source, out: Path) -> Exported:
    """Write a TF2 SavedModel, the directory `out`, for TensorFlow Serving, TensorFlow.js's converter and
    `tf.saved_model.load`.

    Signature `serving_default`: `images` to `logits` and `probabilities`. Signature `class_names`, without arguments:
    the class names. Assets: `labels.txt` and `finetune.json`.
    """
    function, folded = _freeze(source)
    module = tf.Module()
    names = tf.constant([name.encode() for name in source.class_names])
    module.serve = tf.function(
        lambda images: dict(zip(_OUTPUTS, function(images), strict=True)),
        input_signature=[_input_spec(source)],
        autograph=False,
    )
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
    what = f"TF2 SavedModel, {_SIGNATURE}; {folded}"
    notes = (*source.notes(), f"class names: signature class_names, and assets/{LABELS}")
    return Exported("savedmodel", out, files, what, notes)


def open_savedmodel(source: Source, out: Path) -> Runtime:
    """`tf.saved_model.load` and its signature."""
    loaded = tf.saved_model.load(str(out))
    # The signature refers to its model weakly, so the function keeps the model.
    return lambda images: np.asarray(loaded.signatures["serving_default"](**{INPUT: tf.constant(images)})[_LOGITS])


def write_tflite(source: Source, out: Path) -> Exported:
    """Write `out`, float32 and not quantised, for phones and small devices.

    Signature `serving_default`, `images` to `logits` and `probabilities`, any number of images.
    `labels.txt` and `finetune.json` are in a zip archive at the end of the file, as TFLite's associated files are:
    `unzip -p model.tflite labels.txt` prints one. Raises FinetuneError for an operation that TFLite does not have.
    """
    otherwise = "--format savedmodel or onnx"
    return tflite_file(source, out, "tflite", "float32", lambda converter: None, otherwise=otherwise)


def tflite_file(
    source: Source, out: Path, form: str, kind: str, configure: Callable[[Any], None], *, otherwise: str, **card: Any
) -> Exported:
    """Write `out` with a converter that `configure` has set up. `kind` describes its numbers. `card`: as in
    `Source.card`. `otherwise`: what to do where the converter fails."""
    with tempfile.TemporaryDirectory() as folder:
        write_savedmodel(source, Path(folder) / "model")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder + "/model", signature_keys=["serving_default"])
        configure(converter)
        try:
            with _quiet():
                content = converter.convert()
        except UserError:  # of the images it calibrates with
            raise
        except Exception as error:  # the converter raises what its parts raise
            raise FinetuneError(
                f"{source.path} has an operation that TFLite does not have{' in int8' if 'int8' in form else ''} "
                f"({_reason(error)}): export it with {otherwise}"
            ) from None
    out.write_bytes(content)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr(LABELS, source.labels_text())
        archive.writestr(CARD, source.card_text(**card))
    what = f"TFLite {kind}, {_SIGNATURE}; {_freeze(source)[1]}"
    notes = (*source.notes(), f"class names: {LABELS} attached to the file ('unzip -p {out.name} {LABELS}')")
    return Exported(form, out, (out,), what, notes)


def check_litert(form: str = "tflite") -> None:
    """FinetuneError where the extra is missing. TensorFlow writes the file without it."""
    _require(form, "ai_edge_litert", extra="tflite", otherwise=", or leave out the evaluation with --no-evaluation")


def open_tflite(source: Source, out: Path) -> Runtime:
    """LiteRT's interpreter, by its signature."""
    from ai_edge_litert.interpreter import Interpreter

    with silent_descriptor():  # it prints which delegate it made
        interpreter = Interpreter(model_path=str(out), num_threads=cores())
        runner = interpreter.get_signature_runner("serving_default")

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(runner(**{INPUT: images})[_LOGITS])

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


def check_onnx(source: Source, form: str = "onnx") -> None:
    """FinetuneError where the extra is missing."""
    _require(form, "tf2onnx", "onnx", "onnxruntime", extra="onnx")


def write_onnx(source: Source, out: Path) -> Exported:
    """Write `out`: input `images`, outputs `logits` and `probabilities`, any number of images.

    `metadata_props` holds the class names and how pixels are prepared. Raises FinetuneError for an operation that ONNX
    does not have.
    """
    return onnx_file(source, out, _converted(_freeze(source)[0], source), "onnx", f"opset {OPSET}")


def onnx_file(source: Source, out: Path, model: Any, form: str, kind: str, **card: Any) -> Exported:
    """Write the ModelProto `model`, made from `source`, with its metadata. `kind` and `card` as in `tflite_file`."""
    import onnx

    props = source.card(**card)
    for key, value in props.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else to_json(value)
    model.producer_name = props["written_by"]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out))
    what = f"ONNX {kind}, {_SIGNATURE}; {_freeze(source)[1]}"
    return Exported(form, out, (out,), what, (*source.notes(), "class names: class_names in metadata_props, as JSON"))


def open_onnx(source: Source, out: Path) -> Runtime:
    """Onnxruntime, on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([_LOGITS], {INPUT: images})[0])


def _converted(function: Any, source: Source) -> Any:
    """The ModelProto of a frozen function, its input and outputs renamed to `INPUT`, `_OUTPUTS`."""
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it lacks is named below
    inputs, outputs = ([tensor.name for tensor in side] for side in (function.inputs, function.outputs))
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            function.graph.as_graph_def(), input_names=inputs, output_names=outputs, opset=OPSET
        )
        operations = {node.op_type for node in model.graph.node if not node.domain}
        if left := sorted(name for name in operations if not onnx.defs.has(name)):  # it leaves them in the model
            raise ValueError(", ".join(left))
    except Exception as error:  # the converter raises what its parts raise
        reason = first_line(error)
        raise FinetuneError(
            f"{source.path} has an operation that tf2onnx does not convert ({reason}): export it with --format "
            "savedmodel or tflite"
        ) from None
    _rename(model.graph, dict(zip((*inputs, *outputs), (INPUT, *_OUTPUTS), strict=True)))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for axis, name in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], ("height", "width"), strict=True):
        if not axis.HasField("dim_value"):
            axis.dim_param = name
    return model


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                side[index] = names.get(name, name)
