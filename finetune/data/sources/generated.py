"""Two generated tasks for the demo and for tests: 32 px colour images of figures, told apart by outline and texture.

`demo-source` and `demo-target` have no class and no outline in common, but the same kinds of edges, corners, textures
and clutter: features learned on one are useful on the other. Place, size, angle, colours and contrast of a figure are
independent of its class.

The pixels are the same on every platform. They come from additions, multiplications, divisions and square roots of
float32 arrays, which IEEE 754 defines to the bit, and not from sines, sums over an axis or matrix products.
"""

import functools
import itertools
from collections.abc import Callable

import numpy as np

from finetune.data.dataset import Dataset, Split

SIDE = 32
"""px."""

_FINE = 2 * SIDE
"""Points per side at which figures are drawn; 2 x 2 points make a pixel."""

_AT_ONCE = 16
"""Images drawn together. Their planes of points fit into a CPU cache. Another number gives other images."""


Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of points x and y, float32, whether each is inside; for a texture, whether it has the figure's second colour."""


def _lobes(count: int, depth: float) -> Mask:
    """Inside are the points (r, theta) with r < (1 + depth cos(count theta)) / (1 + depth)."""

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        r = np.sqrt(x * x + y * y)
        # cos(n theta) by Chebyshev's recurrence from cos(theta).
        cosine = x / (r + np.float32(1e-6))
        before, wave = np.ones_like(cosine), cosine
        for _ in range(count - 1):
            before, wave = wave, 2 * cosine * wave - before
        mask: np.ndarray = r * (1 + depth) < 1 + depth * wave
        return mask

    return inside


def _polygon(apothem: float, *normals: tuple[float, float]) -> Mask:
    """The regular polygon with corners on the unit circle, given by the outward normals of its sides."""

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        mask: np.ndarray = np.all([x * across + y * down < apothem for across, down in normals], axis=0)
        return mask

    return inside


_PENTAGON = ((1.0, 0.0), (0.309017, 0.9510565), (-0.809017, 0.5877853), (-0.809017, -0.5877853), (0.309017, -0.9510565))
_OUTLINES: dict[str, Mask] = {
    "disc": _lobes(1, 0.0),
    "clover": _lobes(4, 0.4),
    "star": _lobes(5, 0.35),
    "peanut": _lobes(2, 0.4),
    "trefoil": _lobes(3, 0.35),
    "flower": _lobes(6, 0.3),
    "gear": _lobes(9, 0.15),
    "triangle": _polygon(0.5, (1.0, 0.0), (-0.5, 0.8660254), (-0.5, -0.8660254)),
    "square": _polygon(0.70710678, (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)),
    "pentagon": _polygon(0.809017, *_PENTAGON),
}

_TEXTURES: dict[str, Mask] = {
    "plain": lambda x, y: np.zeros(x.shape, bool),
    "striped": lambda x, y: _phase(x) < 0.5,
    "checked": lambda x, y: (_phase(x) < 0.5) ^ (_phase(y) < 0.5),
    "dotted": lambda x, y: (_phase(x) - 0.5) ** 2 + (_phase(y) - 0.5) ** 2 < 0.1,
    "ringed": lambda x, y: _phase(np.sqrt(x * x + y * y)) < 0.5,
}
"""The mask of the figure's second colour, from coordinates along two axes in periods of the texture."""

_SOURCE = ("disc", "triangle", "square", "clover", "star"), ("plain", "striped", "dotted", "ringed")
_TARGET = ("peanut", "trefoil", "pentagon", "flower", "gear"), ("striped", "checked")
"""The outlines and the textures of a task: each pair is a class."""


def demo_source(train: int = 12_000, test: int = 1_000, seed: int = 0) -> Dataset:
    """20 classes, five outlines in four textures each: the demo's backbone is pretrained on them."""
    return _dataset("demo-source", _SOURCE, train, test, [seed, 1])


@functools.lru_cache(maxsize=1)  # `finetune demo` reads it for each of its commands
def demo_target(train: int = 2_000, test: int = 1_000, seed: int = 0) -> Dataset:
    """10 classes, five outlines that `demo_source` lacks, in two textures each: the demo transfers to them."""
    return _dataset("demo-target", _TARGET, train, test, [seed, 2])


def _dataset(name: str, parts: tuple[tuple[str, ...], ...], train: int, test: int, seed: list[int]) -> Dataset:
    classes = list(itertools.product(*parts))
    return Dataset(
        name=name,
        class_names=tuple(f"{texture} {outline}" for outline, texture in classes),
        train=_split(classes, train, np.random.default_rng([*seed, 1])),
        validation=None,
        test=_split(classes, test, np.random.default_rng([*seed, 2])),
        source=f"{name}, generated from seed {seed[0]}",
    )


def _split(classes: list[tuple[str, ...]], examples: int, rng: np.random.Generator) -> Split:
    """`examples` images in a random order. The classes have equal numbers of images, up to one."""
    labels = np.empty(examples, np.int64)
    labels[np.argsort(rng.random(examples))] = np.arange(examples) % len(classes)
    images = np.empty((examples, SIDE, SIDE, 3), np.uint8)
    for label, (outline, texture) in enumerate(classes):
        members = np.flatnonzero(labels == label)
        for start in range(0, len(members), _AT_ONCE):
            chosen = members[start : start + _AT_ONCE]
            images[chosen] = _Painter(rng, len(chosen)).images(_TEXTURES[texture], _OUTLINES[outline])
    images.flags.writeable = labels.flags.writeable = False  # every caller gets the same ones
    return Split(images, labels)


class _Painter:
    """Draws `count` images of one class. Their differences are drawn from `rng`, each `[count, 1, 1]`."""

    def __init__(self, rng: np.random.Generator, count: int) -> None:
        self._rng, self._count = rng, count

    def images(self, texture: Mask, outline: Mask) -> np.ndarray:
        """uint8 `[count, SIDE, SIDE, 3]`: background, clutter, the figure, noise."""
        uniform = self._uniform
        # Figures are lighter or darker than the background, equally often.
        sign = np.where(uniform(0, 1, 1, 1, 1) < 0.5, np.float32(-1), np.float32(1))
        behind = 0.5 - sign * uniform(0, 0.25, 1, 1, 1) + uniform(-0.15, 0.15, 1, 1, 3)
        first = 0.5 + sign * uniform(0.1, 0.4, 1, 1, 1) + uniform(-0.15, 0.15, 1, 1, 3)
        second = first - sign * uniform(0.3, 0.55, 1, 1, 1) + uniform(-0.1, 0.1, 1, 1, 3)
        canvas = behind + _enlarged(uniform(-0.25, 0.25, 5, 5, 3))
        for _ in range(3):
            x, y = self._turned(*self._points(uniform(-0.9, 0.9), uniform(-0.9, 0.9)))
            bar = (np.abs(x) < uniform(0.1, 0.6)) & (np.abs(y) < uniform(0.04, 0.15))
            canvas = _over(canvas, bar, behind + uniform(-0.4, 0.4, 1, 1, 3))
        size, period = uniform(0.55, 0.8), uniform(0.24, 0.36)
        x, y = self._points(uniform(-0.25, 0.25), uniform(-0.25, 0.25))
        inside = outline(*self._turned(x / size, y / size))
        along, across = self._turned(x / period, y / period)
        canvas = _over(canvas, inside, first)
        canvas = _over(canvas, inside & texture(along + uniform(0, 1), across + uniform(0, 1)), second)
        canvas = canvas + uniform(-0.08, 0.08, SIDE, SIDE, 3)
        pixels: np.ndarray = np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8)
        return pixels

    def _uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        drawn: np.ndarray = self._rng.random((self._count, *(shape or (1, 1))), np.float32)
        return drawn * np.float32(high - low) + np.float32(low)

    def _points(self, right: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of each point of the image, which spans [-1, 1], relative to (right, down)."""
        axis = (np.arange(_FINE, dtype=np.float32) + 0.5) / SIDE - 1
        return axis[None, None, :] - right, axis[None, :, None] - down

    def _turned(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rotated by a random angle, drawn from the rational points of the circle so that no sine is needed."""
        t = self._uniform(-1, 1)
        sign = np.where(self._uniform(0, 1) < 0.5, np.float32(-1), np.float32(1))
        cosine, sine = sign * (1 - t * t) / (1 + t * t), sign * 2 * t / (1 + t * t)
        return x * cosine + y * sine, y * cosine - x * sine


def _phase(position: np.ndarray) -> np.ndarray:
    """The position within its period, from 0 to 1."""
    phase: np.ndarray = position - np.floor(position)
    return phase


def _over(canvas: np.ndarray, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Paints `colour` `[count, 1, 1, 3]` over the canvas inside `mask` (at fine points); edges are blended."""
    parts = mask.view(np.uint8)
    of_four = parts[:, ::2, ::2] + parts[:, 1::2, ::2] + parts[:, ::2, 1::2] + parts[:, 1::2, 1::2]
    share = (of_four.astype(np.float32) * np.float32(0.25))[..., None]
    mixed: np.ndarray = canvas + share * (colour - canvas)
    return mixed


def _enlarged(grid: np.ndarray) -> np.ndarray:
    """Enlarges `[count, 5, 5, 3]` bilinearly to `[count, SIDE, SIDE, 3]`."""
    for axis in (1, 2):
        steps = grid.shape[axis] - 1
        position = np.arange(SIDE, dtype=np.float32) * np.float32(steps / SIDE)
        low = position.astype(np.int64)
        weight = np.expand_dims(position - low.astype(np.float32), tuple(i for i in range(4) if i != axis))
        below, above = np.take(grid, low, axis), np.take(grid, low + 1, axis)
        grid = below + weight * (above - below)
    return grid
