"""Images in an .npz."""

import zipfile

import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, WrongUse

RNG = np.random.default_rng(0)
X, XT = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8), RNG.integers(0, 256, (6, 8, 8, 3), np.uint8)
X[0, 0, 0], XT[0, 0, 0] = 255, 0
Y, YT = np.arange(12) % 3, np.arange(6) % 3


def load(path, *, on_scan=None, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}), on_scan=on_scan)


def save(tmp_path, compressed=False, **arrays):
    path = tmp_path / "some.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


FULL = {"x_train": X, "y_train": Y, "x_test": XT, "y_test": YT}


@pytest.mark.parametrize("compressed", [False, True])
def test_the_arrays_are_the_data(compressed, tmp_path):
    names = np.array(["lion", "newt", "größe"])
    dataset = load(
        save(tmp_path, compressed, **FULL, x_val=XT, y_val=YT, class_names=names, other=np.zeros(3)), validation=0.1
    )
    np.testing.assert_array_equal(dataset.train.images, X)
    np.testing.assert_array_equal(dataset.train.labels, Y)
    np.testing.assert_array_equal(dataset.validation.images, XT)
    np.testing.assert_array_equal(dataset.test.images, XT)
    assert dataset.class_names == ("lion", "newt", "größe")
    assert (dataset.name, dataset.remarks) == ("some", ())
    base = dataset.train.images
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) == (not compressed)


def test_numbers_are_names_where_there_are_none_and_a_test_set_is_held_out(tmp_path):
    dataset = load(save(tmp_path, x_train=X, y_train=Y[:, None].astype(np.uint8)), test=0.25)
    assert dataset.class_names == ("0", "1", "2")
    assert (len(dataset.train), len(dataset.test)) == (9, 3)
    assert "held out as the test set" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda x: (x / 255).astype(np.float32), "float32 images are converted to uint8, times 255"),
        (lambda x: x / 255.0, "float64 images are converted to uint8, times 255"),
        (lambda x: x.astype(np.float32), "float32 images are converted to uint8, times 1"),
        (lambda x: x.astype(np.int64), "int64 images are converted to uint8, times 1"),
        (lambda x: (x / 255).astype(np.float16), "float16 images are converted to uint8, times 255"),
    ],
)
def test_other_numbers_are_made_uint8_and_it_is_said(change, remark, tmp_path):
    dataset = load(save(tmp_path, x_train=change(X), y_train=Y, x_test=change(XT), y_test=YT))
    np.testing.assert_array_equal(dataset.train.images, X)
    np.testing.assert_array_equal(dataset.test.images, XT)
    assert dataset.remarks == (remark,)


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 8, 8, 1)])
def test_grey_is_taken_three_times(shape, tmp_path):
    grey = X[..., 0].reshape(shape)
    dataset = load(save(tmp_path, x_train=grey, y_train=Y, x_test=XT[..., 0].reshape(6, *shape[1:]), y_test=YT))
    np.testing.assert_array_equal(dataset.train.images, np.repeat(X[..., :1], 3, axis=3))
    np.testing.assert_array_equal(dataset.train.take(np.array([3, 1])).images, np.repeat(X[[3, 1]][..., :1], 3, axis=3))


def test_of_images_that_are_not_square_the_centre_is_taken(tmp_path):
    wide = np.concatenate([X, X], axis=2)
    dataset = load(save(tmp_path, x_train=wide, y_train=Y))
    assert dataset.train.images.shape[1:] == (8, 8, 3)
    assert "the centre square of images of 16 x 8 px is taken" in dataset.remarks[0]


BAD = [
    ({"a": X}, "some.npz holds a: expected x_train, y_train"),
    ({"x_train": X, "y_train": Y, "x_test": XT}, "holds x_test without y_test: add it"),
    (
        {**FULL, "x_train": X.transpose(0, 3, 1, 2)},
        r"x_train has the shape \[12, 3, 8, 8\].*images.transpose\(0, 2, 3, 1\)",
    ),
    ({**FULL, "x_train": X.reshape(12, -1)}, r"x_train has the shape \[12, 192\]: expected \[n, height, width, 3\]"),
    (
        {**FULL, "x_train": X - 300.0},
        r"x_train has pixels from -300 to -45: expected \[0, 1\] or \[0, 255\], the same in all",
    ),
    ({**FULL, "x_train": X / 127.5 - 1}, r"x_train has pixels from -1 to 1: expected \[0, 1\] or"),
    ({**FULL, "x_train": X * 1000.0}, "x_train has pixels from 0 to"),
    ({**FULL, "x_train": np.full(X.shape, np.nan)}, "x_train has pixels from nan"),
    ({**FULL, "x_train": X.astype(np.complex64)}, "x_train is of complex64: expected uint8"),
    ({**FULL, "x_train": X.astype(object)}, "x_train holds Python objects, which are never unpickled"),
    ({**FULL, "class_names": np.array(["a", "b", None])}, "class_names holds Python objects"),
    ({**FULL, "class_names": np.array([1, 2, 3])}, "class_names is int64 .*: expected a list of text"),
    ({**FULL, "class_names": np.array(["a", "b"])}, "has training label 2: expected 0 to 1, for its 2 classes"),
    ({**FULL, "y_train": np.eye(3)[Y]}, r"y_train is float64 \[12, 3\]: .*; of one-hot rows give labels.argmax\(1\)"),
    ({**FULL, "y_train": Y[:-1]}, "y_train has 11 labels for 12 images"),
    ({**FULL, "y_train": Y - 1}, "has training label -1"),
    ({**FULL, "y_train": Y * 0, "y_test": YT * 0}, "has one class only, 0: expected two or more"),
    ({**FULL, "y_train": Y * 2}, r"no training images of class 1 \(1\)"),
    ({**FULL, "x_test": XT[:, :4, :4]}, r"the images have \[4, 4, 3\] in x_test, \[8, 8, 3\] in x_train"),
    ({**FULL, "x_test": XT[:0], "y_test": YT[:0]}, "x_test holds no image"),
]


@pytest.mark.parametrize(("arrays", "said"), BAD)
def test_arrays_that_do_not_fit(arrays, said, tmp_path):
    with pytest.raises(FinetuneError, match=said):
        load(save(tmp_path, **arrays))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file(compressed, tmp_path):
    path = save(tmp_path, compressed, **FULL)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FinetuneError, match=r"some.npz is no .npz, or damaged"):
        load(path)
    path.write_text("text")
    with pytest.raises(FinetuneError, match=r"some.npz is no .npz, or damaged"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\x01\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (9,)}")
        archive.writestr("y_train.npy", b"what")
    with pytest.raises(FinetuneError, match=r"some.npz: x_train is damaged"):
        load(path)
    with pytest.raises(WrongUse, match=r"there is nothing of that name|is missing") as caught:
        load(tmp_path / "none" / "x")
    assert caught.value.exit_code == 2
    with pytest.raises(FinetuneError, match=r"gone.npz is missing"):
        load(tmp_path / "gone.npz")
