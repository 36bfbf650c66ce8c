"""Paths in tables that were written on another machine."""

import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError


def written(folder, rows, header="filepaths,labels", name="t.csv"):
    for number in range(6):
        path = folder / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number,) * 3).save(path)
    (folder / name).write_text("\n".join([header, *rows]))
    return folder / name


def seen(path, **settings):
    dataset = load_data(RunConfig("any", data=str(path), validation=0.0, test=0.4, **settings))
    both = [
        (int(pixels[0, 0, 0]), dataset.class_names[label])
        for split in (dataset.train, dataset.test)
        for pixels, label in zip(split.images[:], split.labels, strict=True)
    ]
    return sorted(both), dataset.remarks


KINDS = ["cat", "dog"] * 3
RIGHT = list(enumerate(KINDS))


@pytest.mark.parametrize(
    "beginning",
    ["/content/drive/My Drive/pets/images/", "C:\\Users\\me\\pets\\images\\", "../input/pets/images/", "pets/"],
)
def test_what_follows_the_beginning_that_is_not_here_counts(beginning, tmp_path):
    rows = [f"{5 - number},{beginning}{number}.png,{kind}" for number, kind in RIGHT]
    both, remarks = seen(written(tmp_path, rows, ",filepaths,labels"))
    assert both == RIGHT  # and not 5.png for the row with the index 5
    shown = beginning.replace("\\", "/").removesuffix("images/")
    assert any(one.startswith(f"paths begin with {shown}, which is not here") for one in remarks)


def test_it_is_the_same_in_all_rows(tmp_path):
    rows = [f"/a/images/{number}.png,{kind}" for number, kind in RIGHT[:-1]]
    with pytest.raises(FinetuneError, match=r"1 of 6 images of .*t.csv are not there: /b/images/5.png"):
        seen(written(tmp_path, [*rows, "/b/images/5.png,dog"]))
    both, _ = seen(tmp_path / "t.csv", skip_bad_images=True)
    assert both == RIGHT[:-1]


def test_a_column_of_numbers_without_a_usual_name_is_no_path(tmp_path):
    rows = [f"{number},missing{number}.png,{kind}" for number, kind in RIGHT]
    with pytest.raises(FinetuneError, match="which of them holds the path of an image is not clear"):
        seen(written(tmp_path, rows, ",photographs,labels"))


@pytest.mark.parametrize("name", ["train.csv", "labels.csv"])
def test_an_image_of_the_same_name_in_another_splits_folder_is_another_one(name, tmp_path):
    path = written(tmp_path, [f"{number}.png,{kind}" for number, kind in RIGHT], name=name)
    (tmp_path / "images").rename(tmp_path / "train")
    (tmp_path / "test").mkdir()
    (tmp_path / "train" / "5.png").rename(tmp_path / "test" / "5.png")
    if name == "train.csv":
        with pytest.raises(FinetuneError, match=r"1 of 6 images of .*train.csv are not there: 5.png"):
            seen(path)
    else:  # a table of all images
        assert seen(path)[0] == RIGHT


def test_rows_of_dev_are_found_in_the_folder_dev(tmp_path):
    rows = [f"{number}.png,{kind},{'dev' if number > 3 else 'train'}" for number, kind in RIGHT]
    path = written(tmp_path, rows, "image,label,split")
    (tmp_path / "images").rename(tmp_path / "train")
    (tmp_path / "dev").mkdir()
    for number in (4, 5):
        (tmp_path / "train" / f"{number}.png").rename(tmp_path / "dev" / f"{number}.png")
    assert seen(path)[0] == RIGHT
