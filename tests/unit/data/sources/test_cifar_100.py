"""CIFAR-100 in its published layouts, by fine and by coarse labels."""

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

FINE, COARSE = tuple(f"fine{n:02d}" for n in range(100)), tuple(f"coarse{n:02d}" for n in range(20))


def batch(number):
    """100 images, each of another class; the coarse label is a fifth of the fine one."""
    pixels = np.random.default_rng([8, number]).integers(0, 256, (100, 3072), np.uint8)
    fine = np.random.default_rng([9, number]).permutation(100)
    return pixels, fine, fine // 5


def write_pickled(place):
    folder = place / "cifar-100-python"
    folder.mkdir(parents=True)
    for number, name in enumerate(("test", "train")):
        pixels, fine, coarse = batch(number)
        content = {b"data": pixels, b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist(), b"filenames": []}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {f"{kind}_label_names": [n.encode() for n in names] for kind, names in (("fine", FINE), ("coarse", COARSE))}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def write_binary(place):
    folder = place / "cifar-100-binary"
    folder.mkdir(parents=True)
    for number, name in enumerate(("test.bin", "train.bin")):
        pixels, fine, coarse = batch(number)
        records = np.concatenate([np.stack([coarse, fine], 1).astype(np.uint8), pixels], axis=1)
        (folder / name).write_bytes(records.tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(FINE) + "\n")
    (folder / "coarse_label_names.txt").write_text("\n".join(COARSE) + "\n")
    return folder


LAYOUTS = {"cifar-100-python": write_pickled, "cifar-100-binary": write_binary}


def load(place, name="cifar100"):
    return load_data(RunConfig("any", data=name, data_dir=place and str(place), validation=0.0))


def check(dataset, fine=True):
    for number, split in enumerate((dataset.test, dataset.train)):
        pixels, own, coarse = batch(number)
        np.testing.assert_array_equal(split.images, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(split.labels, own if fine else coarse)
    assert dataset.class_names == (FINE if fine else COARSE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folder_archive_and_both_kinds_of_labels(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    folder = LAYOUTS[layout](tmp_path / "data")
    check(load(tmp_path / "data"))
    check(load(folder))
    check(load(folder, "cifar100-coarse"), fine=False)
    archive = written.write_archive(tmp_path / "packed", folder, f"{layout}.tar.gz")
    check(load(archive))
    check(load(tmp_path / "packed", "cifar100-coarse"), fine=False)


def test_without_names_or_labels_it_is_an_error(tmp_path):
    folder = write_pickled(tmp_path)
    (folder / "meta").unlink()
    with pytest.raises(FinetuneError, match="meta cannot be read"):
        load(tmp_path)
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": []}, protocol=2))
    with pytest.raises(FinetuneError, match="meta is no file of CIFAR: it has no 'fine_label_names'"):
        load(tmp_path)
    shutil.rmtree(folder)
    write_pickled(tmp_path)
    (folder / "train").write_bytes(pickle.dumps({b"data": batch(1)[0], b"labels": [0] * 100}, protocol=2))
    with pytest.raises(FinetuneError, match=r"its 'fine_labels' are float64 \[0\], expected 100 whole numbers"):
        load(tmp_path)


def test_a_pickle_that_asks_to_run_something_is_refused(tmp_path):
    folder = write_pickled(tmp_path)
    (folder / "train").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(FinetuneError, match=r"refused: .*train asks to run .*system"):
        load(tmp_path)


def test_a_folder_of_cifar10_is_no_cifar100(tmp_path):
    written.write_pickled(tmp_path)
    with pytest.raises(
        FinetuneError, match=r"holds no CIFAR-100: expected cifar-100-python/ .* found cifar-10-batches-py"
    ):
        load(tmp_path)


def test_it_is_fetched_from_where_it_is_published(tmp_path, monkeypatch, loopback):
    archive = written.write_archive(tmp_path / "site", write_pickled(tmp_path / "made"), "made.tar.gz")
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    assert cifar.MD5["CIFAR-100"] == "eb9058c3a382ffc7106e4002c42a8d85"
    monkeypatch.setitem(cifar.MD5, "CIFAR-100", md5)
    monkeypatch.setenv("FINETUNE_MIRROR", loopback.address)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "cache"))
    loopback.files["/~kriz/cifar-100-python.tar.gz"] = archive.read_bytes()
    check(load(None))
    check(load(None, "cifar100-coarse"), fine=False)
    assert loopback.requests == ["/~kriz/cifar-100-python.tar.gz"]
