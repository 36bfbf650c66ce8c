"""A run as an ONNX model, for onnxruntime and everything that reads ONNX."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import FinetuneError
from finetune.files import to_json
from finetune.inference.export.exportable import Source
from finetune.inference.export.exported import Exported, Runtime
from finetune.inference.export.frozen import INPUT, LOGITS, PROBABILITIES, check_frozen, freeze
from finetune.process import cores
from finetune.text import first_line

OPSET = 17
"""The operator set of ONNX 1.12 (2022). Newer runtimes read it; tf2onnx 1.17 writes up to 18."""

_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


def check(source: Source) -> None:
    """FinetuneError, with the command that installs it, where the extra is missing; otherwise as `check_frozen`."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise FinetuneError(
            f"--format onnx needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'finetune-backbones[onnx]'"
        )
    check_frozen(source)


def write(source: Source, out: Path) -> Exported:
    """Write `out`: input `images`, outputs `logits` and `probabilities`, any number of images.

    `metadata_props` holds the class names and how pixels are prepared. Raises FinetuneError for an operation that ONNX
    does not have.
    """
    import onnx

    frozen = freeze(source)
    model = _converted(frozen.function, source)
    card = source.card()
    for key, value in card.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else to_json(value)
    model.producer_name = card["written_by"]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(out))
    what = f"ONNX opset {OPSET}, {INPUT} -> {LOGITS}, {PROBABILITIES}; {frozen.folded}"
    return Exported("onnx", out, (out,), what, (*source.notes(), "class names: class_names in metadata_props, as JSON"))


def open_runtime(source: Source, out: Path) -> Runtime:
    """Onnxruntime, on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([LOGITS], {INPUT: images})[0])

    return run


def _converted(function: Any, source: Source) -> Any:
    """The ModelProto of a frozen function, its input and outputs renamed to `INPUT`, `LOGITS` and `PROBABILITIES`."""
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            function.graph.as_graph_def(),
            input_names=[tensor.name for tensor in function.inputs],
            output_names=[tensor.name for tensor in function.outputs],
            opset=OPSET,
        )
    except Exception as error:  # the converter raises what its parts raise
        reason = first_line(error)
        raise FinetuneError(
            f"{source.path} has an operation that tf2onnx does not convert ({reason}): export it with --format "
            "savedmodel or tflite"
        ) from None
    _rename(model.graph, [tensor.name for tensor in function.inputs], [INPUT])
    _rename(model.graph, [tensor.name for tensor in function.outputs], [LOGITS, PROBABILITIES])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for axis, name in zip(model.graph.input[0].type.tensor_type.shape.dim[1:3], ("height", "width"), strict=True):
        if not axis.HasField("dim_value"):
            axis.dim_param = name
    return model


def _rename(graph: Any, old: list[str], new: list[str]) -> None:
    names = dict(zip(old, new, strict=True))
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for side in (node.input, node.output):
            for index, name in enumerate(side):
                side[index] = names.get(name, name)
