"""What is kept of an image, against SciPy, and by hand."""

import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage

from finetune.config import RunConfig
from finetune.data.check import measures
from finetune.data.dataset import Dataset, Split
from finetune.data.load_data import load_whole


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def kept(pixels):
    return dict(zip(measures.RECORD.names, measures.measured(pixels), strict=True))


def test_the_hash_is_that_of_scipys_cosine_transform():
    grey = noise(0, 32, 32).astype(np.float32)
    # Rows of an unnormalised transform have one scale each, but for the first of an orthogonal one.
    low = fft.dctn(grey.astype(np.float64))[:8, :8].reshape(-1)
    bits = "".join("1" if one else "0" for one in low > np.median(low))
    assert f"{measures.dct_hash(grey):064b}" == bits
    assert bits.count("1") == 32


def test_sharpness_is_the_variance_of_scipys_laplacian():
    grey = noise(1, 20, 30).astype(np.float32)
    inner = ndimage.laplace(grey.astype(np.float64))[1:-1, 1:-1]
    assert measures.laplacian_variance(grey) == pytest.approx(inner.var(), rel=1e-5)
    assert measures.laplacian_variance(grey[:2]) == 0


def test_light_and_size_by_hand():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, :1] = 10  # 5 % of the pixels
    pixels[:, 1:] = 200
    found = kept(pixels)
    assert (found["height"], found["width"], int(found["dark"]), int(found["bright"])) == (10, 20, 200, 10)
    assert found["contrast"] == pytest.approx(190 * np.sqrt(0.05 * 0.95))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 3), (2, 2, 4), (9, 9, 1), (600, 30, 3)])
def test_images_of_any_shape(shape):
    assert kept(noise(2, *shape))["thumbnail"].shape == (16, 16)


def test_grey_pixels_and_the_same_as_rgb_are_one_image():
    grey = noise(3, 12, 14, 1)
    assert kept(grey)["digest"] == kept(np.repeat(grey, 3, axis=2))["digest"]
    assert kept(grey)["digest"] != kept(grey[::-1])["digest"]


def test_sharpness_does_not_grow_with_the_scale_of_a_large_image():
    small = Image.fromarray(noise(4, 30, 40, 3)).resize((400, 300), Image.Resampling.BICUBIC)
    twice = small.resize((800, 600), Image.Resampling.BICUBIC)
    one, two = (float(kept(np.asarray(image))["sharpness"]) for image in (small, twice))
    assert two == pytest.approx(one, rel=0.1)


def test_a_pool_knows_the_place_of_each_image():
    def split(count, seed):
        return Split(noise(seed, count, 8, 8, 3), np.arange(count) % 2)

    parts = {"train": split(6, 0), "validation": split(3, 1), "test": split(4, 2)}
    pool = measures.Pool.of(Dataset("some", ("a", "b"), *parts.values(), "some"))
    assert [pool.place(number) for number in (0, 5, 6, 8, 9, 12)] == [
        *(("train", 0), ("train", 5), ("validation", 0), ("validation", 2), ("test", 0), ("test", 3)),
    ]
    assert pool.name(12) == "test/3"
    assert np.array_equal(pool.pixels(7), parts["validation"].images[1])
    chosen = pool.parts_of(np.array([1, 4, 9, 11]))
    assert list(chosen) == ["train", "test"]
    assert np.array_equal(chosen["test"].images, parts["test"].images[[0, 2]])


def test_photos_of_16_bits_and_with_transparency_are_read_as_a_network_sees_them(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            grey = noise(ord(name) + number, 20, 24).astype(np.uint16)
            Image.fromarray(grey * 257).save(tmp_path / name / f"deep{number}.png")
            Image.fromarray(noise(number, 20, 24, 4)).save(tmp_path / name / f"clear{number}.png")
    pool = measures.Pool.of(load_whole(RunConfig("", data=str(tmp_path))))
    by_name = {pool.name(number): pool.pixels(number) for number in range(len(pool))}
    assert np.array_equal(by_name["a/deep0.png"][..., 0], noise(ord("a"), 20, 24))
    assert np.array_equal(by_name["b/clear3.png"], noise(3, 20, 24, 4))
    found = measures.measure(pool)
    assert found.good().all()
    assert found.bad == {}
