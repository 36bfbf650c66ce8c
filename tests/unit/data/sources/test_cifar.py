"""CIFAR-10 in its published layouts."""

import hashlib
import pickle
import shutil

import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.data.sources import cifar
from finetune.errors import FinetuneError
from tests.support import written_cifar as written
from tests.support.places import SHARED

DATA = SHARED / "data"

LAYOUTS = {"pickled": written.write_pickled, "binary": written.write_binary}
ARCHIVES = {"pickled": "cifar-10-python.tar.gz", "binary": "cifar-10-binary.tar.gz"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FINETUNE_MIRROR", raising=False)
    return tmp_path / "cache"


def check(dataset):
    assert dataset.class_names == written.NAMES
    np.testing.assert_array_equal(dataset.train.images, np.concatenate([written.images(n) for n in range(1, 6)]))
    np.testing.assert_array_equal(dataset.train.labels, np.arange(100) % 10)
    np.testing.assert_array_equal(dataset.test.images, written.images(0))
    assert dataset.validation is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_that_holds_the_batches_or_is_theirs(layout, tmp_path):
    folder = LAYOUTS[layout](tmp_path / "data")
    check(cifar.read_cifar("cifar10", tmp_path / "data"))
    check(cifar.read_cifar("cifar10", folder))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_archive_is_unpacked_in_the_cache_only(layout, tmp_path, cache):
    archive = written.write_archive(tmp_path / "data", LAYOUTS[layout](tmp_path), ARCHIVES[layout])
    check(cifar.read_cifar("cifar10", tmp_path / "data"))
    check(cifar.read_cifar("cifar10", archive))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [ARCHIVES[layout]]
    assert cache.is_dir()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_path_alone_is_known_for_what_it_is(layout, tmp_path):
    folder = LAYOUTS[layout](tmp_path / "data")
    archive = written.write_archive(tmp_path / "other", folder, ARCHIVES[layout])
    for path in (folder, folder.parent, archive):
        dataset = load_data(RunConfig("any", data=str(path), validation=0.0))
        check(dataset)
        assert dataset.name == "cifar10"
    (tmp_path / "data" / "photos").mkdir()
    assert cifar.cifar_at(tmp_path / "data") is None  # with other folders beside it, it is not certain what is meant


@pytest.mark.parametrize("layout", LAYOUTS)
def test_source_says_which_batches_were_read(layout, tmp_path):
    folder = LAYOUTS[layout](tmp_path, training=(1, 4))
    dataset = cifar.read_cifar("cifar10", tmp_path)
    end = "" if layout == "pickled" else ".bin"
    assert dataset.source == f"{folder}: data_batch_1{end}, data_batch_4{end} (2 of 5), test_batch{end}"
    assert len(dataset.train) == 40


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_batches_are_errors(layout, tmp_path):
    LAYOUTS[layout](tmp_path / "a", test=False)
    with pytest.raises(FinetuneError, match=r"has no test_batch.*unpack cifar-10-.*again"):
        cifar.read_cifar("cifar10", tmp_path / "a")
    LAYOUTS[layout](tmp_path / "b", training=())
    with pytest.raises(FinetuneError, match=r"has no training batch: expected at least one of data_batch_1"):
        cifar.read_cifar("cifar10", tmp_path / "b")


def test_a_wrong_folder_is_told_what_was_expected_and_what_is_there(tmp_path):
    with pytest.raises(FinetuneError, match=r"expected cifar-10-batches-py/ or .* in it, but it is empty"):
        cifar.read_cifar("cifar10", tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FinetuneError, match=r"found notes.txt"):
        cifar.read_cifar("cifar10", tmp_path)
    with pytest.raises(FinetuneError, match=r"nowhere holds no CIFAR-10.*it does not exist"):
        cifar.read_cifar("cifar10", tmp_path / "nowhere")
    with pytest.raises(FinetuneError, match=r"notes.txt holds no CIFAR-10.*it is a file"):
        cifar.read_cifar("cifar10", tmp_path / "notes.txt")


def test_a_class_without_training_images_is_an_error(tmp_path):
    folder = written.write_pickled(tmp_path, training=(1,))
    pixels, labels = written.batch(1)
    labels[labels == 9] = 0
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": pixels, "labels": labels.tolist()}, protocol=2))
    with pytest.raises(FinetuneError, match=r"has no training images of class 9 \(truck\): expected some of each"):
        cifar.read_cifar("cifar10", tmp_path)


def test_a_label_without_a_class_is_an_error(tmp_path):
    folder = written.write_binary(tmp_path)
    (folder / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(FinetuneError, match=r"has test label 10: expected 0 to 9"):
        cifar.read_cifar("cifar10", tmp_path)


PIXELS, LABELS = written.batch(1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"data": PIXELS}, r"its 'labels' are float64 \[0\], expected 20 whole numbers"),
        ({"labels": [1]}, r"its 'data' is NoneType, expected uint8 \[n, 3072\]"),
        ({"data": PIXELS.astype(np.int64), "labels": LABELS.tolist()}, r"its 'data' is int64 \[20, 3072\]"),
        ({"data": PIXELS[:, :100], "labels": LABELS.tolist()}, r"uint8 \[20, 100\]"),
        ({"data": PIXELS, "labels": LABELS.tolist()[:-1]}, r"'labels' are int64 \[19\]"),
        ({"data": PIXELS, "labels": [0.5] * 20}, r"'labels' are float64"),
    ],
)
def test_a_pickle_that_is_no_batch_is_an_error(content, said, tmp_path):
    folder = written.write_pickled(tmp_path, training=(1,))
    (folder / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(FinetuneError, match=f"data_batch_1 is no file of CIFAR: .*{said}"):
        cifar.read_cifar("cifar10", tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_that_is_cut_off_is_an_error(layout, tmp_path):
    folder = LAYOUTS[layout](tmp_path)
    path = next(folder.glob("test_batch*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FinetuneError, match=r"test_batch.*(damaged|no file of CIFAR).*(download|unpack)"):
        cifar.read_cifar("cifar10", tmp_path)


def test_names_come_from_the_files_where_there_are_any(tmp_path):
    folder = written.write_binary(tmp_path)
    names = [f"kind{number}" for number in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names))
    assert cifar.read_cifar("cifar10", tmp_path).class_names == tuple(names)
    (folder / "batches.meta.txt").unlink()
    assert cifar.read_cifar("cifar10", tmp_path).class_names == written.NAMES


def test_the_real_files_are_read():
    if not (DATA / "cifar-10-batches-py").is_dir():
        pytest.skip("the real CIFAR-10 batches are not beside the project (../shared/data)")
    dataset = cifar.read_cifar("cifar10", DATA)
    assert "(2 of 5)" in dataset.source
    assert (dataset.train.images.shape, dataset.test.images.shape) == ((20_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert dataset.class_names == written.NAMES
    # The first images of the official training batch are a frog and a truck.
    assert [dataset.class_names[label] for label in dataset.train.labels[:2]] == ["frog", "truck"]
    assert dataset.train.images[0, 0, :2].tolist() == [[59, 62, 63], [43, 46, 45]]


@pytest.fixture
def published(tmp_path, monkeypatch, loopback):
    """The archive behind a mirror, under the path it is published at; returns its bytes."""
    archive = written.write_archive(tmp_path / "site", written.write_pickled(tmp_path / "made"), "made.tar.gz")
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setitem(cifar.MD5, "CIFAR-10", md5)
    monkeypatch.setenv("FINETUNE_MIRROR", loopback.address)
    loopback.files["/~kriz/cifar-10-python.tar.gz"] = archive.read_bytes()
    return archive.read_bytes()


def test_without_a_folder_it_is_fetched_once(published, loopback, cache):
    told = []
    check(cifar.read_cifar("cifar10", None, progress=lambda done, total: told.append((done, total))))
    assert told[-1] == (len(published), len(published))
    check(cifar.read_cifar("cifar10", None))
    assert loopback.requests == ["/~kriz/cifar-10-python.tar.gz"]
    assert (cache / "data" / "cifar-10-python.tar.gz").is_file()


def test_a_folder_in_the_cache_is_found_before_anything_is_fetched(tmp_path, cache, loopback, monkeypatch):
    monkeypatch.setenv("FINETUNE_MIRROR", loopback.address)
    shutil.move(written.write_pickled(tmp_path / "made"), cache / "data" / "cifar-10-batches-py")
    check(cifar.read_cifar("cifar10", None))
    assert loopback.requests == []


def test_what_cannot_be_fetched_can_be_brought(cache, loopback, monkeypatch):
    from checkpoints.errors import CheckpointError

    monkeypatch.setenv("FINETUNE_MIRROR", loopback.address)
    with pytest.raises(CheckpointError) as caught:
        cifar.read_cifar("cifar10", None)
    assert f"Put the file at {cache / 'data' / 'cifar-10-python.tar.gz'}" in str(caught.value)
    assert "--data-dir PATH" in str(caught.value)
