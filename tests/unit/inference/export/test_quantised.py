"""Quantised exports: how near they stay to the float one, what numbers are in the file, and what is refused."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import TensorProto

from finetune.errors import FinetuneError, WrongUse
from finetune.inference.export import quantised, write
from finetune.inference.export.exportable import open_source
from finetune.inference.export.exported import FORMATS, Calibration, Exported, TrialOptions
from finetune.inference.export.write import export
from tests.support.commands import typed
from tests.support.shared import Printed

LARGEST = {"tflite-float16": 0.55, "tflite-dynamic": 0.35, "tflite-int8": 0.4, "onnx-int8": 0.45}
"""Bytes as a share of the float32 file's. The bundled network has so few weights that scales and names count."""


@pytest.fixture(scope="module")
def trained(finished: tuple[Path, Printed]) -> Path:
    return finished[0]


@pytest.fixture(scope="module")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """Every quantised format, calibrated with 40 images, and the two float files they are made from."""
    out, forms = tmp_path_factory.mktemp("quantised") / "out", [*LARGEST, "tflite", "onnx"]
    found = export(trained, out, forms=forms, evaluation=TrialOptions(images=60), calibration=Calibration(40))
    assert found.folded is not None
    assert (found.folded.agreement, found.folded.difference) == (1.0, 0.0)
    assert found.folded.largest_logit_difference < 1e-4
    assert found.to_json()["folded_not_quantised"]["lost"] == 0
    return {one.form: one for one in found.exported}


def test_every_quantised_format_is_tested_here() -> None:
    assert list(LARGEST) == [form for form, one in FORMATS.items() if one.quantised]


def test_they_are_smaller_and_classify_alike(written: dict[str, Exported]) -> None:
    for form, share in LARGEST.items():
        trial, plain = written[form].trial, written[form.partition("-")[0]]
        assert trial is not None
        assert trial.bytes < share * plain.size
        assert trial.agreement > (0.98 if form == "tflite-float16" else 0.9)
        assert trial.gained - trial.lost == round(trial.difference * 60)
        assert trial.largest_logit_difference > 1e-4  # it is another file than the float one


def _tensors(out: Path) -> list[dict[str, Any]]:
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # a delegate would replace the file's operations
    interpreter = Interpreter(model_path=str(out), experimental_op_resolver_type=plain)
    return list(interpreter.get_tensor_details())


def test_the_numbers_in_the_files(written: dict[str, Exported]) -> None:
    kernels = {
        form: [one for one in _tensors(written[form].out) if len(one["shape"]) == 4 and one["shape"][0] > 1]
        for form in LARGEST
        if form.startswith("tflite")
    }
    assert np.float16 in {one["dtype"] for one in kernels["tflite-float16"]}
    for form in ("tflite-dynamic", "tflite-int8"):
        weights = [one for one in kernels[form] if one["dtype"] == np.int8]
        # One scale for each output channel.
        assert weights
        assert all(len(one["quantization_parameters"]["scales"]) == one["shape"][0] for one in weights)
    full = {np.dtype(one["dtype"]) for one in _tensors(written["tflite-int8"].out) if len(one["shape"]) == 4}
    assert full == {np.dtype(np.int8), np.dtype(np.float32)}
    floats = [one for one in _tensors(written["tflite-int8"].out) if one["dtype"] == np.float32]
    assert len(floats) == 3  # the images, the logits and the probabilities
    graph = onnx.load(written["onnx-int8"].out).graph
    rank_4 = [one for one in graph.initializer if len(one.dims) == 4]
    assert rank_4
    assert {one.data_type for one in rank_4} == {TensorProto.UINT8}
    scales = {one.name: list(one.dims) for one in graph.initializer}
    convolved = [one for one in graph.node if one.op_type == "DequantizeLinear" and one.input[0] in map(_name, rank_4)]
    assert all(scales[node.input[1]] == scales[node.input[0]][:1] for node in convolved)
    assert len(convolved) == len(rank_4)


def _name(tensor: Any) -> str:
    return str(tensor.name)


def test_what_is_quantised_is_in_the_card(written: dict[str, Exported]) -> None:
    with zipfile.ZipFile(written["tflite-int8"].out) as archive:
        card = json.loads(archive.read("finetune.json"))
    expected = {"weights": "int8", "activations": "int8", "representative_images": 40}
    assert card["quantisation"] == expected
    props = onnx.load(written["onnx-int8"].out).metadata_props
    assert sorted(one.key for one in props) == sorted(card)  # each once
    found = {one.key: one.value for one in props}
    assert json.loads(found["quantisation"]) == {**expected, "weights": "uint8", "activations": "uint8"}
    assert json.loads(found["class_names"]) == card["class_names"]


@pytest.mark.slow
def test_calibration_images_are_training_images_of_every_class_and_always_the_same(trained: Path) -> None:
    source = open_source(trained, with_preprocessing=False)
    ready = [
        write._with_images(trained, source, ["tflite-int8"], Calibration(images), None)[0].representative
        for images in (40, 40, None)
    ]
    assert all(one is not None for one in ready)
    first, again, default = (one for one in ready if one is not None)
    assert np.array_equal(first.images[:], again.images[:])
    assert len(first) == 40
    assert np.bincount(first.labels).min() > 0
    assert len(default) == json.loads((trained / "data.json").read_text())["images"]["training"]  # fewer than 200


@pytest.mark.parametrize(
    ("forms", "images", "words"),
    [
        (["tflite", "onnx"], 50, "--representative 50: tflite and onnx need no representative images: leave it out"),
        (["tflite-float16"], 50, "tflite-float16 needs no representative images"),
        (["tflite-int8"], 3, r"--representative 3 is fewer than the \d+ classes: give \d+ to \d+"),
        (["onnx-int8"], 10**6, r"--representative 1000000 is more than the \d+ training images: give \d+ to \d+"),
    ],
)
def test_a_wrong_number_of_images(forms: list[str], images: int, words: str, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / ("out" if len(forms) > 1 else f"m{FORMATS[forms[0]].ending}")
    with pytest.raises(WrongUse, match=words):
        export(trained, out, forms=forms, evaluation=None, calibration=Calibration(images))
    assert list(tmp_path.iterdir()) == []


def test_without_its_data_int8_says_which_formats_need_none(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "data": str(tmp_path / "gone")}))
    with pytest.raises(FinetuneError, match=r"tflite-int8 is calibrated with training images of the run, and .*gone.*"):
        export(run, tmp_path / "m.tflite", forms=["tflite-int8"], evaluation=None)
    assert [one.name for one in tmp_path.iterdir()] == ["run"]


def test_a_failing_quantiser_is_one_message_and_no_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime.quantization

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Bessel has no range\nmore")

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", fail)
    monkeypatch.setattr(quantised.graph_formats, "write_onnx", lambda source, out: onnx.save(onnx.ModelProto(), out))
    with pytest.raises(FinetuneError, match=re.escape("not quantised by onnxruntime (Bessel has no range): export it")):
        export(trained, tmp_path / "m.onnx", forms=["onnx-int8"], evaluation=None, calibration=Calibration(20))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_table_shows_what_folding_and_what_int8_changes(trained: Path, tmp_path: Path) -> None:
    line = f"export {trained} --format tflite-int8 --out {tmp_path}/m.tflite --images 100 --representative 40 --quiet"
    result = typed(line)
    assert result.exit_code == 0, result.output
    assert re.search(r"^BatchNorm folded, float32 +\S+ +\+0\.00% +100\.00%", result.stdout, re.MULTILINE)
    assert re.search(r"^tflite-int8: \S+ points against the run, 95 % interval ", result.stdout, re.MULTILINE)
    assert "whole multiples of 1/256" in result.stdout


@pytest.mark.slow
def test_pixels_go_in_as_they_are(trained: Path, tmp_path: Path) -> None:
    found = export(
        trained,
        tmp_path / "out",
        forms=list(LARGEST),
        with_preprocessing=True,
        evaluation=TrialOptions(images=200),
        calibration=Calibration(40),
    )
    assert all(one.trial is not None and one.trial.agreement > 0.9 for one in found.exported)
