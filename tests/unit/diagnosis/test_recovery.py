"""A preprocessing is recovered from the statistics that a linear first layer has under it, computed in NumPy."""

from functools import cache

import numpy as np
import pytest

from finetune.data.dataset import Split
from finetune.data.preprocessing import find_preprocessing
from finetune.diagnosis.recovery import of_data, propose, spelled, words

EPSILON = 1e-3


def images(seed, n=60, side=12):
    """Smooth images with a tint, uint8 `[n, side, side, 3]`: channels that differ and agree as those of photos do."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(0, 30, (n, side, side, 1)) + rng.normal(0, 25, (n, 1, 1, 1))
    tint = np.array([140, 110, 90]) + rng.normal(0, 12, (n, 1, 1, 3)) + rng.normal(0, 12, (n, side, side, 3))
    return np.clip(grey + tint, 0, 255).astype(np.uint8)


def convolved(x, kernel, bias):
    """A 3x3 convolution with zeros at the border, `[n, side, side, filters]`, float64."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = x.shape[1]
    parts = [padded[:, i : i + side, j : j + side] @ kernel[i, j] for i in range(3) for j in range(3)]
    return np.sum(parts, axis=0) + bias


@pytest.fixture(scope="module")
def layer():
    rng = np.random.default_rng(1)
    return rng.normal(0, 0.3, (3, 3, 3, 16)), rng.normal(0, 0.2, 16)


def statistics(layer, pixels, preprocessing, front=lambda y: y):
    shown = np.asarray(preprocessing.apply(pixels), np.float64)
    y = front(convolved(shown, *layer))
    return y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2))


def proposed(layer, name, *, seed=0, front=lambda y: y):
    """What is recovered on the images 0 from statistics of the images `seed`."""
    moving = statistics(layer, images(seed), find_preprocessing(name), front)
    return propose(lambda one: statistics(layer, images(0), one, front), moving, EPSILON, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "scale=1/255,mean=0.49/0.48/0.45",
        "scale=1/255",
        "scale=1/127.5,mean=1",
        "scale=1,mean=124/117/104",
        "scale=1/255,mean=0.4/0.5/0.6,std=0.25",
        "scale=1,mean=104/117/124,order=bgr",
    ],
)
def test_the_same_images_give_it_back_to_three_digits(layer, name):
    assert proposed(layer, name)[0].name == name
    assert proposed(layer, name)[0].misfit < 1e-3


def test_from_other_images_it_is_near_and_its_errors_are_those_of_the_fit(layer):
    same, other = (proposed(layer, "scale=1/255,mean=0.5/0.4/0.3", seed=seed)[0] for seed in (0, 7))
    assert other.order == "rgb"
    np.testing.assert_allclose([other.scale, *other.shift], [1, -0.5, -0.4, -0.3], atol=0.05)
    assert same.scale_error < 1e-3 < other.scale_error < 0.05
    assert max(same.shift_errors) < 1e-3 < min(other.shift_errors) < max(other.shift_errors) < 0.05


@pytest.mark.quick_cases(1)
@pytest.mark.parametrize("name", ["scale=1/255,mean=0.5/0.4/0.3", "scale=1/255,mean=0.4/0.5/0.6,std=0.4"])
def test_the_standard_errors_are_the_spread_over_noisy_statistics(layer, name):
    """Twenty times, each moving mean and variance is off by some noise: the answers spread as the errors say."""
    rng, pixels = np.random.default_rng(0), images(0)
    mean, variance = statistics(layer, pixels, find_preprocessing(name))
    measure = cache(lambda one: statistics(layer, pixels, one))
    found = []
    for _ in range(20):
        noise = rng.normal(0, 0.02, (2, len(mean)))
        moving = mean + noise[0] * np.sqrt(variance), variance * np.exp(2 * noise[1])
        found += [one for one in propose(measure, moving, EPSILON, 3) if one.order == "rgb"]
    means = np.array([find_preprocessing(one.name).mean for one in found])
    expected = np.median([one.mean_errors for one in found], axis=0)
    np.testing.assert_allclose(means.std(axis=0), expected, rtol=0.6)
    assert f" ± {found[0].mean_errors[0]:.2g}, " in found[0].with_errors
    assert ("divided by" in found[0].with_errors) == ("std" in name)


@pytest.mark.parametrize("front", [lambda y: np.maximum(y, 0), np.square])
def test_a_front_that_is_not_linear_gives_no_proposal(layer, front):
    assert proposed(layer, "inception", front=front) == []


def test_the_mean_and_deviation_of_the_pixels_are_candidates():
    pixels = images(3)
    mean, std = (pixels / 255).mean(axis=(0, 1, 2)), (pixels / 255).std(axis=(0, 1, 2))
    names = of_data(Split(pixels, np.zeros(len(pixels), np.int64)))
    assert len(names) == 3
    found = find_preprocessing(names[1])
    np.testing.assert_allclose(found.mean, mean, atol=5e-4)
    np.testing.assert_allclose(found.std, std, atol=5e-4)
    np.testing.assert_allclose(find_preprocessing(names[2]).mean, 255 * mean, rtol=5e-3)


def test_what_is_neutral_is_not_spelled():
    assert spelled("1/255", [0, 0, 0]) == "scale=1/255"
    assert spelled("1/127.5", [1, 1, 1], 1.0) == "scale=1/127.5,mean=1"
    assert spelled("1", [123.68, 116.78, 103.94], [58, 57, 58], "bgr") == (
        "scale=1,mean=124/117/104,std=58/57/58,order=bgr"
    )


def test_a_mean_is_said_in_words():
    assert words("scale=1/255,mean=0.5/0.4/0.3", "unit") == ", a mean of (0.5, 0.4, 0.3) was subtracted in training"
    assert words("inception", "unit") == ""
    assert words("scale=1/255", "inception") == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "name"),
    [
        (1, "scale=1/255,mean=0.5"),
        (4, "scale=1/255,mean=0.5/0.4/0.3/0.2"),
        (4, "scale=1,mean=104/117/124/60,order=bgr"),
    ],
)
def test_grey_and_four_channels(channels, name):
    pixels = np.concatenate([images(0), images(5)[..., :1]], axis=-1)[..., :channels]
    rng = np.random.default_rng(1)
    layer = rng.normal(0, 0.3, (3, 3, channels, 16)), rng.normal(0, 0.2, 16)
    moving = statistics(layer, pixels, find_preprocessing(name))
    found = propose(lambda one: statistics(layer, pixels, one), moving, EPSILON, channels)
    assert found[0].name == name
    mean = pixels.mean(axis=(0, 1, 2)) / 255
    (subtracted, _, _) = of_data(Split(pixels, np.zeros(len(pixels), np.int64)))
    np.testing.assert_allclose(find_preprocessing(subtracted).mean[:channels], mean, rtol=2e-3)


def test_a_deviation_is_never_rounded_to_zero() -> None:
    assert find_preprocessing(spelled("1/255", [0.4], 2e-4)).std == (2e-4,) * 3
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    pixels[..., 2] = 0  # a camera without blue
    names = of_data(Split(pixels, np.zeros(4, np.int64)))
    assert len([find_preprocessing(name) for name in names]) == 2
