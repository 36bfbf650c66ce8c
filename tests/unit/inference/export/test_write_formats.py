"""Every format written, run by its own runtime, and refused where it cannot be had."""

import importlib.util
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from PIL import Image

from finetune._version import install_line
from finetune.cli.export_command import export as export_command
from finetune.config import RunConfig
from finetune.errors import FinetuneError, WrongUse
from finetune.inference.export.exported import FORMATS, TrialOptions
from finetune.inference.export.write import WRITERS, export, staged
from finetune.training import start
from tests.support.shared import Printed

INFERENCE = ("savedmodel", "tflite", "onnx")


@pytest.fixture
def trained(finished: tuple[Path, Printed]) -> Path:
    """On images in memory, at another size than their own."""
    return finished[0]


@pytest.fixture(scope="module")
def on_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On JPEGs of all shapes, some of twice the network's side and more. One class is called after a path."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, (name, colour) in enumerate((("red", (200, 30, 30)), ("$(id)|..%2Fetc", (30, 30, 200)))):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(12):
            size = (int(rng.integers(20, 90)), int(rng.integers(20, 90)))
            noisy = np.clip(np.array(colour) + rng.normal(0, 40, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "data" / name / f"{number}-{label}.jpg", quality=95)
    settings = RunConfig(
        backbone="resnet_v1_demo", data=str(folder / "data"), epochs=1, batch_size=8, image_size=24, test=0.5
    )
    return start.start(settings, run_dir=folder / "run").path


@pytest.mark.slow
def test_every_format_at_once_is_the_same_classifier(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    forms = [form for form, one in FORMATS.items() if not one.quantised]
    exported = export(trained, out, forms=forms, evaluation=TrialOptions(images=200))
    assert sorted(one.name for one in out.iterdir()) == [
        "model.keras", "model.onnx", "model.tflite", "saved_model", "slim"
    ]  # fmt: skip
    assert exported.run is not None
    accuracy = json.loads((trained / "result.json").read_text())["test"]["is_training_false"]["accuracy"]
    assert abs(exported.run.accuracy - accuracy) < 0.1  # 200 of the 1,000 images
    for one in exported.exported:
        assert one.trial is not None
        assert one.trial.images == 200
        assert one.trial.agreement == 1.0
        assert one.trial.difference == 0.0
        assert one.trial.largest_logit_difference < 1e-4
        assert all(file.is_file() for file in one.files)
        assert one.trial.bytes == sum(file.stat().st_size for file in one.files)
    assert "22 BatchNorm folded" in exported.exported[1].what


@pytest.mark.slow
@pytest.mark.parametrize("forms", [["keras", "tflite"], list(INFERENCE)])
def test_with_preprocessing_the_images_go_in_as_they_are(trained: Path, forms: list[str], tmp_path: Path) -> None:
    options = TrialOptions(images=200)
    exported = export(trained, tmp_path / "out", forms=forms, with_preprocessing=True, evaluation=options)
    for one in exported.exported:
        assert one.trial is not None
        assert (one.trial.images, one.trial.agreement) == (200, 1.0)
        assert one.trial.largest_logit_difference < 1e-4


@pytest.mark.slow
def test_photos_of_any_size_go_in_as_they_are(on_photos: Path, tmp_path: Path) -> None:
    exported = export(on_photos, tmp_path / "out", forms=["keras", *INFERENCE], with_preprocessing=True)
    assert exported.decoded is not None
    for one in exported.exported:
        assert one.trial is not None
        assert one.trial.agreement == 1.0
    # Pillow's pixels to the bit but for portrait photos, which it starts at the other side.
    assert all(one.trial.largest_logit_difference < 0.05 for one in exported.exported if one.trial)


@pytest.mark.slow
def test_class_names_are_in_every_export(on_photos: Path, tmp_path: Path) -> None:
    import onnx

    export(on_photos, tmp_path / "out", forms=["keras", *INFERENCE], evaluation=None)
    names = json.loads((on_photos / "result.json").read_text())["class_names"]
    assert names == ["$(id)|..%2Fetc", "red"]
    with zipfile.ZipFile(tmp_path / "out" / "model.keras") as archive:
        assert json.loads(archive.read("finetune.json"))["class_names"] == names
    with zipfile.ZipFile(tmp_path / "out" / "model.tflite") as archive:
        assert archive.read("labels.txt").decode().splitlines() == names
    loaded = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    told = loaded.signatures["class_names"]()["class_names"].numpy()
    assert [name.decode() for name in told] == names
    assert (tmp_path / "out" / "saved_model" / "assets" / "labels.txt").read_text().splitlines() == names
    properties = {one.key: one.value for one in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert json.loads(properties["class_names"]) == names
    assert properties["preprocess"] == "inception"


@pytest.mark.slow
def test_what_each_takes_and_gives(trained: Path, tmp_path: Path) -> None:
    import onnxruntime

    export(trained, tmp_path / "out", forms=["keras", *INFERENCE], with_preprocessing=True, evaluation=None)
    image = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    model = keras.saving.load_model(tmp_path / "out" / "model.keras", safe_mode=True)
    logits = np.asarray(model(image, training=False))
    serve = tf.saved_model.load(str(tmp_path / "out" / "saved_model")).signatures["serving_default"]
    names = ["logits", "probabilities"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(one.name, one.type, one.shape) for one in session.get_inputs()] == [
        ("images", "tensor(uint8)", ["batch", 32, 32, 3])
    ]
    given = dict(zip(names, session.run(names, {"images": image}), strict=True))
    for outputs in (serve(images=tf.constant(image)), given):
        assert np.allclose(outputs["logits"], logits, atol=1e-4)
        assert np.allclose(np.sum(outputs["probabilities"], axis=1), 1, atol=1e-6)


def kept(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*"))


@pytest.mark.slow
def test_too_low_an_accuracy_writes_nothing(trained: Path, tmp_path: Path) -> None:
    evaluation = TrialOptions(images=50, least_accuracy=1.0)
    with pytest.raises(FinetuneError, match=r"--assert-accuracy 1: the tflite export has 0\.\d{4} on 50 test images"):
        export(trained, tmp_path / "new" / "m.tflite", forms=["tflite"], evaluation=evaluation)
    assert kept(tmp_path) == []
    line = f"export {trained} --format tflite --out {tmp_path}/m.tflite --no-evaluation --assert-accuracy 0.5"
    with pytest.raises(WrongUse, match="leave --no-evaluation out"):
        CliRunner().invoke(export_command, line.split()[1:], catch_exceptions=False)
    assert kept(tmp_path) == []


def test_every_format_has_a_module() -> None:
    assert list(WRITERS) == list(FORMATS)


@pytest.mark.parametrize(
    ("forms", "out", "words"),
    [
        (["keras"], "model.onnx", r"a keras file ends in \.keras"),
        (["savedmodel"], "model.tflite", "a SavedModel is a directory"),
        (["keras", "tflite"], "model.keras", "several formats go into one directory"),
        (["slim"], "model.keras", "has the ending of a Keras file"),
        ([], "out", "no format is given: expected one or more of keras, savedmodel"),
    ],
)
def test_a_wrong_name_is_said_before_any_work(forms: list[str], out: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=words):
        export(tmp_path / "no run", tmp_path / out, forms=forms)


def test_nothing_is_overwritten(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    with pytest.raises(WrongUse, match=r"saved_model is already there and is not overwritten"):
        export(trained, tmp_path, forms=["keras", "savedmodel"], evaluation=None)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WrongUse, match="is a file, not a directory"):
        export(trained, tmp_path / "file" / "m.keras", forms=["keras"], evaluation=None)
    assert kept(tmp_path) == ["file", "saved_model"]


def test_a_name_taken_meanwhile_is_not_overwritten_and_nothing_else_stays(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="b is already there"), staged(tmp_path) as stage:  # noqa: PT012
        for name in ("a", "b"):
            (stage / name).write_text("new")
        (tmp_path / "b").write_text("mine")
    assert kept(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "mine"


def test_a_failing_converter_is_one_message_and_no_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(self: Any) -> bytes:
        raise ValueError("error: 'tf.Bessel' op is neither a custom op nor a flex op\nmore")

    monkeypatch.setattr(
        tf.lite.TFLiteConverter, "from_saved_model", lambda *_, **__: type("C", (), {"convert": convert})()
    )
    with pytest.raises(FinetuneError, match=r"an operation that TFLite does not have .*Bessel"):
        export(trained, tmp_path / "out" / "m.tflite", forms=["tflite"], evaluation=None)
    assert kept(tmp_path) == []


@pytest.mark.slow
def test_a_missing_extra_gives_the_command(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, absent = importlib.util.find_spec, ("tf2onnx", "ai_edge_litert")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    with pytest.raises(FinetuneError, match="needs tf2onnx, which is not.*" + re.escape(install_line("onnx")) + "$"):
        export(trained, tmp_path / "m.onnx", forms=["onnx"])
    with pytest.raises(FinetuneError, match=re.escape(install_line("tflite")) + ", or leave .* --no-evaluation"):
        export(trained, tmp_path / "m.tflite", forms=["tflite"])
    assert kept(tmp_path) == []
    export(trained, tmp_path / "m.tflite", forms=["tflite"], evaluation=None)
    assert kept(tmp_path) == ["m.tflite"]


def test_slim_has_no_place_for_preprocessing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(FinetuneError, match="holds variables and no graph"):
        export(trained, tmp_path / "m", forms=["slim"], with_preprocessing=True)
    assert os.listdir(tmp_path) == []
