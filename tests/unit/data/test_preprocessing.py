"""Every preprocessing against the published one."""

import re

import numpy as np
import pytest
import tensorflow as tf
from keras.applications.imagenet_utils import preprocess_input

from finetune.data.preprocessing import (
    PREPROCESSINGS,
    CustomPreprocessing,
    distinct,
    find_preprocessing,
    is_harmless,
    known_name,
    suspects,
    swapped,
)
from finetune.errors import WrongUse

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
PIXELS[0, 0, 0], PIXELS[0, 0, 1] = 0, 255


def by_keras(mode):
    return lambda pixels: preprocess_input(pixels.astype(np.float32), data_format="channels_last", mode=mode)


REFERENCES = {
    "inception": by_keras("tf"),
    "caffe": by_keras("caffe"),
    "torch": by_keras("torch"),
    # slim's vgg_preprocessing: _R_MEAN, _G_MEAN, _B_MEAN are subtracted, channels stay RGB.
    "vgg": lambda pixels: pixels - np.array([123.68, 116.779, 103.939]),
    "densenet": lambda pixels: (pixels - np.array([123.68, 116.78, 103.94])) * 0.017,
    "unit": lambda pixels: pixels / 255.0,
    "raw": lambda pixels: pixels.astype(np.float32),
}


def test_every_preprocessing_has_a_reference():
    assert set(REFERENCES) == set(PREPROCESSINGS)
    assert all(name == one.name for name, one in PREPROCESSINGS.items())


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pixels_are_what_the_reference_makes_of_them(name, dtype):
    made = find_preprocessing(name).apply(tf.constant(PIXELS.astype(dtype)))
    assert made.dtype == tf.float32
    np.testing.assert_allclose(made, REFERENCES[name](PIXELS), rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_resizing_before_and_after_are_the_same(name):
    before = find_preprocessing(name).apply(tf.image.resize(PIXELS, (9, 9)))
    after = tf.image.resize(find_preprocessing(name).apply(PIXELS), (9, 9))
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"), [("incepton", "did you mean inception?"), ("x", "expected one of inception")]
)
def test_an_unknown_name_is_wrong_use(name, said):
    with pytest.raises(WrongUse) as caught:
        find_preprocessing(name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("scale=1/255,mean=0.49/0.48/0.45,std=0.2/0.3/0.4", lambda x: (x / 255 - [0.49, 0.48, 0.45]) / [0.2, 0.3, 0.4]),
        ("mean=104/117/124,order=bgr", lambda x: x[..., ::-1] - np.array([104, 117, 124])),
        ("scale=1/127.5,mean=1", REFERENCES["inception"]),
        ("std=64,scale=0.5", lambda x: x * 0.5 / 64),
        ("cifar", lambda x: (x / 255 - [0.4914, 0.4822, 0.4465]) / [0.247, 0.2435, 0.2616]),
        ("per-image", tf.image.per_image_standardization),
    ],
)
def test_numbers_and_the_habits_of_small_images(name, reference):
    np.testing.assert_allclose(find_preprocessing(name).apply(PIXELS), reference(PIXELS), rtol=1e-5, atol=1e-5)
    assert is_harmless(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scale=2/0", "scale is '2/0'"),
        ("scale=-1", "must be above 0"),
        ("scale=1/255,mean=0.4/0.5", "mean has 2 numbers"),
        ("std=0", "must be above 0"),
        ("mean=nan", "mean is not finite"),
        ("mean=x", "mean is 'x'"),
        ("order=gbr", "order is 'gbr'"),
        ("size=3", "'size=3' is none of scale=, mean=, std=, order="),
        ("scale=1,", "'' is none of"),
    ],
)
def test_numbers_that_are_none_say_what_is_wrong(name, said):
    with pytest.raises(WrongUse, match=re.escape(said)):
        find_preprocessing(name)
    assert not is_harmless(name)


def test_a_function_of_the_users_own_is_not_harmless():
    assert not is_harmless("os:system")


def test_colours_swapped_is_what_opencv_reads():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    by_name = find_preprocessing("inception, colours swapped")
    np.testing.assert_array_equal(by_name.apply(images), find_preprocessing("inception").apply(images[..., ::-1]))
    assert [one.name for one in swapped(find_preprocessing("vgg"))] == ["caffe"]
    assert len({one.name for one in suspects()}) == len(suspects())


def test_a_negative_has_black_and_white_exchanged():
    for channels in (1, 3, 4):
        images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, channels)).astype(np.uint8)
        for name in ("caffe", "scale=1/255,mean=0.1/0.2/0.3"):
            by_name = find_preprocessing(f"{name}, negative")
            np.testing.assert_allclose(by_name.apply(images), find_preprocessing(name).apply(255 - images), atol=1e-3)
            assert is_harmless(by_name.name)
    assert not is_harmless("os:system, negative")
    with pytest.raises(WrongUse, match="did you mean inception"):
        find_preprocessing("incepton, negative")


def test_transposed_images_have_height_and_width_exchanged():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    by_name = find_preprocessing("torch, transposed")
    expected = find_preprocessing("torch").apply(images.swapaxes(1, 2))
    np.testing.assert_array_equal(by_name.apply(images), expected)
    with pytest.raises(WrongUse, match="is for square images, not for 5 x 4 px"):
        by_name.apply(images[:, :4])


def test_of_preprocessings_that_give_the_same_the_first_is_kept():
    assert distinct(suspects(), 3) == suspects()
    grey = [one.name for one in distinct(suspects(), 1)]
    assert grey == [
        one.name
        for one in suspects()
        if "swapped" not in one.name and not one.name.startswith("caffe") and one.name != "unit, then caffe"
    ]
    own = CustomPreprocessing("mine:same", lambda pixels: pixels)
    assert distinct((PREPROCESSINGS["raw"], own), 1) == (PREPROCESSINGS["raw"], own)


def test_numbers_of_a_known_preprocessing_have_its_name():
    assert known_name("scale=1/255,mean=0.485/0.456/0.406,std=0.229/0.224/0.225") == "torch"
    assert known_name("scale=0.00784313725,mean=1") == "inception"
    assert known_name("scale=1,mean=103.939/116.779/123.68,order=bgr") == "caffe"
    for own in ("scale=1/255,mean=0.5", "scale=1,mean=103.939/116.779/123.68", "scale=1,mean=1/2/3/4", "vgg", ""):
        assert known_name(own) == own
