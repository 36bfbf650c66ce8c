"""Test-time augmentation against crops cut out with NumPy and probabilities averaged in float64."""

import keras
import numpy as np
import pytest
from keras import layers
from scipy.special import softmax

from finetune.batchnorm.statistics import KerasSubject
from finetune.batchnorm.surgery import adopt
from finetune.data.batches import EvalSet
from finetune.data.dataset import Split
from finetune.data.geometry import Geometry
from finetune.data.preprocessing import find_preprocessing
from finetune.errors import FinetuneError
from finetune.evaluation.evaluator import Evaluator
from finetune.runs.views import crops, with_views
from finetune.text import shape_of

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 1, 0])


@pytest.fixture(scope="module")
def subject() -> KerasSubject:
    """For images of 14 x 21 px; left and right, and all places, count differently."""
    images = keras.Input((14, 21, 3))
    keras.utils.set_random_seed(0)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, 2)(images))
    return KerasSubject(adopt(keras.Model(images, layers.Dense(3)(layers.Flatten()(x))), unbiased=False))


def images(preprocess: str = "unit", **geometry: object) -> EvalSet:
    split = Split(PIXELS, LABELS)
    return EvalSet(split, 3, "14x21", find_preprocessing(preprocess), Geometry(**geometry))


def by_hand(subject: KerasSubject, kind: str, preprocess: str = "unit") -> np.ndarray:
    """Mean probabilities, float64. 14 / 0.875 is 16 and 21 / 0.875 is 24, so no pixel is resized."""
    cut = [PIXELS[:, 1:15, 1:22]] + [PIXELS[:, y : y + 14, x : x + 21] for y in (0, 2) for x in (0, 3)]
    if kind == "ten-crop":
        cut += [one[:, :, ::-1] for one in cut]
    run, prepare = subject.forward("moving"), find_preprocessing(preprocess).apply
    return np.mean([softmax(np.asarray(run(prepare(one))[0], np.float64), axis=1) for one in cut], axis=0)


@pytest.mark.parametrize("kind", ["five-crop", "ten-crop"])
@pytest.mark.parametrize("preprocess", ["inception", "per-image"])
def test_crops_are_the_corners_and_the_centre(subject, kind, preprocess):
    way, given = with_views(subject, images(preprocess), kind)
    found = Evaluator(way).examine(given.batches(), "moving", keep_logits=True)
    expected = by_hand(subject, kind, preprocess)
    np.testing.assert_allclose(softmax(found.logits.astype(np.float64), axis=1), expected, atol=1e-6)
    assert found.evaluation.loss == pytest.approx(-np.log(expected[np.arange(5), LABELS]).mean(), rel=1e-5)


def test_a_crop_fraction_is_the_share_of_a_crop(subject):
    _, given = with_views(subject, images(fraction=0.7), "five-crop")
    assert (given.image_size, given.geometry.fraction) == ("20x30", 1.0)


def test_flip_is_the_image_and_its_mirror_image(subject):
    way, given = with_views(subject, images(), "flip")
    assert given.image_size == "14x21"
    prepared = next(iter(given.batches()))[0]
    both = [np.asarray(subject.forward("moving")(one)[0], np.float64) for one in (prepared, prepared[:, :, ::-1])]
    expected = np.mean([softmax(one, axis=1) for one in both], axis=0)
    np.testing.assert_allclose(np.exp(way.forward("moving")(prepared)[0]), expected, atol=1e-6)


def test_five_different_places():
    numbers = np.arange(4 * 5).reshape(1, 4, 5, 1)
    assert [int(one[0, 0, 0, 0]) for one in crops(numbers, shape_of("2x2"))] == [6, 0, 3, 10, 13]


def test_a_preprocessing_of_one_s_own_that_fails_is_named(subject, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def half(pixels):\n    raise ValueError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    way, given = with_views(subject, images("mine:half"), "five-crop")
    with pytest.raises(FinetuneError, match="--preprocess mine:half failed: ValueError: not today"):
        Evaluator(way).evaluate(given.batches())
