"""Several labels an image in a table: with a separator, in columns of 0 and 1, one a row; and what is wrong."""

import numpy as np
import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.data.sources.table_labels import labels_of, obvious_separator
from finetune.errors import FinetuneError, WrongUse

SETS = [("cat",), ("cat", "dog"), (), ("emu",), ("dog", "emu"), ("cat", "dog", "emu"), ("dog",), ("emu", "cat")] * 2
HOT = np.array([[name in one for name in ("cat", "dog", "emu")] for one in SETS], np.uint8)


@pytest.fixture
def folder(tmp_path):
    for number in range(len(SETS)):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def load(folder, text, **settings):
    (folder / "t.csv").write_text(text)
    settings = {"validation": 0.0, "test": 0.25, **settings}
    return load_data(RunConfig("any", data=str(folder / "t.csv"), **settings))


def table(cell):
    return "image,tags\n" + "".join(f"{number}.png,{cell(one)}\n" for number, one in enumerate(SETS))


def labels(dataset):
    """0/1 of each image, by the number that is its colour."""
    found = {}
    for split in (dataset.train, dataset.test):
        found |= dict(zip(split.images[:][:, 0, 0, 0].tolist(), split.labels.tolist(), strict=True))
    return np.array([found[number] for number in sorted(found)], np.uint8)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        (table(lambda one: "|".join(one)), {}),
        (table(lambda one: "; ".join(one)), {}),
        (table(lambda one: f'"{",".join(one)}"'), {}),
        (table(lambda one: " ".join(one)), {"label_separator": " "}),
        (table(lambda one: "|".join(one)), {"multi_label": True}),
        (
            "image,cat,dog,emu,age\n"
            + "".join(f"{n}.png,{','.join(map(str, row))},{n}\n" for n, row in enumerate(HOT)),
            {},
        ),
    ],
)
def test_labels_are_found_in_every_usual_form(text, settings, folder):
    dataset = load(folder, text, **settings)
    assert dataset.multi_label
    assert dataset.class_names == ("cat", "dog", "emu")
    assert np.array_equal(labels(dataset), HOT)
    assert dataset.remarks[0].startswith("an image may have several labels: ")


def test_one_label_a_row(folder):
    rows = "image,label\n" + "".join(f"{number}.png,{name}\n" for number, one in enumerate(SETS) for name in one)
    with pytest.raises(FinetuneError, match="expected one class for each image, or --multi-label if it has both"):
        load(folder, rows)
    assert np.array_equal(labels(load(folder, rows, multi_label=True)), HOT[HOT.any(axis=1)])


def test_classes_with_a_separator_in_their_names_stay_classes():
    assert obvious_separator(["red;small", "blue;big", "red;big", "blue;small"]) is None
    assert obvious_separator(["tench, Tinca tinca", "goldfish", "shark, white, Carcharodon"]) is None
    assert obvious_separator(["a", "b", "a|b"]) == "|"
    assert labels_of(" a | b|a| ", "|") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "settings", "error", "said"),
    [
        (
            table(lambda one: "|".join(one)),
            {"label_separator": ";"},
            FinetuneError,
            "';' is in no cell of column 'tags'",
        ),
        (
            "image,cat,dog\n" + "".join(f"{n}.png,{n % 2},{2 if n == 4 else 1}\n" for n in range(16)),
            {},
            FinetuneError,
            "row 6 has '2' in column 'dog', whose other cells are 0 and 1",
        ),
        (
            "image,cat,dog\n" + "".join(f"{n}.png,{n % 2},{'' if n == 4 else 1}\n" for n in range(16)),
            {},
            FinetuneError,
            "row 6 has an empty cell in column 'dog'",
        ),
        (
            "image,cat,dog,gnu\n" + "".join(f"{n}.png,{n % 2},1,0\n" for n in range(16)),
            {},
            FinetuneError,
            r"no training images of label 2 \(gnu\): expected some of each of its 3 labels",
        ),
        (table(lambda one: "|".join(one)), {"few_shot": 1}, WrongUse, "--few-shot 1 draws images of one class each"),
    ],
)
def test_what_is_wrong_is_said(text, settings, error, said, folder):
    with pytest.raises(error, match=said):
        load(folder, text, **settings)
