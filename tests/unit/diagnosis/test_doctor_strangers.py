"""Models as strangers made them, opened from their files: each case once had a wrong verdict or a wrong figure.

The figures asserted are those of the program that trained the model.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from finetune.diagnosis.doctor import Diagnosis, diagnose
from finetune.diagnosis.targets.opening import open_target
from finetune.diagnosis.targets.options import TargetOptions
from tests.support.places import SHARED

pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


@dataclass(frozen=True)
class Images:
    """uint8 images `[n, side, side, 3]` and labels; the first `count` are for training."""

    x: np.ndarray
    y: np.ndarray
    count: int

    def saved(self, folder: Path) -> str:
        train, test = slice(None, self.count), slice(self.count, None)
        path = folder / "images.npz"
        np.savez(path, x_train=self.x[train], y_train=self.y[train], x_test=self.x[test], y_test=self.y[test])
        return str(path)


def gratings(images: int, count: int, *, noise: float = 25, strengths: tuple[float, ...] = (50,), base=128) -> Images:
    """Gratings of four directions, in as many strengths as there are: a class each."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4 * len(strengths), images)
    angle, strength = (y % 4) * np.pi / 4, np.array(strengths)[y // 4]
    u, v = np.meshgrid(np.arange(32), np.arange(32))
    phase = 0.6 * (np.cos(angle)[:, None, None] * u + np.sin(angle)[:, None, None] * v)
    wave = np.sin(phase + rng.uniform(0, 6.28, images)[:, None, None]) * strength[:, None, None]
    pixels = base + wave[..., None] + rng.normal(0, noise, (images, 32, 32, 3))
    return Images(np.clip(pixels, 0, 255).astype(np.uint8), y, count)


def network(library, outputs: int, widths=(8, 16), bn=None, body=lambda x: x, **head):
    """Strided convolutions, each with BatchNorm, a pooled Dense."""
    layers = library.layers
    image = library.Input((32, 32, 3))
    x = body(image)
    for width in widths:
        x = layers.ReLU()((bn or layers.BatchNormalization)(momentum=0.9)(layers.Conv2D(width, 3, 2, "same")(x)))
    return library.Model(image, layers.Dense(outputs, **head)(layers.GlobalAveragePooling2D()(x)))


def fitted(library, model, x, y, *, epochs: int, rate=5e-3, loss=None):
    library.utils.set_random_seed(0)
    loss = loss or library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x, y, 32, epochs, verbose=0)
    return model


def accuracy(model, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean(np.argmax(model(tf.constant(x, tf.float32), training=False), 1) == y))


def of(target: Path, data: str, preprocess: str = "unit", **options) -> Diagnosis:
    return diagnose(open_target(TargetOptions(target=target, data=data, preprocess=preprocess, **options)))


@pytest.mark.slow
@pytest.mark.parametrize("start", [(0.0, 1.0), pytest.param((0.25, 2.0), marks=pytest.mark.slow)])
def test_updates_forgotten_are_not_called_preprocessing(tmp_path: Path, start: tuple[float, float]) -> None:
    """Statistics at 0 and 1 do better by chance with vgg's centred pixels: they say nothing about the pixels. Nor do
    those that a layer's own initializers give."""
    mean, variance = map(keras.initializers.Constant, start)
    given = {"moving_mean_initializer": mean, "moving_variance_initializer": variance}
    images = gratings(1400, 900)
    x, test = images.x / 255.0, slice(900, None)
    keras.utils.set_random_seed(0)
    model = network(keras, 4, bn=partial(keras.layers.BatchNormalization, **given))
    fitted(keras, model, x[:900], images.y[:900], epochs=8)
    before = accuracy(model, x[test], images.y[test])
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(0 * layer.moving_mean + start[0])
            layer.moving_variance.assign(0 * layer.moving_variance + start[1])
    after = accuracy(model, x[test], images.y[test])
    model.save(tmp_path / "m.keras")
    found = of(tmp_path / "m.keras", images.saved(tmp_path))
    assert found.evidence.test.is_training_false.accuracy == pytest.approx(after, abs=1e-9)
    assert before > after + 0.1
    assert found.verdict.cause == "updates-never-ran"
    assert f"initial values {start[0]:g} and {start[1]:g}" in found.verdict.sentence
    assert found.verdict.remedy is not None
    assert found.verdict.remedy.startswith("finetune recalibrate-bn")
    assert found.evidence.test.recalibrated.accuracy == pytest.approx(before, abs=0.02)


@pytest.mark.slow
def test_a_mean_image_subtracted_is_no_lag_of_the_statistics(tmp_path: Path) -> None:
    """Trained on x/255 minus the mean image, examined as x/255: the statistics are exact, the pixels are not."""
    u = np.arange(32) / 10
    base = (np.array([150, 110, 130]) + 25 * np.cos(u)[:, None])[None, None]
    images = gratings(3600, 2400, noise=12, strengths=(22, 44), base=base)
    mean = (images.x[:2400] / 255.0).mean(0)
    keras.utils.set_random_seed(0)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, 750)
    model = network(keras, 8, (16, 16, 32))
    fitted(keras, model, images.x[:2400] / 255.0 - mean, images.y[:2400], epochs=10, rate=rate)
    x, y = images.x[2400:] / 255.0, images.y[2400:]
    trained, fed = accuracy(model, x - mean, y), accuracy(model, x, y)
    assert trained > fed + 0.1
    model.save(tmp_path / "m.keras")
    found = of(tmp_path / "m.keras", images.saved(tmp_path))
    assert found.evidence.test.is_training_false.accuracy == pytest.approx(fed, abs=1e-9)
    assert found.verdict.cause == "wrong-preprocessing"
    check = found.evidence.preprocessing
    assert check is not None
    assert check.test is not None
    assert check.test.accuracy > fed + 0.8 * (trained - fed)
    again = of(tmp_path / "m.keras", str(tmp_path / "images.npz"), str(check.best))
    assert again.verdict.exit_code == 0


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory):
    """Ten colours learnt by a Keras 2 model that ends in softmax: (folder, data, Keras's loss and accuracy)."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    chosen, y = rng.integers(30, 226, (10, 3)), rng.integers(0, 10, 900)
    x = np.clip(chosen[y][:, None, None] + rng.normal(0, 8, (900, 32, 32, 3)), 0, 255).astype(np.uint8)
    images = Images(x, y, 600)
    tf_keras.utils.set_random_seed(0)
    model = network(tf_keras, 10, activation="softmax")
    fitted(tf_keras, model, x[:600] / 255.0, y[:600], epochs=15, rate=1e-2, loss="sparse_categorical_crossentropy")
    scored = model.evaluate(x[600:] / 255.0, y[600:], verbose=0)
    model.save(folder / "sm", save_format="tf")
    model.export(str(folder / "export"))
    model.save(folder / "m.h5")
    return folder, images.saved(folder), scored


@pytest.mark.parametrize("name", ["sm", "export", "m.h5"])
def test_the_loss_of_probabilities_is_the_frameworks_own(name: str, colours) -> None:
    """Softmax over probabilities would give 1.46 for a perfect network of ten classes, and `undertrained`."""
    folder, data, (loss, right) = colours
    found = of(folder / name, data)
    scored = found.evidence.test.is_training_false
    assert scored.loss == pytest.approx(loss, abs=1e-4)
    assert scored.accuracy == pytest.approx(right, abs=1e-6)
    assert loss < 0.2
    assert found.verdict.cause == "healthy", found.verdict.sentence


def _saved(model, folder: Path, name: str) -> Path:
    model.save(folder / name, save_format="tf")
    return folder / name


@pytest.mark.slow
@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("kind", ["sync", "augmented"])
def test_saved_models_of_keras_2_have_whole_counts_and_open_with_augmentation(kind: str, tmp_path: Path) -> None:
    """N of SyncBatchNormalization is batch x height x width, and RandomFlip in front is no obstacle."""
    images = gratings(700, 500)
    bn = tf_keras.layers.experimental.SyncBatchNormalization if kind == "sync" else None
    body = tf_keras.layers.RandomFlip("horizontal") if kind == "augmented" else lambda x: x
    tf_keras.utils.set_random_seed(0)
    model = network(tf_keras, 4, bn=bn, body=body)
    fitted(tf_keras, model, images.x[:500] / 255.0, images.y[:500], epochs=12)
    own = accuracy(model, images.x[500:] / 255.0, images.y[500:])
    found = of(_saved(model, tmp_path, kind), images.saved(tmp_path))
    assert [layer.values for layer in found.evidence.layers] == [64 * 16 * 16, 64 * 8 * 8]
    assert found.evidence.test.is_training_false.accuracy == pytest.approx(own, abs=1e-9)
    assert found.verdict.exit_code in (0, 4), found.verdict.sentence


@pytest.mark.slow
def test_a_base_called_with_training_false_is_healthy_by_design(tmp_path: Path) -> None:
    """`base(x, training=False)`, everything trained from another task's statistics: what Keras's guide recommends."""
    images = gratings(1500, 1000)
    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    first = network(tf_keras, 4)
    base = tf_keras.Model(first.input, first.layers[-2].output, name="base")
    fitted(tf_keras, first, images.x[:1000] / 255.0, images.y[:1000], epochs=12)
    first.save(tmp_path / "source.h5")
    other = Images(np.clip(images.x * 0.6 + 70, 0, 255).astype(np.uint8), images.y % 2, 1000)
    again = tf_keras.Input((32, 32, 3))
    model = tf_keras.Model(again, layers.Dense(2)(base(again, training=False)))
    fitted(tf_keras, model, other.x[:1000] / 255.0, other.y[:1000], epochs=25)
    own = accuracy(model, other.x[1000:] / 255.0, other.y[1000:])
    path, data = _saved(model, tmp_path, "fine"), other.saved(tmp_path)
    for source in (None, tmp_path / "source.h5"):
        found = of(path, data, source_checkpoint=source)
        assert found.evidence.test.is_training_false.accuracy == pytest.approx(own, abs=1e-9)
        assert found.verdict.cause == "inference-mode-by-design", found.verdict.sentence


def _flowers() -> Images:
    from PIL import Image

    folder, x, y, counts = SHARED / "data/flowers", [], [], []
    for split in ("train", "val"):
        for label, name in enumerate(sorted(path.name for path in (folder / split).iterdir())):
            for path in sorted((folder / split / name).iterdir()):
                with Image.open(path) as photo:
                    side = min(photo.size)
                    left, top = (photo.width - side) // 2, (photo.height - side) // 2
                    square = photo.convert("RGB").crop((left, top, left + side, top + side))
                    x.append(np.asarray(square.resize((64, 64), Image.Resampling.BILINEAR)))
                y.append(label)
        counts.append(len(y))
    order = np.random.default_rng(0).permutation(counts[0])
    return Images(
        np.array(x)[[*order, *range(counts[0], len(y))]], np.array(y)[[*order, *range(counts[0], len(y))]], counts[0]
    )


WEIGHTS = SHARED / "checkpoints/keras/mobilenet_2_5_224_tf_no_top.h5"


@pytest.mark.slow
def test_a_frozen_base_normalised_by_batch_statistics(tmp_path: Path) -> None:
    """Keras 2.0 to 2.1.2: the head learnt on batch statistics, the file normalises by the source's."""
    if not (WEIGHTS.is_file() and (SHARED / "data/flowers").is_dir()):
        pytest.skip("the real MobileNet and flowers are not beside the project (../shared)")
    images = _flowers()
    x, y = images.x / np.float32(127.5) - 1, images.y
    base = keras.applications.MobileNet((64, 64, 3), 0.25, include_top=False, weights=str(WEIGHTS), pooling="avg")
    kept, rng, head = base.get_weights(), np.random.default_rng(0), keras.layers.Dense(5)
    optimizer = keras.optimizers.Adam(3e-3)
    for _ in range(30):
        order = rng.permutation(images.count)
        for start in range(0, images.count - 31, 32):
            some = order[start : start + 32]
            features = base(x[some], training=True)
            base.set_weights(kept)
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(y[some], head(features), from_logits=True)
            gradients = tape.gradient(losses, head.trainable_weights)
            optimizer.apply_gradients(zip(gradients, head.trainable_weights, strict=True))
    base.trainable = False
    image = keras.Input((64, 64, 3))
    model = keras.Model(image, keras.layers.Softmax()(head(base(image))))
    model.save(tmp_path / "m.keras")
    own = accuracy(model, x[images.count :], y[images.count :])
    data = images.saved(tmp_path)
    for source in (WEIGHTS, None):
        found = of(tmp_path / "m.keras", data, "inception", source_checkpoint=source)
        assert found.evidence.test.is_training_false.accuracy == pytest.approx(own, abs=1e-9)
        train = found.evidence.train
        assert train.recalibrated.accuracy > train.is_training_false.accuracy + 0.2
        assert found.verdict.cause == "frozen-base-normalised-by-batch", found.verdict.sentence
        assert found.verdict.exit_code == 3
