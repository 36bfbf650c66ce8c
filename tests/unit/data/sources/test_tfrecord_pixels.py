"""Images in TFRecords that are numbers: the pixels that NumPy wrote, through TensorFlow's writers."""

import numpy as np
import pytest
import tensorflow as tf

from finetune.config import RunConfig
from finetune.data.load_data import load_data
from finetune.data.sources.tfrecord_example import Example, tensor_of
from finetune.errors import FinetuneError

WIDE, SQUARE = (10, 12, 3), (12, 12, 3)


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    values = np.ravel(value)
    if values.dtype.kind == "f":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def tensor(array):
    return tf.io.serialize_tensor(array).numpy()


def said(array):
    return {"height": array.shape[0], "width": array.shape[1], "depth": array.shape[2]}


FORMS = {
    "int64 list": (WIDE, lambda image: {"image": image.astype(np.int64), **said(image)}),
    "float list": (WIDE, lambda image: {"image": image.astype(np.float32), **said(image)}),
    "float list in [0, 1]": (WIDE, lambda image: {"image": image / 255, "rows": 10, "cols": 12}),
    "int64 list of a square": (SQUARE, lambda image: {"pixels": image.astype(np.int64)}),
    "float list of a grey square": ((28, 28, 1), lambda image: {"x": image / 255}),
    "list and shape": (WIDE, lambda image: {"image": image.astype(np.int64), "shape": np.array(WIDE)}),
    "tensor of bytes": (WIDE, lambda image: {"image": tensor(image)}),
    "tensor of float32": (WIDE, lambda image: {"image": tensor((image / 255).astype(np.float32))}),
    "tensor of float16": (WIDE, lambda image: {"image": tensor(image.astype(np.float16))}),
    "tensor of int64": (WIDE, lambda image: {"image/encoded": tensor(image.astype(np.int64))}),
    "tensor of one in a batch": (WIDE, lambda image: {"image": tensor(image[None])}),
    "tensor, grey": ((10, 12, 1), lambda image: {"image": tensor(image[..., 0])}),
    "tensor, channels first": (WIDE, lambda image: {"image": tensor(image.transpose(2, 0, 1))}),
    "tensor of make_tensor_proto": (WIDE, lambda image: {"image": tf.make_tensor_proto(image).SerializeToString()}),
    "bytes of float32": (WIDE, lambda image: {"image_raw": (image / 255).astype(np.float32).tobytes(), **said(image)}),
    "bytes of grey float32": ((10, 12, 1), lambda image: {"image_raw": np.float32(image).tobytes(), **said(image)}),
    "bytes with transparency": ((10, 12, 4), lambda image: {"image_raw": image.tobytes(), **said(image)}),
}


def written(place, shape, form, change=lambda pixels: pixels):
    rng = np.random.default_rng(0)
    images = {"train": change(rng.integers(0, 256, (8, *shape), "u1")), "test": rng.integers(0, 256, (4, *shape), "u1")}
    for split, arrays in images.items():
        with tf.io.TFRecordWriter(str(place / f"{split}.tfrecord")) as writer:
            for number, image in enumerate(arrays):
                features = {"label": feature(number % 2)} | {key: feature(one) for key, one in form(image).items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return images


def load(place, **settings):
    return load_data(RunConfig("slim/resnet_v1_50", data=str(place), validation=0.0, **settings))


@pytest.mark.parametrize("name", FORMS)
def test_pixels_are_those_that_were_written(name, tmp_path):
    shape, form = FORMS[name]
    images = written(tmp_path, shape, form)
    split = load(tmp_path).test
    height, width, channels = shape
    for number, image in enumerate(images["test"]):
        opened = split.images.photos.open(int(split.images.chosen[number]))
        assert opened.size == (width, height)
        np.testing.assert_array_equal(np.asarray(opened).reshape(shape), image)
    np.testing.assert_array_equal(split.labels, np.arange(4) % 2)
    assert channels == len(opened.getbands())


def test_what_is_multiplied_is_said(tmp_path):
    written(tmp_path, WIDE, FORMS["float list in [0, 1]"][1])
    assert "image holds floats in [0, 1]: they are multiplied by 255" in load(tmp_path).remarks


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (lambda image: {"image": image / 127.5 - 1, **said(image)}, "pixels from -[01].* to .*: expected 0 to 1"),
        (lambda image: {"image": image.astype(np.int64) * 9, **said(image)}, r"pixels from .*: expected 0 to 255"),
        (lambda image: {"image": tensor(image / 64 - 2)}, "pixels from -2 to .*: expected 0 to 255"),
    ],
)
def test_numbers_that_are_no_pixels_are_refused(form, reason, tmp_path):
    written(tmp_path, WIDE, form)
    with pytest.raises(FinetuneError, match=f"train.tfrecord record 0: image holds {reason}; write tf.io.encode_png"):
        load(tmp_path)


@pytest.mark.parametrize("values", [[], [0, 1, 127, 128, 255, 300, 2**62, -1, -(2**63)], [7]])
def test_a_packed_list_is_read_at_once_as_tensorflow_reads_it(values):
    made = tf.train.Example(features=tf.train.Features(feature={"n": feature(np.array(values, np.int64))}))
    np.testing.assert_array_equal(Example(made.SerializeToString()).values("n"), values)


def test_bytes_that_are_no_tensor():
    whole = tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(tensor_of(whole), [[0, 1, 2], [3, 4, 5]])
    for content in (b"", whole[:-1], tensor(["a", "b"]), tensor(np.float32(1)), b"\x89PNG"):
        assert tensor_of(content) is None
