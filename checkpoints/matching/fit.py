"""Which networks of the catalogue a file of weights fits, and why it does not fit the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from checkpoints.catalog.lookup import CATALOG
from checkpoints.catalog.spec import BackboneSpec
from checkpoints.errors import CheckpointError
from checkpoints.formats.aliases import STATISTICS, with_initial
from checkpoints.formats.checkpoint import Checkpoint
from checkpoints.matching.leftovers import training_leftover
from checkpoints.matching.pairing import Pairing, of_head, pair
from checkpoints.matching.structures import Entry, structures

Head = Literal["published", "other", "absent"]


@dataclass(frozen=True)
class Fit:
    """How well a file fits one row of the catalogue.

    head, outputs: whether the file has the published logits, others (their number in `outputs`), or none.
    missing: variables of the backbone that are not in the file. extra: variables of the file that are neither of the
    backbone nor a head, an auxiliary head or left over from training. other_shape: variables of the backbone that
    have another shape in the file. `missing` and `other_shape` are the published names, `extra` the file's.
    parts: those of `extra` that are of a larger network, such as a detector.
    """

    spec: BackboneSpec
    head: Head
    outputs: int | None
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    other_shape: tuple[str, ...]
    right: int
    parts: tuple[str, ...] = ()

    @property
    def is_part(self) -> bool:
        """Whether the backbone is whole and right, but in a larger network: it can be transferred, with a new head."""
        return bool(self.parts) and self.extra == self.parts and not (self.missing or self.other_shape)

    @property
    def exact(self) -> bool:
        """Whether the backbone is there, whole and right, and everything else is explained."""
        return not (self.missing or self.extra or self.other_shape)

    @property
    def lacks_statistics(self) -> bool:
        """Whether only moving statistics are missing, as after `Saver(trainable_variables())`."""
        statistics = all(name.endswith(STATISTICS) for name in self.missing)
        return bool(self.missing and self.right) and statistics and not (self.extra or self.other_shape)

    @property
    def differences(self) -> int:
        """Variables that do not fit."""
        return len(self.missing) + len(self.extra) + len(self.other_shape)

    def why_not(self) -> str:
        """Why it does not fit, with an example of each kind; "" where it fits."""
        if self.is_part:
            return (
                f"it is part of a larger network, with {len(self.parts)} other variables ({self.parts[0]}, ...): "
                f"'finetune run --backbone {self.spec.id} --checkpoint FILE' starts from it"
            )
        return ", ".join(
            f"{len(names)} {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
            for what, names in (
                ("missing", self.missing),
                ("of another shape", self.other_shape),
                ("only in the file", self.extra),
            )
            if names
        )

    def remedy(self, path: Path | str) -> str:
        """What `lacks_statistics` means for the file at `path`, and the command that measures them."""
        return (
            f"{path} holds {self.spec.id} without {len(self.missing)} of its moving statistics, as a Saver of "
            "trainable_variables() writes it: 'finetune run' measures them on its training images; to have a copy with "
            f"them, 'finetune recalibrate-bn --backbone {self.spec.id} --checkpoint {path} --data DATA'"
        )

    def summary(self) -> str:
        """The row, and what head the file has where it is not the published one."""
        head = {"published": "", "other": f" (with a head of {self.outputs} outputs)", "absent": " (without a head)"}
        return f"{self.spec.id}{head[self.head]}"


def fits(checkpoint: Checkpoint) -> list[Fit]:
    """How well a file fits every row of the catalogue, best first. Reads names and shapes only."""
    rows = structures()
    found = [fit_row(checkpoint, spec, rows[spec.id]) for spec in CATALOG if spec.id in rows]
    of_kind = "keras" if checkpoint.kind.startswith("keras") else "slim"
    return sorted(
        found,
        key=lambda one: (
            not one.exact,
            not one.lacks_statistics,
            # Many rows share no variable with the file; among those that share some, the nearest is the best.
            one.right == 0,
            one.differences,
            one.spec.source != of_kind,
            one.head != "published",
        ),
    )


def exact_fits(checkpoint: Checkpoint) -> list[Fit]:
    """The rows a file fits exactly, best first."""
    return [fit for fit in fits(checkpoint) if fit.exact]


def best_fit(checkpoint: Checkpoint) -> Fit:
    """The best row that a file fits exactly. CheckpointError, with the nearest row, where there is none."""
    best = fits(checkpoint)[0]
    if best.lacks_statistics:
        raise CheckpointError(best.remedy(checkpoint.path))
    if not best.exact:
        raise CheckpointError(
            f"{checkpoint.path} ({checkpoint.kind}) fits no backbone of the catalogue; nearest is {best.spec.id}: "
            f"{best.why_not()}. 'finetune checkpoint inspect {checkpoint.path}' shows what it holds"
        )
    return best


def measurable(checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry] | None = None) -> Checkpoint:
    """`checkpoint`, with the moving statistics at 0 and 1 that it lacks where it lacks nothing else of the row.

    They must be measured before the network is of use. entries: the row's variables, if it is not of the catalogue.
    """
    entries = structures().get(spec.id, ()) if entries is None else entries
    if not fit_row(checkpoint, spec, entries).lacks_statistics:
        return checkpoint
    names = pair(checkpoint, spec, entries).names
    absent = {names[entry.name]: entry.shape for entry in entries if names[entry.name] not in checkpoint.shapes}
    initial = {
        name: np.full(shape, float(name.endswith("variance")), np.float32)
        for name, shape in absent.items()
        if name.endswith(STATISTICS)
    }
    return with_initial(checkpoint, initial)


def fit_row(checkpoint: Checkpoint, spec: BackboneSpec, entries: Sequence[Entry]) -> Fit:
    """How well a file fits one row, whose network with its head has these variables."""
    backbone = [entry for entry in entries if not of_head(spec, entry.name)]
    pairing = pair(checkpoint, spec, backbone)
    names, shapes = pairing.names, checkpoint.shapes
    explained = {*names.values(), *pairing.head, *pairing.auxiliary, *pairing.counters, *pairing.others}
    head, outputs = _head(spec, pairing, shapes, size=len(entries) - len(backbone))
    right = [entry for entry in backbone if shapes.get(names[entry.name]) == entry.shape]
    return Fit(
        spec=spec,
        head=head,
        outputs=outputs,
        missing=tuple(entry.name for entry in backbone if names[entry.name] not in shapes),
        extra=tuple(name for name in shapes if name not in explained and not training_leftover(name)),
        other_shape=tuple(
            f"{entry.name} is {list(shapes[names[entry.name]])}, expected {list(entry.shape)}"
            for entry in backbone
            if names[entry.name] in shapes and shapes[names[entry.name]] != entry.shape
        ),
        right=len(right),
        parts=pairing.parts,
    )


def _head(
    spec: BackboneSpec, pairing: Pairing, shapes: Mapping[str, tuple[int, ...]], *, size: int
) -> tuple[Head, int | None]:
    """`size`: the variables of the published head."""
    kernels = [shapes[name] for name in pairing.head if len(shapes[name]) > 1]
    if not kernels:
        return "absent", None
    outputs = kernels[-1][-1]
    return ("published" if len(pairing.head) == size and outputs == spec.outputs else "other"), outputs
