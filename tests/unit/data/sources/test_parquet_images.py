"""Parquet files with images in them, written by pyarrow as the Hugging Face Hub's are."""

import io
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from finetune._version import install_line
from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.data.sources import record_copies
from finetune.errors import FinetuneError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _(home):
    """Each test has a cache of its own."""


def load(path, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}))


def picture(colour, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(out, kind)
    return out.getvalue()


def hub(path, colours, labels, names=None, image="image", label="label", **more):
    """As `datasets` writes it: a struct of bytes and path, and the class names in the schema's metadata."""
    images = [{"bytes": picture(colour), "path": f"{colour}.png"} for colour in colours]
    table = pyarrow.table({image: images, label: labels, **more})
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"} if names else {}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(about), path)


def seen(split, names):
    pixels = split.images[:][:, 0, 0, 0]
    return sorted((int(one), names[label]) for one, label in zip(pixels, split.labels, strict=True))


NAMES = ["cat", "dog"]


def test_a_repository_of_the_hub(tmp_path):
    folder = tmp_path / "pets"
    hub(folder / "data" / "train-00000-of-00002-abc.parquet", [0, 1, 2], [0, 1, 0], NAMES)
    hub(folder / "data" / "train-00001-of-00002-abd.parquet", [3, 4], [1, 0], NAMES)
    hub(folder / "data" / "test-00000-of-00001.parquet", [5, 6], [1, 0], NAMES)
    (folder / "README.md").write_text("a card")
    dataset = load(folder)
    assert dataset.class_names == ("cat", "dog")
    assert seen(dataset.train, NAMES) == [(0, "cat"), (1, "dog"), (2, "cat"), (3, "dog"), (4, "cat")]
    assert seen(dataset.test, NAMES) == [(5, "dog"), (6, "cat")]
    assert {dataset.train.images.photos.name(number) for number in range(3)} == {
        f"train-00000-of-00002-abc.parquet row {row}" for row in range(3)
    }
    copies = record_copies.entries()
    assert len(copies) == 3
    before = {one.key: one.path.stat().st_ino for one in copies}
    assert load(folder).fingerprint() == dataset.fingerprint()
    assert {one.key: one.path.stat().st_ino for one in record_copies.entries()} == before


@pytest.mark.parametrize(
    ("columns", "settings", "classes"),
    [
        ({"img": "plain", "label": [0, 1, 0, 1]}, {}, ("0", "1")),
        ({"image": "plain", "labels": ["dog", "cat", "dog", "cat"]}, {}, ("cat", "dog")),
        ({"image": "plain", "species": ["dog", "cat"] * 2, "split": ["train", "train", "test", "test"]}, {}, NAMES),
        ({"a": "plain", "b": [7, 9, 7, 9], "c": "plain"}, {"csv_columns": "path=a,label=b"}, ("7", "9")),
    ],
)
def test_columns_of_one_file(columns, settings, classes, tmp_path):
    pictures = [picture(colour) for colour in range(4)]
    table = {name: pictures if cells == "plain" else cells for name, cells in columns.items()}
    parquet.write_table(pyarrow.table(table), tmp_path / "one.parquet", row_group_size=3)
    dataset = load(tmp_path / "one.parquet", test=0.5, **settings)
    assert dataset.class_names == tuple(classes)
    both = seen(dataset.train, dataset.class_names) + seen(dataset.test, dataset.class_names)
    labels = next(cells for name, cells in columns.items() if cells != "plain")
    assert sorted(both) == [(number, str(label)) for number, label in enumerate(labels)]
    if "split" in columns:
        assert seen(dataset.test, dataset.class_names) == [(2, "dog"), (3, "cat")]


def test_test_images_without_labels_are_not_used(tmp_path):
    hub(tmp_path / "d" / "train-0.parquet", range(10), [0, 1] * 5, NAMES)
    hub(tmp_path / "d" / "test-0.parquet", [20, 21], [-1, -1], NAMES)
    dataset = load(tmp_path / "d", test=0.2)
    assert (len(dataset.train), len(dataset.test)) == (8, 2)
    assert dataset.remarks[0] == "2 images without a label are not used"


@pytest.mark.parametrize(
    ("table", "settings", "said"),
    [
        ({"image": [b"x"], "one": [1], "two": [2]}, {}, "which of them holds the label is not clear"),
        ({"a": [b"x"], "b": [b"x"], "label": [2]}, {}, "which of them holds the image is not clear"),
        ({"image": [b"x"], "label": [1]}, {"csv_columns": "label=kind"}, "label=kind: .* has the columns image"),
        ({"image": [b"x"], "label": [1]}, {"csv_columns": "path=label"}, "path=label: .* has the columns image"),
        ({"image": [b"x"], "label": [1]}, {}, r"1 of 1 images cannot be used: .*one.parquet row 0: it is no image"),
        ({"image": [{"bytes": None, "path": "a.png"}], "label": [1]}, {}, "row 0 has a path and no image in it"),
        ({"image": [b"x"], "label": [None]}, {}, "has no training images with labels in column 'label'"),
    ],
)
def test_what_does_not_fit_is_refused(table, settings, said, tmp_path):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    arrays = {name: pyarrow.array(cells, kind if isinstance(cells[0], dict) else None) for name, cells in table.items()}
    parquet.write_table(pyarrow.table(arrays), tmp_path / "one.parquet")
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path / "one.parquet", **settings)


def test_a_label_without_a_class_name_is_refused(tmp_path):
    hub(tmp_path / "a.parquet", range(4), [0, 1, 0, 2], NAMES)
    with pytest.raises(FinetuneError, match="a label is 2: expected 0 to 1, for its class names"):
        load(tmp_path / "a.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    hub(tmp_path / "a.parquet", range(4), [0, 1, 0, 1], NAMES)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FinetuneError, match=re.escape(f"read by pyarrow: {install_line('parquet')}, or write")):
        load(tmp_path / "a.parquet")
