"""Photos are opened once: what is damaged, how large, in how many channels, and what is white."""

import numpy as np
import pytest
from PIL import Image

from finetune.data import bit_depth, photo_scan
from finetune.data.image_files import PhotoFiles
from finetune.data.lazy import LazyImages
from finetune.data.photo_scan import inspect_photos


def written(folder, *images):
    files = PhotoFiles()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
        files.add(str(folder / f"{number}.png"))
    return files


def deep(most):
    return Image.fromarray(np.full((6, 8), most, np.uint16))


@pytest.fixture
def opened(monkeypatch):
    """The files that are opened, and those whose 16 bits are decoded."""
    seen = {"open": [], "decode": []}
    of_files, wide = PhotoFiles.open, bit_depth.wide_values

    def opening(self, number):
        seen["open"].append(number)
        return of_files(self, number)

    def decoding(image):
        seen["decode"].append(image.size)
        return wide(image)

    monkeypatch.setattr(PhotoFiles, "open", opening)
    monkeypatch.setattr(bit_depth, "wide_values", decoding)
    return seen


def test_white_is_found_in_the_one_pass_over_all_photos(opened, tmp_path):
    files = written(tmp_path, deep(900), deep(3000), deep(9000))
    seen = inspect_photos(files, skip_bad=False)
    assert seen.brightest.tolist() == [900, 3000, 9000]
    assert seen.white(LazyImages(files, np.array([0, 1]), 6)) == 4095
    assert sorted(opened["open"]) == [0, 1, 2]
    assert len(opened["decode"]) == 3


def test_of_many_photos_only_those_of_more_than_8_bits_are_opened_again(opened, monkeypatch, tmp_path):
    monkeypatch.setattr(photo_scan, "DECODED", 2)
    grey = Image.new("L", (8, 6))
    files = written(tmp_path, grey, grey, grey)
    seen = inspect_photos(files, skip_bad=False)
    assert seen.white(LazyImages(files, np.arange(3), 6)) is None
    assert sorted(opened["open"]) == [0, 1, 2]
    opened["open"].clear()
    files = written(tmp_path, deep(900), deep(5000), deep(300), grey)
    seen = inspect_photos(files, skip_bad=False)
    assert opened["decode"] == []
    assert seen.white(LazyImages(files, np.array([0, 2, 3]), 6)) == 1023
    assert sorted(opened["open"]) == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("modes", "channels"),
    [("L", (1,)), ("1 L", (1,)), ("RGB", (3,)), ("P CMYK", (3,)), ("RGBA LA", (4,)), ("L RGB RGBA", (1, 3, 4))],
)
def test_the_channels_of_the_photos_are_noted(modes, channels, tmp_path):
    files = PhotoFiles()
    for mode in modes.split():
        path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new("RGB", (8, 6)).convert(mode).save(path)
        files.add(str(path))
    inspect_photos(files, skip_bad=False)
    assert files.channels == channels
