"""What is in a file of weights: names, shapes, leftovers, BatchNorm's statistics, and the networks it fits."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.keras_h5 import counted
from checkpoints.matching.fit import Fit, fits
from checkpoints.matching.leftovers import TRAINING_LEFTOVERS, by_reason

_NEAREST = 3


@dataclass(frozen=True)
class Statistics:
    """The moving statistics of one BatchNorm layer.

    initial: whether they still are what they start from, mean 0 and variance 1. finite: no NaN or infinity.
    negative: how many variances are below 0. mean, variance: (least, greatest) of the finite values; None where
    there are none.
    """

    layer: str
    channels: int
    initial: bool
    finite: bool
    negative: int
    mean: tuple[float, float] | None
    variance: tuple[float, float] | None


@dataclass(frozen=True)
class Group:
    """Neighbouring variables with the beginning of their names in common; `first` and `last` in the file's order."""

    name: str
    variables: int
    parameters: int
    first: str
    last: str


@dataclass(frozen=True)
class Inspection:
    """A file of weights at a glance.

    variables: name -> shape of what belongs to a network; leftovers: reason -> names of what training left behind.
    parameters: numbers in `variables`. step: of the training, where the file says it. non_finite: names with NaN or
    infinity. batchnorm: one entry per layer. fits: rows it fits exactly, best first; nearest: the best of the others.
    remarks: how it was read, where that is not as it is written.
    """

    path: str
    kind: str
    sha256: str
    variables: Mapping[str, tuple[int, ...]]
    parameters: int
    groups: tuple[Group, ...]
    leftovers: Mapping[str, tuple[str, ...]]
    step: int | None
    non_finite: tuple[str, ...]
    batchnorm: tuple[Statistics, ...]
    fits: tuple[Fit, ...]
    nearest: tuple[Fit, ...]
    remarks: tuple[str, ...] = ()

    @property
    def best(self) -> Fit | None:
        """The network whose head is reported: the one that fits, or else the nearest."""
        return next(iter((*self.fits, *self.nearest)), None)

    def to_json(self) -> dict[str, Any]:
        """For `checkpoint inspect --json`."""
        best = self.best
        return {
            **{key: getattr(self, key) for key in ("path", "kind", "sha256", "parameters", "step")},
            "variables": {name: list(shape) for name, shape in self.variables.items()},
            "leftovers": {reason: list(names) for reason, names in self.leftovers.items()},
            "non_finite": list(self.non_finite),
            "remarks": list(self.remarks),
            "lacks_statistics": best is not None and best.lacks_statistics,
            "head": None if best is None else {"kind": best.head, "outputs": best.outputs},
            "batchnorm": [asdict(layer) for layer in self.batchnorm],
            "fits": [fit.spec.id for fit in self.fits],
            "nearest": [
                {
                    "name": fit.spec.id,
                    "missing": list(fit.missing),
                    "other_shape": list(fit.other_shape),
                    "extra": list(fit.extra),
                }
                for fit in self.nearest
            ],
        }


def inspect(checkpoint: Checkpoint) -> Inspection:
    """Look at every array of an opened file, one at a time. Raises CheckpointError where one cannot be read."""
    # TF's files have no order of their own; Keras's files have that of the layers.
    in_order = sorted(checkpoint.shapes, key=counted) if _is_tf(checkpoint.kind) else checkpoint.shapes
    names, leftovers = by_reason(in_order, TRAINING_LEFTOVERS)
    variables = {name: checkpoint.shapes[name] for name in names}
    found = fits(checkpoint)
    return Inspection(
        path=str(checkpoint.path),
        kind=checkpoint.kind,
        sha256=checkpoint.sha256,
        variables=variables,
        parameters=sum(math.prod(shape) for shape in variables.values()),
        groups=_groups(checkpoint.kind, variables),
        leftovers=leftovers,
        step=_step(checkpoint),
        non_finite=tuple(name for name in variables if not _is_finite(checkpoint.read(name))),
        batchnorm=tuple(
            _statistics(layer, checkpoint.read(mean).astype(np.float64), checkpoint.read(variance).astype(np.float64))
            for layer, (mean, variance) in _statistics_names(checkpoint, names).items()
        ),
        fits=tuple(fit for fit in found if fit.exact),
        nearest=tuple(fit for fit in found if not fit.exact)[:_NEAREST],
        remarks=checkpoint.remarks,
    )


def _is_tf(kind: str) -> bool:
    return kind.startswith("slim") or kind == "savedmodel"


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _statistics_names(checkpoint: Checkpoint, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Layer -> the names of its moving mean and its moving variance, among the names of variables."""
    by_layer: dict[str, list[str]] = {}
    for name in names:
        if re.search(r"(^|/)(moving_mean|moving_variance|batch_normalization(_\d+)?/vars/\d+)$", name):
            by_layer.setdefault(name.rpartition("/")[0].removesuffix("/vars"), []).append(name)
    # Keras saves the trainable variables first, and the two statistics last.
    last = {layer: sorted(names, key=counted)[-2:] for layer, names in by_layer.items() if len(names) >= 2}
    return {checkpoint.layers.get(mean, layer): (mean, variance) for layer, (mean, variance) in last.items()}


def _statistics(layer: str, mean: np.ndarray, variance: np.ndarray) -> Statistics:
    return Statistics(
        layer=layer,
        channels=mean.size,
        initial=bool((mean == 0).all() and (variance == 1).all()),
        finite=bool(np.isfinite(mean).all() and np.isfinite(variance).all()),
        negative=int((variance < 0).sum()),
        mean=_range(mean),
        variance=_range(variance),
    )


def _range(array: np.ndarray) -> tuple[float, float] | None:
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def _step(checkpoint: Checkpoint) -> int | None:
    """The number of training steps: slim's `global_step`, or the count of a Keras optimizer."""
    shapes = checkpoint.shapes
    named = [name for name in shapes if name.rpartition("/")[2] in ("global_step", "iteration", "iterations")]
    for name in sorted(named, key=len) or [name for name in ("optimizer/vars/0",) if name in shapes]:
        if shapes[name] == ():
            value = checkpoint.read(name)
            if value.dtype.kind in "iu":
                return int(value)
    return None


def _groups(kind: str, variables: Mapping[str, tuple[int, ...]]) -> tuple[Group, ...]:
    groups: dict[str, list[str]] = {}
    for name in variables:
        groups.setdefault(_group(kind, name), []).append(name)
    return tuple(
        Group(
            group,
            len(names),
            sum(math.prod(variables[name]) for name in names),
            *(f"{name.removeprefix(f'{group}/')} {list(variables[name])}" for name in (names[0], names[-1])),
        )
        for group, names in groups.items()
    )


def _group(kind: str, name: str) -> str:
    """Slim: the first two scopes. Keras: the class of a key, the first word of a layer's name (`conv2` of a ResNet)."""
    parts = name.split("/")[:-1] or [name]
    if _is_tf(kind) and len(parts) > 1:
        return "/".join(parts[:2])
    if parts[-1] == "vars" and len(parts) > 1:
        return "/".join([*parts[:-2], re.sub(r"_\d+$", "", parts[-2])])
    # A slim network's layer as Keras has it, or a layer that Keras numbered, or one with a name of its own.
    scopes = parts[-1].split(".")
    if len(scopes) > 1:
        return "/".join([*parts[:-1], ".".join(scopes[:2])])
    plain = re.sub(r"(_\d+)+$", "", parts[-1])
    own_name = plain not in ("conv2d", "batch_normalization", "depthwise_conv2d", "dense")
    return "/".join([*parts[:-1], plain.partition("_")[0] if own_name else plain])
