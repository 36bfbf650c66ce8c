"""Lists of images to leave out: what they name, and what is said where they are of other data."""

import numpy as np
import pytest

from finetune.config import RunConfig
from finetune.data.exclusion import pixel_digest, read_exclusion, written
from finetune.data.load_data import load_data, load_whole
from finetune.errors import FinetuneError, WrongUse
from tests.support.written_photos import write_splits


def listing(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def arrays(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "some.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (30, 8, 8, 3), np.uint8),
        y_train=np.arange(30) % 3,
        x_test=rng.integers(0, 256, (9, 8, 8, 3), np.uint8),
        y_test=np.arange(9) % 3,
    )
    return RunConfig("", data=str(path), validation=0.0)


def with_list(config, path):
    return RunConfig(**{**config.to_json(), "exclude": path})


def test_the_others_stay_in_their_order(arrays, tmp_path):
    whole = load_data(arrays)
    path = listing(tmp_path / "l.txt", "# a comment", "", "train/4\tblurred", "test/0", "train/29")
    found = load_data(with_list(arrays, path))
    assert np.array_equal(found.train.images, np.delete(whole.train.images, [4, 29], axis=0))
    assert np.array_equal(found.test.labels, whole.test.labels[1:])
    assert found.remarks[-1] == f"3 of 39 images are left out (--exclude {path})"
    assert found.fingerprint() != whole.fingerprint()
    same = load_data(with_list(arrays, listing(tmp_path / "m.txt", "test/0", "train/29", "train/4")))
    assert same.excluded == found.excluded is not None
    assert whole.excluded is None


def test_a_list_of_other_pixels_is_refused(arrays, tmp_path):
    right = pixel_digest(load_whole(arrays).train.images[4]).hex()
    load_data(with_list(arrays, listing(tmp_path / "right.txt", f"train/4\tflat\t{right}")))
    wrong = listing(tmp_path / "wrong.txt", f"train/5\tflat\t{right}")
    with pytest.raises(FinetuneError, match=r"train/5 is another image than it was: .*--seed or --test"):
        load_data(with_list(arrays, wrong))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["train/30"], "train/30 is not there: 30 images are: the list was made for other data"),
        (["roses/1.jpg"], "none of its 1 images is in .*such as roses/1.jpg: it is the list of other data"),
        ([f"train/{3 * number}" for number in range(10)], "no training images of class 0"),
        ([f"test/{number}" for number in range(9)], "has no test images"),
    ],
)
def test_lists_that_do_not_fit(arrays, tmp_path, lines, said):
    with pytest.raises(FinetuneError, match=said):
        load_data(with_list(arrays, listing(tmp_path / "l.txt", *lines)))


def test_files_that_are_no_list(arrays, tmp_path):
    with pytest.raises(WrongUse, match=r"there is no such file; 'finetune data check --out' writes one"):
        load_data(with_list(arrays, str(tmp_path / "missing.txt")))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FinetuneError, match="expected a text file"):
        load_data(with_list(arrays, str(tmp_path / "binary")))


def test_a_listed_photo_may_be_damaged(tmp_path):
    folder = write_splits(tmp_path / "data", train=4, test=2)
    (folder / "train" / "newt" / "#broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    config = RunConfig("", data=str(folder), validation=0.0)
    with pytest.raises(FinetuneError, match="1 of 19 images cannot be used"):
        load_data(config)
    text = written([("train/newt/#broken.jpg", "unreadable", "", True), ("train/lion/001.jpg", "dark", "", False)])
    (tmp_path / "l.txt").write_text(text)
    found = load_data(with_list(config, str(tmp_path / "l.txt")))
    assert (len(found.train), len(found.test)) == (12, 6)
    assert found.remarks[-1].startswith("1 of 19 images are left out")
    assert not found.skipped


def test_names_that_begin_as_a_comment_does(tmp_path):
    lines = [("# odd.jpg", "flat", "", True), ("#2.jpg", "flat", "", False), ("plain.jpg", "", "", True)]
    (tmp_path / "l.txt").write_text(written(lines))
    assert list(read_exclusion(tmp_path / "l.txt").names) == ["# odd.jpg", "plain.jpg"]
