"""A Hub module made of a real slim graph is frozen, fine-tuned at a chosen decay and diagnosed like any backbone."""

import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune import backbone
from finetune.backbone import find_backbone, freezing, load_backbone
from finetune.backbone.head import attach_head
from finetune.batchnorm.policy import parse_bn_rule
from finetune.batchnorm.statistics import forward, pool
from finetune.batchnorm.surgery import bn_layers
from finetune.errors import FinetuneError, WrongUse
from tests.support import hub_modules
from tests.support.misbehaving_server import Server, serve

SIZE = 12


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
    loaded = load_backbone(find_backbone(f"hub:{path}"), image_size=SIZE, **load)
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


@pytest.mark.quick_cases(1)
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


@pytest.mark.slow
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
    assert pooled[-1].count == pytest.approx(n, rel=0.02)
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, variable)


def test_batch_statistics_give_what_the_module_gives_in_training(module):
    path, _ = module
    model = load_backbone(find_backbone(f"hub:{path}"), image_size=SIZE).model
    images = np.random.default_rng(3).uniform(0, 1, (4, SIZE, SIZE, 3)).astype(np.float32)
    original = tf.saved_model.load(str(path))
    for statistics, is_training in (("moving", False), ("batch", True)):
        expected = original(tf.constant(images), training=is_training, batch_norm_momentum=tf.constant(1.0))
        features, moments = forward(model, statistics)(tf.constant(images))
        np.testing.assert_allclose(features, expected, atol=1e-6)
        assert len(moments) == (len(bn_layers(model)) if is_training else 0)


@pytest.mark.slow
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
    model.get_layer("head.logits").kernel.assign(np.random.default_rng(5).normal(0, 1, (16, 10)))
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


def test_weights_of_a_part_may_be_frozen_where_batchnorm_is_one(module):
    path, _ = module
    loaded = load_backbone(find_backbone(str(path)), image_size=SIZE)
    infos = freezing.layer_infos(loaded.model, loaded.stages, loaded.scope)
    rules = [freezing.parse_freeze_rule("body/block1")]
    plan = freezing.resolve(infos, freeze=rules, bn=[parse_bn_rule("train")])
    backbone.check_plan(loaded.model, plan)
    assert [row.layer.display for row in plan.layers if not row.trains and row.bn is None] == [
        f"thin/body/block1/unit_1/bottleneck_v1/{name}" for name in ("shortcut", "conv1", "conv2", "conv3")
    ]


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Serves one archive of a file or a folder, once, to an empty cache; returns the server."""
    server = Server()
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def serving(path, name):
        with tarfile.open(tmp_path / "module.tar.gz", "w:gz") as tar:
            tar.add(path, name)
        server.script = [serve((tmp_path / "module.tar.gz").read_bytes())]
        return server

    yield serving
    server.close()


def test_a_handle_is_fetched_once_and_is_the_module(module, served):
    path, _ = module
    server = served(path, ".")
    fetched = load_backbone(find_backbone(f"hub:{server.address}/thin/feature_vector/5"), image_size=SIZE)
    assert len(server.requests) == 1
    images = np.random.default_rng(6).uniform(0, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    local = load_backbone(find_backbone(f"hub:{path}"), image_size=SIZE)
    np.testing.assert_array_equal(fetched.model(images), local.model(images))
    assert fetched.report.sha256 == local.report.sha256


def test_an_archive_of_something_else_is_no_module(served):
    server = served(__file__, "notes.txt")
    with pytest.raises(FinetuneError, match=r"holds no saved_model\.pb: expected a TF2 SavedModel"):
        find_backbone(f"hub:{server.address}/notes.tar.gz")


def test_a_plan_that_mixes_statistics_is_refused_by_number(module):
    with pytest.raises(WrongUse, match="4 of 5 BN layers would use batch statistics"):
        planned(module[0], ["*body/block1/*=train", "freeze"])
