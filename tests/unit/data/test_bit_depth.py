"""Pixels of 9 to 16 bits are scaled by 2^n - 1, rounded to the nearest."""

import numpy as np
import pytest

from finetune.data.bit_depth import eight_bits, white_of


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
