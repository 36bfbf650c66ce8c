"""Folders whose shape says what they are: around the data, copies, folds and parts of a set."""

import shutil

import pytest

from finetune.errors import FinetuneError
from tests.unit.data.sources.test_image_folder import counts, load, names, write_images


@pytest.mark.parametrize("around", ["2750", "raw-img", "archive/Garbage classification/Garbage classification"])
def test_a_folder_around_the_data_is_read_in_its_place(around, tmp_path):
    write_images(tmp_path / around, glass=4, paper=5)
    (tmp_path / "Annotations").mkdir()
    dataset = load(tmp_path)
    assert counts(dataset) == (["glass", "paper"], [3, 4], [1, 1])
    assert names(dataset.test)[0].startswith(f"{around}/")
    assert f": {around}/" in dataset.source
    assert dataset.remarks[0] == f"not used, beside {around.partition('/')[0]}/: Annotations/"


def test_splits_two_folders_down(tmp_path):
    write_images(tmp_path / "fruits" / "fruits-360", Training__a=2, Training__b=2, Test__a=1, Test__b=1)
    assert counts(load(tmp_path)) == (["a", "b"], [2, 2], [1, 1])


def test_images_beside_the_only_folder_are_not_passed_over(tmp_path):
    write_images(tmp_path, photos__a=2, photos__b=2)
    write_images(tmp_path / "photos", **{".": 1})
    with pytest.raises(FinetuneError, match="holds images in one folder only, photos"):
        load(tmp_path)


def test_a_copy_of_the_data_in_itself_is_not_read(tmp_path):
    made = {"train__a": 3, "train__b": 3, "test__a": 1, "test__b": 1}
    write_images(tmp_path / "xray", **made)
    shutil.copytree(tmp_path / "xray", tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "xray" / "xray")
    dataset = load(tmp_path / "xray")
    assert counts(dataset) == (["a", "b"], [3, 3], [1, 1])
    assert dataset.remarks == ("not used, beside train/: xray/",)
    write_images(tmp_path / "bears", brown=4, white=4, bears__brown=4, bears__white=4)
    dataset = load(tmp_path / "bears")
    assert counts(dataset) == (["brown", "white"], [3, 3], [1, 1])
    assert dataset.remarks[0] == "not used, beside brown/: bears/"


def test_a_class_of_other_images_below_folders_of_the_same_names_is_one(tmp_path):
    write_images(tmp_path, ill=4, well=4, unsure__ill=5, unsure__well=5)
    for image in (tmp_path / "unsure").rglob("*.png"):
        image.write_bytes(image.read_bytes() + b"\0")
    assert load(tmp_path).class_names == ("ill", "unsure", "well")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {f"fold{fold}__{split}__{name}": 1 for fold in (1, 2) for split in ("train", "val") for name in "ab"},
            r"holds fold1/, fold2/, each with a/, b/ in it in train/: where a/, b/ are the classes, .*data/fold1;",
        ),
        (
            {"pets_dataset__cat": 2, "pets_dataset__dog": 2, "kaggle_pets_testset": 4},
            r"pets_dataset/ with cat/, dog/ in it, and kaggle_pets_testset/ with images only, .*--data .*pets_dataset;",
        ),
        (
            {"HAM_images_part_1": 2, "HAM_images_part_2": 2},
            r"holds HAM_images_part_1/, HAM_images_part_2/, named as parts of a set are and not as classes: ",
        ),
    ],
)
def test_what_is_no_class_is_refused(made, said, tmp_path):
    with pytest.raises(FinetuneError, match=said):
        load(write_images(tmp_path / "data", **made))
