"""A `graph TD` of Mermaid as a picture of its own: Mermaid itself would have to be loaded from the network."""

import itertools
import re
from collections import defaultdict
from html import escape

_WIDTH, _HEIGHT = 100, 34
"""Of a box, in px."""
_GAP, _DOWN = 24, 84
"""From one box to the next beside it, and from one layer to the next, in px."""


def svg(text: str) -> str:
    """The boxes in layers, each below all boxes that point to it. The page's style colours them."""
    arrows = re.findall(r"^\s*(\w+) --> (\w+)$", text, re.MULTILINE)
    depth = _depths(arrows)
    ways = [_way(one, other, depth) for one, other in arrows]
    centres = _centres(ways, depth)
    parts = [_line([centres[point] for point in way]) for way in ways]
    for name, (x, y) in centres.items():
        if isinstance(name, str):
            parts.append(f'<rect x="{x - _WIDTH / 2}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4"/>')
            parts.append(f'<text x="{x}" y="{y + _HEIGHT / 2}">{escape(name)}</text>')
    left = min(x for x, _ in centres.values()) - _WIDTH / 2 - 2
    width = max(x for x, _ in centres.values()) + _WIDTH / 2 + 2 - left
    height = max(y for _, y in centres.values()) + _HEIGHT + 4
    tip = '<marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="7" markerHeight="7" orient="auto">'
    tip += '<path d="M0 0 6 3 0 6z"/></marker>'
    return f'<svg class="diagram" viewBox="{left} -2 {width} {height}">{tip}{"".join(parts)}</svg>'


def _depths(arrows: list[tuple[str, str]]) -> dict[str, int]:
    found = {name: 0 for arrow in arrows for name in arrow}
    for _ in found:  # the longest way from the top has fewer arrows than there are boxes
        for one, other in arrows:
            found[other] = max(found[other], found[one] + 1)
    return found


def _way(one: str, other: str, depth: dict[str, int]) -> list[object]:
    """The box it begins at, a point in every layer between, the box it ends at."""
    return [one, *((one, other, layer) for layer in range(depth[one] + 1, depth[other])), other]


def _centres(ways: list[list[object]], depth: dict[str, int]) -> dict[object, tuple[float, float]]:
    """The middle of the upper edge of every box, and the points between."""
    above, below, layers = defaultdict(list), defaultdict(list), defaultdict(list)
    for way in ways:
        for one, other in itertools.pairwise(way):
            above[other].append(one)
            below[one].append(other)
        for number, point in enumerate(way, start=depth[str(way[0])]):
            if point not in layers[number]:
                layers[number].append(point)
    x: dict[object, float] = {}
    for turn in range(9):
        # Each near the middle of its neighbours, from the top down and from the bottom up, so that few arrows cross.
        beside, order = (above, sorted(layers)) if turn % 2 == 0 else (below, sorted(layers, reverse=True))
        for number in order:
            wish = {one: _mean([x[other] for other in beside[one] if other in x]) for one in layers[number]}
            layers[number].sort(key=wish.__getitem__)
            widths = [_WIDTH if isinstance(one, str) else 0 for one in layers[number]]
            edge = -(sum(widths) + _GAP * (len(widths) - 1)) / 2
            for one, width in zip(layers[number], widths, strict=True):
                x[one] = edge + width / 2
                edge += width + _GAP
    return {one: (x[one], number * _DOWN) for number, layer in layers.items() for one in layer}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _line(points: list[tuple[float, float]]) -> str:
    """From the lower edge of the first box past the points to the upper edge of the last."""
    (x, y), *rest = points
    path, y = f"M{x} {y + _HEIGHT}", y + _HEIGHT
    for number, (to_x, to_y) in enumerate(rest, start=1):
        middle = (y + to_y) / 2
        path += f"C{x} {middle} {to_x} {middle} {to_x} {to_y}"
        x, y = to_x, to_y
        if number < len(rest):
            path, y = f"{path}V{y + _HEIGHT}", y + _HEIGHT
    return f'<path class="arrow" d="{path}" marker-end="url(#tip)"/>'
