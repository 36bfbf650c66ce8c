"""What is in a file of weights: names, shapes, leftovers, BatchNorm's statistics, and the networks it fits."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.formats.keras_h5 import counted
from checkpoints.matching.fit import Fit, fits
from checkpoints.matching.leftovers import training_leftover

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
    leftovers: dict[str, list[str]] = {}
    variables = {}
    # TF's files have no order of their own; Keras's files have that of the layers.
    in_order = sorted(checkpoint.shapes, key=counted) if _is_tf(checkpoint.kind) else checkpoint.shapes
    for name in in_order:
        shape = checkpoint.shapes[name]
        reason = training_leftover(name)
        if reason is None:
            variables[name] = shape
        else:
            leftovers.setdefault(reason, []).append(name)
    means, variances = statistics_names(checkpoint)
    of_layer: dict[str, dict[str, np.ndarray]] = {}
    non_finite = []
    for name in variables:
        array = checkpoint.read(name)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            non_finite.append(name)
        for which, layers in (("mean", means), ("variance", variances)):
            if name in layers:
                of_layer.setdefault(layers[name], {})[which] = array.astype(np.float64)
    found = fits(checkpoint)
    return Inspection(
        path=str(checkpoint.path),
        kind=checkpoint.kind,
        sha256=checkpoint.sha256,
        variables=variables,
        parameters=sum(math.prod(shape) for shape in variables.values()),
        groups=_groups(checkpoint.kind, variables),
        leftovers={reason: tuple(names) for reason, names in leftovers.items()},
        step=_step(checkpoint),
        non_finite=tuple(non_finite),
        batchnorm=tuple(
            _statistics(layer, arrays["mean"], arrays["variance"])
            for layer, arrays in of_layer.items()
            if len(arrays) == 2
        ),
        fits=tuple(fit for fit in found if fit.exact),
        nearest=tuple(fit for fit in found if not fit.exact)[:_NEAREST],
    )


def _is_tf(kind: str) -> bool:
    return kind.startswith("slim") or kind == "savedmodel"


def statistics_names(checkpoint: Checkpoint) -> tuple[dict[str, str], dict[str, str]]:
    """(name of a moving mean -> its layer, name of a moving variance -> its layer)."""
    means, variances = {}, {}
    of_keys: dict[str, list[str]] = {}
    for name in checkpoint.shapes:
        layer, _, variable = name.rpartition("/")
        if variable == "moving_mean":
            means[name] = layer
        elif variable == "moving_variance":
            variances[name] = layer
        elif re.search(r"(^|/)batch_normalization(_\d+)?/vars/\d+$", name):
            of_keys.setdefault(layer.removesuffix("/vars"), []).append(name)
    for layer, names in of_keys.items():
        # Keras saves the trainable variables first, and the two statistics last.
        if len(names) >= 2:
            name = checkpoint.layers.get(names[0], layer)
            means[names[-2]] = variances[names[-1]] = name
    return means, variances


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
            group, len(names), sum(math.prod(variables[name]) for name in names), _shown(names[0], group, variables),
            _shown(names[-1], group, variables),
        )
        for group, names in groups.items()
    )  # fmt: skip


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


def _shown(name: str, group: str, variables: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name.removeprefix(f'{group}/')} {list(variables[name])}"
