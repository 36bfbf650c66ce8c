from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from finetune.errors import FinetuneError, WrongUse
from finetune.reporting.heat_maps import (
    KEPT,
    HeatMaps,
    check_folder,
    overlaid,
    picture,
    read_heat_maps,
    save_heat_maps,
    write_pictures,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
HEAT = np.zeros((2, 3), np.float32)
HEAT[1, 2] = 0.03


def one(image: str) -> SimpleNamespace:
    return SimpleNamespace(image=image, pixels=PIXELS, heat=HEAT, lines=("daisy 93.0%",))


def test_the_photo_stays_where_there_is_no_heat_and_the_peak_is_brightest():
    black = Image.new("RGB", (48, 32))
    found = np.asarray(overlaid(black, HEAT), int).sum(axis=2)
    assert found.shape == (32, 48)
    assert found[:10, :20].max() == 0
    assert found.argmax() // 48 >= 16
    assert found.argmax() % 48 >= 32
    assert found.max() > 400
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"))
    nothing = np.asarray(overlaid(Image.fromarray(PIXELS), np.zeros((2, 3))))
    assert np.array_equal(nothing, np.repeat(grey[..., None], 3, axis=2))


def test_a_larger_heat_is_never_darker():
    """On black, 256 values of heat give ever brighter colours: luminance by ITU-R BT.601."""
    ramp = np.asarray(overlaid(Image.new("RGB", (256, 1)), np.linspace(0, 1, 256, dtype=np.float32)[None]), float)[0]
    luminance = ramp @ (0.299, 0.587, 0.114)
    assert (np.diff(luminance) > -1).all()
    assert luminance[-1] > 150


@pytest.mark.parametrize("shape", [(32, 48, 1), (32, 48, 4), (900, 450, 3), (7, 5, 3)])
def test_any_image_becomes_a_picture_of_readable_size(shape):
    image = picture(np.zeros(shape, np.uint8), np.ones((3, 3)), ("a" * 500, "\x1b[31m"))
    assert 224 <= max((image.width - 6) // 2, image.height) <= 500
    assert image.getpixel((0, 0)) in ((0, 0, 0), (255, 255, 255))  # transparent is white


def test_a_picture_for_each_image_under_its_name(tmp_path):
    shown = [one(name) for name in ("a/x.png", "b/X.jpg", "c/x.png", ".hidden.png", "\x1b[2J.png", "7")]
    files = write_pictures(tmp_path / "new" / "heat", shown)
    assert [file.name for file in files] == ["x.jpg", "X-2.jpg", "x-3.jpg", "hidden.jpg", "_x1b[2J.jpg", "7.jpg"]
    assert set((tmp_path / "new" / "heat").iterdir()) == set(files)
    for file in files:
        with Image.open(file) as image:
            assert image.size == (2 * 240 + 6, 160 + 19 + 3)
    with pytest.raises(WrongUse, match="already there"):
        check_folder(tmp_path / "new" / "heat", "--explain")


def test_nothing_is_left_where_it_fails(tmp_path):
    def failing():
        yield one("a.png")
        raise FinetuneError("a damaged image")

    with pytest.raises(FinetuneError, match="damaged"):
        write_pictures(tmp_path / "new" / "heat", failing())
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_its_maps_and_a_damaged_file_is_made_again(tmp_path):
    maps = np.random.default_rng(0).random((3, 2, 2)).astype(np.float32)
    save_heat_maps(tmp_path, HeatMaps(np.array([5, 2, 9]), np.array([1, 0, 1]), "last", maps))
    again = read_heat_maps(tmp_path, np.array([9, 5]), np.array([1, 1]))
    assert again is not None
    assert again.layer == "last"
    assert np.array_equal(again.maps, maps[[2, 0]])
    assert read_heat_maps(tmp_path, np.array([9]), np.array([0])) is None  # of another class
    assert read_heat_maps(tmp_path, np.array([4]), np.array([0])) is None
    (tmp_path / KEPT).write_bytes((tmp_path / KEPT).read_bytes()[:100])
    assert read_heat_maps(tmp_path, np.array([9]), np.array([1])) is None
    np.savez(tmp_path / KEPT, images=np.array([9]), classes=np.array([1]), layer=np.array("x"), maps=np.array(["a"]))
    assert read_heat_maps(tmp_path, np.array([9]), np.array([1])) is None
