"""Pixels of 9 to 16 bits are scaled by 2^n - 1, rounded to the nearest."""

import re
import struct
import sys
import types
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from finetune._version import install_line
from finetune.config import RunConfig
from finetune.data.bit_depth import eight_bits, white_of
from finetune.data.decoding import BadImage, check, naming, opened
from finetune.data.image_files import read_images
from finetune.data.load_data import load_data
from finetune.errors import FinetuneError
from finetune.runs.run_data import describe_data
from tests.support.written_photos import encoded

CONFIG = RunConfig("any", validation=0.0)


@pytest.mark.parametrize(
    ("most", "white"), [(0, 255), (200, 255), (255, 255), (256, 511), (1000, 1023), (4095, 4095), (4096, 8191)]
)
def test_white_is_the_largest_value_rounded_up_to_all_ones(most, white):
    assert white_of(np.uint16(most)) == white_of(most) == white


@pytest.mark.parametrize("white", [255, 1023, 4095, 16383, 65535])
def test_values_are_scaled_as_in_float64(white):
    values = np.arange(white + 1, dtype=np.uint16)
    np.testing.assert_array_equal(eight_bits(values, white), np.rint(values.astype(np.float64) * 255 / white))


def test_what_is_brighter_than_white_is_white():
    assert eight_bits(np.array([[4095, 4096, 65535]], np.uint16), 4095).tolist() == [[255, 255, 255]]


def png(values, significant=None):
    """A PNG of 16 bits, which Pillow does not write with several channels, and its sBIT chunk."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    marks = chunk(b"sBIT", bytes([significant] * channels)) if significant else b""
    parts = chunk(b"IHDR", header) + marks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def tiff(values, **tags):
    return encoded(
        Image.fromarray(values[..., 0]), "TIFF", tiffinfo={int(tag[1:]): value for tag, value in tags.items()}
    )


def scaled(values, white):
    """By NumPy in float64: RGB in 8 bits, grey repeated, opacity of 65535 over white."""
    exact = np.rint(np.minimum(values, white).astype(np.float64) * 255 / white)
    channels = values.shape[2]
    if channels in (2, 4):
        opacity = np.rint(values[..., -1:] * 255.0 / 65535) / 255
        exact = exact[..., :-1] * opacity + 255 * (1 - opacity)
    return np.broadcast_to(exact, (*exact.shape[:2], 3))


def draw(most, channels=1, side=16):
    values = np.random.default_rng(most).integers(0, most + 1, (side, side, channels)).astype(np.uint16)
    values[0, 0] = most
    return values


def written(folder, train, test):
    for split, contents in (("train", train), ("test", test)):
        for label in "ab":
            (folder / split / label).mkdir(parents=True)
            for number, content in enumerate(contents):
                (folder / split / label / f"{number}{label}").write_bytes(content + label.encode())
    return load_data(replace(CONFIG, data=str(folder)))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_training_images_largest_value_is_the_white_of_all(channels, tmp_path):
    train, test = [draw(3000, channels), draw(900, channels)], [draw(500, channels)]
    if channels in (2, 4):
        for values in (*train, *test):
            values[..., -1] = np.where(values[..., -1] % 2, 65535, 30000)
    dataset = written(tmp_path, [png(values) for values in train], [png(values) for values in test])
    assert dataset.white == 4095
    assert dataset.remarks[-1] == "pixels of more than 8 bits: 4095 is white, by the training images' largest value"
    assert describe_data(dataset, CONFIG)["white"] == 4095
    tolerance = 1 if channels in (2, 4) else 0  # two roundings
    for pixels in dataset.test.images[:]:
        assert np.abs(pixels - scaled(test[0], 4095)).max() <= tolerance
    named = read_images([tmp_path / "test"], native=None, white=dataset.white)
    np.testing.assert_array_equal(named.split.images[:], dataset.test.images[:])


@pytest.mark.parametrize(
    ("train", "test", "white", "test_white"),
    [
        (png(draw(900), 12), draw(4000), 4095, 4095),  # as a camera wrote them
        (png(draw(60_000), 12), draw(4000), 65535, 65535),  # stretched, as the standard says
        (png(draw(300), 16), draw(400), 65535, 65535),
        (tiff(draw(3000)), draw(2000), 4095, 4095),
        (tiff(draw(3000), t281=16383), draw(2000), None, 65535),
        (encoded(Image.fromarray(draw(255)[..., 0].astype(np.uint8)), "PNG"), draw(9000), None, 65535),
    ],
)
def test_declared_depths(train, test, white, test_white, tmp_path):
    dataset = written(tmp_path, [train], [png(test)])
    assert dataset.white == white
    np.testing.assert_array_equal(dataset.test.images[0:1][0], scaled(test, test_white))


def test_a_tiff_says_itself_what_white_is(tmp_path):
    values = draw(900)
    (tmp_path / "a.tif").write_bytes(tiff(values, t281=1023))
    named = read_images([tmp_path], native=None, white=4095)
    np.testing.assert_array_equal(named.split.images[:][0], scaled(values, 1023))


def test_colour_tiffs_are_read_by_tifffile_or_it_is_named(tmp_path, monkeypatch):
    content = colour_tiff(values := draw(4000, 3))
    (tmp_path / "a.tif").write_bytes(content)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(FinetuneError, match=re.escape(f"{install_line('tiff')}, or convert")):
        read_images([tmp_path], native=None)

    def compressed(file, key):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setitem(sys.modules, "tifffile", types.SimpleNamespace(imread=compressed))
    with pytest.raises(FinetuneError, match=re.escape(install_line("tiff"))):
        read_images([tmp_path], native=None)
    reader = types.SimpleNamespace(imread=lambda file, key: values.transpose(2, 0, 1))
    monkeypatch.setitem(sys.modules, "tifffile", reader)
    named = read_images([tmp_path], native=None, white=4095)
    np.testing.assert_array_equal(named.split.images[:][0], scaled(values, 4095))


def test_tifffile_itself_reads_colour_tiffs(tmp_path):
    pytest.importorskip("tifffile")
    (tmp_path / "a.tif").write_bytes(colour_tiff(values := draw(4000, 3)))
    named = read_images([tmp_path], native=None, white=4095)
    np.testing.assert_array_equal(named.split.images[:][0], scaled(values, 4095))


def colour_tiff(values):
    """Uncompressed RGB of 16 bits."""
    height, width, _ = values.shape
    pixels = values.astype("<u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
    entries += [(277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(pixels))]
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 14 + len(pixels)) + struct.pack("<3H", 16, 16, 16) + pixels + table


def test_a_damaged_png_of_16_bits_is_named():
    with (
        pytest.raises(BadImage, match="it: it is damaged"),
        opened(png(draw(4000, 3))[:-60], "it") as image,
        naming("it"),
    ):
        check(image)
