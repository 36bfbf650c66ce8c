"""Variables that a TF checkpoint keeps under other names than their own: as moving averages, once per tower."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from checkpoints.errors import CheckpointError
from checkpoints.formats.checkpoint import Checkpoint

STATISTICS = ("moving_mean", "moving_variance")
"""Last parts of the names of BatchNorm's moving statistics."""
_EMA = "/ExponentialMovingAverage"
"""`tf.train.ExponentialMovingAverage` leaves the moving averages of weights in a checkpoint under these names."""
_NUMBERED = re.compile(r"(.*?)_?(\d*)", re.DOTALL)
_LEAST_OF_A_NETWORK = 24
"""Variables: more than the units of a ResNet have, which are alike and numbered too."""


def plain(opened: Checkpoint) -> Checkpoint:
    """`opened` with every variable of a network under its own name, once; `remarks` say what was read for it."""
    return _from_averages(_of_first_tower(opened))


def _from_averages(opened: Checkpoint) -> Checkpoint:
    """Variables that are in the file as their moving averages alone are read from these."""
    alone = {name: key for name, key in _averages(opened.shapes).items() if name not in opened.shapes}
    raw = [name for name in opened.shapes if not name.endswith((*STATISTICS, _EMA))]
    if 2 * len(alone) <= len(raw):
        return opened  # a few that are left over beside a whole network
    taken = set(alone.values())
    shapes = {key: shape for key, shape in opened.shapes.items() if key not in taken}
    shapes |= {name: opened.shapes[key] for name, key in alone.items()}
    remark = f"{len(alone)} variables are in the file as moving averages only (...{_EMA}), and are read from these"
    return replace(_renamed(opened, alone), shapes=dict(sorted(shapes.items())), remarks=(*opened.remarks, remark))


def _of_first_tower(opened: Checkpoint) -> Checkpoint:
    """Of scopes that differ in their number only (`tower_0`, `tower_1`) and hold the same whole network, the first."""
    for depth in (1, 2):
        scopes: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, shape in opened.shapes.items():
            parts = name.split("/", depth)
            if len(parts) > depth:
                scopes.setdefault(name.removesuffix(parts[-1]), {})[parts[-1]] = shape
        alike: dict[tuple[str, frozenset[object]], list[tuple[int, str]]] = {}
        for scope, inside in scopes.items():
            stem, number = _NUMBERED.fullmatch(scope.rstrip("/")).groups()  # type: ignore[union-attr]
            if len(inside) >= _LEAST_OF_A_NETWORK:
                alike.setdefault((stem, frozenset(inside.items())), []).append((int(number or 0), scope))
        for (_, network), towers in alike.items():
            if len(towers) > 1 and 2 * len(towers) * len(network) > len(opened.shapes):
                first, *others = (scope for _, scope in sorted(towers))
                shapes = {name: one for name, one in opened.shapes.items() if not name.startswith(tuple(others))}
                remark = f"{', '.join((first, *others))} hold the same network: {first} is read"
                return replace(opened, shapes=shapes, remarks=(*opened.remarks, remark))
    return opened


@dataclass(frozen=True)
class Averaged:
    """A checkpoint in which every variable reads as its average, where the file has one.

    replaced: the variables read from their average; without: those that have none, such as statistics that were not
    among the averaged variables.
    """

    checkpoint: Checkpoint
    replaced: tuple[str, ...]
    without: tuple[str, ...]

    def summary(self) -> str:
        """What was read, in words."""
        raw = len(raw_statistics(self.checkpoint))
        words = f"{len(self.replaced)} variables read from their moving averages"
        return words + (f"; {raw} moving statistics have none and are read as they are" if raw else "")


def averaged(opened: Checkpoint, option: str = "--ema") -> Averaged:
    """`opened` with averages in place of weights. CheckpointError, naming the user's option, where it has none."""
    averages = {name: key for name, key in _averages(opened.shapes).items() if name in opened.shapes}
    averages |= opened.keys
    if not averages:
        raise CheckpointError(
            f"{opened.path} holds no moving averages of weights: expected variables called ...{_EMA}; leave out "
            f"{option}"
        )
    without = tuple(name for name in opened.shapes if not name.endswith(_EMA) and name not in averages)
    return Averaged(_renamed(opened, averages), tuple(averages), without)


def raw_statistics(opened: Checkpoint) -> list[str]:
    """The moving statistics that are no averages although weights are read from theirs."""
    return [name for name in opened.shapes if opened.keys and name.endswith(STATISTICS) and name not in opened.keys]


def with_initial(opened: Checkpoint, absent: Mapping[str, np.ndarray]) -> Checkpoint:
    """`opened` with moving statistics that it does not hold, at the values they start from (0 and 1, as a rule)."""

    def read(name: str) -> np.ndarray:
        return absent[name].copy() if name in absent else opened.read(name)

    starts = sorted({float(value) for array in absent.values() for value in array.flat[:1]})
    remark = (
        f"the file lacks {len(absent)} moving statistics (saved by a Saver of trainable_variables()?): they start at "
        f"{' and '.join(f'{value:g}' for value in starts)}"
    )
    shapes = {**opened.shapes, **{name: array.shape for name, array in absent.items()}}
    return replace(opened, shapes=shapes, read=read, absent=tuple(absent), remarks=(*opened.remarks, remark))


def _averages(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Variable -> the name of its average. Those made inside a scope have it in front (`train/conv1/...`)."""
    found = {}
    for key in shapes:
        if key.endswith(_EMA):
            parts = key.removesuffix(_EMA).split("/")
            spelled = ["/".join(parts[start:]) for start in range(len(parts))]
            found[next((name for name in spelled if name in shapes), spelled[0])] = key
    return found


def _renamed(opened: Checkpoint, keys: Mapping[str, str]) -> Checkpoint:
    return replace(opened, read=lambda name: opened.read(keys.get(name, name)), keys={**opened.keys, **keys})
