"""Inception's random crop: a part of random area and shape, as a pure function of a seed."""

import math

import numpy as np

AREA = (0.08, 1.0)
"""Least and largest share of the photo (Szegedy et al. 2015, section 6; the numbers are those of torchvision)."""
ASPECT = (3 / 4, 4 / 3)
"""Width by height."""
_TRIES = 10

Box = tuple[float, float, float, float]


def draw(size: tuple[int, int], seed: tuple[int, ...]) -> tuple[Box, bool]:
    """(left, top, right, bottom) in px within a photo of `size` (width, height), and whether to mirror it.

    The area is uniform within AREA, the logarithm of the shape within that of ASPECT, the place within the photo;
    what does not fit is drawn again, ten times, and then it is the largest centre part of an allowed shape. `seed` is
    the run's, the epoch and the image's number: the same draw in whatever batch, thread or process.
    """
    width, height = size
    rng = np.random.default_rng(seed)
    mirrored = bool(rng.random() < 0.5)
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            return (left, top, left + across, top + down), mirrored
    across, down = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    left, top = (width - across) // 2, (height - down) // 2
    return (left, top, left + across, top + down), mirrored
