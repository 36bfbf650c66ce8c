"""A run in float16 or int8: the graph of the float formats, quantised by TFLite's converter or by onnxruntime.

An int8 number q stands for `scale * (q - zero_point)` (Jacob et al. 2018, arXiv 1712.05877). A convolution's weights
have a scale for each output channel. BatchNorm is folded into them before, so each channel is multiplied by its own
gamma / sqrt(variance + epsilon), and one scale for all would be too coarse for the smaller channels. An activation has
one scale, from its smallest and largest value over the representative images.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from finetune.errors import FinetuneError, UserError
from finetune.inference.export import graph_formats
from finetune.inference.export.exportable import INPUT, Source
from finetune.inference.export.exported import Exported
from finetune.inference.export.input_feed import representative_inputs
from finetune.process import silent_descriptor
from finetune.text import first_line

_FINE = "its probabilities are whole multiples of 1/256: take the softmax of its logits where finer ones are needed"


def write_float16(source: Source, out: Path) -> Exported:
    """Write a TFLite file with float16 weights, which the interpreter makes float32 when it opens the file, or computes
    with on devices that can."""

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]

    kind, otherwise = "with float16 weights", "--format tflite"
    return graph_formats.tflite_file(
        source, out, "tflite-float16", kind, configure, otherwise=otherwise, quantisation={"weights": "float16"}
    )


def write_dynamic(source: Source, out: Path) -> Exported:
    """Write a TFLite file with int8 weights. Activations are float32 between operations, and made int8 by their own
    range at each call."""

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    kind, otherwise = "with int8 weights, dynamic range", "--format tflite-float16"
    return graph_formats.tflite_file(
        source, out, "tflite-dynamic", kind, configure, otherwise=otherwise, quantisation={"weights": "int8"}
    )


def write_int8(source: Source, out: Path) -> Exported:
    """Write a TFLite file in which every operation is int8. Inputs and outputs keep the type of the float formats.

    Raises FinetuneError for an operation that TFLite does not have in int8.
    """

    def configure(converter: Any) -> None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ({INPUT: image} for image in representative_inputs(source))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]

    kind, otherwise = f"int8, {_calibrated(source)}", "--format tflite-float16, tflite-dynamic or onnx-int8"
    with silent_descriptor():  # the converter prints its types
        exported = graph_formats.tflite_file(
            source, out, "tflite-int8", kind, configure, otherwise=otherwise, quantisation=_card(source, "int8")
        )
    return exported.noting(_FINE)


def write_onnx_int8(source: Source, out: Path) -> Exported:
    """Write an ONNX file with 8-bit weights and activations: QuantizeLinear and DequantizeLinear around each operation.
    The softmax and built-in resizing stay float32.

    Weights are uint8, as activations are. With int8 weights, onnxruntime adds two products in 16 bits on x86 processors
    without VNNI, and the sums saturate: MobileNet v1 lost 17 points. Weights of 7 bits prevent that, but lost 3. Raises
    FinetuneError where onnxruntime cannot quantise the graph.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        inputs = representative_inputs(source)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.inputs, None)
            return None if image is None else {INPUT: image}

    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        graph_formats.write_onnx(source, plain)
        nodes = onnx.load(plain).graph.node
        softmax = [node for node in nodes if node.op_type == "Softmax"]
        read = {name for node in softmax for name in node.input}
        scaling = [node for node in nodes if node.op_type == "Mul" and read & set(node.output)]  # by a temperature
        kept = [node.name for node in (*softmax, *scaling)]
        try:
            with _quiet():
                quantize_static(
                    plain,
                    quantised,
                    Reader(),
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QUInt8,
                    nodes_to_exclude=kept,
                    extra_options={"MatMulConstBOnly": True},
                )
        except UserError:  # of the images it calibrates with
            raise
        except Exception as error:  # the quantiser raises what its parts raise
            raise FinetuneError(
                f"{source.path} is not quantised by onnxruntime ({first_line(error)}): export it with --format onnx or "
                "tflite-int8"
            ) from None
        model = onnx.load(quantised)
    del model.metadata_props[:]
    kind = f"opset {graph_formats.OPSET}, int8, {_calibrated(source)}"
    return graph_formats.onnx_file(source, out, model, "onnx-int8", kind, quantisation=_card(source, "uint8"))


def _images(source: Source) -> int:
    return 0 if source.representative is None else len(source.representative)


def _calibrated(source: Source) -> str:
    return f"weights per channel, activations by {_images(source)} training images"


def _card(source: Source, kind: str) -> dict[str, Any]:
    return {"weights": kind, "activations": kind, "representative_images": _images(source)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice to optimise the graph first, which the converter has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
