"""slim's TFRecords, written here by TensorFlow itself, as slim's scripts write them."""

import gzip
import io
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.data.sources import tfrecord
from finetune.data.sources import tfrecord_file as wire
from finetune.data.sources.tfrecord_example import Example, Malformed, tensor_of
from finetune.errors import FinetuneError, WrongUse
from tests.support.written_photos import CLASSES, COLOURS, encoded, photo

LABELS = "".join(f"{label}:{name}\n" for label, name in enumerate(CLASSES))


def ints(*values):
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def texts(*values):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def floats(*values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def serialized(features):
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def example(label, seed=0, kind="jpeg", offset=0, **more):
    """datasets/dataset_utils.image_to_tfexample of slim."""
    image = photo(label, 40, 32, seed)
    raw = {"raw": image.tobytes(), "RAW": image.tobytes()}
    content = raw[kind] if kind in raw else encoded(image, kind)
    features = {
        "image/encoded": texts(content),
        "image/format": texts(kind.encode()),
        "image/class/label": ints(label + offset),
        "image/height": ints(32),
        "image/width": ints(40),
        "image/filename": texts(b"x" * (seed * 40)),
        "image/object/bbox/xmin": tf.train.Feature(float_list=tf.train.FloatList(value=[0.1, 0.2])),
        **more,
    }
    return serialized(features)


def write(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def flowers(place, labels=LABELS, offset=0, kinds=("jpeg",), validation=True):
    for shard in range(2):
        records = [example(n % 3, n, kinds[n % len(kinds)], offset) for n in range(shard, 12, 2)]
        write(place / f"flowers_train_{shard:05d}-of-00002.tfrecord", *records)
    if validation:
        held = [example(n % 3, 90 + n, offset=offset) for n in range(6)]
        write(place / "flowers_validation_00000-of-00001.tfrecord", *held)
    if labels is not None:
        (place / "labels.txt").write_text(labels)
    return place


def load(path, *, on_scan=None, **settings):
    return load_data(RunConfig("any", data=str(path), **{"validation": 0.0, **settings}), on_scan=on_scan)


def check_colours(split):
    found = split.images[:][:, 8:24, 24:].mean((1, 2))
    assert np.abs(found - np.array(COLOURS)[split.labels]).max() < 12


def test_images_and_labels_are_what_tensorflow_reads(tmp_path):
    told = []
    dataset = load(flowers(tmp_path / "slim"), on_scan=lambda done, total: told.append((done, total)))
    assert dataset.name == "slim"
    assert dataset.class_names == CLASSES
    assert (len(dataset.train), dataset.validation, len(dataset.test)) == (12, None, 6)
    paths = sorted(str(path) for path in (tmp_path / "slim").glob("*train*"))
    for number, record in enumerate(tf.data.TFRecordDataset(paths).as_numpy_iterator()):
        feature = tf.train.Example.FromString(record).features.feature
        assert dataset.train.labels[number] == feature["image/class/label"].int64_list.value[0]
        assert dataset.train.images.photos.content(number) == record
        with Image.open(io.BytesIO(feature["image/encoded"].bytes_list.value[0])) as image:
            expected = np.asarray(image)[:, 4:36]
        np.testing.assert_array_equal(dataset.train.images[number : number + 1][0], expected)
    assert told[-1] == (18, 18)
    check_colours(dataset.test)
    assert dataset.fingerprint() == load(tmp_path / "slim").fingerprint()


def test_raw_pixels_of_squares_without_their_size(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    records = [
        tf.train.Example(
            features=tf.train.Features(feature={"image_raw": texts(one.tobytes()), "label": ints(number % 2)})
        ).SerializeToString()
        for number, one in enumerate(images)
    ]
    write(tmp_path / "train.tfrecord", *records)
    dataset = load(tmp_path, test=0.25)
    assert "raw pixels of 16 x 16 px, by their number" in dataset.remarks
    both = [*dataset.train.images[:], *dataset.test.images[:]]
    assert sorted(one.tobytes() for one in both) == sorted(one.tobytes() for one in images)


def test_jpeg_png_and_raw_pixels(tmp_path):
    dataset = load(flowers(tmp_path, kinds=("jpeg", "png", "raw", "RAW", "webp")))
    check_colours(dataset.train)
    np.testing.assert_array_equal(dataset.train.images[1:2][0], np.asarray(photo(2, 40, 32, 2))[:, 4:36])


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001", "validation-00000-of-00001"),
        ("mnist_train.tfrecord", "mnist_test.tfrecord"),
        ("x-train.tfrecord-00000-of-00001", "x-val.tfrecord-00000-of-00001"),
        ("train.tfrecords", "test.tfrecords"),
        ("pets_TRAIN_00000-of-00001.tfrecord", "pets_validation_00000-of-00001.tfrecord"),
    ],
)
def test_the_names_slim_and_its_friends_give(names, tmp_path):
    for name in names:
        write(tmp_path / name, *(example(n % 3, n) for n in range(6)))
    assert {split: len(paths) for split, paths in tfrecord.tfrecord_files(tmp_path).items()}["train"] == 1
    dataset = load(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (6, 6)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.remarks[0] == "there is no labels.txt: classes are named by number"


def test_without_held_out_files_a_share_is_held_out(tmp_path):
    dataset = load(flowers(tmp_path, validation=False), test=0.25)
    assert (len(dataset.train), len(dataset.test)) == (9, 3)


@pytest.mark.parametrize("labels", ["0:background\n1:lion\n2:newt\n3:wasp\n", "1:lion\n2:newt\n3:wasp", None])
def test_labels_that_start_at_1_are_recognised_and_it_is_said(labels, tmp_path):
    dataset = load(flowers(tmp_path, labels=labels, offset=1))
    assert dataset.class_names == (("1", "2", "3") if labels is None else CLASSES)
    assert sorted(set(dataset.train.labels.tolist())) == [0, 1, 2]
    assert any("labels start at 1: class 0 is slim's background" in remark for remark in dataset.remarks)
    check_colours(dataset.train)
    assert [dataset.lacks_background(outputs) for outputs in (3, 4)] == [False, True]
    kept = load(tmp_path, background_class=True)
    assert kept.class_names == ("background", *dataset.class_names)
    assert sorted(set(kept.train.labels.tolist())) == sorted(set(kept.test.labels.tolist())) == [1, 2, 3]
    assert not any("left out" in remark for remark in kept.remarks)


def test_data_without_a_background_has_none_to_keep(tmp_path):
    with pytest.raises(WrongUse, match=r"--background-class: the labels of .* do not start at 1"):
        load(flowers(tmp_path), background_class=True)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("0:lion\n1:newt\n", "a label is 2, which labels.txt does not name: expected one of 0 to 1"),
        ("0:lion\n1:newt\nwasp\n", "the line 'wasp' is not of the form 0:daisy"),
        ("0:lion\n1:newt\n1:wasp\n", "the line '1:wasp' gives its number a second name"),
        ("\n", "labels.txt is empty: expected lines like 0:daisy"),
        (LABELS + "3:yak\n", r"no training images of class 3 \(yak\)"),
    ],
)
def test_names_that_do_not_fit(labels, said, tmp_path):
    with pytest.raises(FinetuneError, match=said):
        load(flowers(tmp_path, labels=labels))


def test_names_without_numbers_count_from_0(tmp_path):
    assert load(flowers(tmp_path, labels="lion\nnewt\n wasp\n")).class_names == CLASSES


OTHERS = {
    "tfds": lambda label, image: {"id": texts(b"7"), "image": texts(encoded(image, "png")), "label": ints(label)},
    "raw": lambda label, image: {"height": ints(32), "width": ints(40), "depth": ints(3), "label": ints(label),
                                 "image_raw": texts(image.tobytes())},
    "float": lambda label, image: {"image/encoded": texts(encoded(image, "png")), "image/class/label": floats(label)},
    "one-hot": lambda label, image: {"image": texts(encoded(image, "png")), "label": floats(*np.eye(3)[label])},
    "codelab": lambda label, image: {"image": texts(encoded(image, "png")), "class": ints(label), "size": ints(32, 40),
                                     "label": texts(CLASSES[label].encode()), "one_hot_class": floats(1, 0, 0)},
    "text": lambda label, image: {"image/encoded": texts(encoded(image, "png")),
                                  "image/class/text": texts(CLASSES[label].encode())},
    "says JPEG": lambda label, image: {"image/encoded": texts(encoded(image, "png")), "image/format": texts(b"JPEG"),
                                       "image/class/label": ints(label)},
    "given": lambda label, image: {"a": texts(encoded(image, "png")), "b": texts(encoded(image, "png")),
                                   "kind": ints(label), "other": ints(1)},
}  # fmt: skip


@pytest.mark.parametrize("form", OTHERS)
def test_features_of_other_names_and_types(form, tmp_path):
    for split, count in (("train", 9), ("test", 6)):
        records = [OTHERS[form](n % 3, photo(n % 3, 40, 32, n)) for n in range(count)]
        write(tmp_path / f"{split}.tfrecords", *(serialized(one) for one in records))
    dataset = load(tmp_path, tfrecord_keys="image=a,label=kind" if form == "given" else None)
    assert dataset.train.labels.tolist() == [0, 1, 2] * 3
    for n in range(9):
        np.testing.assert_array_equal(dataset.train.images[n : n + 1][0], np.asarray(photo(n % 3, 40, 32, n))[:, 4:36])
    assert dataset.class_names == (CLASSES if form == "text" else ("0", "1", "2"))


@pytest.mark.parametrize(
    ("train", "test", "compressed"),
    [
        ("train.record", "test.record", None),
        ("train00-9.tfrec", "test00-6.tfrec", None),
        ("train.tfrecord.gz", "val.tfrecord.gz", gzip.compress),
        ("x_train-00000-of-00001.tfrecord.gz", "x_eval-00000-of-00001.tfrecord.gz", gzip.compress),
        ("train.tfrecord", "test.tfrecord", gzip.compress),
        ("train.tfrecord", "test.tfrecord", zlib.compress),
        ("train/00-9.tfrec", "val/00-6.tfrec", None),
    ],
)
def test_other_suffixes_folders_and_compression(train, test, compressed, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    for name, count in ((train, 9), (test, 6)):
        path = tmp_path / "data" / name
        write(path, *(example(n % 3, n) for n in range(count)))
        if compressed:
            path.write_bytes(compressed(path.read_bytes()))
    dataset = load(tmp_path / "data")
    assert dataset.train.labels.tolist() == [0, 1, 2] * 3
    assert len(dataset.test) == 6
    check_colours(dataset.train)
    assert len(list((tmp_path / "home").glob("records/*/data.tfrecord"))) == (2 if compressed else 0)
    images = dataset.train.images
    assert images.photos.place(int(images.chosen[0])) == f"{tmp_path / 'data' / train} record 0"


def test_files_without_a_split_and_a_file_itself_are_all_for_training(tmp_path):
    for number in range(2):
        write(tmp_path / f"part-{number}.tfrecord", *(example(n % 3, n) for n in range(9)))
    assert (len(load(tmp_path, test=1 / 3).train), len(load(tmp_path / "part-0.tfrecord", test=1 / 3).train)) == (12, 6)


def test_a_split_without_labels_is_left_out_and_it_is_said(tmp_path):
    write(tmp_path / "train.tfrec", *(serialized(OTHERS["tfds"](n % 3, photo(n % 3, 40, 32, n))) for n in range(9)))
    write(tmp_path / "test.tfrec", serialized({"id": texts(b"1"), "image": texts(encoded(photo(0), "png"))}))
    dataset = load(tmp_path, test=1 / 3)
    assert (len(dataset.train), len(dataset.test)) == (6, 3)
    assert "the test TFRecords have no label: they are left out" in dataset.remarks


@pytest.mark.parametrize(("name", "content"), [("label.labels.txt", "lion\nnewt\nwasp\n"),
                                               ("classes.txt", "0 lion\n1 newt\n2 wasp\n")])  # fmt: skip
def test_class_names_in_files_of_other_names(name, content, tmp_path):
    (flowers(tmp_path, labels=None) / name).write_text(content)
    assert load(tmp_path).class_names == CLASSES


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (
            {"image/class/label": floats(0.5)},
            "record 1 has the label 0.5 in image/class/label: expected a whole",
        ),
        ({"image/class/label": floats(float("nan"))}, "record 1 has the label nan"),
        (
            {"image/class/label": ints(1, -2)},
            "record 1 has the labels 1, -2 in image/class/label: expected a row of 0 and 1 as long as all others",
        ),
        ({"image/class/label": texts(b"lion")}, r"record 1 has no image/class/label of numbers: .*label \(bytes\)"),
        ({"image/class/label": ints(2**40)}, "a label is 1099511627776: expected classes numbered from 0 or 1"),
    ],
)
def test_labels_that_are_no_class(features, said, tmp_path):
    write(tmp_path / "train.tfrecord", example(0), example(1, **features))
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def cut_at_a_header(path):
    path.write_bytes(path.read_bytes()[: 12 + len(example(0, 0)) + 4 + 5])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[2] ^= 1
    path.write_bytes(content)


def cut_gzip(path):
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])


def other_features(path):
    features = {"image": texts(b"x"), "label": ints(1)}
    write(path, tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def no_example(path):
    write(path, b"\x0f\xff\xff")


def numbers_without_an_end(path):
    record = serialized({"a": texts(b"x"), "height": ints(8)})
    write(path, record.replace(b"\x1a\x03\n\x01\x08", b"\x1a\x03\n\x7f\x08"))


def nothing(path):
    write(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut, r"train_00000-of-00002.tfrecord is cut off in record 5, at byte \d+: download or write it again"),
        (cut_at_a_header, r"the checksum of record 1's length, at byte \d+, is wrong"),
        (flipped, "is no TFRecord file, or damaged: the checksum of record 0's length, at byte 0, is wrong; download"),
        (
            other_features,
            r"record 0 has image \(bytes\), label \(int64\): which is the image is not obvious; ",
        ),
        (no_example, "record 0 is no tf.train.Example"),
        (
            numbers_without_an_end,
            r"record 0 is no tf.train.Example \(a (list of numbers|field) is longer than the message",
        ),
    ],
)
def test_damaged_files_are_named(change, said, tmp_path):
    change(flowers(tmp_path) / "flowers_train_00000-of-00002.tfrecord")
    with pytest.raises(FinetuneError, match=said):
        load(tmp_path)


def test_files_that_are_missing_or_say_nothing(tmp_path):
    (flowers(tmp_path / "a") / "flowers_train_00001-of-00002.tfrecord").unlink()
    with pytest.raises(FinetuneError, match=r"lacks 1 of 2 shards, .* with number 00001"):
        load(tmp_path / "a")
    nothing(flowers(tmp_path / "b") / "flowers_validation_00000-of-00001.tfrecord")
    with pytest.raises(FinetuneError, match="the validation TFRecords hold no image"):
        load(tmp_path / "b")
    write(tmp_path / "c" / "flowers.tfrecord", example(0))
    write(tmp_path / "c" / "flowers_train.tfrecord", example(0))
    with pytest.raises(FinetuneError, match="expected train, validation or test in its name"):
        load(tmp_path / "c")
    write(tmp_path / "d" / "flowers_test.tfrecord", example(0))
    with pytest.raises(FinetuneError, match="holds test TFRecords, but none with train"):
        load(tmp_path / "d")


def test_damaged_images_are_named_by_record_or_left_out(tmp_path):
    bad = example(1, 0, **{"image/encoded": texts(b"nothing")})
    raw = example(1, 0, "raw", **{"image/height": ints(31)})
    records = [example(n % 3, n) for n in range(9)]
    write(tmp_path / "train.tfrecord", *records, bad, raw)
    write(tmp_path / "test.tfrecord", *records)
    with pytest.raises(FinetuneError) as caught:
        load(tmp_path)
    assert "train.tfrecord record 9: it is no image" in str(caught.value)
    assert "train.tfrecord record 10: it is damaged (3840 raw bytes are no image of 40 x 31" in str(caught.value)
    assert len(load(tmp_path, skip_bad_images=True).train) == 9


def test_the_checksum_is_the_one_of_the_format():
    # RFC 3720, appendix B.4: 32 bytes of zeros; the mask is undone here.
    unmasked = (wire.masked_crc32c(bytes(32)) - 0xA282EAD8) & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == 0x8A9136AA


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**40, -1, -(2**62)])
def test_whole_numbers_packed_and_not(value):
    packed = tf.train.Example(features=tf.train.Features(feature={"n": ints(value, 7)})).SerializeToString()
    assert Example(packed).first_int("n") == value
    raw = value & (2**64 - 1)
    digits = []
    while raw >= 128:
        digits.append(raw & 127 | 128)
        raw >>= 7
    listed = bytes([8, *digits, raw])
    feature = bytes([0x1A, len(listed)]) + listed
    assert tf.train.Feature.FromString(feature).int64_list.value == [value]
    entry = b"\x0a\x01n\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    listed_example = b"\x0a" + bytes([len(features)]) + features
    assert tf.train.Example.FromString(listed_example).features.feature["n"].int64_list.value == [value]
    assert Example(listed_example).first_int("n") == value
    empty = tf.train.Example(features=tf.train.Features(feature={"n": ints()})).SerializeToString()
    assert Example(empty).first_int("n") is None


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_malformed_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    content = bytearray(example(0, 1))
    for position in rng.integers(0, min(len(content), 200), 6):
        content[position] = rng.integers(256)
    try:
        damaged = Example(bytes(content))
        for key in damaged.features:
            damaged.first_int(key)
            damaged.values(key)
            tensor_of(damaged.first_bytes(key))
    except Malformed:
        pass


@pytest.mark.parametrize(
    ("names", "sizes", "said"),
    [
        (("train.tfrecord", "dev.tfrecord"), (6, 0, 4), "'dev' is taken for the test images"),
        (("x-training.tfrec", "x-eval.tfrec", "x-test.tfrec"), (6, 4, 3), "'eval' is taken for the validation images"),
        (("training_set/0.tfrec", "testing/0.tfrec"), (6, 0, 4), ""),
        (("train.tfrecord", "test.tfrecord", "unlabeled.tfrecord"), (6, 0, 4), "not used: 1 TFRecords without labels"),
    ],
)
def test_splits_are_named_as_those_of_folders(names, sizes, said, tmp_path):
    for name, count in zip(names, (6, 4, 3), strict=False):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, *(example(number % 2, number) for number in range(count)))
    dataset = load(tmp_path, validation=0.05 if "eval" in said else 0.0)
    found = (dataset.train, dataset.validation, dataset.test)
    assert tuple(len(split) if split else 0 for split in found) == sizes
    assert not said or any(one.startswith(said) for one in dataset.remarks)


def test_two_names_of_one_split_are_refused(tmp_path):
    for name in ("train.tfrecord", "val.tfrecord", "dev.tfrecord", "test.tfrecord"):
        write(tmp_path / name, *(example(number % 2, number) for number in range(4)))
    with pytest.raises(FinetuneError, match="holds validation and dev, which mean the same: keep one of them"):
        load(tmp_path)
