"""A folder of images per class: its layouts, its test set, and what may lie in it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data import photo_scan
from finetune.data.lazy import LazyImages
from finetune.data.load_data import absolute, load_data
from finetune.errors import FinetuneError, WrongUse
from tests.support.places import SHARED
from tests.support.written_photos import CLASSES, COLOURS, encoded, photo, write_class_folders, write_splits

FLOWERS = SHARED / "data" / "flowers"


def load(path, *, on_scan=None, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}), on_scan=on_scan)


def names(split):
    photos = split.images.photos
    return [photos.name(int(number)) for number in split.images.chosen]


def sizes(dataset):
    return [len(split) if split else None for split in (dataset.train, dataset.validation, dataset.test)]


def test_train_val_test(tmp_path):
    dataset = load(write_splits(tmp_path / "some", train=4, val=2, test=3), validation=0.05)
    assert dataset.name == "some"
    assert dataset.class_names == CLASSES
    assert sizes(dataset) == [12, 6, 9]
    assert dataset.remarks == dataset.skipped == ()
    assert dataset.source == f"{tmp_path}/some: train/, val/, test/"
    assert sorted(names(dataset.test))[2:4] == ["test/lion/002.jpg", "test/newt/000.jpg"]
    for split in (dataset.train, dataset.validation, dataset.test):
        assert isinstance(split.images, LazyImages)
        found = split.images[:][:, 10:26, 28:].mean((1, 2))
        assert np.abs(found - np.array(COLOURS)[split.labels]).max() < 12
    assert dataset.train.images.shape[1:] == (36, 36, 3)


def test_classes_are_mixed_in_an_order_that_depends_on_the_names_alone(tmp_path):
    write_splits(tmp_path, train=20, test=2)
    labels = load(tmp_path).train.labels
    assert all(len(set(labels[start : start + 15].tolist())) == 3 for start in range(0, 60, 15))
    before = names(load(tmp_path).train)
    (tmp_path / "train" / "lion" / "007.jpg").unlink()
    assert names(load(tmp_path).train) == [name for name in before if name != "train/lion/007.jpg"]


def test_own_validation_images_are_used_unless_none_are_wanted(tmp_path):
    write_splits(tmp_path, train=4, validation=2, test=3)
    assert sizes(load(tmp_path, validation=0.5)) == [12, 6, 9]
    assert sizes(load(tmp_path, validation=0.0)) == [12, None, 9]
    assert sizes(load(tmp_path, validation=0.5, examples=6)) == [6, 6, 9]


def test_without_test_images_validation_images_serve_and_it_is_said(tmp_path):
    dataset = load(write_splits(tmp_path, train=4, val=2), validation=0.25)
    assert sizes(dataset) == [9, 3, 6]
    assert sorted(names(dataset.test))[0] == "val/lion/000.jpg"
    assert dataset.remarks == ("there are no test images of its own: its validation images serve as the test set",)


@pytest.mark.parametrize("layout", ["classes", "train only"])
def test_without_either_a_share_of_every_class_is_held_out_by_the_seed(layout, tmp_path):
    write_class_folders(tmp_path if layout == "classes" else tmp_path / "train", 10)
    dataset = load(tmp_path, test=0.3, validation=0.2)
    assert sizes(dataset) == [17, 4, 9]
    assert np.bincount(dataset.test.labels).tolist() == [3, 3, 3]
    assert not {*names(dataset.test)} & {*names(dataset.train), *names(dataset.validation)}
    assert "9 images, 0.3 of every class, are held out as the test set, drawn by --seed 0 (--test" in dataset.remarks[0]
    assert names(load(tmp_path, test=0.3).test) == names(dataset.test)
    assert names(load(tmp_path, test=0.3, seed=1).test) != names(dataset.test)
    assert sizes(load(tmp_path)) == [24, None, 6]
    with pytest.raises(WrongUse, match=r"holding out 0.99 of 30 images for test leaves too few .* lower --test"):
        load(tmp_path, test=0.99)


def test_the_same_folder_elsewhere_is_the_same_data(tmp_path):
    write_splits(tmp_path / "a", train=3, val=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    before = load(tmp_path / "a").fingerprint()
    assert load(tmp_path / "b").fingerprint() == before
    assert load(tmp_path / "gone", data_dir=str(tmp_path / "b")).fingerprint() == before
    (tmp_path / "b" / "train" / "lion" / "000.jpg").write_bytes(encoded(photo(0, seed=77)))
    assert load(tmp_path / "b").fingerprint() != before


def test_what_else_lies_about_is_passed_over(tmp_path):
    write_splits(tmp_path, train=3, test=2)
    lion = tmp_path / "train" / "lion"
    (lion / ".hidden.jpg").write_bytes(b"x")
    (lion / "._000.jpg").write_bytes(b"x")
    (lion / "notes.txt").write_text("a lion")
    (lion / "Thumbs.db").write_bytes(bytes(100))
    (lion / "no_suffix").write_bytes(encoded(photo(0)))
    (lion / "wrong.dat").write_bytes(encoded(photo(0), "PNG"))
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "README.md").write_text("photos")
    dataset = load(tmp_path)
    assert len(dataset.train) == 11
    assert {"train/lion/no_suffix", "train/lion/wrong.dat"} < {*names(dataset.train)}
    assert dataset.remarks == ("skipped 2 files that are no images (.db 1, .txt 1)",)


def test_content_decides_and_not_the_name(tmp_path):
    write_splits(tmp_path, train=3, test=2)
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(tmp_path / "train" / "lion" / "000.jpg", "GIF")
    dataset = load(tmp_path)
    at = names(dataset.train).index("train/lion/000.jpg")
    assert (dataset.train.images[at : at + 1] == 90).all()


def test_links_and_folders_within_class_folders_are_followed_once(tmp_path):
    write_splits(tmp_path / "data", train=3, test=2)
    train = tmp_path / "data" / "train"
    shutil.move(train / "newt", tmp_path / "newts")
    (train / "newt").symlink_to(tmp_path / "newts")
    (train / "lion" / "more").mkdir()
    (train / "lion" / "more" / "x.png").write_bytes(encoded(photo(0), "PNG"))
    (train / "lion" / "more" / "round").symlink_to(train / "lion")
    dataset = load(tmp_path / "data")
    assert len(dataset.train) == 10
    assert "train/lion/more/x.png" in names(dataset.train)
    assert dataset.class_names == CLASSES


def test_strange_names_are_kept_and_shown_on_one_line(tmp_path):
    strange = ("[red]", "a b'c", "..x", "zwei\nzeilen", "ÄÖ", "-rf *", "$(x)")
    for label, name in enumerate(strange):
        for split in ("train", "test"):
            if name.startswith("."):
                continue
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            (folder / "a;b\n.png").write_bytes(encoded(photo(label % 3), "PNG"))
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"train", b"\xff"))
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"test", b"\xff"))
    for split in (b"train", b"test"):
        path = os.path.join(os.fsencode(tmp_path), split, b"\xff", b"\xfe.png")
        Path(os.fsdecode(path)).write_bytes(encoded(photo(0), "PNG"))
    dataset = load(tmp_path)
    assert set(dataset.class_names) == {"$(x)", "-rf *", "[red]", "a b'c", "zwei\\nzeilen", "ÄÖ", "\\udcff"}
    assert all(name.isprintable() for name in (*dataset.class_names, *names(dataset.train)))
    assert dataset.train.images[:].shape[0] == 7
    dataset.fingerprint()


def write_images(place, **counts):
    """As many tiny images in `place/a/b` as `a__b=` says."""
    for name, count in counts.items():
        folder = place.joinpath(*name.split("__"))
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    return place


def counts(dataset):
    per_class = [np.bincount(split.labels).tolist() for split in (dataset.train, dataset.test)]
    return list(dataset.class_names), *per_class


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train_images", "eval_images"),
        ("TRAIN", "dev"),
        ("data__train", "data__test"),
        ("flowers_train", "flowers_test"),
        ("seg_train__seg_train", "seg_test__seg_test"),
    ],
)
def test_split_folders_of_any_usual_name(train, test, tmp_path):
    write_images(tmp_path, **{f"{train}__cats": 3, f"{train}__dogs": 4, f"{test}__cats": 1, f"{test}__dogs": 2})
    assert counts(load(tmp_path)) == (["cats", "dogs"], [3, 4], [1, 2])


def test_the_class_first_and_the_split_below(tmp_path):
    write_images(tmp_path, cats__train=3, cats__Test=1, dogs__train=4, dogs__test=2, cats__pred=5)
    dataset = load(tmp_path)
    assert counts(dataset) == (["cats", "dogs"], [3, 4], [1, 2])
    assert "cats/Test/0.png" in names(dataset.test)
    (tmp_path / "dogs" / "stray.png").write_bytes(encoded(photo(0), "PNG"))
    with pytest.raises(
        FinetuneError, match=r"dogs holds test/, train/ and images beside them.* the same split folders"
    ):
        load(tmp_path)
    shutil.rmtree(tmp_path / "dogs" / "test")
    with pytest.raises(
        FinetuneError, match=r"dogs holds train/ and images beside them, .*cats holds Test/, pred/, train/"
    ):
        load(tmp_path)


def test_what_systems_leave_is_passed_over_and_what_is_not_used_is_named(tmp_path):
    write_images(tmp_path, train__a=2, train__b=2, test__a=1, test__b=1, seg_pred=3)
    write_images(tmp_path / "train" / "a", **{"@eaDir": 2, ".ipynb_checkpoints": 1, "$RECYCLE.BIN": 1})
    for folder in (tmp_path, tmp_path / "train"):
        write_images(folder / "__MACOSX", x=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "sample.png").write_bytes(encoded(photo(0), "PNG"))
    (tmp_path / "labels.csv").write_text("a,b")
    dataset = load(tmp_path)
    assert counts(dataset) == (["a", "b"], [2, 2], [1, 1])
    assert dataset.remarks == ("not used, beside train/: labels.csv, notes/, sample.png, seg_pred/",)


def test_a_train_can_be_a_vehicle(tmp_path):
    write_images(tmp_path, train=5, plane=5, car=5)
    dataset = load(tmp_path)
    assert counts(dataset) == (["car", "plane", "train"], [4, 4, 4], [1, 1, 1])
    assert dataset.remarks[0] == "train/, of a split's name, is read as a class"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {"train__a": 1, "train__b": 1, "test__a": 1, "test__b": 1, "extra__a": 1},
            r"holds test/, train/, named as splits are, and extra/ .* to read the splits, move extra/ elsewhere; ",
        ),
        (
            {"train__a": 1, "train__b": 1, "plane": 1},
            "holds train/, named as splits are, and plane/ with images as well",
        ),
        ({"train": 2, "test": 1}, r"train holds no class folders.* a table of .* with --data FILE\.csv"),
        (
            {"train__a": 1, "train__b": 1, "test": 2},
            "test holds images without class folders.* or --data .*/train, which",
        ),
        (
            {"train__a": 1, "train__b": 1, "val__a": 1},
            "val/ lacks b of train/.* or give --data .*/train, which holds test",
        ),
        (
            {"cats__train": 2, "cats__test": 1, "dogs": 1},
            "dogs holds no folders and images beside them, .*cats holds test/",
        ),
    ],
)
def test_two_readings_are_refused_with_those_that_would_fit(made, said, tmp_path):
    with pytest.raises(FinetuneError, match=said):
        load(write_images(tmp_path, **made))


def test_a_flat_folder_is_told_of_its_table(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path, train=3)
    for name in ("sample_submission.csv", "train_labels.csv"):
        (tmp_path / name).write_text("a,b")
    with pytest.raises(FinetuneError, match=r"no class folders.* with --data \S+/train_labels\.csv"):
        load(tmp_path)


@pytest.fixture
def damaged(tmp_path):
    write_splits(tmp_path, train=4, test=3)
    train = tmp_path / "train"
    (train / "lion" / "001.jpg").write_bytes((train / "lion" / "001.jpg").read_bytes()[:-200])
    (train / "newt" / "zero.png").write_bytes(b"")
    (train / "wasp" / "text.jpg").write_text("this is text")
    (tmp_path / "test" / "wasp" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_damaged_images_are_all_named_at_once(damaged):
    told = []
    with pytest.raises(FinetuneError) as caught:
        load(damaged, on_scan=lambda done, total: told.append((done, total)))
    said = str(caught.value)
    assert said.startswith("4 of 24 images cannot be used: ")
    for words in (
        "lion/001.jpg: it is damaged",
        "newt/zero.png: it is empty",
        "wasp/text.jpg: it is no image",
        "gone.jpg",
    ):
        assert words in said
    assert said.endswith("Replace or remove them, or give --skip-bad-images to leave such images out")
    assert told == [(24, 24)]


def test_damaged_images_can_be_left_out_and_are_counted(damaged):
    dataset = load(damaged, skip_bad_images=True)
    assert sizes(dataset) == [11, None, 9]
    assert len(dataset.skipped) == 4
    assert dataset.remarks[-1].startswith("4 damaged images are left out (--skip-bad-images): ")
    assert names(dataset.train) == names(load(damaged, skip_bad_images=True).train)
    assert dataset.train.images[:].shape == (11, 36, 36, 3)


def test_of_many_images_headers_are_read_and_of_very_many_some(damaged, monkeypatch):
    monkeypatch.setattr(photo_scan, "DECODED", 10)
    with pytest.raises(FinetuneError, match="3 of 24 images cannot be used"):
        load(damaged)
    monkeypatch.setattr(photo_scan, "OPENED", 12)
    with pytest.raises(FinetuneError, match=r"of the 12 images inspected \(of 24\) cannot be used"):
        load(damaged)
    assert len(load(damaged, skip_bad_images=True).skipped) == 4


def one_class(place):
    write_class_folders(place / "train", 2, ["only"])


def one_within_a_table(place):
    write_class_folders(place / "photos", 2)
    (place / "labels.csv").write_text("image,label")


def loose(place):
    (place / "a.jpg").write_bytes(encoded(photo(0)))


def flat_splits(place):
    for split in ("train", "val"):
        (place / split).mkdir()
        (place / split / "a.jpg").write_bytes(encoded(photo(0)))


def other_classes(place):
    write_class_folders(place / "train", 2)
    write_class_folders(place / "test", 2, ["lion", "newts"])


def no_train(place):
    write_class_folders(place / "val", 2)


def both(place):
    write_splits(place, train=2, val=2, validation=2)


def hollow(place):
    for name in ("a", "b"):
        (place / name).mkdir()


def hollow_class(place):
    write_class_folders(place, 3)
    (place / "yak").mkdir()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (one_class, "train holds images in one folder only, only: expected two or more folders of images"),
        (one_within_a_table, r"holds images in one folder only, photos: .*; or did you mean --data .*/photos\?"),
        (loose, "holds images, but no class folders: expected two or more"),
        (lambda place: None, "holds no class folders: expected two or more"),
        (flat_splits, "train holds no class folders: expected two or more"),
        (other_classes, "test/ has newts, which train/ has not; test/ lacks newt, wasp of train/: expected the same"),
        (no_train, "holds val/, but no train/ with class folders"),
        (both, "holds val and validation, which mean the same: keep one"),
        (hollow, "the class folders in .* hold no images: check the folder"),
        (hollow_class, r"no training images of class 3 \(yak\)"),
    ],
)
def test_a_folder_of_another_shape_is_told_what_was_expected(made, said, tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    made(place)
    with pytest.raises(FinetuneError, match=said):
        load(place)


def test_a_path_to_nothing_or_to_a_file(tmp_path):
    with pytest.raises(WrongUse, match="there is nothing of that name; check the path, or give one of cifar10"):
        load(tmp_path / "nowhere")
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(WrongUse, match="is a file: expected a folder of images per class"):
        load(tmp_path / "a.jpg")


def test_a_name_of_the_table_wins_and_other_words_are_paths_where_there_is_something(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "mine"):
        (tmp_path / name).mkdir()
    assert absolute("cifar10") == "cifar10"
    assert absolute("tfds:mine") == "tfds:mine"
    assert absolute("mine") == str(tmp_path / "mine")
    assert absolute("./cifar10") == str(tmp_path / "cifar10")
    assert absolute("yours") == "yours"
    assert absolute("some/thing") == str(tmp_path / "some" / "thing")
    assert absolute("mine", below=tmp_path / "mine") == "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/mine") == str(tmp_path / "mine")


def test_real_flowers():
    if not FLOWERS.is_dir():
        pytest.skip("the real flowers are not beside the project (../shared/data)")
    dataset = load(FLOWERS, validation=0.05)
    assert dataset.class_names == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert sizes(dataset) == [190, 10, 100]
    assert dataset.train.images.shape[1:] == (256, 256, 3)
    path = FLOWERS / names(dataset.test)[0]
    with Image.open(path) as image:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        expected = np.asarray(image.convert("RGB").crop((left, top, left + side, top + side)))
    np.testing.assert_array_equal(dataset.test.images[:1][0], expected)


def test_one_file_in_several_folders_has_several_labels(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "data" / "cat" / f"{number}.png")
    cat, dog = tmp_path / "data" / "cat", tmp_path / "data" / "dog"
    (dog / "linked.png").symlink_to(cat / "0.png")
    (dog / "hard.png").hardlink_to(cat / "1.png")
    (dog / "2.png").write_bytes((cat / "2.png").read_bytes())
    (dog / "3.png").write_bytes((cat / "4.png").read_bytes())  # equal bytes, another name
    (dog / "4.png").write_bytes((cat / "3.png").read_bytes())  # another image of the same name and size
    config = RunConfig("any", data=str(tmp_path / "data"), validation=0.0, test=0.2, multi_label=True)
    dataset = load_data(config)
    found = sorted(
        (int(pixel), *row)
        for split in (dataset.train, dataset.test)
        for pixel, row in zip(split.images[:][:, 0, 0, 0], split.labels.tolist(), strict=True)
    )
    both = [(number, 1, 1) for number in range(3)]
    assert found == [*both, (3, 0, 1), (3, 1, 0), (4, 0, 1), (4, 1, 0), (5, 1, 0)]
    assert "3 images lie in several folders (--multi-label)" in dataset.remarks[0]
