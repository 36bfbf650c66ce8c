"""Arrays in other files than NumPy's: HDF5, MATLAB's and pickled ones, with the values that were written."""

import pickle

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from finetune.errors import UserError
from tests.unit.data.sources.test_arrays import load

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
LABELS = np.arange(12) % 2


def check(dataset, names=("0", "1")):
    """All images are there, each with its label."""
    images = np.concatenate([dataset.train.images[:], dataset.test.images[:]])
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    order = [int(np.flatnonzero((one == IMAGES).all(axis=(1, 2, 3)))[0]) for one in images]
    assert sorted(order) == list(range(12))
    assert labels.tolist() == LABELS[order].tolist()
    assert dataset.class_names == names


def write_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def test_hdf5(tmp_path):
    names = np.array([b"non-cat", b"cat"])
    write_hdf5(tmp_path / "cats.h5", train_set_x=IMAGES, train_set_y=LABELS, list_classes=names)
    check(load(tmp_path / "cats.h5", test=0.25), ("non-cat", "cat"))
    with h5py.File(tmp_path / "groups.hdf5", "w") as file:
        file["train/images"], file["train/labels"] = IMAGES[:8], LABELS[:8]
        file.create_dataset("test/images", data=IMAGES[8:], compression="gzip", chunks=(1, 8, 8, 3))
        file["test/labels"] = LABELS[8:]
    dataset = load(tmp_path / "groups.hdf5")
    check(dataset)
    assert len(dataset.test) == 4


def test_a_folder_of_hdf5_files_with_an_array_each(tmp_path):
    folder = tmp_path / "pcam"
    folder.mkdir()
    for split, part in (("train", slice(0, 8)), ("test", slice(8, 12))):
        write_hdf5(folder / f"level_2_split_{split}_x.h5", x=IMAGES[part])
        write_hdf5(folder / f"level_2_split_{split}_y.h5", y=LABELS[part].reshape(-1, 1, 1, 1))
    check(load(folder))


def test_matlab_has_the_images_along_the_last_axis(tmp_path):
    folder = tmp_path / "svhn"
    folder.mkdir()
    for split, part in (("train", slice(0, 8)), ("test", slice(8, 12))):
        savemat(folder / f"{split}_32x32.mat", {"X": np.moveaxis(IMAGES[part], 0, -1), "y": LABELS[part][:, None] + 1})
    check(load(folder), ("1", "2"))
    write_hdf5(tmp_path / "new.mat", X=IMAGES.transpose(0, 3, 2, 1), y=LABELS[None, :])  # MATLAB 7.3
    content = (tmp_path / "new.mat").read_bytes()
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + content)
    check(load(tmp_path / "new.mat", test=0.25))


def test_pickled_dicts(tmp_path):
    signs = {"sizes": np.zeros((12, 2)), "features": IMAGES, "labels": LABELS}
    (tmp_path / "train.p").write_bytes(pickle.dumps(signs))
    check(load(tmp_path / "train.p", test=0.25))
    words = {"images": IMAGES, "labels": [("cat", "dog")[label] for label in LABELS]}
    (tmp_path / "words.pkl").write_bytes(pickle.dumps(words, protocol=2))
    check(load(tmp_path / "words.pkl", test=0.25), ("cat", "dog"))


class Harmful:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("model.h5", lambda path: write_hdf5(path, model_weights=IMAGES), "holds a Keras model, not images"),
        ("cut.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "is damaged or was cut off"),
        ("cut.mat", lambda path: path.write_bytes(b"MATLAB 5.0" + bytes(90)), "is no .mat file, or damaged"),
        ("bad.pkl", lambda path: path.write_bytes(pickle.dumps({"x": Harmful()})), "asks to run builtins.print"),
        ("cut.pkl", lambda path: path.write_bytes(pickle.dumps({"x": IMAGES})[:-9]), "damaged: .*with np.savez"),
        ("list.pkl", lambda path: path.write_bytes(pickle.dumps([1, 2])), "it holds a list, not a dict"),
        ("other.h5", lambda path: write_hdf5(path, a=IMAGES, b=LABELS), "holds a, b: expected x_train and y_train"),
    ],
)  # fmt: skip
def test_what_is_no_data(name, write, said, tmp_path):
    write(tmp_path / name)
    with pytest.raises(UserError, match=said):
        load(tmp_path / name)
