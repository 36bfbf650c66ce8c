"""Pixels of more than 8 bits to 8 bits: which value is white, and the one way to scale by it."""

import numpy as np

WIDEST = 0xFFFF


def white_of(most: int) -> int:
    """The white of pixels whose largest value is `most`: `most` rounded up to 2^n - 1, at least 255.

    A camera of 12 bits writes 0 to 4095 into files of 16 bits: 3900 gives 4095.
    """
    return max((1 << int(most).bit_length()) - 1, 255)


def eight_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Whole numbers in [0, 65535] as uint8 of the same shape: `white` becomes 255, what lies above it as well."""
    scaled = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
    return np.asarray(scaled, np.uint8)
