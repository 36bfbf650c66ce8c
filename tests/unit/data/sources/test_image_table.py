"""A table of images: its columns, the files it names, their labels and splits, and what is wrong with it."""

import numpy as np
import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError


def load(path, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}))


def write(folder, *names):
    """Images of one colour each: the number in the file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), int("".join(filter(str.isdigit, path.stem))), np.uint8)).save(path)


def seen(split, names):
    """(the colour of each image, the name of its class), sorted."""
    return sorted(
        (int(pixel), names[label]) for pixel, label in zip(split.images[:][:, 0, 0, 0], split.labels, strict=True)
    )


KINDS = {number: ("cat", "dog", "emu")[number % 3] for number in range(12)}


@pytest.mark.parametrize(
    ("form", "encoding", "name"),
    [
        ("image,label\n{}", "utf-8", "labels.csv"),
        ("Label;File Name\n{}", "utf-8-sig", "labels.csv"),
        ("image_path\tbreed\n{}", "utf-16", "labels.tsv"),
        ("{}", "utf-8", "no_header.csv"),
        (",id,noise,target\n{}", "latin-1", "index.csv"),
        ("photo of\tthe café\n{}", "latin-1", "one_other.csv"),
    ],
)
def test_columns_are_found_in_every_usual_form(form, encoding, name, tmp_path):
    write(tmp_path, *(f"{number}.png" for number in KINDS))
    row = {";": "{kind};{number}.png", "\t": "{number}.png\t{kind}", ",n": "{number},{number},x.y,{kind}"}
    cells = next(
        (cells for mark, cells in row.items() if mark in form or (mark == ",n" and "noise" in form)),
        "{number}.png,{kind}",
    )
    rows = "\n".join(cells.format(number=number, kind=kind) for number, kind in KINDS.items())
    (tmp_path / name).write_bytes((form.format(rows) + "\n\n").encode(encoding))
    dataset = load(tmp_path / name, test=0.25)
    assert dataset.class_names == ("cat", "dog", "emu")
    assert (len(dataset.train), len(dataset.test)) == (9, 3)
    both = seen(dataset.train, dataset.class_names) + seen(dataset.test, dataset.class_names)
    assert sorted(both) == sorted(KINDS.items())


def test_splits_named_columns_whole_numbers_and_other_folders(tmp_path):
    write(tmp_path / "data", *(f"set a/{number}.png" for number in range(6)))
    write(tmp_path / "elsewhere", "6.png", "7.png")
    rows = [
        f"data/set a/{number}.png,{10 - number % 2 * 8}.0,{split}"
        for number, split in enumerate(["train", "Train", "dev", "dev", "test", "test"])
    ]
    rows += ["elsewhere/6.png,2,train", "../t/elsewhere/7.png,10,train", "elsewhere/6.png,2,train", "x.png,,unlabeled"]
    table = tmp_path / "table.csv"
    table.write_text(
        "\n".join(["where,number,part", *rows])
        .replace("data/", "../" + tmp_path.name + "/data/")
        .replace("../t/", f"{tmp_path}/")
    )
    dataset = load(table, csv_columns="path=where,label=number,split=part", validation=0.5)
    assert dataset.class_names == ("2", "10")
    parts = [seen(split, dataset.class_names) for split in (dataset.train, dataset.validation, dataset.test)]
    assert parts == [[(0, "10"), (1, "2"), (6, "2"), (7, "10")], [(2, "10"), (3, "2")], [(4, "10"), (5, "2")]]
    assert dataset.source == f"{table}: path in column 'where', label in column 'number', split in column 'part'"
    assert dataset.remarks == (
        "'dev' is taken for the validation images",
        "1 rows that are neither for training nor for testing are not used",
        "1 rows that repeat an image are left out",
    )
    inner = tmp_path / "data" / "inner.csv"
    inner.write_text("path,label\nset a/0.png,a\nset a/1.png,b\n../elsewhere/6.png,a\n../elsewhere/7.png,b\n")
    assert (
        load(inner, test=0.5).remarks[0] == f"2 images lie outside the table's folder, in {tmp_path}/data/../elsewhere"
    )


def test_kaggles_layout(tmp_path):
    write(tmp_path, *(f"train/{number}.jpg" for number in range(4)), *(f"test/{number}.jpg" for number in range(4)))
    (tmp_path / "train.csv").write_text("id,breed\n0,a\n1,b\n2,a\n3,b\n")
    (tmp_path / "labels.csv").write_text("id,breed,subset\n0,a,train\n1,b,train\n2,a,test\n3,b,test\n")
    (tmp_path / "test.csv").write_text("id,breed\n0,a\n1,b\n")
    dataset = load(tmp_path / "train.csv")
    assert {*names(dataset.train)} == {f"train/{number}.jpg" for number in range(4)}
    assert {*names(dataset.test)} == {"test/0.jpg", "test/1.jpg"}
    dataset = load(tmp_path / "labels.csv")
    assert (sorted(names(dataset.train)), sorted(names(dataset.test))) == (
        ["train/0.jpg", "train/1.jpg"],
        ["test/2.jpg", "test/3.jpg"],
    )
    write(tmp_path / "HAM", *(f"part_{number % 2}/{number}.png" for number in range(4)), "part_0/3.png")
    (tmp_path / "HAM" / "metadata.csv").write_text("lesion_id,image_id,dx\nx,0,nv\ny,1,mel\nx,2,nv\nx,1,mel\n")
    dataset = load(tmp_path / "HAM" / "metadata.csv", test=0.3)
    assert {*names(dataset.train), *names(dataset.test)} == {"part_0/0.png", "part_1/1.png", "part_0/2.png"}


def test_tables_of_other_splits_beside_it(tmp_path):
    write(tmp_path, *(f"images/{number}.jpg" for number in range(9)))
    (tmp_path / "pets_train.csv").write_text("id,breed\n0,a\n1,b\n2,a\n3,b\n")
    (tmp_path / "pets_valid.csv").write_text("id,breed\n4,a\n5,b\n")
    (tmp_path / "pets_test.csv").write_text("id,breed\n6,b\n")
    dataset = load(tmp_path / "pets_train.csv", validation=0.1)
    assert [sorted(names(one)) for one in (dataset.train, dataset.validation, dataset.test)] == [
        [f"images/{number}.jpg" for number in numbers] for numbers in (range(4), (4, 5), (6,))
    ]
    assert dataset.test.labels.tolist() == [1]
    assert dataset.remarks == ("read from pets_train.csv, pets_valid.csv, pets_test.csv",)
    (tmp_path / "pets_test.csv").write_text("id\n6\n")
    dataset = load(tmp_path / "pets_train.csv")
    assert dataset.remarks[1] == "not used: pets_test.csv, whose columns are not those of pets_train.csv"
    assert sorted(names(dataset.test)) == ["images/4.jpg", "images/5.jpg"]


@pytest.mark.parametrize(
    ("lists", "at"),
    [
        ({"meta/train.txt": "cat/0\ndog/1\ncat/2\ndog/3\n", "meta/test.txt": "cat/4\ndog/5\n"}, "meta/train.txt"),
        ({"TrainImages.txt": "cat/0.jpg\ndog/1.jpg\ncat/2.jpg\ndog/3.jpg\n", "TestImages.txt": "cat/4.jpg\ndog/5.jpg"},
         "TrainImages.txt"),
        ({"train.csv": "file\ncat/0.jpg\ndog/1.jpg\ncat/2.jpg\ndog/3.jpg\n", "test.csv": "file\ncat/4.jpg\ndog/5.jpg"},
         "train.csv"),
    ],
)  # fmt: skip
def test_a_list_of_paths_takes_the_folders_for_classes(lists, at, tmp_path):
    write(tmp_path / "images", *(f"{KIND[number % 2]}/{number}.jpg" for number in range(6)))
    for name, text in lists.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    dataset = load(tmp_path / at)
    assert dataset.class_names == ("cat", "dog")
    assert [seen(one, dataset.class_names) for one in (dataset.train, dataset.test)] == [
        [(number, KIND[number % 2]) for number in numbers] for numbers in (range(4), (4, 5))
    ]


KIND = ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("1 cat/0.jpg\n2 dog/1.jpg\n3 cat/2.jpg\n4 dog/3.jpg\n", None),  # a numbering, and the folders are classes
        ("# image class species\n0 1 1\n1 2 1\n2 1 1\n3 2 1\n", "path=1,label=2"),
        ("0.jpg\tcat\t0\t62\n1.jpg\tdog\t3\t41\n2.jpg\tcat\t1\t9\n3.jpg\tdog\t2\t7\n", None),
        ("name class\n0 cat\n1 dog\n2 cat\n3 dog\n", None),
    ],
)
def test_lists_apart_by_blanks(text, columns, tmp_path):
    write(tmp_path, *(f"deep/below/{KIND[number % 2]}/{number}.jpg" for number in range(4)))
    (tmp_path / "list.txt").write_text(text.replace("cat/", "deep/below/cat/").replace("dog/", "deep/below/dog/"))
    dataset = load(tmp_path / "list.txt", test=0.5, csv_columns=columns)
    both = seen(dataset.train, ("cat", "dog")) + seen(dataset.test, ("cat", "dog"))
    assert sorted(both) == [(number, KIND[number % 2]) for number in range(4)]


def test_one_name_in_several_folders_below_is_not_guessed(tmp_path):
    write(tmp_path, *(f"deep/{kind}/{number}.jpg" for kind in "ab" for number in range(4)))
    (tmp_path / "list.csv").write_text("file,kind\n0.jpg,a\n1.jpg,b\n")
    with pytest.raises(FinetuneError, match=r"'0.jpg' is .*/deep/a/0.jpg and .*/deep/b/0.jpg: name the folder in the"):
        load(tmp_path / "list.csv")


def names(split):
    return [split.images.photos.name(int(number)) for number in split.images.chosen]


def test_missing_files_are_counted_and_can_be_left_out(tmp_path):
    write(tmp_path, *(f"{number}.png" for number in range(4)))
    table = tmp_path / "t.csv"
    table.write_text("path,label\n0.png,a\n1.png,b\n2.png,a\n3.png,b\ngone.png,a\n/no/where.png,b\na\\b.png,b\n,b\n")
    with pytest.raises(
        FinetuneError, match=r"^4 of 8 images of .* are not there: gone.png, /no/where.png, a.b.png, \(no path\): "
    ):
        load(table)
    dataset = load(table, skip_bad_images=True, test=0.5)
    assert len(dataset.train) + len(dataset.test) == 4
    assert len(dataset.skipped) == 4
    assert dataset.remarks[-1].startswith("4 damaged images are left out (--skip-bad-images): ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows: expected a table with the paths and the classes"),
        ("path\n1.png\n", "has one column: expected a table"),
        ("path,label\n", "has a header and no rows"),
        ("path,label\n1.png,a\n2.png\n", "row 3 has 1 of 2 cells"),
        ("path,label\n1.png,a\n2.png,\n", "1 rows have no label in column 'label', the first of them is row 3"),
        ("path,label\n1.png,a\n1.png,b\n2.png,b\n", "1 rows give an image another label .*1.png is a and b"),
        ("path,label\n1.png,a\n2.png,a\n", "has one class only, a"),
        (
            "path,colour,size\n1.png,a,1\n",
            "columns path, colour, size: which of them holds the label of an image is not clear",
        ),
        (
            "path,label,split\n1.png,a,train\n2.png,b,3\n",
            "column 'split' has the values 3: expected the name of a split",
        ),
        ("path,label,split\n1.png,a,test\n2.png,b,test\n", "column 'split' has test: expected train as well"),
        ("path,label\n1.png,a\0\n", "is no text"),
        ('path,label\n1.png,"' + "a" * 200_000 + '"\n', "is no table, or damaged .field larger"),
        ("path,label\n3.png,a\n1.png,b\n", r"'3.png' is .*/e/3.png and .*/f/3.png: name the folder in the table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(text, said, tmp_path):
    write(tmp_path, "1.png", "2.png", "e/3.png", "f/3.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path / "t.csv")


def test_columns_that_are_named_must_be_there(tmp_path):
    write(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text("path,label\n1.png,a\n")
    with pytest.raises(FinetuneError, match=r"--csv-columns label=kind: .*t.csv has the columns path, label"):
        load(tmp_path / "t.csv", csv_columns="label=kind")


ONE_HOT = "image_id,healthy,rust,note,scab\n1.png,1,0,3,0\n2.png,0,1,3,0\n3.png,0,0,3,1\n4.png,1.0,0.0,3,0.0\n"


@pytest.mark.parametrize("settings", [{}, {"csv_columns": "label=healthy+rust+scab"}])
def test_a_column_for_each_class(settings, tmp_path):
    write(tmp_path, *(f"{number}.png" for number in range(1, 8)))
    (tmp_path / "t.csv").write_text(ONE_HOT + "5.png,0,1,3,0\n6.png,0,0,3,1\n")
    dataset = load(tmp_path / "t.csv", test=0.5, **settings)
    assert dataset.class_names == ("healthy", "rust", "scab")
    both = seen(dataset.train, dataset.class_names) + seen(dataset.test, dataset.class_names)
    assert sorted(both) == list(zip(range(1, 7), ["healthy", "rust", "scab"] * 2, strict=True))
    (tmp_path / "t.csv").write_text(ONE_HOT + "7.png,0,1,3,1\n")
    several = load(tmp_path / "t.csv", **settings)
    assert several.multi_label
    assert several.remarks[0] == "an image may have several labels: the columns of 0 and 1 healthy, rust, scab"


def test_the_columns_yes_and_no_are_classes(tmp_path):
    write(tmp_path, *(f"{number}.png" for number in range(1, 7)))
    rows = "".join(f"{number}.png,{number % 2},{1 - number % 2}\n" for number in range(1, 7))
    (tmp_path / "t.csv").write_text("filename,no,yes\n" + rows)
    dataset = load(tmp_path / "t.csv", test=0.4)
    both = seen(dataset.train, dataset.class_names) + seen(dataset.test, dataset.class_names)
    assert sorted(both) == [(number, "no" if number % 2 else "yes") for number in range(1, 7)]


def test_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path, *(f"{number}.png" for number in range(4)))
    table = {
        "image": [f"{number}.png" for number in range(4)],
        "label": [0, 1, 0, 1],
        "split": ["train", "train", "test", "test"],
    }
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    dataset = load(tmp_path / "t.parquet")
    assert seen(dataset.test, dataset.class_names) == [(2, "0"), (3, "1")]
    parquet.write_table(pyarrow.table({"image": [["a.png"]], "label": [1]}), tmp_path / "lists.parquet")
    with pytest.raises(FinetuneError, match="image holds more than a text or a number"):
        load(tmp_path / "lists.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(FinetuneError, match="is no Parquet file, or damaged"):
        load(tmp_path / "bad.parquet")
