"""MNIST's files, real ones where they are, and written ones."""

import gzip
import struct

import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.data.sources import idx
from finetune.errors import FinetuneError
from tests.support.places import SHARED

RNG = np.random.default_rng(0)
REAL = SHARED / "data/mnist"
SPLITS = {
    "train": (RNG.integers(0, 256, (30, 28, 28), np.uint8), np.arange(30) % 10),
    "t10k": (RNG.integers(0, 256, (20, 28, 28), np.uint8), np.arange(20) % 10),
}


def write(place, *, end="", dot=False):
    """The four files, as LeCun describes them."""
    place.mkdir(parents=True, exist_ok=True)
    for split, arrays in SPLITS.items():
        for kind, array in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), arrays, strict=True):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            content = header + array.astype(np.uint8).tobytes()
            name = f"{split}-{kind.replace('-idx', '.idx') if dot else kind}{end}"
            (place / name).write_bytes(gzip.compress(content, 1) if end else content)
    return place


def load(place, data="mnist"):
    return load_data(RunConfig("any", data=data, data_dir=str(place), validation=0.0))


def check(dataset):
    for split, (images, labels) in ((dataset.train, SPLITS["train"]), (dataset.test, SPLITS["t10k"])):
        np.testing.assert_array_equal(split.images[..., 0], images)
        np.testing.assert_array_equal(split.labels, labels)


@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
@pytest.mark.parametrize(("end", "dot"), [("", False), (".gz", False), ("", True)])
def test_the_files_are_read_however_they_are_spelt(folder, end, dot, tmp_path):
    write(tmp_path / folder, end=end, dot=dot)
    dataset = load(tmp_path)
    check(dataset)
    assert (dataset.name, dataset.class_names) == ("mnist", tuple("0123456789"))


def test_a_folder_of_the_four_files_is_known_for_what_it_is(tmp_path):
    for folder, name in (("MNIST/raw", "mnist"), ("fashion-mnist", "fashion_mnist")):
        dataset = load_data(RunConfig("any", data=str(write(tmp_path / folder, end=".gz")), validation=0.0))
        check(dataset)
        assert dataset.name == name


def test_the_npz_of_keras_and_the_names_of_fashion_mnist(tmp_path):
    (x_train, y_train), (x_test, y_test) = SPLITS.values()
    np.savez_compressed(tmp_path / "mnist.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    check(load(tmp_path))
    check(load(tmp_path / "mnist.npz"))
    fashion = load(write(tmp_path / "fashion"), "fashion_mnist")
    assert (fashion.name, fashion.class_names[0], fashion.class_names[9]) == (
        "fashion_mnist",
        "T-shirt/top",
        "Ankle boot",
    )


@pytest.mark.skipif(not REAL.is_dir(), reason=f"MNIST's own test images are not in {REAL}")
def test_the_published_test_images(tmp_path):
    for file in REAL.iterdir():
        for split in ("train", "t10k"):
            (tmp_path / file.name.replace("t10k", split)).symlink_to(file)
    dataset = load(tmp_path)
    content = gzip.decompress((REAL / "t10k-images-idx3-ubyte.gz").read_bytes())
    np.testing.assert_array_equal(
        dataset.test.images[..., 0], np.frombuffer(content[16:], np.uint8).reshape(-1, 28, 28)
    )
    # The counts that LeCun gives for the test digits, and the first five.
    assert np.bincount(dataset.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:7])


def labels_for_images(path):
    path.write_bytes((path.parent / "t10k-labels-idx1-ubyte").read_bytes())


def other(path):
    path.write_bytes(b"text")


def short_gzip(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut, "is no idx file .* 00000803 and has 23535 bytes, expected 00000803 and 23536; fetch it again"),
        (cut_in_the_header, "is no idx file .* begins with 00000803 and has 7 bytes"),
        (labels_for_images, "is no idx file of bytes in 3 dimensions, .* begins with 00000801"),
        (other, "begins with 74657874 and has 4 bytes"),
        (short_gzip, "train-images-idx3-ubyte cannot be read .*: it is damaged; fetch it again"),
        (
            lambda path: path.unlink(),
            "has train-labels-idx1-ubyte, .* but no train-images-idx3-ubyte: expected all four",
        ),
    ],
)
def test_damaged_files(change, said, tmp_path):
    change(write(tmp_path) / "train-images-idx3-ubyte")
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path)


def test_files_that_do_not_belong_together_or_are_not_there(tmp_path):
    with pytest.raises(
        FinetuneError, match=r"holds no files of mnist: expected train-images-idx3-ubyte, .*leave it out"
    ):
        load(tmp_path)
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes((tmp_path / "t10k-labels-idx1-ubyte").read_bytes())
    with pytest.raises(FinetuneError, match="has 20 labels for the 30 images of train-images-idx3-ubyte"):
        load(tmp_path)


def test_without_a_folder_the_published_files_are_fetched(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, *, md5, into, progress, instead):
        fetched.append((url.rpartition("/")[2], md5))
        write(into)

    monkeypatch.setattr(idx, "fetch", fetch)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path))
    check(load_data(RunConfig("any", data="mnist", validation=0.0)))
    assert fetched[3] == ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c")
