"""Whatever a photo's format, colours and orientation: RGB of the size asked for, or a message that names it."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from finetune.data import decoding
from finetune.data.decoding import BadImage
from tests.support.written_photos import encoded, photo

RAMP = np.linspace(0, 255, 64 * 48).astype(np.uint8).reshape(48, 64)


def read(content, side=24):
    with decoding.naming("it"), decoding.opened(content, "it") as image:
        return decoding.centre(image, (side, side))


def test_the_centre_square_is_taken_and_the_short_side_resized():
    image = photo(1, 80, 40)
    whole = np.asarray(image.resize((60, 30), Image.Resampling.BILINEAR))
    assert np.abs(read(encoded(image, "PNG"), 30).astype(int) - whole[:, 15:45]).max() <= 1
    tall = image.transpose(Image.Transpose.ROTATE_90)
    whole = np.asarray(tall.resize((30, 60), Image.Resampling.BILINEAR))
    assert np.abs(read(encoded(tall, "PNG"), 30).astype(int) - whole[15:45]).max() <= 1
    whole = np.asarray(image.resize((160, 80), Image.Resampling.BILINEAR))
    assert np.abs(read(encoded(image, "PNG"), 80).astype(int) - whole[:, 40:120]).max() <= 1


def test_shrinking_averages_over_all_pixels():
    chequered = np.indices((64, 64)).sum(0) % 2 * 255
    found = read(encoded(Image.fromarray(chequered.astype(np.uint8)), "PNG"), 8)
    assert np.abs(found[1:-1, 1:-1].astype(int) - 127).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_honoured(orientation, kind):
    # Where pixel (row 0, column 0) and (0, right) belong: exif.org, TIFF 6.0 tag 274.
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :16], upright[:16, 16:], upright[16:, :16] = 250, 160, 80
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    found = read(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options), 32)
    assert np.abs(found.astype(int) - upright)[2:14, 2:14].max() < 20
    assert np.abs(found.astype(int) - upright)[2:14, 18:30].max() < 20
    assert np.abs(found.astype(int) - upright)[18:30, 2:14].max() < 20


def test_a_turned_photo_is_cut_from_its_upright_self():
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:, :20] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: its left is then its top
    with decoding.opened(encoded(Image.fromarray(stored), "PNG", exif=exif), "it") as image:
        assert decoding.upright_size(image) == (40, 80)
        assert (decoding.part(image, (0, 0, 40, 20), (10, 10))[:-1] == 200).all()


def test_broken_exif_does_not_cost_the_photo():
    content = encoded(photo(0), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read(content).shape == (24, 24, 3)


GREY = Image.fromarray(RAMP)
SIXTEEN = Image.fromarray((RAMP.astype(np.uint16) << 8) + 77)


@pytest.mark.parametrize(
    "content",
    [
        encoded(GREY, "PNG"),
        encoded(SIXTEEN, "PNG"),
        encoded(SIXTEEN, "TIFF"),
        encoded(GREY.convert("RGB"), "PNG"),
        encoded(GREY.convert("RGBA"), "PNG"),
        encoded(GREY.convert("LA"), "PNG"),
        encoded(GREY.convert("P"), "PNG"),
        encoded(GREY, "GIF"),
        encoded(GREY, "BMP"),
        encoded(GREY, "PPM"),
        encoded(GREY, "TIFF"),
        encoded(GREY, "WEBP", lossless=True),
    ],
)
def test_every_way_to_store_grey_gives_it_three_times(content):
    expected = RAMP[12:36, 20:44]
    with decoding.opened(content, "it") as image:
        found = decoding.part(image, (20, 12, 44, 36), (24, 24))
    assert np.abs(found.astype(int) - expected[..., None]).max() <= 1


def test_transparent_pixels_show_white():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4] = (10, 20, 30, 255)
    pixels[4:] = (10, 20, 30, 0)
    found = read(encoded(Image.fromarray(pixels), "PNG"), 8)
    assert (found[:4] == (10, 20, 30)).all()
    assert (found[4:] == 255).all()
    palette = Image.fromarray(pixels[..., :3]).quantize(2)
    clear = palette.getpixel((0, 0))
    assert (read(encoded(palette, "GIF", transparency=clear), 8) == 255).all()
    rgb = encoded(Image.fromarray(pixels[..., :3]), "PNG", transparency=(10, 20, 30))
    assert (read(rgb, 8) == 255).all()


def test_cmyk_is_converted():
    red = Image.new("RGB", (32, 32), (200, 40, 40)).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        assert np.abs(read(encoded(red, kind)).astype(int) - (200, 40, 40)).max() < 8


def test_floats_are_refused():
    floats = Image.fromarray(RAMP.astype(np.float32))
    with pytest.raises(BadImage, match=r"it: it is damaged .its pixels are floats"):
        read(encoded(floats, "TIFF"))


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(read(content, 16).astype(int) - (250, 0, 0)).max() < 10


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((1600, 1200), Image.Resampling.BICUBIC)
    content = encoded(coarse, quality=95)
    with decoding.opened(content, "it") as image:
        found = decoding.centre(image, (96, 96))
        assert image.size == (200, 150)
    with decoding.opened(encoded(coarse, "PNG"), "it") as image:
        expected = decoding.centre(image, (96, 96))
    assert np.abs(found.astype(int) - expected).mean() < 2


def png_claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"no image at all", "it is no image, or of a format that is not read"),
        (EPS, "it is no image, or of a format that is not read"),
        (encoded(photo(0))[:700], "it is damaged .*truncated"),
        (encoded(photo(0), "PNG")[:700], "it is damaged"),
        (encoded(photo(0))[:3], "it is no image"),
        (png_claiming(60_000, 60_000), "(more than|60000 x 60000 pixels, more than) 89 million"),
        (png_claiming(10_000, 10_000), "10000 x 10000 pixels, more than 89 million"),
        (png_claiming(500, 500), "it is damaged"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason(content, said):
    words = f"^it: .*{said}.*; replace or remove it, or give --skip-bad-images"
    with pytest.raises(BadImage, match=words), decoding.silent_warnings():
        read(content)


def test_files_that_are_not_there_or_may_not_be_read(tmp_path):
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(BadImage, match="no such file"):
        read(tmp_path / "link.jpg")
    with pytest.raises(BadImage, match=r"damaged|no image"):
        read(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_gets_past_as_another_exception(seed):
    rng = np.random.default_rng(seed)
    kind = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000", "PPM")[seed % 8]
    content = bytearray(encoded(photo(seed % 3), kind))
    for position in rng.integers(0, len(content), 12):
        content[position] = rng.integers(256)
    try:
        with decoding.silent_warnings():
            assert read(bytes(content)).shape == (24, 24, 3)
    except BadImage:
        pass
