import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.data import given
from finetune.data.preprocessing import PREPROCESSINGS
from finetune.errors import FinetuneError

LABELS = np.random.default_rng(0).integers(0, 3, 50)
PIXELS = np.random.default_rng(1).integers(0, 256, (50, 4, 5, 3), np.uint8)
SCALED = PIXELS.astype(np.float32) / 255


def split(data, *, most=50, whole=True):
    return given.given_split(data, what="the test set", outputs=3, most=most, whole=whole)


class OfTorch:
    """A DataLoader as PyTorch's, which iterates over tensors with `detach` and `cpu`."""

    class Tensor:
        def __init__(self, array):
            self._array = array

        def detach(self):
            return self

        def cpu(self):
            return self._array

    def __len__(self):
        return 5

    def __iter__(self):
        for start in range(0, 50, 10):
            yield [self.Tensor(SCALED[start : start + 10]), self.Tensor(LABELS[start : start + 10])]


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return SCALED[10 * index : 10 * index + 10], LABELS[10 * index : 10 * index + 10]


def dataset(images=SCALED, labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(10)


@pytest.mark.parametrize(
    "data",
    [
        lambda: (SCALED, LABELS),
        lambda: (tf.constant(SCALED), tf.constant(LABELS)),
        lambda: (SCALED, LABELS[:, None].astype(np.float32), np.ones(50)),
        lambda: (SCALED, np.eye(3)[LABELS]),
        dataset,
        lambda: dataset(labels=np.eye(3)[LABELS]),
        lambda: Sequence(workers=1),
        OfTorch,
        lambda: ((SCALED[start : start + 10], LABELS[start : start + 10]) for start in range(0, 50, 10)),
    ],
    ids=[
        "arrays",
        "tensors",
        "weights",
        "one-hot",
        "tf.data",
        "tf.data one-hot",
        "PyDataset",
        "DataLoader",
        "iterator",
    ],
)
def test_what_fit_takes(data):
    found, at_once = split(data())
    np.testing.assert_array_equal(found.images, SCALED)
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.labels.dtype == np.int64
    assert at_once in (10, given.BATCH_SIZE)


def test_a_set_is_drawn_once():
    draws = []

    def draw():
        draws.append(1)
        yield SCALED, LABELS

    data = tf.data.Dataset.from_generator(
        draw, output_signature=(tf.TensorSpec([None, 4, 5, 3]), tf.TensorSpec([None], tf.int64))
    )
    found, at_once = split(data)
    assert (len(draws), len(found), at_once) == (1, 50, 50)
    one = given.given_set(found, 16, None)
    passes = [np.concatenate([images[counted] for images, _, counted in one.batches()]) for _ in range(2)]
    np.testing.assert_array_equal(passes[0], SCALED)
    np.testing.assert_array_equal(passes[1], SCALED)


def test_only_a_set_of_unknown_length_is_cut():
    endless = ((SCALED[:10], LABELS[:10]) for _ in iter(int, 1))
    assert len(split(endless, most=30)[0]) == 30
    assert len(split(dataset(), most=30)[0]) == 50
    assert len(split(dataset(), most=30, whole=False)[0]) == 30


def test_of_a_set_in_the_order_of_its_classes_all_are_drawn_alike():
    order = np.argsort(np.repeat(np.arange(3), 200), kind="stable")
    labels = np.repeat(np.arange(3), 200)[order]
    images = np.arange(600, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 2, 3), np.float32)
    found, _ = split(dataset(images, labels), most=90, whole=False)
    assert len(found) == 90
    assert np.bincount(found.labels).min() > 15
    numbers = found.images[:, 0, 0, 0]
    assert (np.diff(numbers) > 0).all()  # in the order of the set, each once
    np.testing.assert_array_equal(labels[numbers.astype(int)], found.labels)


def test_images_beyond_the_memory_lie_in_a_file(monkeypatch):
    monkeypatch.setattr(given, "_IN_MEMORY", 4_000)
    found, _ = split(dataset())
    assert isinstance(found.images, np.memmap)
    np.testing.assert_array_equal(found.images, SCALED)
    np.testing.assert_array_equal(found.take(np.array([49, 3])).images, SCALED[[49, 3]])


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_known_preprocessing_is_recognised(name, channels):
    pixels = PIXELS[..., :channels]
    prepared = np.asarray(PREPROCESSINGS[name].apply(tf.constant(pixels)))
    found = given.recognised(prepared)
    if channels == 3 or name not in ("vgg", "caffe", "densenet"):  # their greys are one
        assert found == PREPROCESSINGS[name]
    np.testing.assert_allclose(given.pixels_of(prepared, found), pixels, atol=0.01)


@pytest.mark.parametrize(
    "images", [np.random.default_rng(0).normal(size=(9, 4, 4, 3)), np.ones((9, 16)), SCALED * 0.9], ids=str
)
def test_other_values_are_taken_as_they_are(images):
    assert given.recognised(images.astype(np.float32)) is None


def test_another_preprocessing_starts_from_the_pixels():
    one = given.given_set(split((SCALED, LABELS))[0], 64, None)
    assert (one.preprocessing.name, one.has_pixels) == ("unit", True)
    ((images, _, _),) = one.through(PREPROCESSINGS["inception"]).batches()
    np.testing.assert_allclose(images, PIXELS / 127.5 - 1, atol=1e-6)
    unknown = given.given_set(split((SCALED * 0.9, LABELS))[0], 64, None)
    assert (unknown.preprocessing.name, unknown.has_pixels) == ("as given", False)


@pytest.mark.parametrize("preprocess", ["inception", lambda pixels: pixels / 127.5 - 1], ids=["name", "function"])
def test_pixels_go_through_what_the_caller_names(preprocess):
    one = given.given_set(split((PIXELS.astype(np.float32), LABELS))[0], 64, preprocess)
    ((images, labels, counted),) = one.batches()
    np.testing.assert_allclose(images, PIXELS / 127.5 - 1, atol=1e-6)
    assert counted.all()
    np.testing.assert_array_equal(labels, LABELS)


def test_a_folder_is_read_as_keras_reads_it(tmp_path):
    for name, grey in (("ants", 0), ("bees", 200)):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 6), (grey, grey, number)).save(tmp_path / name / f"{number}.png")
    found, _ = given.given_split(given.folder_set(tmp_path, (6, 8, 3)), what="it", outputs=2, most=9, whole=True)
    np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], [0, 0, 0, 200, 200, 200])
    with pytest.raises(FinetuneError, match="expected a folder of images for each class"):
        given.folder_set(tmp_path / "ants" / "none", (6, 8, 3))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: dataset().repeat(), "repeats without end: leave out .repeat()"),
        (lambda: dataset().unbatch(), "the test set is not batched: its images are [4, 5, 3]; give data.batch(64)"),
        (
            lambda: dataset().map(lambda x, y: {"image": x, "label": y}),
            "dictionaries of image, label: expected batches",
        ),
        (lambda: dataset().map(lambda x, y: ({"a": x}, y)), "its images are a dict: expected one array"),
        (lambda: dataset().map(lambda x, y: x), "its elements are ndarray: expected batches (images, labels)"),
        (lambda: dataset().take(0), "the test set is empty"),
        (lambda: (SCALED, LABELS[:9]), "50 images and 9 labels"),
        (lambda: (SCALED, LABELS + 1), "labels from 1 to 3: expected 0 to 2, for the model's 3 classes"),
        (lambda: (SCALED, LABELS / 2), "expected 0 to 2"),
        (
            lambda: (SCALED, np.ones((50, 4))),
            "labels are [50, 4]: expected 3 an image, one for each output of the model",
        ),
        (lambda: (SCALED, np.full((50, 3), 1 / 3)), "not all 0 or 1: expected one class for each image"),
        (lambda: (SCALED, LABELS.astype(str)), "expected numbers of classes, 0 to 2"),
        (lambda: {"x": SCALED}, "the test set is a dict: expected a pair of arrays"),
        (lambda: 3, "the test set is a int: expected a pair of arrays"),
        (lambda: iter([(SCALED[:9], LABELS[:9]), (SCALED[:9, 1:], LABELS[:9])]), "expected images of one size"),
    ],
)
def test_other_data_gets_one_error(data, said):
    with pytest.raises(FinetuneError) as caught:
        split(data())
    assert said in str(caught.value)
