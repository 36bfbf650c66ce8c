"""Test images that are training images are found, wherever the data lies."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.config import RunConfig
from finetune.data import overlap
from finetune.data.dataset import Dataset, Split
from finetune.data.load_data import load_data
from finetune.data.overlap import find_overlap
from tests.support import written_cifar
from tests.support.written_photos import CLASSES, encoded, photo, write_splits


def load(path, *, validation=0.0, data_dir=None):
    return load_data(RunConfig("any", data=str(path), data_dir=data_dir and str(data_dir), validation=validation))


def drawn(count, seed):
    return Split(np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count) % 2)


def with_pixels(split, number, pixels):
    images = split.images.copy()
    images[number] = pixels
    return replace(split, images=images)


@pytest.fixture
def arrays():
    return Dataset("some", ("a", "b"), drawn(600, 1), drawn(300, 2), drawn(400, 3), "some")


def test_arrays_that_share_nothing(arrays):
    assert find_overlap(arrays) is None


@pytest.mark.parametrize("number", [0, 255, 256, 399])
@pytest.mark.parametrize(("part", "twin"), [("train", 599), ("train", 0), ("validation", 299)])
def test_one_shared_array_is_found_wherever_it_lies(arrays, number, part, twin):
    shared = getattr(arrays, part).images[twin]
    found = find_overlap(replace(arrays, test=with_pixels(arrays.test, number, shared)))
    words = "training" if part == "train" else part
    assert found == overlap.Overlap(1, 400, (f"test image {number}", f"{words} image {twin}"))


def test_one_other_pixel_is_another_image(arrays):
    shared = arrays.train.images[5].copy()
    shared[7, 7, 2] ^= 1
    assert find_overlap(replace(arrays, test=with_pixels(arrays.test, 9, shared))) is None


def test_as_many_as_numpy_counts(arrays):
    test = arrays.test.images.copy()
    test[[3, 4, 77, 400 - 1]] = arrays.train.images[[10, 10, 500, 0]]
    expected = sum((arrays.train.images == one).all((1, 2, 3)).any() for one in test)
    found = find_overlap(replace(arrays, test=replace(arrays.test, images=test)))
    assert (found.found, expected) == (4, 4)
    assert "4 of 400 test images are among the training images too, such as test image 3" in str(found)


def test_npz(tmp_path):
    train, test = drawn(20, 1), drawn(10, 2)
    test = with_pixels(test, 6, train.images[11])
    np.savez(tmp_path / "a.npz", x_train=train.images, y_train=train.labels, x_test=test.images, y_test=test.labels)
    found = find_overlap(load(tmp_path / "a.npz"))
    assert found == overlap.Overlap(1, 10, ("test image 6", "training image 11"))


@pytest.mark.parametrize("validation", [0.0, 0.05])
def test_folder_names_both_files(tmp_path, validation):
    write_splits(tmp_path, train=4, test=3)
    assert find_overlap(load(tmp_path, validation=validation)) is None
    shutil.copy(tmp_path / "train/newt/002.jpg", tmp_path / "test/wasp/other.jpg")  # under another label as well
    found = find_overlap(load(tmp_path, validation=validation))
    assert found.found == 1
    assert found.example == (f"{tmp_path}/test/wasp/other.jpg", f"{tmp_path}/train/newt/002.jpg")


def test_a_folder_of_validation_images_is_looked_through(tmp_path):
    write_splits(tmp_path, train=4, val=2, test=3)
    shutil.copy(tmp_path / "val/lion/001.jpg", tmp_path / "test/lion/other.jpg")
    found = find_overlap(load(tmp_path, validation=0.05))
    assert found.example == (f"{tmp_path}/test/lion/other.jpg", f"{tmp_path}/val/lion/001.jpg")


def test_files_of_one_size_and_other_bytes_are_other_images(tmp_path):
    write_splits(tmp_path, train=2, test=2)
    for split, value in (("train", 10), ("test", 11)):
        image = Image.new("RGB", (40, 36), (value, 20, 30))
        (tmp_path / split / "lion" / "same_size.bmp").write_bytes(encoded(image, "BMP"))
    assert find_overlap(load(tmp_path)) is None


def record(image, label, name):
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    lists = tf.train.Int64List, tf.train.BytesList
    features = {
        "image/encoded": tf.train.Feature(bytes_list=lists[1](value=[stream.getvalue()])),
        "image/format": tf.train.Feature(bytes_list=lists[1](value=[b"jpeg"])),
        "image/class/label": tf.train.Feature(int64_list=lists[0](value=[label])),
        "image/filename": tf.train.Feature(bytes_list=lists[1](value=[name])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for one in records:
            writer.write(one)


def test_records_by_their_image_whatever_else_is_in_them(tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"{label}:{name}\n" for label, name in enumerate(CLASSES)))
    train = [record(photo(n % 3, seed=n), n % 3, b"%d.jpg" % n) for n in range(9)]
    test = [record(photo(n % 3, seed=50 + n), n % 3, b"%d.jpg" % n) for n in range(6)]
    write_records(tmp_path / "some_train_00000-of-00001.tfrecord", train)
    write_records(tmp_path / "some_validation_00000-of-00001.tfrecord", test)
    assert find_overlap(load(tmp_path)) is None
    test[4] = record(photo(1, seed=7), 1, b"a much longer name of the same picture.jpg")
    write_records(tmp_path / "some_validation_00000-of-00001.tfrecord", test)
    found = find_overlap(load(tmp_path))
    assert (found.found, found.looked_up) == (1, 6)
    assert found.example[0].endswith("some_validation_00000-of-00001.tfrecord record 4")
    assert found.example[1].endswith("some_train_00000-of-00001.tfrecord record 7")


def test_cifar(tmp_path, monkeypatch):
    folder = written_cifar.write_binary(tmp_path)
    assert find_overlap(load("cifar10", data_dir=folder)) is None
    content = bytearray((folder / "test_batch.bin").read_bytes())
    twin = (folder / "data_batch_3.bin").read_bytes()[5 * 3073 : 6 * 3073]
    content[2 * 3073 + 1 : 3 * 3073] = twin[1:]
    (folder / "test_batch.bin").write_bytes(content)
    assert find_overlap(load("cifar10", data_dir=folder)) == overlap.Overlap(
        1, 20, ("test image 2", "training image 45")
    )


def test_of_many_photos_some_are_looked_for_evenly(tmp_path, monkeypatch):
    write_splits(tmp_path, train=4, test=4)
    data = load(tmp_path)
    monkeypatch.setattr(overlap, "_LOOKED_UP", 5)
    both = replace(data, train=data.test)
    assert find_overlap(both).looked_up == find_overlap(both).found == 5
