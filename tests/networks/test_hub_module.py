"""A Hub module made of a real slim graph is frozen, fine-tuned at a chosen decay and diagnosed like any backbone."""

import json
import os
import shlex
import signal

import hub_modules
import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from finetune import backbone, freezing, models
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.statistics import forward, pool
from finetune.batchnorm.surgery import bn_layers
from finetune.cli import main
from finetune.cli.display import ConsoleDisplay
from finetune.classifier import attach_head
from finetune.errors import FinetuneError, WrongUse

SIZE = 12
SMALL = f"--data demo-target --examples 100 --epochs 2 --image-size {SIZE} --batch-size 20 --quiet"


def typed(line):
    return CliRunner().invoke(main, shlex.split(line), prog_name="finetune")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("modules")


@pytest.fixture(scope="module")
def module(folder):
    return folder / "thin", hub_modules.write(folder / "thin")


@pytest.fixture(scope="module")
def without_momentum(folder):
    return folder / "own_decay", hub_modules.write(folder / "own_decay", momentum=False, decay=0.997)


def planned(path, rule, decay=0.95, **load):
    loaded = backbone.load(backbone.find(f"hub:{path}"), image_size=SIZE, **load)
    model = attach_head(loaded.model, 10)
    plan = freezing.resolve(
        freezing.layer_infos(model, loaded.stages, loaded.scope), bn=[parse_bn_rule(text) for text in rule]
    )
    backbone.check_plan(model, plan)
    freezing.apply(model, plan, decay=decay, updates=True)
    return model


def first_layer(values, images):
    """float64 (mean, population variance, n) of what the module's first BatchNorm sees."""
    kernel = values[f"{hub_modules.CONV1}/weights"].astype(np.float64)
    padded = np.pad(images.astype(np.float64) * 2 - 1, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    x = np.einsum("bhwcij,ijco->bhwo", windows, kernel).reshape(-1, kernel.shape[-1])
    return x.mean(axis=0), x.var(axis=0), len(x)


@pytest.mark.parametrize("kind", ["module", "without_momentum"])
def test_statistics_follow_the_decay(kind, request):
    path, values = request.getfixturevalue(kind)
    model = planned(path, ["train"], decay=0.95)
    first = bn_layers(model)[0]
    step = tf.function(lambda images: model(images, training=True))
    mean, variance = (values[f"{hub_modules.CONV1}/BatchNorm/moving_{one}"] for one in ("mean", "variance"))
    rng = np.random.default_rng(1)
    for _ in range(5):
        images = rng.uniform(0, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
        step(images)
        batch_mean, batch_variance, n = first_layer(values, images)
        mean = 0.95 * mean + 0.05 * batch_mean
        variance = 0.95 * variance + 0.05 * batch_variance * n / (n - 1)  # slim's fused op feeds n/(n-1) times it
    np.testing.assert_allclose(first.moving_mean, mean, atol=3e-6)
    np.testing.assert_allclose(first.moving_variance, variance, rtol=1e-5)


@pytest.mark.parametrize("kind", ["module", "without_momentum"])
def test_measured_statistics_are_those_of_the_images_and_nothing_moves(kind, request):
    path, values = request.getfixturevalue(kind)
    model = planned(path, ["train"])
    before = [np.array(variable) for variable in model.variables]
    images = np.random.default_rng(2).uniform(0, 1, (8, SIZE, SIZE, 3)).astype(np.float32)
    run = forward(model, "batch")
    pooled = pool(run(tf.constant(part))[1] for part in (images[:4], images[4:]))
    mean, variance, n = first_layer(values, images)
    np.testing.assert_allclose(pooled[0].mean, mean, atol=3e-6)
    np.testing.assert_allclose(pooled[0].variance, variance, rtol=2e-5)
    # n is found from outside, by what the same images twice do to n/(n-1).
    assert pooled[0].count == pytest.approx(n, rel=0.02)
    assert pooled[-1].count == 8 * (SIZE // 2) ** 2
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_batch_statistics_give_what_the_module_gives_in_training(module):
    path, _ = module
    model = backbone.load(backbone.find(f"hub:{path}"), image_size=SIZE).model
    images = np.random.default_rng(3).uniform(0, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    original = tf.saved_model.load(str(path))
    for statistics, is_training in (("moving", False), ("batch", True)):
        expected = original(tf.constant(images), training=is_training, batch_norm_momentum=tf.constant(1.0))
        features, moments = forward(model, statistics)(tf.constant(images))
        np.testing.assert_allclose(features, expected, atol=1e-6)
        assert len(moments) == (len(bn_layers(model)) if is_training else 0)


@pytest.mark.parametrize(
    ("rules", "moving"),
    [
        (["freeze"], ("weights",)),
        (["affine"], ("weights", "gamma", "beta")),
        (["stats"], ("weights", "moving_mean", "moving_variance")),
        (["train"], ("weights", "gamma", "beta", "moving_mean", "moving_variance")),
        (["block1=stats", "train"], None),
    ],
)
def test_policies_move_what_they_say(module, rules, moving):
    path, values = module
    model = planned(path, [rule.replace("block1", "*body/block1/*") for rule in rules])
    model.get_layer("head.logits").kernel.assign(np.random.default_rng(5).normal(0, 1, (32, 10)))
    images = np.random.default_rng(4).uniform(0, 1, (8, SIZE, SIZE, 3)).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(images, training=True) ** 2)
    optimizer = keras.optimizers.SGD(1e-3)
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(loss, [one.value for one in variables]), variables)
    layer = model.layers[1]
    for part in layer.parts:
        for variable in part.weights:
            name = variable.name.replace(".", "/")
            last = name.rpartition("/")[2]
            expected = moving or ("weights", "moving_mean", "moving_variance", "gamma", "beta")
            moves = last in expected and not (moving is None and "block1" in name and last in ("gamma", "beta"))
            assert np.array_equal(variable, values[name]) != moves, name


def test_frozen_in_a_run_is_bit_identical(module, tmp_path):
    path, values = module
    result = typed(f"run --backbone hub:{path} {SMALL} --bn freeze --run-dir {tmp_path}/run --json")
    assert result.exit_code == 0, result.output
    proof = json.loads(result.stdout)["proof"]
    trained = models.open_trained(tmp_path / "run").model.layers[1]
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
    assert diagnosis.exit_code in (0, 3), diagnosis.output
    layers = json.loads(diagnosis.stdout)["layers"]
    assert all(layer["at_source"] and layer["mean_shift"] > 0.05 for layer in layers)
    repaired = typed(f"recalibrate-bn {tmp_path}/run --quiet --images 60")
    assert "worse" in repaired.output or (tmp_path / "run/model-recalibrated.keras").is_file()


def test_a_hub_run_is_resumed(module, tmp_path, monkeypatch):
    path, _ = module
    seen = ConsoleDisplay.step

    def step(self, **values):
        seen(self, **values)
        if values["step"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(ConsoleDisplay, "step", step)
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
        models.open_trained(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--bn '*body/block1/*=train' --bn freeze", ("one training argument", "--bn freeze")),
        ("--freeze '*body/block1/*'", ("one training argument", "--bn freeze")),
        ("--bn-epsilon 0.1", ("--bn-epsilon", "hides its epsilon")),
        ("--features conv1", ("--features", "hides its layers")),
        ("--head keep", ("--head keep", "ends in features")),
        ("--from-scratch", ("--from-scratch", "holds its weights")),
        ("--checkpoint x.ckpt", ("--checkpoint", "leave out")),
    ],
)
def test_what_a_module_hides_is_refused_with_the_way_out(module, options, words, tmp_path):
    result = typed(f"run --backbone hub:{module[0]} {SMALL} {options} --run-dir {tmp_path}/run")
    assert result.exit_code == 2, result.output
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()


def test_weights_of_a_part_may_be_frozen_where_batchnorm_is_one(module):
    path, _ = module
    loaded = backbone.load(backbone.find(str(path)), image_size=SIZE)
    infos = freezing.layer_infos(loaded.model, loaded.stages, loaded.scope)
    rules = [freezing.parse_freeze_rule("body/block1")]
    plan = freezing.resolve(infos, freeze=rules, bn=[parse_bn_rule("train")])
    backbone.check_plan(loaded.model, plan)
    assert [row.layer.display for row in plan.layers if not row.trains and row.bn is None] == [
        f"thin/body/block1/unit_1/bottleneck_v1/{name}" for name in ("shortcut", "conv1", "conv2", "conv3")
    ]


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
        (lambda path: hub_modules.write(path, wrap=_twice), ("gives a, b", "'default'")),
        (lambda path: hub_modules.write(path, wrap=lambda x: x[:, None]), ("[2, 1, 32]", "feature-vector")),
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


def test_without_a_training_argument_a_head_can_be_trained(tmp_path):
    hub_modules.write(tmp_path / "m", training=False)
    result = typed(f"run --backbone hub:{tmp_path}/m {SMALL} --freeze '*' --run-dir {tmp_path}/run")
    assert result.exit_code == 0, result.output


def test_an_unreachable_handle_says_what_to_do_offline(monkeypatch, tmp_path):
    import urllib.error
    import urllib.request

    def offline(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(FinetuneError, match=r"cannot fetch the module https://tfhub\.dev/.*TFHUB_CACHE_DIR"):
        backbone.find("hub:https://tfhub.dev/google/imagenet/resnet_v1_50/feature_vector/5")


def test_a_plan_that_mixes_statistics_is_refused_by_number(module):
    with pytest.raises(WrongUse, match="4 of 9 BN layers would use batch statistics"):
        planned(module[0], ["*body/block1/*=train", "freeze"])
