"""`diagnose-bn` and `recalibrate-bn` on models that no run of ours made."""

import json
import shutil

import keras
import numpy as np
import pytest

from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import everything, write_slim
from finetune.data.sources.generated import demo_target
from finetune.inference.export.write import export
from tests.support.commands import typed


def untaught(momentum=0.99):
    """A model in a model, preprocessing inside, softmax at the end: as the transfer learning guide has them."""
    keras.utils.set_random_seed(1)
    base = keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.Conv2D(12, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(momentum=momentum, name="bn1"),
            keras.layers.ReLU(),
            keras.layers.Conv2D(24, 3, strides=2, use_bias=False),
            keras.layers.BatchNormalization(momentum=momentum, name="bn2"),
            keras.layers.ReLU(),
        ],
        name="base",
    )
    inputs = keras.Input((32, 32, 3))
    x = base(keras.layers.Rescaling(1 / 127.5, -1)(inputs))
    x = keras.layers.Dropout(0.2)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x))


@pytest.fixture(scope="module")
def lagging(tmp_path_factory):
    """A Keras model whose decay was far too high for its 378 updates."""
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    model, train = untaught(momentum=0.9999), demo_target().train
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(train.images.astype("float32"), train.labels, epochs=6, batch_size=32, verbose=0)
    model.save(path)
    return path


@pytest.mark.slow
def test_a_keras_model_is_named_and_repaired_in_its_own_format(lagging, tmp_path):
    path = tmp_path / "model.keras"
    shutil.copy(lagging, path)
    html = tmp_path / "page.html"
    result = typed(f"diagnose-bn {path} --data demo-target --json --html {html}")
    assert result.exit_code == 3, result.output
    report = json.loads(result.stdout)
    assert report["verdict"]["cause"] == "statistics-lag"
    assert report["decay"] == pytest.approx(0.9999)
    assert report["updates"] == 6 * 63
    assert report["residual"] == pytest.approx(0.9999**378)
    assert [layer["name"] for layer in report["layers"]] == ["bn1", "bn2"]
    assert f"recalibrate-bn {path} --data demo-target" in report["verdict"]["remedy"]
    assert "statistics-lag" in html.read_text()

    before = path.read_bytes()
    repaired = typed(f"recalibrate-bn {path} --data demo-target --json")
    assert repaired.exit_code == 0, repaired.output
    figures = json.loads(repaired.stdout)
    assert figures["after"]["accuracy"] == pytest.approx(report["accuracy"]["test"]["recalibrated"], abs=0.02)
    assert path.read_bytes() == before
    new = tmp_path / "model-recalibrated.keras"
    old_model, new_model = keras.models.load_model(path), keras.models.load_model(new, compile=False)
    for old, now in zip(old_model.variables, new_model.variables, strict=True):
        if "seed" in old.path:
            continue  # of dropout
        if "moving" in old.path:
            assert not np.array_equal(old, now)
        else:
            np.testing.assert_array_equal(old, now)
    test = demo_target().test
    predicted = new_model.predict(test.images.astype("float32"), verbose=0).argmax(1)
    assert np.mean(predicted == test.labels) == pytest.approx(figures["after"]["accuracy"], abs=1e-6)
    assert typed(f"diagnose-bn {new} --data demo-target --quick --quiet").exit_code == 0


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A Keras model that was never trained."""
    path = tmp_path_factory.mktemp("untaught") / "model.keras"
    untaught().save(path)
    return path


@pytest.fixture(scope="module")
def slim_checkpoint(finished, tmp_path_factory):
    """A slim training directory: a run's model, its statistics back at 0 and 1, an optimizer's slots, averages."""
    folder = tmp_path_factory.mktemp("slim")
    exported = folder / "clean"
    export(finished[0], exported, forms=["slim"], evaluation=None)
    arrays = everything(open_checkpoint(exported))
    arrays.pop("global_step", None)
    for name, value in list(arrays.items()):
        if name.endswith("moving_mean"):
            arrays[name] = np.zeros_like(value)
        elif name.endswith("moving_variance"):
            arrays[name] = np.ones_like(value)
        else:
            arrays[f"{name}/Momentum"] = np.full_like(value, 0.25)
            arrays[f"{name}/ExponentialMovingAverage"] = value * np.float32(0.999)
    arrays["global_step"] = np.asarray(15, np.int64)
    write_slim(folder / "model.ckpt-15", arrays)
    for file in [*folder.glob("clean*"), folder / "labels.txt"]:
        file.unlink(missing_ok=True)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-15"\n')
    return folder


@pytest.mark.slow
def test_a_slim_directory_is_examined_with_its_own_head_and_stays_slim(slim_checkpoint, tmp_path):
    folder = tmp_path / "train"
    shutil.copytree(slim_checkpoint, folder)
    model = f"--backbone resnet_v1_demo --checkpoint {folder} --data demo-target --image-size 16"
    result = typed(f"diagnose-bn {model} --json --quick")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["verdict"]["cause"] == "updates-never-ran"
    repaired = typed(f"recalibrate-bn {model} --json --out {folder / 'better'}")
    assert repaired.exit_code == 0, repaired.output
    assert json.loads(repaired.stdout)["after"]["accuracy"] > json.loads(repaired.stdout)["before"]["accuracy"]
    old, new = (everything(open_checkpoint(folder / name)) for name in ("model.ckpt-15", "better"))
    assert old.keys() == new.keys()
    for name, value in old.items():
        assert np.array_equal(value, new[name]) != name.endswith(("moving_mean", "moving_variance")), name
    again = typed(f"recalibrate-bn {model} --out {folder / 'better'}")
    assert again.exit_code == 2
    assert "is already there and is not overwritten" in again.stderr


@pytest.mark.slow
def test_averages_are_read_where_asked_for(slim_checkpoint):
    model = f"--backbone resnet_v1_demo --checkpoint {slim_checkpoint} --data demo-target --image-size 16"
    result = typed(f"diagnose-bn {model} --ema --json --quick")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["facts"]["weights_averaged"] is True
    assert "moving statistics have none, they are read as they are" in result.stderr or result.stderr == ""


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("diagnose-bn", 2, ["missing the model to examine", "--meta-graph FILE.meta"]),
        ("diagnose-bn nowhere.keras", 1, ["there is no file nowhere.keras"]),
        ("diagnose-bn nowhere", 1, ["there is nothing of that name"]),
        ("diagnose-bn MODEL --backbone resnet_v1_50", 2, ["name two models"]),
        ("diagnose-bn --backbone resnet_v1_demo", 2, ["--backbone NAME and --checkpoint PATH go together"]),
        ("diagnose-bn MODEL --logits x:0 --data demo-target", 2, ["--logits is for TF1 graphs"]),
        ("diagnose-bn MODEL --ema --data demo-target", 2, ["--ema is for TF1 checkpoints"]),
        ("diagnose-bn MODEL --data demo-source", 1, ["has 10 outputs", "20 classes"]),
        ("diagnose-bn MODEL --data demo-target --preprocess nosuch:thing", 2, ["cannot import 'nosuch'"]),
        ("diagnose-bn MODEL --data demo-target --preprocess incepton", 2, ["did you mean inception?"]),
        ("diagnose-bn SLIM", 1, ["is a training directory", "--backbone NAME --checkpoint"]),
        ("diagnose-bn --backbone resnet_v1_50 --checkpoint SLIM --data demo-target", 1, ["resnet_v1_50"]),
    ],
)
def test_wrong_use_is_one_message(line, code, words, model_file, slim_checkpoint):
    result = typed(line.replace("MODEL", str(model_file)).replace("SLIM", str(slim_checkpoint)))
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    for word in words:
        assert word in result.stderr


def test_a_model_without_its_preprocessing_is_not_guessed(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))).save(tmp_path / "m.keras")
    result = typed(f"diagnose-bn {tmp_path / 'm.keras'} --data demo-target")
    assert result.exit_code == 2
    assert "missing --preprocess" in result.stderr
    (tmp_path / "mine.py").write_text("def scaled(x):\n    x /= 255\n    return x\n")
    import sys

    sys.path.insert(0, str(tmp_path))
    try:
        result = typed(f"diagnose-bn {tmp_path / 'm.keras'} --data demo-target --preprocess mine:scaled --quick --json")
    finally:
        sys.path.remove(str(tmp_path))
    assert result.exit_code in (0, 3, 4), result.output
    assert json.loads(result.stdout)["verdict"]["cause"]


def test_a_model_without_batchnorm_is_said_to_have_none(tmp_path):
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(tmp_path / "m.keras")
    result = typed(f"diagnose-bn {tmp_path / 'm.keras'} --data demo-target --preprocess unit")
    assert result.exit_code == 1
    assert "no BatchNormalization layer" in result.stderr
