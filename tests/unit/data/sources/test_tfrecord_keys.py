"""Which feature is the image and which the label."""

import pytest
import tensorflow as tf

from finetune.data.sources.tfrecord_example import Example, Keys
from finetune.data.sources.tfrecord_keys import find_keys
from finetune.errors import FinetuneError, WrongUse
from finetune.text import pairs
from tests.support.written_photos import encoded, photo

PICTURE = encoded(photo(0, 12, 8), "png")


def record(**features):
    made = {}
    for name, value in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(value)]
        listed = {"bytes_list": tf.train.BytesList, "int64_list": tf.train.Int64List, "float_list": tf.train.FloatList}
        made[name.replace("__", "/")] = tf.train.Feature(**{kind: listed[kind](value=[value])})
    return Example(tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString())


def found(given=None, **features):
    keys = find_keys("train.tfrecord record 0", record(**features), pairs(given or "") or {})
    return keys.image, keys.label, keys.text


@pytest.mark.parametrize(
    ("features", "keys"),
    [
        ({"image__encoded": PICTURE, "image__class__label": 1, "label": 2}, ("image/encoded", "image/class/label", "")),
        ({"image": PICTURE, "label": 1, "id": 7}, ("image", "label", "")),
        ({"photo": PICTURE, "target": 1.0, "height": 8, "width": 12}, ("photo", "target", "")),
        ({"photo": PICTURE, "species": 1, "size": 8}, ("photo", "species", "")),
        ({"image": PICTURE, "class": 1, "label": b"lion"}, ("image", "class", "")),
        ({"image": PICTURE, "label": b"lion", "name": b"a.png"}, ("image", "", "label")),
        ({"data": bytes(96 * 3), "rows": 8, "cols": 12, "y": 0}, ("data", "y", "")),
    ],
)
def test_obvious_names_are_found(features, keys):
    assert found(**features) == keys


def test_raw_pixels_of_a_square_say_their_size_by_their_number():
    keys = find_keys("here", record(image_raw=bytes(3 * 12**2), label=1), {})
    assert (keys.image, keys.side) == ("image_raw", 12)
    assert find_keys("here", record(image=bytes(28**2), label=1), {}).side == 28
    assert find_keys("here", record(image=PICTURE, label=1), {}).side == 0
    for size in (3 * 12**2 + 1, 7**2):  # no square, and less than 8 px
        with pytest.raises(FinetuneError, match=r"image_raw is bytes that are no image: write tf.io.encode_png"):
            find_keys("here", record(image_raw=bytes(size), label=1), {})
    with pytest.raises(FinetuneError, match=r"image is a list of numbers \(float\): write tf.io.encode_png"):
        find_keys("here", record(image=0.5, label=1), {})


def test_given_names_win():
    assert found("image=b,label=id", a=PICTURE, b=PICTURE, label=1, id=2) == ("b", "id", "")
    assert found("text=kind", image=PICTURE, label=1, kind=b"lion") == ("image", "", "kind")
    assert found("label=image/object/class/label", image=PICTURE, image__object__class__label=1)[1].endswith(
        "object/class/label"
    )
    assert Keys().text == ""


@pytest.mark.parametrize(
    ("given", "features", "kind", "said"),
    [
        (None, {"a": PICTURE, "b": PICTURE, "label": 1}, FinetuneError, "which is the image is not obvious"),
        (None, {"image": PICTURE, "one": 1, "two": 2}, FinetuneError, r"one \(int64\), two .* is the label"),
        (None, {}, FinetuneError, "has no features: which is the image and label is not obvious"),
        (None, {"image": PICTURE, "image__object__class__label": 1, "area": 3}, FinetuneError,
         "names the class of each object .* --tfrecord-keys label=image/object/class/label"),
        ("label=lable", {"image": PICTURE, "label": 1}, WrongUse, "has no such feature: did you mean label?"),
    ],
)  # fmt: skip
def test_what_is_not_obvious_is_refused_with_the_way_on(given, features, kind, said):
    with pytest.raises(kind, match=said):
        found(given, **features)
