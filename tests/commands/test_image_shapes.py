"""Networks of one channel, of four, and of images that are not square, from the diagnosis to a prediction."""

import contextlib
import io
import json
import re
import shlex
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from PIL import Image

from finetune.data.load_data import load_data
from finetune.errors import FinetuneError
from finetune.runs.directory import RunDir
from finetune.runs.run_data import check_unchanged
from tests.support import commands

CLASSES = 4


def typed(*words):
    return commands.typed(shlex.join(map(str, words)))


def network(path, shape):
    keras.utils.set_random_seed(1)
    images = keras.Input(shape)
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, strides=2)(images))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(images, keras.layers.Dense(CLASSES)(x))
    model.layers[2].moving_mean.assign(np.linspace(-0.2, 0.2, 8))
    model.save(path)
    return model


def written(path, shape):
    """Noise around a brightness of each class, written as an `.npz`; the test images and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 96)
    bright = (labels * 40 + 40).reshape(-1, *[1] * len(shape))
    images = np.clip(bright + rng.normal(0, 25, (96, *shape)), 0, 255).astype(np.uint8)
    np.savez(path, x_train=images[:64], y_train=labels[:64], x_test=images[64:], y_test=labels[64:])
    return images[64:], labels[64:]


@pytest.mark.quick_cases(1)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["model.keras", "keras_2.h5", "keras_2"])
@pytest.mark.parametrize(("takes", "data"), [((12, 10), (12, 10)), ((144,), (12, 12)), ((432,), (12, 12, 3))])
def test_models_of_rows_and_of_grey_images_without_a_channel(takes, data, name, tmp_path):
    """The layers of a digit network of many a tutorial: Flatten, Dense, BatchNormalization."""
    own = keras if name == "model.keras" else tf_keras
    model = own.Sequential(
        [
            own.Input(takes), own.layers.Flatten(), own.layers.Dense(8), own.layers.BatchNormalization(momentum=0.9),
            own.layers.ReLU(), own.layers.Dense(CLASSES, activation="softmax"),
        ]
    )  # fmt: skip
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = written(tmp_path / "data.npz", data)
    as_taken = images.reshape(len(images), *takes).astype(np.float32) / 255
    model.fit(as_taken, labels, epochs=3, verbose=0)
    model.save(tmp_path / name)
    where = (tmp_path / name, "--preprocess", "unit", "--data", tmp_path / "data.npz")
    if name == "keras_2" and len(data) == 3:
        where = (*where, "--input-layout", "flat-nhwc")  # the graph does not show it
    told = typed("diagnose-bn", *where, "--quick", "--json", "--batch-size", "32")
    assert told.stdout, told.stderr
    report = json.loads(told.stdout)
    for mode in (False, True):
        right = np.mean(np.argmax(model(as_taken, training=mode), axis=1) == labels)
        assert report["accuracy"]["test"][f"is_training_{str(mode).lower()}"] == pytest.approx(right, abs=1e-9)
    copied = typed("recalibrate-bn", *where, "--out", tmp_path / f"new-{name}")
    assert copied.exit_code == 0, copied.stderr
    assert own.models.load_model(tmp_path / f"new-{name}").input_shape == (None, *takes)


def grey(images):
    return np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in images])[..., None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("takes", "data", "as_taken", "said"),
    [
        ((28, 28, 1), (28, 28), lambda images: images[..., None], ""),
        ((24, 32, 3), (24, 32, 3), lambda images: images, ""),
        ((28, 28, 1), (28, 28, 3), grey, "RGB images become grey"),
        ((28, 28, 4), (28, 28, 4), lambda images: images, ""),
    ],
)
def test_a_diagnosis_gives_keras_own_accuracy(takes, data, as_taken, said, tmp_path):
    model = network(tmp_path / "model.keras", takes)
    images, labels = written(tmp_path / "data.npz", data)
    words = ("diagnose-bn", tmp_path / "model.keras", "--preprocess", "unit", "--data", tmp_path / "data.npz")
    result = typed(*words, "--json")
    right = model.predict(as_taken(images).astype(np.float32) / 255, verbose=0).argmax(axis=1) == labels
    report = json.loads(result.stdout)
    assert report["accuracy"]["test"]["is_training_false"] == pytest.approx(right.mean(), abs=1e-9)
    assert not said or said in typed(*words).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "data", "size", "native", "said"),
    [
        ((28, 28, 1), (28, 28, 3), "28x28x1", [28, 28], "RGB images become grey"),
        (None, (28, 28), 32, [28, 28, 1], "grey images are repeated three times"),
        pytest.param(None, (24, 32, 3), "24x32", [24, 32], "", marks=pytest.mark.slow),
    ],
)
def test_runs_train_predict_and_are_exported(backbone, data, size, native, said, tmp_path):
    written(tmp_path / "data.npz", data)
    run, name, options = tmp_path / "run", "resnet_v1_demo", ["--image-size", size] if size == "24x32" else []
    if backbone:
        network(tmp_path / "model.keras", backbone)
        name, options = tmp_path / "model.keras", ["--preprocess", "unit"]
    options += ["--epochs", "1", "--run-dir", run, "--augment", "none", "--freeze", "*"]
    result = typed("run", "--backbone", name, "--data", tmp_path / "data.npz", *options)
    assert result.exit_code == 0
    assert said in result.stderr
    assert json.loads((run / "config.json").read_text())["image_size"] == size
    assert json.loads((run / "data.json").read_text())["image_shape"] == native
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for mode in ("L", "RGB", "RGBA", "P"):
        Image.fromarray(pixels).convert("RGB").convert(mode).save(tmp_path / f"{mode}.png")
    found = typed("predict", run, *sorted(tmp_path.glob("*.png")), "--json")
    assert len(json.loads(found.stdout)["images"]) == 4
    out = tmp_path / "pixels.keras"
    exported = typed("export", run, "--format", "keras", "--out", out, "--with-preprocessing", "--json")
    assert json.loads(exported.stdout)["exports"][0]["evaluation"]["agreement"] == 1
    assert keras.models.load_model(out).input_shape == (None, *(*native, 3)[:3])


def photos(folder, draw):
    """Three training and two test images of each class, of 40 x 34 px, as `draw(rng, brightness)` makes them."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 3)):
        for label in range(CLASSES):
            place = folder / split / f"of {label}"
            place.mkdir(parents=True)
            for number in range(count):
                draw(rng, 40 * label + 40).save(place / f"{number}.png")
    return folder


def rgba(rng, bright):
    pixels = np.clip(bright + rng.normal(0, 25, (34, 40, 4)), 0, 255)
    pixels[..., 0] *= 0.5
    pixels[..., 3] = np.where(rng.random((34, 40)) < 0.5, 255, 20)
    return Image.fromarray(pixels.astype(np.uint8))


def deep(rng, bright, most=4095):
    return Image.fromarray((np.clip(bright + rng.normal(0, 25, (34, 40)), 0, 255) * most / 255).astype(np.uint16))


def trained(folder, shape, preprocess, data):
    network(folder / "model.keras", shape)
    words = ("--preprocess", preprocess, "--data", data, "--epochs", 4, "--augment", "none", "--validation", 0)
    result = typed("run", "--backbone", folder / "model.keras", *words, "--run-dir", folder / "run", "--lr", 0.05)
    assert result.exit_code == 0, result.output
    return folder / "run", result.stderr


def by_card(run, photo, monkeypatch):
    """What the code on the model card prints: the classes and their shares."""
    code = re.search(r"```python\n(.*?)```", (run / "MODEL_CARD.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(run)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace('"photo.jpg"', repr(str(photo))), {})
    rows = (line.split("% ") for line in out.getvalue().splitlines())
    return {name: float(share) / 100 for share, name in rows}


def predicted(model, photo):
    found = json.loads(typed("predict", model, photo, "--json").stdout)
    return {row["class"]: row["probability"] for row in found["images"][0]["classes"]}


@pytest.mark.slow
def test_a_network_of_four_channels_on_transparent_photos(tmp_path, monkeypatch):
    """Pixels are prepared by NumPy here: BGRA minus caffe's means, the fourth channel minus their grey."""
    data = photos(tmp_path / "data", rgba)
    run, said = trained(tmp_path, (28, 28, 4), "caffe", data)
    assert "the network takes" not in said  # as the photos have it
    photo = data / "test" / "of 3" / "1.png"
    part = np.stack(
        [band.resize((28, 28), Image.Resampling.BILINEAR, box=(3, 0, 37, 34)) for band in Image.open(photo).split()], -1
    )
    means = np.array([103.939, 116.779, 123.68])
    fed = part[..., [2, 1, 0, 3]].astype(np.float32) - np.append(means, means[::-1] @ [0.299, 0.587, 0.114])
    exact = tf.nn.softmax(keras.models.load_model(run / "model.keras")(fed[None]))[0].numpy()
    run_says = predicted(run, photo)
    np.testing.assert_allclose([run_says[f"of {label}"] for label in range(CLASSES)], exact, atol=1e-5)
    assert by_card(run, photo, monkeypatch) == pytest.approx(run_says, abs=6e-4)
    exported = typed(
        "export", run, "--format", "keras", "--out", tmp_path / "m.keras", "--with-preprocessing", "--json"
    )
    assert json.loads(exported.stdout)["exports"][0]["evaluation"]["largest_logit_difference"] < 0.02
    assert keras.models.load_model(tmp_path / "m.keras").input_shape == (None, None, None, 4)
    # Its statistics belong to other pixels, so a preprocessing of four channels is worked out from them.
    found = typed("diagnose-bn", tmp_path / "model.keras", "--preprocess", "caffe", "--data", data)
    assert found.exit_code in (0, 3), found.output


@pytest.mark.slow
def test_what_is_white_goes_with_the_run(tmp_path, monkeypatch):
    """12 bits in files of 16. Darker training images elsewhere do not change what the run's test images are."""
    data = photos(tmp_path / "data", deep)
    run, said = trained(tmp_path, (28, 28, 1), "unit", data)
    assert "pixels of more than 8 bits: 4095 is white" in said
    dark = photos(tmp_path / "dark", lambda rng, bright: deep(rng, bright, 1000))
    for place in (data / "test").rglob("*.png"):
        (dark / place.relative_to(data)).write_bytes(place.read_bytes())
    own, elsewhere = (json.loads(typed("evaluate", run, "--data-dir", one, "--json").stdout) for one in (data, dark))
    assert elsewhere == own
    opened = RunDir.open(run)
    resumed = load_data(replace(opened.config(), data_dir=str(dark)))  # as a resumed run reads it
    with pytest.raises(FinetuneError, match=r"4095 was white in images of more than 8 bits, 1023 now .*: put it back"):
        check_unchanged(opened, resumed, advice="put it back")
    assert typed("features", run, "--layer", "head", "--data", dark, "--out", tmp_path / "f.npz").exit_code == 0
    assert typed("features", run, "--layer", "head", "--out", tmp_path / "own.npz").exit_code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "f.npz")["features"], np.load(tmp_path / "own.npz")["features"])
    photo = data / "test" / "of 2" / "0.png"
    run_says = predicted(run, photo)
    assert by_card(run, photo, monkeypatch) == pytest.approx(run_says, abs=6e-4)
    exported = typed("export", run, "--format", "keras", "--out", tmp_path / "m.keras")
    assert "min(pixels, 4095) * 255 / 4095" in exported.stdout
    assert predicted(tmp_path / "m.keras", photo) == pytest.approx(run_says, abs=1e-6)
