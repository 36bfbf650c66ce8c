"""Assign a file of weights to a network, strictly: names are the mapping."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from checkpoints.errors import CheckpointError, listed
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching.fit import exact_fits, fits
from checkpoints.matching.leftovers import Ignore, by_reason


class Assignable(Protocol):
    """A variable of a network: of Keras, of TensorFlow, or a stand-in."""

    @property
    def shape(self) -> Any:
        """Sides, as something `tuple` takes."""

    def assign(self, value: Any) -> Any:
        """Take an array of the same shape."""


@dataclass(frozen=True)
class LoadReport:
    """What a file gave to a network. `ignored` maps a reason to the names in the file left over for it; `absent` are
    the statistics that it lacks and that start at 0 and 1; `remarks` say how the file was read."""

    path: str
    kind: str
    sha256: str
    assigned: tuple[str, ...]
    ignored: Mapping[str, tuple[str, ...]]
    absent: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line, and further ones where the file was read in a way of its own, or names were ignored."""
        line = f"assigned {len(self.assigned)} variables from {self.path} ({self.kind}, sha256 {self.sha256[:12]})"
        line = "\n".join([line, *self.remarks])
        if not self.ignored:
            return line
        parts = ", ".join(f"{len(names)} {reason}" for reason, names in self.ignored.items())
        return f"{line}\nignored {sum(map(len, self.ignored.values()))} in the file: {parts}"

    def to_json(self) -> dict[str, Any]:
        """As `load.json` of a run directory keeps it."""
        return asdict(self)


def assign(
    checkpoint: Checkpoint,
    targets: Mapping[str, Assignable],
    *,
    ignore: Sequence[Ignore],
    allow_non_finite: bool = False,
) -> LoadReport:
    """Give every target the array of its name in the file.

    targets: name in the file -> variable. ignore: what the file may hold beyond that; the first reason whose
    pattern fits counts. Every name, shape and value is checked before the first variable changes.
    Raises CheckpointError for names only in the file, names only in the network, shapes that differ, and NaN or
    infinity (unless `allow_non_finite`).
    """
    extra, ignored = by_reason((name for name in checkpoint.shapes if name not in targets), ignore)
    missing = [name for name in targets if name not in checkpoint.shapes]
    other_shape = [
        f"{name} is {list(checkpoint.shapes[name])}, expected {list(target.shape)}"
        for name, target in targets.items()
        if name in checkpoint.shapes and checkpoint.shapes[name] != tuple(target.shape)
    ]
    if extra or missing or other_shape:
        raise CheckpointError(_misfit(checkpoint, extra, missing, other_shape))
    # Read twice rather than held: the file never lies in memory as a whole.
    if not allow_non_finite:
        _refuse_non_finite(checkpoint, targets)
    for name, target in targets.items():
        target.assign(checkpoint.read(name))
    return LoadReport(
        path=str(checkpoint.path),
        kind=checkpoint.kind,
        sha256=checkpoint.sha256,
        assigned=tuple(targets),
        ignored=ignored,
        absent=checkpoint.absent,
        remarks=checkpoint.remarks,
    )


def _misfit(checkpoint: Checkpoint, extra: list[str], missing: list[str], other_shape: list[str]) -> str:
    lines = [f"{checkpoint.path} ({checkpoint.kind}) does not fit the network, nothing was assigned:"]
    for what, names in (
        ("only in the file", extra),
        ("only in the network", missing),
        ("of another shape in the file", other_shape),
    ):
        if names:
            lines.append(f"  {len(names)} {what}: {listed(names)}")
    lines.append(_advice(checkpoint))
    return "\n".join(lines)


def _advice(checkpoint: Checkpoint) -> str:
    found = exact_fits(checkpoint)
    if found:
        return f"It fits {' or '.join(fit.summary() for fit in found[:8])}: choose that with --backbone."
    nearest = fits(checkpoint)[0]
    if nearest.lacks_statistics:
        return f"It is no other network's: {nearest.remedy(checkpoint.path)}."
    return "Choose the backbone this file was saved from, or give the file of this backbone."


def _refuse_non_finite(checkpoint: Checkpoint, targets: Mapping[str, Assignable]) -> None:
    broken = [name for name in targets if not np.all(np.isfinite(checkpoint.read(name)))]
    if broken:
        raise CheckpointError(
            f"{checkpoint.path} holds NaN or infinity in {len(broken)} of {len(targets)} variables, nothing was "
            f"assigned: {listed(broken)}. Give a checkpoint from before the training diverged."
        )
