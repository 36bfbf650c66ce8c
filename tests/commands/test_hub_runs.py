"""A Hub module in whole runs: frozen, fine-tuned, resumed, diagnosed, repaired; and what is refused."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from finetune import backbone
from finetune.errors import FinetuneError
from finetune.runs import model
from tests.support import hub_modules
from tests.support.commands import stop_at, typed

SIZE = 12
SMALL = f"--data demo-target --examples 100 --epochs 2 --image-size {SIZE} --batch-size 20 --quiet"


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    path = tmp_path_factory.mktemp("module") / "thin"
    return path, hub_modules.write(path)


@pytest.mark.slow
def test_frozen_in_a_run_is_bit_identical(module, tmp_path):
    path, values = module
    result = typed(f"run --backbone hub:{path} {SMALL} --bn freeze --run-dir {tmp_path}/run --json")
    assert result.exit_code == 0, result.output
    proof = json.loads(result.stdout)["proof"]
    trained = model.open_trained(tmp_path / "run").model.layers[1]
    assert proof["holds"]
    assert proof["frozen_variables"] == 4 * len(trained.bn)
    for part in trained.parts:
        for variable in part.weights:
            name = variable.name.replace(".", "/")
            assert np.array_equal(variable, values[name]) == ("BatchNorm" in name), name


def test_fine_tuned_with_forgotten_updates_diagnosed_and_repaired(module, tmp_path):
    path, _ = module
    line = (
        f"run --backbone {path} {SMALL} --bn-decay 0.95 --bn-updates off --learning-rate 0.05 --run-dir {tmp_path}/run"
    )
    assert typed(line).exit_code == 0
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["backbone"], config["preprocess"]) == (f"hub:{path}", "unit")
    diagnosis = typed(f"diagnose-bn {tmp_path}/run --json --quiet --images 60")
    assert diagnosis.exit_code in (0, 3, 4), diagnosis.output
    layers = json.loads(diagnosis.stdout)["layers"]
    assert all(layer["at_source"] and layer["mean_shift"] > 0.05 for layer in layers)
    repaired = typed(f"recalibrate-bn {tmp_path}/run --quiet --images 60")
    assert "worse" in repaired.output or (tmp_path / "run/model-recalibrated.keras").is_file()


@pytest.mark.slow
def test_a_hub_run_is_resumed(module, tmp_path, monkeypatch):
    path, _ = module
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        assert typed(f"run --backbone hub:{path} {SMALL} --run-dir {tmp_path}/run").exit_code == 130
    result = typed(f"run --resume {tmp_path}/run --quiet")
    assert result.exit_code == 0, result.output


def test_a_model_with_a_module_in_it_is_opened_in_its_own_run_only(module, tmp_path):
    path, _ = module
    moved = tmp_path / "moved"
    os.symlink(path, moved)
    assert typed(f"run --backbone hub:{moved} {SMALL} --freeze '*' --run-dir {tmp_path}/run").exit_code == 0
    with pytest.raises(FinetuneError, match=r"refused: the model refers to the SavedModel .*moved"):
        backbone.open_model(tmp_path / "run/model.keras")
    moved.unlink()
    with pytest.raises(FinetuneError, match=r"model\.keras: there is no SavedModel .*moved"):
        model.open_trained(tmp_path / "run")


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--bn '*body/block1/*=train' --bn freeze", ("one training argument", "--bn freeze")),
        ("--freeze '*body/block1/*'", ("one training argument", "--bn freeze")),
        ("--bn-epsilon 0.1", ("--bn-epsilon", "hides its epsilon")),
        ("--bn-renorm", ("--bn-renorm", "normalises out of reach")),
        ("--bn-zero-debias", ("--bn-zero-debias", "moves its averages itself")),
        ("--features conv1", ("--features", "hides its layers")),
        ("--head keep", ("--head keep", "ends in features")),
        ("--from-scratch", ("--from-scratch", "holds weights")),
        ("--checkpoint x.ckpt", ("--checkpoint", "leave out")),
    ],
)
def test_what_a_module_hides_is_refused_with_the_way_out(module, options, words, tmp_path):
    result = typed(f"run --backbone hub:{module[0]} {SMALL} {options} --run-dir {tmp_path}/run")
    assert result.exit_code == 2, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()


class _Plain(tf.Module):
    pass


def _tf1(path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        images = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
        features = tf.reduce_mean(images, [1, 2])
        tf.compat.v1.saved_model.simple_save(session, str(path), {"images": images}, {"default": features})


def _cut(path):
    hub_modules.write(path)
    (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:2000])


def _twice(features):
    return {"a": features, "b": features}


@pytest.mark.quick_cases(5)
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: tf.saved_model.save(_Plain(), str(path)), ("cannot be called with images", "no signature")),
        (_tf1, ("TF1 Hub module", "TF2 SavedModel")),
        (_cut, ("damaged or cut off", "again")),
        (lambda path: path.mkdir(), ("no SavedModel", "saved_model.pb")),
        (lambda path: None, ("there is no SavedModel", "tfhub.dev")),
        (lambda path: hub_modules.write(path, size=32), ("does not take images of 12 px", "32 px", "--image-size")),
        (lambda path: hub_modules.write(path, training=False), ("no training argument", "--freeze '*'")),
        (lambda path: hub_modules.write(path, wrap=_twice), ("gives 2 outputs: a", "choose one with --output a")),
        (lambda path: hub_modules.write(path, wrap=lambda x: x[:, None]), ("[2, 1, 16]", "feature-vector")),
    ],
)
def test_a_savedmodel_that_will_not_do_is_one_error(make, words, tmp_path):
    make(tmp_path / "m")
    result = typed(f"run --backbone hub:{tmp_path}/m {SMALL} --run-dir {tmp_path}/run")
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.count("Error: ") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert "unexpected" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_training_argument_a_head_can_be_trained(tmp_path):
    hub_modules.write(tmp_path / "m", training=False)
    result = typed(f"run --backbone hub:{tmp_path}/m {SMALL} --freeze '*' --run-dir {tmp_path}/run")
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_frozen_modules_features_are_computed_once_and_change_no_figure(module, tmp_path, monkeypatch):
    path, _ = module
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    results = []
    for name, features in (("first", "on"), ("second", "on"), ("images", "off")):
        line = f"run --backbone hub:{path} {SMALL} --freeze '*' --cache-features {features} --run-dir {tmp_path}/{name}"
        assert (done := typed(line)).exit_code == 0, done.output
        results.append(json.loads((tmp_path / name / "result.json").read_text()))
    first, second, images = results
    assert (first["cached_features"]["read"], second["cached_features"]["computed"], images["cached_features"]) == (
        0,
        0,
        None,
    )
    for mode in ("is_training_false", "is_training_true"):
        assert first["test"][mode] == second["test"][mode]
        assert first["test"][mode]["correct"] == images["test"][mode]["correct"]
        assert first["test"][mode]["loss"] == pytest.approx(images["test"][mode]["loss"], rel=1e-5)


@pytest.mark.slow
def test_a_module_that_gives_probabilities_is_scored_by_them(tmp_path):
    """`default` is a softmax in its graph, `made` is written out and only sums to 1, `bits` are sigmoids."""

    def ends(features):
        z = features[:, :3]
        made = tf.exp(z) / tf.reduce_sum(tf.exp(z), -1, keepdims=True)
        return {"default": tf.identity(tf.nn.softmax(z)), "made": made, "bits": tf.sigmoid(z), "raw": z}

    hub_modules.write(tmp_path / "module", wrap=ends, size=SIZE)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, SIZE, SIZE, 3), "u1"), np.arange(40) % 3
    np.savez(tmp_path / "three.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    outputs = tf.saved_model.load(str(tmp_path / "module"))(images.astype(np.float32) / 255, training=False)
    for name, chances in (("default", 0), ("made", 0), ("bits", 0), ("raw", tf.nn.softmax(outputs["raw"]))):
        chances = outputs[name] if name != "raw" else chances
        chosen = "" if name == "default" else f"--output {name}"
        result = typed(f"evaluate {tmp_path}/module --data {tmp_path}/three.npz --preprocess unit {chosen} --json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert found["correct"] == int(np.sum(np.argmax(chances, 1) == labels))
        own = tf.keras.losses.sparse_categorical_crossentropy(labels, chances)
        if name == "bits":
            own = tf.keras.losses.binary_crossentropy(np.eye(3)[labels], chances)
        assert found["loss"] == pytest.approx(float(np.mean(own)), abs=1e-5)
    result = typed(f"evaluate {tmp_path}/module --data {tmp_path}/three.npz --output other")
    assert "has no such output: expected one of bits, default, made, raw" in result.stderr

    line = f"run --backbone {tmp_path}/module {SMALL} --freeze '*' --output raw --run-dir {tmp_path}/run"
    assert typed(line).exit_code == 0
    assert model.open_trained(tmp_path / "run").model.layers[1].channels == 3
