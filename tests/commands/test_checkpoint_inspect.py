"""`finetune checkpoint inspect`."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from checkpoints.formats.slim import write_slim
from checkpoints.matching.structures import structures
from tests.support.commands import typed


def arrays():
    rng = np.random.default_rng(0)
    entries = structures()["slim/mobilenet_v1_0.25"]
    return {entry.name: rng.uniform(0.1, 1, entry.shape).astype(np.float32) for entry in entries}


def rows(output):
    """First word of each line -> the rest, of the lines above the table."""
    lines = [line for line in output.partition("\n\n")[0].splitlines() if line]
    return [(line[:10].strip(), line[12:]) for line in lines]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    values = {**arrays(), "global_step": np.int64(1234)}
    for name in list(values)[:3]:
        values[f"{name}/Momentum"] = values[name]
    write_slim(tmp_path / "model.ckpt-1234", values)
    return tmp_path / "model.ckpt-1234"


def test_what_a_person_reads(checkpoint):
    result = typed(f"checkpoint inspect {checkpoint}")
    assert result.exit_code == 0, result.output
    said = rows(result.output)
    assert said[0] == ("file", f"{checkpoint} (slim-v2)")
    assert ("variables", "137, 475,801 parameters") in said
    assert ("step", "1,234") in said
    assert ("fits", "slim/mobilenet_v1_0.25") in said
    assert ("head", "published, 1001 outputs") in said
    assert [text.split()[1] for label, text in said if label == "left over"] == ["optimizer", "training"]
    nearest = [text for label, text in said if label == "not"]
    assert len(nearest) == 3
    assert all("135 of another shape (MobilenetV1/Conv2d_0/weights is [3, 3, 3, 8]" in text for text in nearest)
    assert dict(said)["BatchNorm"].startswith("27 layers: none at its initial values, all finite, no negative variance")
    table = result.output.partition("\n\n")[2]
    assert "MobilenetV1/Logits" in table
    assert "Conv2d_1c_1x1/biases [1001] ... Conv2d_1c_1x1/weights [1, 1, 256, 1001]" in table


def test_every_variable_and_layer_on_request(checkpoint):
    output = typed(f"checkpoint inspect {checkpoint} --all").output
    for name, value in arrays().items():
        assert any(line.split() == [name, *str(list(value.shape)).split()] for line in output.splitlines()), name
    assert "MobilenetV1/Conv2d_13_pointwise/BatchNorm" in output


def test_one_json_object(checkpoint):
    result = typed(f"checkpoint inspect {checkpoint} --json")
    found = json.loads(result.stdout)
    assert found["step"] == 1234
    assert found["variables"]["MobilenetV1/Conv2d_0/weights"] == [3, 3, 3, 8]
    assert found["fits"] == ["slim/mobilenet_v1_0.25"]
    assert found["head"] == {"kind": "published", "outputs": 1001}
    assert len(found["batchnorm"]) == 27
    assert {key: len(names) for key, names in found["leftovers"].items()} == {
        "optimizer slots": 3,
        "training counters": 1,
    }


def test_statistics_that_are_wrong_are_seen(tmp_path):
    values = arrays()
    first, second, third = (
        f"MobilenetV1/{name}/BatchNorm" for name in ("Conv2d_0", "Conv2d_1_depthwise", "Conv2d_9_pointwise")
    )
    values[f"{first}/moving_mean"][:] = 0
    values[f"{first}/moving_variance"][:] = 1
    values[f"{second}/moving_variance"][1] = -0.5
    values[f"{third}/moving_mean"][0] = np.nan
    write_slim(tmp_path / "m.ckpt", values)
    output = typed(f"checkpoint inspect {tmp_path / 'm.ckpt'}").output
    said = dict(rows(output))
    assert said["NOT FINITE"] == f"NaN or infinity in 1 variables ({third}/moving_mean)"
    assert said["BatchNorm"].startswith(
        "27 layers: 1 at their initial values (mean 0, variance 1), 1 NOT FINITE, 1 with NEGATIVE variances"
    )
    lines = {
        line.split()[0]: line for line in output.splitlines() if line.startswith("MobilenetV1") and "BatchNorm " in line
    }
    assert lines[first].endswith("initial values")
    assert lines[second].endswith("negative")
    assert lines[third].endswith("not finite")
    found = json.loads(typed(f"checkpoint inspect {tmp_path / 'm.ckpt'} --json").stdout)
    assert found["non_finite"] == [f"{third}/moving_mean"]


@pytest.mark.slow
def test_keras_files_and_saved_models(tmp_path):
    model = keras.applications.MobileNet(alpha=0.25, weights=None, classes=4, input_shape=(32, 32, 3))
    model.save_weights(tmp_path / "m.weights.h5")
    model.save(tmp_path / "m.keras")
    tf.saved_model.save(model, str(tmp_path / "saved"))
    for file, kind in (("m.weights.h5", "keras-weights-h5"), ("m.keras", "keras-zip"), ("saved", "savedmodel")):
        said = dict(rows(typed(f"checkpoint inspect {tmp_path / file}").output))
        assert said["file"].endswith(f"({kind})")
        assert said["fits"] == "keras/mobilenet_0.25 (with a head of 4 outputs)"
        assert said["head"] == "other, 4 outputs"
        assert said["BatchNorm"].startswith("27 layers: 27 at their initial values"), file


def test_a_network_the_catalogue_does_not_have(tmp_path):
    write_slim(tmp_path / "m.ckpt", {"mine/weights": np.ones((3, 4), np.float32)})
    said = rows(typed(f"checkpoint inspect {tmp_path / 'm.ckpt'}").output)
    assert ("fits", "no backbone of the catalogue") in said
    assert ("BatchNorm", "no moving statistics") in said
    assert sum(label == "nearest" for label, _ in said) == 3
    assert not any(label == "head" for label, _ in said)


def test_what_is_no_file_of_weights_is_one_message(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path / "absent", tmp_path):
        result = typed(f"checkpoint inspect {path}")
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1
