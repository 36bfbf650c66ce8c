"""Models of the user's own as backbones: the head is found and swapped or kept, errors are one message."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from checkpoints.catalog.lookup import find_row as catalogued
from checkpoints.errors import CheckpointError
from checkpoints.formats import open_checkpoint
from checkpoints.formats.slim import write_slim
from finetune.backbone import find_backbone, load_backbone
from finetune.batchnorm.surgery import bn_layers
from finetune.errors import FinetuneError, WrongUse
from tests.support.commands import typed

SIZE = 16
SMALL = "--data demo-target --examples 100 --epochs 1 --batch-size 20 --quiet"
layers = keras.layers


def body(inputs, *, name="body"):
    """Two halvings and a BatchNorm at each."""
    images = keras.Input((SIZE, SIZE, 3))
    x = images
    for index, filters in enumerate((4, 8)):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(
            name=f"bn{index}", moving_mean_initializer=keras.initializers.RandomNormal(seed=index)
        )(x)
        x = layers.ReLU(name=f"relu{index}")(x)
    return keras.Model(images, x, name=name)(inputs)


def model(top, *, scaled=True):
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(inputs) if scaled else inputs
    return keras.Model(inputs, top(body(x)))


def dense(x):
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name="gap")(x))
    return layers.Dense(10, activation="softmax", name="preds")(x)


def deep(x):
    x = layers.Dense(6, activation="relu", name="hidden")(layers.GlobalMaxPooling2D(name="gap")(x))
    x = layers.Dense(10, name="scores")(layers.BatchNormalization()(x))
    return layers.Softmax()(x)


def conv(x):
    x = layers.GlobalAveragePooling2D(keepdims=True, name="gap")(x)
    x = layers.Reshape((10,))(layers.Conv2D(10, 1, name="conv_preds")(layers.Dropout(0.1)(x)))
    return layers.Activation("softmax")(x)


def flattened(x):
    return layers.Dense(10)(layers.Flatten(name="gap")(x))


def pooled(x):
    return layers.Dropout(0.1)(layers.GlobalAveragePooling2D(name="gap")(x))


def as_map(x):
    return x


def saved(built, path):
    built.save(path)
    return path


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize(
    ("top", "channels", "words"),
    [
        (dense, 8, "head of the file removed: dropout, preds (10 outputs); features: gap [8]"),
        (deep, 8, "scores, softmax (10 outputs); features: gap [8]"),
        (conv, 8, "conv_preds, reshape, activation (10 outputs); features: gap [8]"),
        (flattened, 128, "dense (10 outputs); features: gap [128]"),
        (pooled, 8, "no head in the file; features: its output [8]"),
        (as_map, 8, "no head in the file; features: its output, pooled by its mean over 4x4 [8]"),
    ],
)
@pytest.mark.parametrize("suffix", [".keras", pytest.param(".h5", marks=pytest.mark.slow)])
def test_the_head_is_found(top, channels, words, suffix, tmp_path):
    keras.backend.clear_session()
    own = model(top)
    path = saved(own, tmp_path / f"own{suffix}")
    loaded = load_backbone(find_backbone(str(path)), image_size=SIZE)
    assert loaded.model.output_shape == (None, channels)
    assert loaded.words.endswith(words)
    assert list(loaded.stages) == ["map_1", "map_2", "map_4"]
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    nested = next(layer for layer in own.layers if layer.name == "body")
    maps = np.asarray(nested(images / 255.0, training=False))
    expected = {"gap": maps.mean(axis=(1, 2)), "flat": maps.reshape(2, -1), "max": maps.max(axis=(1, 2))}[
        {flattened: "flat", deep: "max"}.get(top, "gap")
    ]
    np.testing.assert_allclose(loaded.model(images, training=False), expected, atol=1e-5)
    assert [layer.name for layer in bn_layers(loaded.model)] == ["bn0", "bn1"]
    assert not any(layer.unbiased for layer in bn_layers(loaded.model))


@pytest.mark.slow
@pytest.mark.parametrize("top", [dense, deep, conv, flattened])
def test_a_kept_head_gives_the_logits_of_its_own_probabilities(top, tmp_path):
    own = model(top)
    spec = find_backbone(str(saved(own, tmp_path / "own.keras")))
    loaded = load_backbone(spec, image_size=SIZE, head=10)
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype(np.float32)
    logits = np.asarray(loaded.model(images, training=False))
    expected = np.asarray(own(images, training=False))
    if top is not flattened:
        logits = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    with pytest.raises(WrongUse, match=r"has 10 outputs, but the data has 7 classes"):
        load_backbone(spec, image_size=SIZE, head=7)


def test_a_projection_is_named(tmp_path):
    spec = find_backbone(str(saved(model(deep), tmp_path / "own.keras")))
    loaded = load_backbone(spec, image_size=SIZE, features="hidden")
    assert loaded.model.output_shape == (None, 6)
    with pytest.raises(WrongUse, match=r"--features nix: .* no such layer"):
        load_backbone(spec, image_size=SIZE, features="nix")


@pytest.mark.slow
def test_stages_are_the_catalogues_where_the_names_are(tmp_path):
    network = keras.applications.MobileNet(weights=None, alpha=0.25, input_shape=(32, 32, 3))
    spec = find_backbone(str(saved(network, tmp_path / "mobilenet.keras")))
    loaded = load_backbone(spec, image_size=32)
    assert list(loaded.stages) == ["conv1", *(f"conv_{i}" for i in range(1, 14))]
    assert loaded.model.output_shape == (None, 256)


@pytest.mark.slow
def test_a_file_through_the_command_line_and_on_from_its_run(tmp_path, monkeypatch):
    saved(model(dense), tmp_path / "own.keras")
    monkeypatch.chdir(tmp_path)
    first = typed(f"run --backbone own.keras {SMALL} --freeze-until map_2 --run-dir first --json")
    assert first.exit_code == 0, first.output
    config = json.loads((tmp_path / "first/config.json").read_text())
    assert (config["backbone"], config["preprocess"], config["image_size"]) == (f"{tmp_path}/own.keras", "raw", SIZE)
    assert json.loads(first.stdout)["proof"]["frozen_variables"] == 5
    (tmp_path / "own.keras").unlink()  # what was trained needs it no more
    assert typed("evaluate first --quiet").exit_code == 0
    second = typed(f"run --backbone first --head keep {SMALL} --run-dir second --json")
    assert second.exit_code == 0, second.output
    assert json.loads((tmp_path / "second/config.json").read_text())["head"] == "keep"


def test_preprocessing_comes_from_the_run_beside_or_must_be_given(tmp_path):
    saved(model(dense, scaled=False), tmp_path / "model.keras")
    refused = typed(f"run --backbone {tmp_path} {SMALL} --run-dir {tmp_path}/run")
    assert refused.exit_code == 2
    assert "does not say how its pixels are scaled" in refused.stderr
    assert "--preprocess" in refused.stderr
    (tmp_path / "config.json").write_text(json.dumps({"backbone": "/gone.keras", "preprocess": "caffe"}))
    assert find_backbone(str(tmp_path)).preprocessing == "caffe"


def test_show_lists_a_files_stages(tmp_path):
    saved(model(dense), tmp_path / "own.keras")
    shown = typed(f"backbones show {tmp_path}/own.keras")
    assert shown.exit_code == 0, shown.output
    assert "map_4" in shown.output
    assert "conv1 ... bn1" in shown.output


def lambda_layer():
    return keras.Sequential([keras.Input((SIZE, SIZE, 3)), layers.Lambda(lambda x: x), layers.Flatten()])


def no_pooling(x):
    x = layers.Reshape((-1, 8))(x)
    return layers.Dense(10)(layers.LayerNormalization()(x)[:, 0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: saved(lambda_layer(), path), ("Lambda layer", "stock")),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), ("cut off", "copy it again")),
        (lambda path: None, ("there is no file", "check the name")),
        (lambda path: saved(model(no_pooling), path), ("it is unclear where its features end", "--features LAYER")),
        (
            lambda path: saved(keras.Sequential([keras.Input((9,)), layers.Dense(2)]), path),
            ("shape [None, 9]", "[batch, height, width, channels]"),
        ),
        (
            lambda path: saved(keras.Sequential([keras.Input((8, 8, 2)), layers.Flatten()]), path),
            ("images of 2 channels", "expected 1 (grey), 3 (RGB) or 4 (RGBA)"),
        ),
    ],
)
def test_a_file_that_will_not_do_is_one_error(make, words, tmp_path):
    make(tmp_path / "own.keras")
    result = typed(f"run --backbone {tmp_path}/own.keras {SMALL} --preprocess raw --run-dir {tmp_path}/run")
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.count("Error: ") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "run").exists()


def test_weights_without_a_model_are_refused(tmp_path):
    model(dense).save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(FinetuneError, match="weights without a model"):
        find_backbone(str(tmp_path / "x.weights.h5"))


@pytest.fixture(scope="module")
def slim_with_seven_classes(tmp_path_factory):
    """A slim training directory of one's own: another number of classes than the published file has."""
    folder = tmp_path_factory.mktemp("train_dir")
    published = load_backbone(catalogued("resnet_v1_demo"), image_size=16).report
    opened = open_checkpoint(Path(published.path))
    arrays = {name: opened.read(name) for name in opened.shapes}
    rng = np.random.default_rng(0)
    for name in ("weights", "biases"):
        key = f"resnet_v1_demo/logits/{name}"
        arrays[key] = rng.normal(0, 1, (*arrays[key].shape[:-1], 7)).astype(np.float32)
    write_slim(folder / "model.ckpt-100", {**arrays, "global_step": np.array(100, np.int64)})
    return folder, arrays


@pytest.mark.slow
def test_the_head_of_a_slim_training_directory_is_swapped_or_kept(slim_with_seven_classes):
    folder, arrays = slim_with_seven_classes
    spec = find_backbone("resnet_v1_demo")
    swapped = load_backbone(spec, image_size=16, checkpoint=folder)
    kept = load_backbone(spec, image_size=16, checkpoint=folder, head=7)
    assert "old head" in swapped.report.ignored
    assert "old head" not in kept.report.ignored
    images = np.random.default_rng(1).normal(0, 1, (2, 16, 16, 3)).astype(np.float32)
    features = np.asarray(swapped.model(images, training=False))
    kernel = arrays["resnet_v1_demo/logits/weights"][0, 0]
    expected = features @ kernel + arrays["resnet_v1_demo/logits/biases"]
    np.testing.assert_allclose(kept.model(images, training=False), expected, atol=1e-4)
    with pytest.raises(WrongUse, match=r"has 7 outputs, but the data has 10 classes"):
        load_backbone(spec, image_size=16, checkpoint=folder, head=10)


def test_a_published_head_of_another_size_is_refused_by_both_numbers(tmp_path):
    result = typed(f"run --backbone resnet_v1_demo --image-size 16 {SMALL} --head keep --run-dir {tmp_path}/run")
    assert result.exit_code == 2
    assert "has 20 outputs, but the data has 10 classes" in result.stderr
    assert not (tmp_path / "run").exists()


def test_contradictions_are_refused(slim_with_seven_classes, tmp_path):
    for option in ("--from-scratch", "--hidden 4", "--dropout 0.1", "--features x"):
        result = typed(f"run --backbone resnet_v1_demo {SMALL} --head keep {option} --run-dir {tmp_path}/run")
        assert result.exit_code == 2
        assert "--head keep and" in result.stderr
    result = typed(f"run --backbone resnet_v1_demo {SMALL} --features conv1 --run-dir {tmp_path}/run")
    assert "--features is for model files" in result.stderr


def test_a_file_without_a_head_has_none_to_keep(tmp_path, slim_with_seven_classes):
    _, arrays = slim_with_seven_classes
    write_slim(tmp_path / "headless.ckpt", {name: one for name, one in arrays.items() if "/logits/" not in name})
    with pytest.raises(CheckpointError, match="has no head"):
        load_backbone(catalogued("resnet_v1_demo"), image_size=16, checkpoint=tmp_path / "headless.ckpt", head=7)


@pytest.mark.slow
def test_a_module_made_of_slim_weights_opens_as_a_checkpoint(slim_with_seven_classes, tmp_path):
    import tensorflow as tf

    folder, arrays = slim_with_seven_classes
    module = tf.train.Checkpoint()
    module.variables = [tf.Variable(array, name=name) for name, array in arrays.items()]
    tf.saved_model.save(module, str(tmp_path / "module"))
    spec = find_backbone("resnet_v1_demo")
    images = np.random.default_rng(1).normal(0, 1, (2, 16, 16, 3)).astype(np.float32)
    ours, expected = (
        np.asarray(load_backbone(spec, image_size=16, checkpoint=path).model(images, training=False))
        for path in (tmp_path / "module", folder)
    )
    np.testing.assert_array_equal(ours, expected)
