"""Keras's weights in every form Keras writes them give the original's outputs; memory stays small."""

import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tf_keras

from checkpoints.catalog.lookup import find_row
from checkpoints.errors import CheckpointError
from finetune.backbone import load_backbone
from finetune.batchnorm.surgery import to_stock
from finetune.errors import WrongUse
from tests.support.keras_2_files import of_2017

MOBILENET = ("keras/mobilenet_0.25", "MobileNet", 32, {"alpha": 0.25})
FULL_SIZE = (
    ("keras/inception_v3", "InceptionV3", 75, {}),
    ("keras/resnet50", "ResNet50", 32, {}),
    ("keras/resnet50v2", "ResNet50V2", 32, {}),
    ("keras/densenet121", "DenseNet121", 32, {}),
    ("keras/inception_resnet_v2", "InceptionResNetV2", 75, {}),
    ("keras/vgg16", "VGG16", 32, {}),
    ("keras/convnext_tiny", "ConvNeXtTiny", 32, {}),
)
FORMS = ("x.weights.h5", "x.keras", "x.h5")


def original(application, size, arguments):
    """As a user makes it, with random weights and statistics."""
    model = getattr(keras.applications, application)(weights=None, input_shape=(size, size, 3), **arguments)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.8, 1.2, layer.moving_variance.shape))
        elif isinstance(layer, keras.layers.LayerNormalization) or layer.name.endswith("_layer_scale"):
            for variable in layer.weights:  # as Keras makes them, two swapped norms are equal, and a branch is nothing
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def images(size):
    return np.random.default_rng(1).normal(0, 1, (2, size, size, 3)).astype(np.float32)


def save(model, path):
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
    return path


def features(model):
    """The pooled features below a Keras model's head; its output where it has none."""
    kinds = keras.layers.GlobalAveragePooling2D, keras.layers.LayerNormalization
    pooled = [layer.output for layer in model.layers if isinstance(layer, kinds)]
    if not pooled:  # VGG's head takes the map
        pooled = [keras.ops.mean(model.get_layer("block5_pool").output, axis=(1, 2))]
    return keras.Model(model.input, pooled[-1])


def assert_loads(spec, path, size, wanted, **options):
    loaded = load_backbone(spec, image_size=size, checkpoint=path, **options)
    got = loaded.model(images(size), training=False).numpy()
    wanted = np.asarray(wanted).reshape(got.shape)
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max(), path.name
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "application", "size", "arguments"),
    [MOBILENET, *(pytest.param(*row, marks=pytest.mark.slow) for row in FULL_SIZE)],
)
@pytest.mark.parametrize("top", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["top", "no_top"])
def test_what_keras_wrote_gives_the_originals_features(name, application, size, arguments, top, tmp_path):
    keras.backend.clear_session()
    head = {"classes": 10} if top else {"include_top": False, "pooling": "avg"}
    model = original(application, size, {**arguments, **head})
    wanted = features(model)(images(size), training=False)
    for form in FORMS:
        loaded = assert_loads(find_row(name), save(model, tmp_path / form), size, wanted)
        ignored = {reason: len(names) for reason, names in loaded.report.ignored.items()}
        assert ignored == ({"old head": 6 if application == "VGG16" else 2} if top else {}), form


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "form", "kept"),
    [
        *((MOBILENET, form, False) for form in FORMS),
        # Its published head is dense, as somebody's own is: it can be kept.
        *(pytest.param(FULL_SIZE[1], form, True, marks=pytest.mark.slow) for form in FORMS),
    ],
)
def test_a_model_around_the_network_and_a_head_of_ones_own(row, form, kept, tmp_path):
    name, application, size, arguments = row
    inner = original(application, size, {**arguments, "include_top": False, "pooling": "avg"})
    layers = [keras.Input((size, size, 3)), keras.layers.RandomFlip(), inner, keras.layers.Dropout(0.5)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, name="mine")])
    path = save(model, tmp_path / form)
    loaded = assert_loads(find_row(name), path, size, inner(images(size), training=False))
    assert len(loaded.report.ignored["old head"]) == 2
    if kept:
        assert_loads(find_row(name), path, size, model(images(size), training=False), head=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "application", "size", "arguments"), [MOBILENET, pytest.param(*FULL_SIZE[0], marks=pytest.mark.slow)]
)
def test_a_tf2_checkpoint_of_keras_2_is_loaded_by_its_names_or_its_layers_order(
    name, application, size, arguments, tmp_path
):
    """As `save_weights("checkpoint")` writes it. The network is the second in its process, so numbered names differ."""
    make = getattr(tf_keras.applications, application)
    given = {"weights": None, "input_shape": (size, size, 3), **arguments}
    make(include_top=False, **given)
    base = make(include_top=False, pooling="avg", **given)
    rng = np.random.default_rng(0)
    for variable in base.weights:
        if "moving_" in variable.name:
            mean = "moving_mean" in variable.name
            variable.assign(rng.normal(0, 0.1, variable.shape) if mean else rng.uniform(0.8, 1.2, variable.shape))
    inputs = tf_keras.Input((size, size, 3))
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(4)(base(inputs)))
    model.compile("adam", "mse")
    model.fit(images(size), np.zeros((2, 4)), verbose=0)  # slots of the optimizer are in the file as well
    for number, saved in enumerate((base, model)):
        folder = tmp_path / str(number)
        saved.save_weights(folder / "checkpoint")
        path = folder / "checkpoint" if number else folder
        assert_loads(find_row(name), path, size, base(images(size), training=False))
    if application == "InceptionV3":  # whose own head is dense as well
        assert_loads(find_row(name), folder, size, model(images(size), training=False), head=4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "application"), [("keras/vgg16", "VGG16"), ("keras/convnext_tiny", "ConvNeXtTiny")])
@pytest.mark.parametrize("top", [True, False], ids=["top", "no_top"])
def test_files_as_keras_2_published_them(name, application, top, tmp_path):
    """`save_weights("x.h5")`: ConvNeXt's `Sequential` models are groups of several layers."""
    make, size = getattr(tf_keras.applications, application), 224 if top and application == "VGG16" else 64
    head = {"classes": 1000} if top else {"pooling": "avg"}
    model = make(weights=None, input_shape=(size, size, 3), include_top=top, **head)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "layer_scale" in variable.name or "norm" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    model.save_weights(tmp_path / "published.h5")
    below = model.get_layer("block5_pool").output if application == "VGG16" and top else model.layers[-2].output
    wanted = tf_keras.Model(model.input, below if top else model.output)(images(size), training=False).numpy()
    wanted = wanted.mean(axis=(1, 2)) if wanted.ndim == 4 else wanted
    assert_loads(find_row(name), tmp_path / "published.h5", size, wanted)
    if top:
        logits = model.layers[-1]
        given = tf_keras.Model(model.input, logits.input)(images(size), training=False).numpy()
        wanted = given @ logits.kernel.numpy() + logits.bias.numpy()
        assert_loads(find_row(name), tmp_path / "published.h5", size, wanted, head="published")
    if top and application == "VGG16":
        with pytest.raises(WrongUse, match=r"takes the flattened map of images of another size.*--image-size 224"):
            load_backbone(find_row(name), image_size=64, checkpoint=tmp_path / "published.h5", head="published")


_KERAS_1 = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "application"), [("keras/vgg16", "VGG16"), ("keras/resnet50", "ResNet50")])
def test_files_as_keras_1_wrote_them(name, application, tmp_path):
    """The published files of VGG, and of ResNet50 until 2019: other names of variables, layers and their order."""
    model = original(application, 64, {})
    layers = [layer for layer in model.layers if layer.weights]
    if application == "ResNet50":
        layers.reverse()
    with h5py.File(tmp_path / "first.h5", "w") as file:
        called = {layer.name: of_2017(layer.name) if application == "ResNet50" else layer.name for layer in layers}
        file.attrs["layer_names"] = [name.encode() for name in called.values()]
        for layer in layers:
            group, now = file.create_group(called[layer.name]), called[layer.name]
            names = [f"{now}_{_KERAS_1.get(weight.name, weight.name)}_1:0" for weight in layer.weights]
            group.attrs["weight_names"] = [one.encode() for one in names]
            for one, weight in zip(names, layer.weights, strict=True):
                group[one] = weight.numpy()
    wanted = features(model)(images(64), training=False).numpy()
    assert_loads(find_row(name), tmp_path / "first.h5", 64, wanted)


@pytest.mark.slow
def test_a_head_of_another_size_can_be_kept(tmp_path):
    name, application, size, arguments = MOBILENET
    model = original(application, size, {**arguments, "classes": 10, "classifier_activation": None})
    for form in ("x.weights.h5", "x.keras"):
        path = save(model, tmp_path / form)
        assert_loads(find_row(name), path, size, model(images(size), training=False), head=10)


@pytest.mark.slow
def test_the_published_head_is_loaded_too(tmp_path):
    name, application, size, arguments = MOBILENET
    model = original(application, size, {**arguments, "classifier_activation": None})
    for form in FORMS:
        assert_loads(
            find_row(name), save(model, tmp_path / form), size, model(images(size), training=False), head="published"
        )


@pytest.mark.slow
@pytest.mark.parametrize("form", [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])])
def test_a_slim_network_saved_by_keras_loads_by_its_scopes(form, tmp_path):
    spec = find_row("resnet_v1_demo")
    made = load_backbone(spec, image_size=32, head="published")
    path = save(to_stock(made.model), tmp_path / form)
    assert_loads(spec, path, 32, made.model(images(32), training=False), head="published")
    # The same layers under other names are another network as far as anybody can tell.
    renamed = keras.models.clone_model(
        to_stock(made.model),
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "name": layer.name.replace(".", "_")}
        ),
    )
    with pytest.raises(CheckpointError, match="but bundled/resnet_v1_demo is loaded from a TF-slim checkpoint"):
        load_backbone(spec, image_size=32, checkpoint=save(renamed, tmp_path / f"other_{form}"))


@pytest.mark.slow
def test_a_saved_model_of_a_keras_network_loads_by_its_layers_names(tmp_path):
    name, application, size, arguments = MOBILENET
    model = original(application, size, {**arguments, "classes": 10})
    model.export(tmp_path / "exported", verbose=False)
    wanted = features(model)(images(size), training=False)
    loaded = assert_loads(find_row(name), tmp_path / "exported", size, wanted)
    assert set(loaded.report.ignored) <= {"old head", "random states"}


@pytest.mark.slow
def test_a_misfit_says_what_the_file_fits(tmp_path):
    _, application, size, arguments = MOBILENET
    path = save(original(application, size, {**arguments, "classes": 10}), tmp_path / "x.weights.h5")
    fits = r"It fits keras/mobilenet_0\.25 \(with a head of 10 outputs\): choose that"
    with pytest.raises(CheckpointError, match=fits):
        load_backbone(find_row("keras/mobilenet_0.5"), image_size=size, checkpoint=path)
    with pytest.raises(CheckpointError, match=fits):
        load_backbone(find_row("keras/mobilenet_0.25"), image_size=size, checkpoint=path, head="published")
    with pytest.raises(CheckpointError, match="is a keras-weights-h5 file, but slim/mobilenet_v1_0"):
        load_backbone(find_row("slim/mobilenet_v1_0.25"), image_size=size, checkpoint=path)


@pytest.mark.slow
def test_one_more_variable_in_the_backbone_is_no_head(tmp_path):
    name, application, size, arguments = MOBILENET
    model = original(application, size, {**arguments, "include_top": False})
    x = keras.layers.Conv2D(256, 3, padding="same", use_bias=False, name="more")(model.output)
    path = save(keras.Model(model.input, x), tmp_path / "x.keras")
    with pytest.raises(CheckpointError, match=r"1 only in the file: more/kernel"):
        load_backbone(find_row(name), image_size=size, checkpoint=path)


MEASURED = """
import sys
from pathlib import Path
import tensorflow as tf
tf.constant(1.0) + 1
from checkpoints.catalog import lookup
from finetune.backbone import load_backbone


def memory(kind):
    # Of this process alone: ru_maxrss would be that of its parent where that was larger.
    line = next(line for line in open("/proc/self/status") if line.startswith(kind))
    return int(line.split()[1]) * 1024

before = memory("VmRSS")
row = lookup.find_row("slim/resnet_v1_152")
loaded = load_backbone(row, image_size=224, checkpoint=Path(sys.argv[1]), head="published")
print(memory("VmHWM") - before, len(loaded.report.assigned))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_152_layers_takes_less_than_three_times_the_checkpoint(tmp_path):
    from checkpoints.formats.slim import write_slim
    from checkpoints.matching.structures import structures

    rng = np.random.default_rng(0)
    entries = structures()["slim/resnet_v1_152"]
    write_slim(tmp_path / "m.ckpt", {e.name: rng.uniform(0.1, 1, e.shape).astype(np.float32) for e in entries})
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "m.ckpt")], capture_output=True, text=True, check=True
    )
    grown, assigned = map(int, done.stdout.split())
    assert assigned == len(entries)
    assert grown < 3 * size, f"{grown / size:.2f} times the checkpoint"
