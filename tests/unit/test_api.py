import json
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import finetune
from finetune.diagnosis import measure
from finetune.text import in_python
from tests.support import small_models
from tests.support.commands import tiny_backbone
from tests.support.places import ROOT

TEST, TRAIN = small_models.images()["test"], small_models.images()["train"]


@pytest.fixture(scope="module", params=[keras, tf_keras], ids=["keras 3", "keras 2"])
def model(request):
    return small_models.trained(request.param)


def same(before, model):
    return all(np.array_equal(a, b) for a, b in zip(before, small_models.state(model), strict=True))


def test_importing_it_loads_nothing_and_changes_nothing():
    program = (
        "import os, sys; before = dict(os.environ); import finetune; assert dict(os.environ) == before; "
        "assert not {'tensorflow', 'keras', 'numpy', 'click'} & set(sys.modules); dir(finetune); "
        "finetune.diagnose_bn; finetune.run; assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_every_public_name_is_there_and_on_its_page():
    page = (ROOT / "docs/python-api.md").read_text()
    for name in finetune.__all__:
        assert getattr(finetune, name).__doc__, name
        assert f"finetune.{name}" in page or f"`{name}`" in page, name
    with pytest.raises(AttributeError, match="no attribute 'diagnose'"):
        _ = finetune.diagnose


def test_a_model_in_memory_is_diagnosed_and_left_as_it_was(model):
    before = small_models.state(model)
    found = finetune.diagnose_bn(model, test=TEST, train=TRAIN)
    assert found.cause == "statistics-lag"
    assert found.accuracy["test"]["is_training_false"] == pytest.approx(model.evaluate(*TEST, verbose=0)[1], abs=1e-6)
    assert found.accuracy["test"]["recalibrated"] > 0.9
    assert found.remedy.startswith("finetune.recalibrate_bn(model, train=train)")
    assert same(before, model)


def test_it_is_the_verdict_on_its_file(model, tmp_path):
    path = tmp_path / ("model.keras" if isinstance(model, keras.Model) else "model.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 advises against its own format
        model.save(path)
    pixels = {name: (np.round(images * 255).astype(np.uint8), labels) for name, (images, labels) in
              small_models.images().items()}  # fmt: skip
    arrays = {f"{kind}_{name}": one for name, pair in pixels.items() for kind, one in zip("xy", pair, strict=True)}
    np.savez(tmp_path / "data.npz", **arrays)
    of_file = finetune.diagnose_bn(path, data=str(tmp_path / "data.npz"), preprocess="unit", checks="quick").to_dict()
    in_memory = finetune.diagnose_bn(model, test=TEST, train=TRAIN, checks="quick").to_dict()
    assert in_memory["verdict"]["cause"] == of_file["verdict"]["cause"]
    for key in ("accuracy", "examples", "batch_size"):
        assert in_memory[key] == of_file[key]
    for one, other in zip(in_memory["layers"], of_file["layers"], strict=True):
        assert one["name"] == other["name"]
        assert one["mean_shift"] == pytest.approx(other["mean_shift"], rel=1e-5)


@pytest.mark.slow
def test_a_subclassed_model_is_measured_in_place(model):
    own = small_models.subclassed(keras if isinstance(model, keras.Model) else tf_keras, model)
    before = small_models.state(own)
    found = finetune.diagnose_bn(own, test=TEST, train=TRAIN, checks="quick")
    assert "measured in place" in found.notes[0]
    assert found.accuracy == finetune.diagnose_bn(model, test=TEST, train=TRAIN, checks="quick").accuracy
    assert same(before, own)


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("in the midst"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_end_in_the_midst_leaves_the_model_as_it_was(model, error, monkeypatch):
    own = small_models.subclassed(keras if isinstance(model, keras.Model) else tf_keras, model)
    before = small_models.state(own)

    written = measure.write_moving

    def then_fails(subject, pooled):
        written(subject, pooled)
        assert not same(before, own), "the recalibrated statistics are in it"
        raise error

    monkeypatch.setattr(measure, "write_moving", then_fails)
    with pytest.raises(type(error)):
        finetune.diagnose_bn(own, test=TEST, train=TRAIN)
    assert same(before, own)


def test_it_recalibrates_in_place_and_undoes_what_is_worse(model):
    saved = model.get_weights()
    done = finetune.recalibrate_bn(model, TRAIN, test=TEST)
    assert (done.undone, done.images) == (False, 192)  # whole batches of 64
    assert done.before.accuracy < 0.5 < 0.9 < done.after.accuracy
    assert model.evaluate(*TEST, verbose=0)[1] == pytest.approx(done.after.accuracy, abs=1e-6)
    kept = small_models.state(model)
    black = np.zeros_like(TRAIN[0]) + np.linspace(0, 1e-3, len(TRAIN[0]), dtype=np.float32)[:, None, None, None]
    worse = finetune.recalibrate_bn(model, (black, TRAIN[1]), test=TEST)
    assert worse.undone
    assert same(kept, model)
    model.set_weights(saved)


def test_a_terminal_gets_the_table_and_a_notebook_the_page(model, monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # where print(found) is plain text as well
    monkeypatch.setenv("FORCE_COLOR", "1")
    found = finetune.diagnose_bn(model, test=TEST, train=TRAIN, checks="quick")
    lines = repr(found).splitlines()
    assert any(line.startswith("accuracy ") and line.endswith("images") for line in lines)
    assert any(line.startswith("statistics-lag: ") for line in lines)
    assert found._repr_html_().startswith("<iframe srcdoc=")
    assert "statistics-lag" in found.html()
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "expected a model or a session"),
        ({"model": "m.keras", "test": TEST}, "give data, not test and train"),
        ({"model": "m.keras"}, "there is no file m.keras"),
        ({"model": "given", "test": TEST}, "missing train"),
        ({"model": "given", "train": TRAIN, "tests": 1}, "unknown argument tests"),
        ({"model": "given", "train": (TRAIN[0], TRAIN[1] + 1)}, "labels from 1 to 4: expected 0 to 3"),
        ({"model": "given", "train": TRAIN, "images": 2}, "images=2 is fewer than the 4 classes"),
    ],
)
def test_wrong_arguments_get_one_error_without_words_of_the_command_line(model, arguments, said):
    given = {name: model if value == "given" else value for name, value in arguments.items() if name != "model"}
    which = arguments.get("model")
    with pytest.raises(finetune.FinetuneError) as caught:
        finetune.diagnose_bn(model if which == "given" else which, **given)
    assert said in str(caught.value)
    assert "--" not in str(caught.value)


def test_another_backend_gets_one_error():
    program = (
        "import os; os.environ['KERAS_BACKEND'] = 'torch'; import finetune\n"
        "try: finetune.diagnose_bn(None)\n"
        "except finetune.FinetuneError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == (
        "Keras runs on torch, and finetune needs TensorFlow: set os.environ['KERAS_BACKEND'] = 'tensorflow' before "
        "keras is imported\n"
    )


def test_a_run_from_its_settings_to_its_predictions(tmp_path):
    run = finetune.run(
        str(tiny_backbone()), data="demo-target", run_dir=tmp_path / "run", epochs=1, examples=80, validation=0, seed=3
    )
    accuracy = run.result["test"]["is_training_false"]["accuracy"]
    assert finetune.open_run(run.path).evaluate().accuracy == accuracy
    assert finetune.evaluate(run.path, statistics="batch").accuracy != 0
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    probabilities = run.predict(pixels)
    logits = run.model(pixels.astype(np.float32), training=False)  # it scales its pixels itself
    np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), atol=1e-6)
    [first, *_] = run.explain(pixels, explain_class="3", folder=tmp_path / "heat")
    assert (first.image, first.label, first.layer) == ("0", 3, "relu2")
    assert first.probability == pytest.approx(probabilities[0, 3])
    assert np.array_equal(first.pixels, pixels[0])
    assert first.heat.shape == (4, 4)
    assert sorted(one.name for one in (tmp_path / "heat").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(finetune.WrongUse, match=r"explain_class lost: .* has no such class"):
        run.explain(pixels, explain_class="lost")
    assert run.report()["runs"][0]["test"]["is_training_false"]["accuracy"] == accuracy
    assert run.diagnose_bn(checks="quick").accuracy["test"]["is_training_false"] == accuracy
    assert finetune.resume(run.path).path == run.path
    with pytest.raises(finetune.WrongUse, match=r"model\.keras is already there and is not overwritten"):
        finetune.recalibrate_bn(run, out=run.path / "model.keras")


def test_settings_are_refused_in_words_of_python(tmp_path):
    with pytest.raises(finetune.WrongUse, match=r"^bn_decay=2 in the settings is not valid"):
        finetune.run("resnet_v1_demo", data="demo-target", bn_decay=2, runs_dir=tmp_path)
    with pytest.raises(finetune.WrongUse, match="unknown key 'bn_decai' in the settings: did you mean 'bn_decay'"):
        finetune.run("resnet_v1_demo", bn_decai=0.9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("--bn-decay 2 is not valid", "bn_decay=2 is not valid"),
        ("give it with --data and --data-dir", "give it with data and data_dir"),
        ("use 'finetune evaluate' for its accuracy", "use 'finetune.evaluate' for its accuracy"),
        ("continue with: finetune run --resume runs/a-001", "continue with: finetune.resume('runs/a-001')"),
        ("--freeze pattern 'x' matches no layer", "freeze pattern 'x' matches no layer"),
    ],
)
def test_messages_in_words_of_python(message, said):
    assert in_python(message) == said
