"""What is wrong with images, by what was measured of them: each finding with its images, the worst first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune.data.check.duplicates import FLAT, exact_groups, similar_groups
from finetune.data.check.kinds import Kind
from finetune.data.check.measures import Measured, Pool

OUTLIER = 3.5
"""Robust standard deviations (1.4826 times the median absolute deviation) from the median of all images, the limit of
Iglewicz and Hoaglin (1993)."""
DARK, BRIGHT = 64, 191
"""Grey values: an image is dark if 99 % of its pixels lie below the first, bright if 95 % lie above the second."""
PIXELS, ASPECT = 16.0, 2.5
"""Factors from the median number of pixels, and from the median ratio of width to height."""
_LEAST_SPREAD = {"blurred": 0.3, "dark": 8.0, "bright": 8.0}
"""Of a robust standard deviation, so that no image counts as an outlier among images that are all but equal."""


@dataclass(frozen=True, eq=False)
class Finding:
    """Images of one kind.

    numbers: int64, the worst first. values: what was measured of each, on its own scale. removable: which of `numbers`
    would be left out; of a group of duplicates one image stays. groups: the images that belong together. notes: a
    sentence for some of the images, by their number.
    """

    kind: Kind
    numbers: np.ndarray
    values: np.ndarray
    removable: np.ndarray
    groups: tuple[np.ndarray, ...] = ()
    notes: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def find(pool: Pool, measured: Measured) -> list[Finding]:
    """Every finding about pixels that there is, in the order of `Kind`. Those without images are included."""
    records, good = measured.records, measured.good()
    shown = np.flatnonzero(good & (records["contrast"] >= FLAT))
    exact = exact_groups(records["digest"], shown)
    # One image stands for all of its copies: many copies are no quadratic number of pairs.
    later = np.zeros(len(pool), bool)
    for group in exact:
        later[group[1:]] = True
    similar = similar_groups(records["hash"], records["thumbnail"], shown[~later[shown]])
    same = [group for group in (*exact, *similar) if len(np.unique(pool.labels[group])) > 1]
    bad = np.array(sorted(measured.bad), np.int64)
    return [
        _plain("unreadable", bad, np.zeros(len(bad)), {number: measured.bad[number] for number in bad.tolist()}),
        _copies("duplicate", pool, exact),
        _copies("near-duplicate", pool, similar),
        _conflicting(pool, same),
        _worst("flat", good & (records["contrast"] < FLAT), records["contrast"]),
        *_of_light(records, good & (records["contrast"] >= FLAT)),
        *_of_shape(records, good),
    ]


def across_splits(pool: Pool, finding: Finding) -> dict[str, int]:
    """How many images have a copy in an earlier split, by the two splits: `train and test`."""
    found: dict[str, int] = {}
    for group in finding.groups:
        splits = pool.split[group]
        present = np.unique(splits)
        for position, later in enumerate(present.tolist()):
            for earlier in present[:position].tolist():
                name = f"{pool.names_of_splits[earlier]} and {pool.names_of_splits[later]}"
                found[name] = found.get(name, 0) + int(np.sum(splits == later))
    return found


def _plain(kind: Kind, numbers: np.ndarray, values: np.ndarray, notes: dict[int, str] | None = None) -> Finding:
    return Finding(kind, numbers, values, np.ones(len(numbers), bool), notes=notes or {})


def _worst(kind: Kind, which: np.ndarray, values: np.ndarray, *, highest: bool = False) -> Finding:
    """The images `which`, the lowest of `values` first, or the highest."""
    numbers = np.flatnonzero(which)
    order = np.argsort(-values[numbers] if highest else values[numbers], kind="stable")
    return _plain(kind, numbers[order], values[numbers[order]].astype(np.float64))


def _copies(kind: Kind, pool: Pool, groups: Sequence[np.ndarray]) -> Finding:
    """All images of the groups, the largest group first. One stays: of the last split, because test images that are
    left out would change what is measured; in it, the first."""
    ordered = sorted(groups, key=lambda group: (-len(group), int(group[0])))
    removable = []
    for group in ordered:
        stays = group[np.argmax(pool.split[group])]  # sorted: the first of the last split
        removable.append(group != stays)
    return Finding(
        kind,
        np.concatenate(ordered) if ordered else np.zeros(0, np.int64),
        np.concatenate([np.full(len(group), len(group), np.float64) for group in ordered] or [np.zeros(0)]),
        np.concatenate(removable) if ordered else np.zeros(0, bool),
        tuple(ordered),
    )


def _conflicting(pool: Pool, groups: Sequence[np.ndarray]) -> Finding:
    """All images of groups with several labels. None stays: which label is right is not known."""
    found = _copies("conflicting-labels", pool, groups)
    names = pool.class_names
    notes: dict[int, str] = {}
    for group in found.groups:
        labels = sorted({names[label] for label in pool.labels[group].tolist()})
        notes |= {int(number): f"labelled {' and '.join(labels)}" for number in group}
    return Finding(found.kind, found.numbers, found.values, np.ones(len(found), bool), found.groups, notes)


def _of_light(records: np.ndarray, among: np.ndarray) -> list[Finding]:
    """Blurred, dark and bright images of those that show something."""
    sharpness = np.log(records["sharpness"].astype(np.float64) + 1e-3)
    limits: dict[Kind, tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], bool]] = {
        "blurred": (sharpness, lambda away: away < -OUTLIER, False),
        "dark": (records["dark"].astype(np.float64), lambda away: (away < -OUTLIER) & (records["dark"] < DARK), False),
        "bright": (
            records["bright"].astype(np.float64),
            lambda away: (away > OUTLIER) & (records["bright"] > BRIGHT),
            True,
        ),
    }
    found = []
    for kind, (values, outside, highest) in limits.items():
        which = among & outside(_deviations(values, among, _LEAST_SPREAD[kind]))
        shown = records["sharpness"] if kind == "blurred" else values
        found.append(_worst(kind, which, shown, highest=highest))
    return found


def _of_shape(records: np.ndarray, among: np.ndarray) -> list[Finding]:
    """Images whose size or aspect ratio is far from the median."""
    found = []
    height, width = (np.maximum(records[side].astype(np.float64), 1) for side in ("height", "width"))
    shapes: dict[Kind, tuple[np.ndarray, float]] = {
        "odd-size": (height * width, PIXELS),
        "odd-aspect": (width / height, ASPECT),
    }
    for kind, (values, factor) in shapes.items():
        middle = float(np.median(values[among])) if among.any() else 1.0
        away = np.abs(np.log(values / middle))
        ranked = _worst(kind, among & (away > np.log(factor)), away, highest=True)
        notes = {int(one): f"{int(records['width'][one])} x {int(records['height'][one])} px" for one in ranked.numbers}
        found.append(Finding(kind, ranked.numbers, values[ranked.numbers], ranked.removable, notes=notes))
    return found


def _deviations(values: np.ndarray, among: np.ndarray, least: float) -> np.ndarray:
    """How many robust standard deviations, of at least `least`, each value lies from the median of those `among`."""
    if not among.any():
        return np.zeros(len(values))
    middle = np.median(values[among])
    spread = 1.4826 * np.median(np.abs(values[among] - middle))
    return np.asarray((values - middle) / max(float(spread), least))
