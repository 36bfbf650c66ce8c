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
        base = getattr(base, "base", None)
    assert isinstance(base, np.memmap) == (not compressed)


def test_numbers_are_names_where_there_are_none_and_a_test_set_is_held_out(tmp_path):
    dataset = load(save(tmp_path, x_train=X, y_train=Y[:, None].astype(np.uint8)), test=0.25)
    assert dataset.class_names == ("0", "1", "2")
    assert (len(dataset.train), len(dataset.test)) == (9, 3)
    assert "held out as the test set" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (lambda x: (x / 255).astype(np.float32), "float32 images are converted to uint8, white being 1"),
        (lambda x: x / 255.0, "float64 images are converted to uint8, white being 1"),
        (lambda x: x.astype(np.float32), "float32 images are converted to uint8, white being 255"),
        (lambda x: x.astype(np.int64), "int64 images are converted to uint8, white being 255"),
        (lambda x: (x / 255).astype(np.float16), "float16 images are converted to uint8, white being 1"),
    ],
)
def test_other_numbers_are_made_uint8_and_it_is_said(change, remark, tmp_path):
    dataset = load(save(tmp_path, x_train=change(X), y_train=Y, x_test=change(XT), y_test=YT))
    np.testing.assert_array_equal(dataset.train.images, X)
    np.testing.assert_array_equal(dataset.test.images, XT)
    assert dataset.remarks == (remark,)


FORMS = {
    "X_train, Y_train": {"X_train": X, "Y_train": Y, "X_test": XT, "Y_test": YT},
    "medmnist": {"train_images": X, "train_labels": Y[:, None].astype(np.uint8), "val_images": XT,
                 "val_labels": YT[:, None], "test_images": XT, "test_labels": YT[:, None]},
    "positional": {"arr_0": X, "arr_1": Y, "arr_2": XT, "arr_3": YT},
    "as train_test_split": {"arr_0": X, "arr_1": XT, "arr_2": Y, "arr_3": YT},
    "train_x": {"train_x": X, "train_y": Y, "test_x": XT, "test_y": YT},
    "x, x_test": {"x": X, "y": Y, "x_test": XT, "y_test": YT},
    "one-hot": {"x_train": X, "y_train": np.eye(3)[Y], "x_test": XT, "y_test": np.eye(3, dtype=bool)[YT]},
    "float": {"x_train": X, "y_train": Y.astype(np.float32), "x_test": XT, "y_test": YT * 1.0},
    "channels first": {"x_train": np.moveaxis(X, 3, 1), "y_train": Y, "x_test": np.moveaxis(XT, 3, 1), "y_test": YT},
    "16 bits": {"x_train": X.astype(np.uint16) * 257, "y_train": Y, "x_test": XT.astype(np.uint16) * 257, "y_test": YT},
    "int32": {"x_train": X.astype(np.int32), "y_train": Y, "x_test": XT.astype(np.int32), "y_test": YT},
    "objects": {"x_train": np.array(list(X), object), "y_train": Y.astype(object), "x_test": XT, "y_test": YT},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_forms_that_people_write(form, tmp_path):
    dataset = load(save(tmp_path, **FORMS[form]))
    for split, images, labels in ((dataset.train, X, Y), (dataset.test, XT, YT)):
        np.testing.assert_array_equal(split.images, images)
        np.testing.assert_array_equal(split.labels, labels)
    assert dataset.class_names == ("0", "1", "2")


@pytest.mark.parametrize("kind", ["U", "S", object])
def test_labels_that_are_text_or_start_at_1(kind, tmp_path):
    words = np.array(["newt", "lion", "wasp"]).astype(kind)
    dataset = load(save(tmp_path, x_train=X, y_train=words[Y], x_test=XT, y_test=words[YT]))
    assert dataset.class_names == ("lion", "newt", "wasp")
    np.testing.assert_array_equal(dataset.train.labels, np.array([1, 0, 2])[Y])
    np.testing.assert_array_equal(dataset.test.labels, np.array([1, 0, 2])[YT])
    named = load(save(tmp_path, x=X, y=Y + 1, x_test=XT, y_test=YT + 1, label_names=words))
    assert named.class_names == ("newt", "lion", "wasp")
    np.testing.assert_array_equal(named.test.labels, YT)
    assert named.remarks == ("labels start at 1: label 1 is the first class, newt",)


@pytest.mark.parametrize(("undo", "change"), [
    (r"np.rint\(\(x_train \+ 1\) \* 127.5\).astype\(np.uint8\)", lambda x: (x / 127.5 - 1).astype(np.float32)),
    (r"np.rint\(\(x_train \+ 0.5\) \* 255\).astype\(np.uint8\)", lambda x: x / 255 - 0.5),
    (r"\(x_train.astype\(np.int16\) \+ 128\).astype\(np.uint8\)", lambda x: (x.astype(np.int16) - 128).astype(np.int8)),
    (r"np.clip\(np.rint\(\(x_train \* std \+ mean\) \* 255\), 0, 255\)", lambda x: (x / 255 - 0.45) / 0.25),
])  # fmt: skip
def test_normalised_pixels_are_refused_with_the_line_that_undoes_it(undo, change, tmp_path):
    with pytest.raises(FinetuneError, match=f"expected .* x_train = {undo}") as caught:
        load(save(tmp_path, **{**FULL, "x_train": change(X), "x_test": change(XT)}))
    line = str(caught.value).partition("x_train = ")[2].partition(", with the mean")[0]
    np.testing.assert_array_equal(eval(line, {"np": np, "x_train": change(X), "std": 0.25, "mean": 0.45}), X)


@pytest.mark.parametrize(("rows", "words"), [
    (lambda x: x.reshape(len(x), -1), "pixel by pixel"),
    (lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1), "plane by plane"),
])  # fmt: skip
def test_rows_of_pixels_are_read_in_the_order_in_which_neighbours_agree(rows, words, tmp_path):
    smooth = np.clip(np.array([200, 90, 20]) + X // 16, 0, 255).astype(np.uint8)
    dataset = load(save(tmp_path, x_train=rows(smooth), y_train=Y, x_test=rows(smooth[:6]), y_test=YT))
    np.testing.assert_array_equal(dataset.train.images, smooth)
    assert words in dataset.remarks[0]
    grey = load(save(tmp_path, data=X[..., 0].reshape(12, -1), target=Y))
    assert grey.train.images.shape[1:] == (8, 8, 1)


@pytest.mark.parametrize(
    ("x", "y"), [("features", "targets"), ("cifar10.1_v6_data", "cifar10.1_v6_labels"), ("inputs", "outputs")]
)
def test_other_names(x, y, tmp_path):
    dataset = load(save(tmp_path, **{x: X, y: Y}), test=0.25)
    both = [*dataset.train.images, *dataset.test.images]
    assert sorted(one.tobytes() for one in both) == sorted(one.tobytes() for one in X)


def test_an_array_for_each_class_is_refused_with_the_line_that_joins_them(tmp_path):
    """As QuickDraw has a file for each class."""
    arrays = {"cat": X[Y == 0], "dog": X[Y == 1]}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(FinetuneError, match=r"of an array for each class make one file: np.savez") as raised:
        load(tmp_path)
    line = str(raised.value).rpartition("make one file: ")[2].replace("data.npz", str(tmp_path / "data.npz"))
    exec(line, {"np": np, **arrays})
    dataset = load(tmp_path / "data.npz", test=0.25)
    assert dataset.class_names == ("cat", "dog")
    assert len(dataset.train) + len(dataset.test) == sum(map(len, arrays.values()))


def test_a_pair_of_files_and_names_that_are_given(tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez_compressed(tmp_path / "test.npz", x=XT, y=YT)
    (tmp_path / "npy").mkdir()
    for name, array in FULL.items():
        np.save(tmp_path / "npy" / f"{name}.npy", array)
    given = save(tmp_path / "npy", photos=X, kinds=Y, more=XT, others=YT).rename(tmp_path / "npy.npz")
    keys = "x_train=photos,y_train=kinds,x_test=more,y_test=others"
    (tmp_path / "pair").mkdir()
    for name in ("train.npz", "test.npz"):
        (tmp_path / name).rename(tmp_path / "pair" / name)
    for path, settings in ((tmp_path / "pair", {}), (tmp_path / "npy", {}), (given, {"npz_keys": keys})):
        dataset = load(path, **settings)
        np.testing.assert_array_equal(dataset.train.images, X)
        np.testing.assert_array_equal(dataset.test.labels, YT)
    with pytest.raises(WrongUse, match=r"--npz-keys x_train=photo: .*holds no such array: did you mean photos\?"):
        load(given, npz_keys="x_train=photo,y_train=kinds")


@pytest.mark.parametrize("shape", [(12, 8, 8), (12, 8, 8, 1)])
def test_grey_stays_grey(shape, tmp_path):
    grey = X[..., 0].reshape(shape)
    dataset = load(save(tmp_path, x_train=grey, y_train=Y, x_test=XT[..., 0].reshape(6, *shape[1:]), y_test=YT))
    np.testing.assert_array_equal(dataset.train.images, X[..., :1])
    np.testing.assert_array_equal(dataset.train.take(np.array([3, 1])).images, X[[3, 1]][..., :1])


def test_images_that_are_not_square_are_cut_when_the_network_is_known(tmp_path):
    wide = np.concatenate([X, X], axis=2)
    dataset = load(save(tmp_path, x_train=wide, y_train=Y, x_test=wide, y_test=Y))
    np.testing.assert_array_equal(dataset.train.images, wide)
    np.testing.assert_array_equal(dataset.train.at(32).images, wide[:, :, 4:12])


BAD = [
    ({"a": X}, "some.npz holds a: expected x_train and y_train .*--npz-keys x_train=NAME"),
    ({"x_train": X, "y_train": Y, "x_test": XT}, "holds x_test without its y: add it"),
    ({**FULL, "train_images": X}, "x_train and train_images, which both may be x_train: expected one of them"),
    ({**FULL, "x_train": X[:, :, :, :2]}, r"the images have \[8, 8, 3\] in x_test, \[8, 8, 2\] in x_train"),
    ({"x": X[:, :, :, :2], "y": Y}, r"x has the shape \[12, 8, 8, 2\]: expected \[n, height, width, 3\]"),
    ({"x": X.reshape(12, -1), "y": Y}, r"rows of 192: they may be .*give x.reshape\(-1, 8, 8, 3\), or as CIFAR's"),
    ({"x": np.moveaxis(X, 0, -1), "y": Y}, r"the images lie along the last axis: x = np.moveaxis\(x, -1, 0\)"),
    ({**FULL, "x_test": X[:6] / 255}, r"x_test is float64, x_train is uint8: expected the same"),
    ({**FULL, "x_train": X - 300.0, "x_test": XT - 300.0}, r"x_train has pixels from -300 to -45: .*\* std \+ mean"),
    ({"x": X * 1000.0, "y": Y}, r"x has pixels from 0 to 255000: .*x = np.rint\(x \* \(255 / x.max"),
    ({"x": np.full(X.shape, np.nan), "y": Y}, "x has pixels from nan"),
    ({**FULL, "x_train": X.astype(np.complex64)}, r"x_train is complex64 \[12, 8, 8, 3\]: expected uint8"),
    ({**FULL, "y_train": np.array(["a", 1, 2] * 4, object)}, r"y_train holds Python objects \(numbers, text\)"),
    ({**FULL, "class_names": np.array(["a", "b", None])}, r"class_names holds Python objects \(NoneType, text\)"),
    ({**FULL, "class_names": np.array([1, 2, 3])}, "class_names is int64 .*: expected a list of text"),
    ({**FULL, "class_names": np.array(["a", "b"])}, "has training label 2: expected 0 to 1, for its 2 classes"),
    ({**FULL, "y_train": np.eye(3)[Y] * 0.5}, r"y_train is float64 \[12, 3\], and not .* give labels.argmax\(1\)"),
    ({**FULL, "y_train": Y + 0.5}, r"y_train is float64 \[12\], such as 0.5: expected whole numbers"),
    ({**FULL, "y_train": Y * 2**60}, "y_train has label .*: expected classes numbered from 0"),
    ({**FULL, "y_train": np.array(["a", "b", "c"])[Y]}, "some labels are text and some are numbers"),
    (
        {"x": X, "y": np.array(["a", "b", "c"])[Y], "class_names": np.array(["a", "b"])},
        "has the label 'c': expected one",
    ),
    ({**FULL, "y_train": Y[:-1]}, "y_train has 11 labels for 12 images"),
    ({**FULL, "y_train": Y - 1}, "y_train has label -1: expected classes numbered from 0"),
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


HOT = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]] * 3, np.float32)


def test_rows_of_0_and_1_are_several_labels(tmp_path):
    several = {**FULL, "y_train": HOT, "y_test": np.eye(3)[YT], "class_names": np.array(["a", "b", "c"])}
    dataset = load(save(tmp_path, **several))
    assert dataset.multi_label
    np.testing.assert_array_equal(dataset.train.labels, HOT)
    np.testing.assert_array_equal(dataset.test.labels, np.eye(3)[YT])
    one_hot = {**FULL, "y_train": np.eye(3)[Y], "y_test": np.eye(3)[YT]}
    assert not load(save(tmp_path, **one_hot)).multi_label
    assert load(save(tmp_path, **one_hot), multi_label=True).multi_label


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y_test": np.ones((6, 4))}, "y_test has 4 labels an image, y_train has 3: expected the same labels"),
        ({"y_test": np.full((6, 3), 2)}, r"y_test is int64 \[6, 3\] with other values than 0 and 1"),
        ({"y_train": np.where(HOT == 1, np.nan, 0)}, r"y_train is float64 \[12, 3\] with other values than 0 and 1"),
        ({"y_train": HOT * [1, 1, 0]}, r"no training images of label 2 \(2\)"),
        ({"class_names": np.array(["a", "b"])}, "there are 2 class names for 3 labels"),
    ],
)
def test_what_is_no_several_labels(changed, said, tmp_path):
    with pytest.raises(FinetuneError, match=said):
        load(save(tmp_path, **{**FULL, "y_train": HOT, "y_test": HOT[:6], **changed}))
