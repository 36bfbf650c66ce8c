"""Folders as other programs and sites leave them: each image gets the right class, or a refusal says the way on."""

import json

import numpy as np
import pytest
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError, WrongUse

KINDS = ("cat", "dog", "emu")


def load(path, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}))


def write(folder, *names, mode="RGB", **options):
    """Images of one colour each: the number in the file's name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = int("".join(filter(str.isdigit, path.stem)) or 0)
        Image.new("RGB", (8, 8), (colour,) * 3).convert(mode).save(path, **options)


def seen(split, names):
    pixels = split.images[:][:, 4, 4, 0].round(-1)
    return sorted((int(one), names[label]) for one, label in zip(pixels, split.labels, strict=True))


def rows(numbers, line):
    return "\n".join(line.format(number=number, kind=KINDS[number // 10 % 3]) for number in numbers)


SPLITS = {"train": range(10, 100, 10), "valid": range(100, 130, 10), "test": range(130, 160, 10)}


def right(numbers):
    return [(number, KINDS[number // 10 % 3]) for number in numbers]


@pytest.mark.parametrize("form", ["_classes.csv", "_annotations.csv", "labels.csv"])
def test_a_table_in_each_splits_folder(form, tmp_path):
    """As Roboflow exports classes (one-hot) and objects (a row for each box)."""
    for split, numbers in SPLITS.items():
        write(tmp_path / split, *(f"{number}.png" for number in numbers))
        hot = [
            f"{number}.png," + ",".join(str(int(KINDS[number // 10 % 3] == kind)) for kind in KINDS)
            for number in numbers
        ]
        box = rows(numbers, "{number}.png,8,8,{kind},1,1,5,5")
        content = {
            "_classes.csv": "filename, cat, dog, emu\n" + "\n".join(hot),
            "_annotations.csv": f"filename,width,height,class,xmin,ymin,xmax,ymax\n{box}\n{box}",
            "labels.csv": "image,label\n" + rows(numbers, "{number}.png,{kind}"),
        }[form]
        (tmp_path / split / form).write_text(content)
    (tmp_path / "README.roboflow.txt").write_text("a note")
    dataset = load(tmp_path, validation=0.05)
    assert dataset.class_names == KINDS
    for split, found in (("train", dataset.train), ("valid", dataset.validation), ("test", dataset.test)):
        assert seen(found, KINDS) == right(SPLITS[split])
    assert dataset.remarks[0] == f"read from train/{form}, valid/{form}, test/{form}"
    (tmp_path / "test" / form).write_text("name,kind,more\n1.png,cat,1\n")
    with pytest.raises(FinetuneError, match=r"test/.*csv has the columns name, kind, more, .*: expected the same"):
        load(tmp_path)


def test_parts_of_one_set_are_no_classes_where_a_table_says_so(tmp_path):
    """HAM10000: `HAM10000_images_part_1/` and `_part_2/` beside a table."""
    numbers = list(range(10, 130, 10))
    write(tmp_path / "part_1", *(f"ISIC_{number}.png" for number in numbers[:6]))
    write(tmp_path / "part_2", *(f"ISIC_{number}.png" for number in numbers[6:]))
    table = tmp_path / "metadata.csv"
    table.write_text("lesion_id,image_id,dx,age\n" + rows(numbers, "H{number},ISIC_{number},{kind},50"))
    with pytest.raises(
        FinetuneError, match=r"images in several of the folders part_1/, part_2/ the class .*give --data"
    ):
        load(tmp_path)
    dataset = load(table, test=0.25)
    assert sorted(seen(dataset.train, KINDS) + seen(dataset.test, KINDS)) == right(numbers)


def test_a_table_that_agrees_with_the_folders_does_no_harm(tmp_path):
    for number in range(10, 130, 10):
        write(tmp_path / KINDS[number // 10 % 3], f"{number}.png")
    (tmp_path / "list.csv").write_text("image,label\n" + rows(range(10, 130, 10), "{kind}/{number}.png,a {kind}"))
    dataset = load(tmp_path, test=0.25)
    assert sorted(seen(dataset.train, KINDS) + seen(dataset.test, KINDS)) == right(range(10, 130, 10))
    assert "not used, beside cat/: list.csv" in dataset.remarks


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(("color", "segmented"), ("apple", "corn")), (("covid", "normal"), ("images", "masks"))],
)
def test_which_of_two_levels_are_the_classes_must_be_certain(outer, inner, tmp_path):
    """PlantVillage has its classes below, the COVID-19 radiographs above, with masks beside the images."""
    for one in outer:
        for other in inner:
            write(tmp_path / one / other, "1.png", "2.png")
    said = f"{outer[0]}/, {outer[1]}/, each with {inner[0]}/, {inner[1]}/ in it: .* give --data .*{outer[0]}; where"
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path)
    assert load(tmp_path / outer[0], test=0.5).class_names == inner
    write(tmp_path / outer[0], "9.png")  # an image of the folder's own: it is a class
    assert load(tmp_path, test=0.2).class_names == outer


@pytest.mark.parametrize("line", ["{number}.png {kind}", "images/{number}.png {kind}", "{number}.png\t{kind}"])
def test_a_list_of_images_and_classes(line, tmp_path):
    write(tmp_path / "images", *(f"{number}.png" for number in range(10, 130, 10)))
    (tmp_path / "labels.txt").write_text(rows(range(10, 130, 10), line))
    with pytest.raises(FinetuneError, match=r"one folder only, images: .*in a line with --data .*labels.txt"):
        load(tmp_path)
    dataset = load(tmp_path / "labels.txt", test=0.25)
    assert sorted(seen(dataset.train, KINDS) + seen(dataset.test, KINDS)) == right(range(10, 130, 10))


def voc(place):
    write(place / "JPEGImages", "1.png", "2.png")
    (place / "Annotations").mkdir()
    (place / "Annotations" / "1.xml").write_text("<annotation/>")
    (place / "ImageSets" / "Main").mkdir(parents=True)
    (place / "ImageSets" / "Main" / "train.txt").write_text("1")


def oxford(place):
    write(place / "jpg", "1.png", "2.png")
    (place / "imagelabels.mat").write_bytes(b"MATLAB 5.0")


def by_name(place):
    write(place / "train", *(f"{kind}.{number}.png" for kind in ("cat", "dog") for number in range(3)))


def one_hot(place):
    write(place / "images", "1.png", "2.png")
    (place / "train.csv").write_text("image_id,rust,scab\n1,0,1\n2,1,0\n")


def idx(place):
    (place / "t10k-images-idx3-ubyte.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (voc, "in one folder only, JPEGImages: .*--data FILE.csv, made from Annotations, which is not read"),
        (oxford, "in one folder only, jpg: .*--data FILE.csv, made from imagelabels.mat, which is not read"),
        (one_hot, "in one folder only, images: .*their classes with --data .*train.csv"),
        (idx, "holds the files of MNIST or the like: give --data mnist or fashion_mnist, and --data-dir"),
    ],
)
def test_what_is_not_read_is_refused_with_what_it_can_be_made_from(made, said, tmp_path):
    made(tmp_path)
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path)


def test_names_that_begin_with_classes_are_pointed_out(tmp_path):
    by_name(tmp_path)
    with pytest.raises(
        FinetuneError, match="the names begin with cat, dog: where these are the classes, make a folder"
    ):
        load(tmp_path / "train")


@pytest.mark.parametrize(
    ("name", "said"),
    [("a.zip", "unpack the archive"), ("a.json", "write a .csv")],
)
def test_a_file_that_is_not_read(name, said, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(WrongUse, match=f"is a file: expected .*{said}"):
        load(tmp_path / name)


def test_every_format_and_colour_that_pillow_gives(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    forms = [("webp", "RGB", {"lossless": True}), ("bmp", "RGB", {}), ("gif", "RGB", {}), ("tif", "CMYK", {})]
    forms += [
        ("jpg", "CMYK", {}),
        ("PNG", "P", {}),
        ("png", "P", {"transparency": 0}),
        ("jpg", "RGB", {"exif": turned}),
    ]
    forms += [("png", "LA", {}), ("jfif", "L", {"format": "JPEG"}), ("tiff", "L", {})]
    for kind in ("cat", "dog"):
        for number, (suffix, mode, options) in enumerate(forms):
            write(
                tmp_path / kind / f"{kind} {number}", f"{100 if kind == 'cat' else 200}.{suffix}", mode=mode, **options
            )
        (tmp_path / kind / "Thumbs.db").write_bytes(b"x")
        (tmp_path / kind / "._a.png").write_bytes(b"a Mac's own")
    (tmp_path / "class_indices.json").write_text(json.dumps({"cat": 0, "dog": 1}))
    dataset = load(tmp_path, test=0.2)
    both = [*dataset.train.images.chosen, *dataset.test.images.chosen]
    assert len(both) == 2 * len(forms)
    for split in (dataset.train, dataset.test):
        for pixels, label, number in zip(split.images[:], split.labels, split.images.chosen, strict=True):
            name = split.images.photos.name(int(number))
            with Image.open(tmp_path / name) as opened:
                opaque = opened.convert("RGBA")
            expected = np.asarray(Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB"))
            assert dataset.class_names[label] == name.partition("/")[0]
            assert np.abs(pixels.astype(int) - expected).max() <= 1, name


@pytest.mark.parametrize("name", ["test", "Testing", "seg_pred", "unlabeled"])
def test_images_to_be_tested_or_predicted_are_no_class_beside_two_others(name, tmp_path):
    for kind in ("cat", "dog", name):
        write(tmp_path / kind, "1.png", "2.png")
    with pytest.raises(FinetuneError, match=f"holds {name}/, named as splits are, and cat/, dog/ with images as well"):
        load(tmp_path)


@pytest.mark.parametrize("names", [("car", "plane", "train"), ("invalid", "valid"), ("control", "test")])
def test_classes_may_have_the_name_of_a_split(names, tmp_path):
    for name in names:
        write(tmp_path / name, "1.png", "2.png")
    dataset = load(tmp_path, test=0.5)
    assert dataset.class_names == names
    assert any("of a split's name, is read as a class" in one for one in dataset.remarks)
