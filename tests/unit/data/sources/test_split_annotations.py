"""The classes of a split without class folders, by the table that data sets bring with it."""

import pytest

from finetune.errors import FinetuneError
from tests.unit.data.sources.test_image_folder import counts, load, names, write_images


def by_name(split):
    return dict(zip(names(split), split.labels.tolist(), strict=True))


def test_tiny_imagenets_validation_images(tmp_path):
    write_images(tmp_path, train__n01__images=3, train__n02__images=3, val__images=4, test__images=5)
    lines = [f"{number}.png\tn0{1 + number % 2}\t0\t32\t44\t62\n" for number in range(4)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    dataset = load(tmp_path)
    assert counts(dataset) == (["n01", "n02"], [3, 3], [2, 2])
    assert by_name(dataset.test) == {f"val/images/{number}.png": number % 2 for number in range(4)}
    assert dataset.remarks[:2] == (
        "the classes of the images in val/ are read from val_annotations.txt",
        "not used: the images in test/, whose classes are not known",
    )


@pytest.mark.parametrize(
    ("classes", "table", "text"),
    [
        (("00000", "00001"), "Test.csv", "Width,ClassId,Path\n1,0,Test/0.png\n1,1,Test/1.png\n0,0,Test/2.png\n"),
        (("n1", "n2"), "LOC_solution.csv", "ImageId,Prediction\n0,n1 1 2 3 4\n1,n2 4 4 1 1\n2,n1 2 3 4 4 n1 1 1\n"),
        (("a b", "c"), "ground_truth.txt", "0.png a b\n1.png c\n2.png a b\n"),
    ],
)  # fmt: skip
def test_tables_beside_the_folder(classes, table, text, tmp_path):
    write_images(tmp_path, **{f"Train__{name}": 2 for name in classes}, Test=3)
    (tmp_path / table).write_text(text)
    dataset = load(tmp_path)
    assert by_name(dataset.test) == {f"Test/{number}.png": number % 2 for number in range(3)}
    assert dataset.remarks == (f"the classes of the images in Test/ are read from {table}",)


@pytest.mark.parametrize(
    "text",
    [
        "0.png a\n1.png b\n",  # an image is missing
        "0.png a\n1.png b\n2.png other\n",  # another class
        "0.png a\n1.png b\n2.png a\n2.png b\n",  # two classes
        "0.png a b\n1.png b a\n2.png a b\n",  # two columns of classes
    ],
)
def test_a_table_that_does_not_give_each_image_one_class_is_none(text, tmp_path):
    write_images(tmp_path, train__a=2, train__b=2, val=3)
    (tmp_path / "val" / "list.txt").write_text(text)
    with pytest.raises(FinetuneError, match=r"val holds images without class folders, so their classes are not known"):
        load(tmp_path)
