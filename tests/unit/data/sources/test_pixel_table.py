"""Tables of pixels, as Kaggle has MNIST and FER2013, against the same pixels in NumPy."""

import numpy as np
import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError

GREY = np.random.default_rng(0).integers(0, 256, (12, 100), np.uint8)
LABELS = np.array([0, 3, 7] * 4)


def load(path, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}))


def images_of(dataset):
    """The images of each class, by its name, as rows of bytes."""
    both = [(dataset.train, index) for index in range(len(dataset.train))]
    both += [(dataset.test, index) for index in range(len(dataset.test))]
    return sorted((dataset.class_names[one.labels[at]], one.images[at].tobytes()) for one, at in both)


EXPECTED = sorted((str(label), row.tobytes()) for label, row in zip(LABELS, GREY, strict=True))


def text(columns, header=None, separator=","):
    rows = [separator.join(map(str, row)) for row in columns.tolist()]
    return "\n".join([separator.join(header), *rows] if header else rows)


PIXELS = [f"pixel{number}" for number in range(100)]


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (text(np.column_stack([LABELS, GREY]), ["label", *PIXELS]), {}),
        (text(np.column_stack([GREY, LABELS]), [*PIXELS, "label"], ";"), {}),
        (text(np.column_stack([LABELS, GREY])), {}),  # without a header
        (text(np.column_stack([GREY, LABELS]), [*PIXELS, "kind of it"]), {"csv_columns": "label=kind of it"}),
    ],
)
def test_a_column_for_each_pixel(content, settings, tmp_path):
    (tmp_path / "digits.csv").write_text(content)
    dataset = load(tmp_path / "digits.csv", test=0.5, **settings)
    assert dataset.class_names == ("0", "3", "7")
    assert dataset.train.images.shape[1:] == (10, 10, 1)
    assert images_of(dataset) == EXPECTED


def test_many_columns_of_classes_are_no_pixels(tmp_path):
    names = [f"breed {letter}{other}" for letter in "abcdefghij" for other in "klmnopqr"]
    rows = []
    for number, name in enumerate(names * 2):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
        rows.append(",".join([f"{number}.png", *(str(int(name == one)) for one in names)]))
    (tmp_path / "breeds.csv").write_text("\n".join([",".join(["id", *names]), *rows]))
    dataset = load(tmp_path / "breeds.csv", test=0.5)
    assert dataset.class_names == tuple(names)
    numbers = dataset.train.images[:][:, 0, 0, 0].astype(int)
    assert [dataset.class_names[label] for label in dataset.train.labels] == [names[number % 80] for number in numbers]


def test_one_column_of_all_pixels_and_one_of_splits(tmp_path):
    usage = ["Training"] * 6 + ["PublicTest"] * 3 + ["PrivateTest"] * 3
    rows = [f"{label},{' '.join(map(str, row))},{of}" for label, row, of in zip(LABELS, GREY, usage, strict=True)]
    (tmp_path / "fer.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    dataset = load(tmp_path / "fer.csv", validation=0.05)
    np.testing.assert_array_equal(dataset.train.images, GREY[:6].reshape(-1, 10, 10, 1))
    np.testing.assert_array_equal(dataset.validation.images, GREY[6:9].reshape(-1, 10, 10, 1))
    np.testing.assert_array_equal(dataset.test.images, GREY[9:].reshape(-1, 10, 10, 1))
    assert dataset.test.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text(GREY, PIXELS), "has a column for each pixel .* which holds the label is not clear"),
        (text(np.column_stack([LABELS, GREY[:, :98]]), ["label", *PIXELS[:98]]), "the pixels has the shape"),
        (
            text(np.column_stack([LABELS, GREY]), ["label", *PIXELS]).replace("\n0,", "\nzero,", 1),
            "a cell is no number",
        ),
        ("label,pixels\n0,1 2 3 4\n1,1 2 3\n", "rows have 3 to 4 pixels: expected the same number in each"),
        ("a,b,pixels\n0,1,1 2 3 4\n", "which of them holds the label of an image is not clear"),
    ],
)
def test_what_does_not_fit_is_refused(content, said, tmp_path):
    (tmp_path / "digits.csv").write_text(content)
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path / "digits.csv")


def test_the_table_of_test_images_beside_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64))
    header = ",".join(["label", *(f"pixel{number}" for number in range(64))])
    for name, part in (("sign_mnist_train", slice(0, 6)), ("sign_mnist_test", slice(6, 9))):
        rows = [",".join(map(str, (number % 3, *row))) for number, row in enumerate(pixels[part])]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]))
    dataset = load(tmp_path / "sign_mnist_train.csv")
    assert (dataset.train.images[:].reshape(6, 64) == pixels[:6]).all()
    assert (dataset.test.images[:].reshape(3, 64) == pixels[6:]).all()
    assert dataset.test.labels.tolist() == [0, 1, 2]
    assert "read from sign_mnist_train.csv, sign_mnist_test.csv" in dataset.remarks
    (tmp_path / "sign_mnist_test.csv").write_text(header.removeprefix("label,") + "\n" + ",".join(["1"] * 64))
    dataset = load(tmp_path / "sign_mnist_train.csv", test=0.5)
    assert "not used: sign_mnist_test.csv, whose columns are not those of sign_mnist_train.csv" in dataset.remarks
    assert len(dataset.train) + len(dataset.test) == 6
