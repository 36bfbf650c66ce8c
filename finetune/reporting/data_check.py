"""The check of a data set as one JSON object, from which the terminal's table, the page and the list of images to leave
out are made."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.atomic import TEMPORARY, working_folder
from finetune.data.check.findings import Finding, across_splits, find
from finetune.data.check.kinds import CERTAIN, WORDS, Kind
from finetune.data.check.measures import Pool, measure
from finetune.data.dataset import Dataset, Split
from finetune.data.exclusion import pixel_digest, written
from finetune.data.label_sets import label_counts
from finetune.data.lazy import LazyImages, Progress
from finetune.errors import FinetuneError
from finetune.evaluation.linear_probe import Suspicions, TooFew, drift, suspect_labels
from finetune.files import room_for, to_json
from finetune.reporting.pictures import data_uri
from finetune.reporting.rendering import framed
from finetune.text import in_python

SCHEMA_VERSION = 1
SHARE = 0.03
"""The most images whose label is called suspect, as a share of those that were judged."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What computes features, and of how many images.

    features: the splits to float32 `[n, d]` each. name: of the backbone, for users. images: the most images of the data
    set, evenly drawn; None for all. share: as SHARE. seed: of the folds.
    """

    features: Callable[[Sequence[Split]], list[np.ndarray]]
    name: str
    images: int | None
    share: float = SHARE
    seed: int = 0


@dataclass(frozen=True, eq=False)
class DataReport:
    """What a check found: the sentences in a terminal, the page in a notebook.

    Attributes:
        value: Plain JSON, described in docs/data-check.md.
        pictures: A data URI for each of the first images of a finding, by its kind.
        exclude: The text of a list that `--exclude` takes.
    """

    value: dict[str, Any]
    pictures: dict[str, list[str]] = field(default_factory=dict)
    exclude: str = ""

    def html(self) -> str:
        """The page of `finetune data check`."""
        from finetune.reporting.data_page import render_data_page

        return render_data_page(self.value, self.pictures)

    def write(self, out: Path) -> None:
        """Make the folder `out` with the page, the JSON and the list, whole or not at all."""
        files = {
            "index.html": self.html(),
            "check.json": to_json(self.value, indent=1) + "\n",
            "exclude.txt": self.exclude,
        }
        with room_for(out), working_folder(out.absolute().parent, f"{TEMPORARY}check.") as working:
            made = working / "check"
            made.mkdir()
            for name, text in files.items():
                (made / name).write_text(text, encoding="utf-8")
            made.rename(out.absolute())

    def _repr_html_(self) -> str:
        return framed(self.html())

    def __repr__(self) -> str:
        from finetune.reporting.data_page import sentences

        found = (f"{row['kind']}: {row['images']:,}, {row['words']}" for row in self.value["findings"] if row["images"])
        return in_python("\n".join([*found, *sentences(self.value)]))


def check_dataset(
    dataset: Dataset,
    *,
    probe: Probe | str,
    leave_out: Collection[Kind] = CERTAIN,
    shown: int = 24,
    on_image: Progress | None = None,
) -> DataReport:
    """Look at every image of `dataset`, which was read with `skip_bad_images`.

    probe: what finds suspect labels and drift, or the reason why nothing does. leave_out: the kinds of findings that
    the list leaves out; the others stand in it as comments. shown: pictures of each finding. on_image: receives the
    number of images that were decoded, and of all.
    """
    pool = Pool.of(dataset)
    measured = measure(pool, on_image)
    findings = find(pool, measured)
    labels: dict[str, Any] = {"reason": probe} if isinstance(probe, str) else {}
    between = dict(labels)
    if isinstance(probe, Probe):
        suspects, labels, between = _probed(pool, measured.good(), probe)
        findings.append(suspects)
    missing = unreadable(dataset)
    entries = {one.kind: _entries(pool, one) for one in findings}
    entries["unreadable"] = [*missing, *entries["unreadable"]]
    rows = [_row(pool, one, entries[one.kind]) for one in findings]
    listed = _exclude(pool, findings, missing, leave_out)
    value = {
        "schema_version": SCHEMA_VERSION,
        **_described(pool),
        "findings": rows,
        "labels": labels,
        "drift": between,
        "left_out": len(listed[1]),
    }
    return DataReport(value, _pictures(pool, findings, shown) if shown else {}, listed[0])


def unreadable(dataset: Dataset) -> list[dict[str, Any]]:
    """The photos that were left out while the data was read, because they are damaged."""
    images = dataset.train.images
    if not isinstance(images, LazyImages) or not dataset.skipped:
        return []
    kept = np.zeros(len(images.photos), bool)
    for split in (dataset.train, dataset.validation, dataset.test):
        if split is not None and isinstance(split.images, LazyImages):
            kept[split.images.chosen] = True
    reasons = set(dataset.skipped)
    found = []
    for number in np.flatnonzero(~kept).tolist():
        begin = f"{images.photos.place(number)}: "
        reason = next((one for one in reasons if one.startswith(begin)), None)
        if reason is not None:
            found.append({"image": images.photos.name(number), "note": reason.removeprefix(begin)})
    return found


def _described(pool: Pool) -> dict[str, Any]:
    """What was read, and how many images each class has."""
    dataset = pool.dataset
    counts = {name: label_counts(split.labels, len(dataset.class_names)).tolist() for name, split in pool.parts.items()}
    train = np.array(counts["train"])
    most, least = int(train.argmax()), int(train.argmin())
    return {
        "data": {"name": dataset.name, "source": dataset.source, "remarks": list(dataset.remarks)},
        "class_names": list(dataset.class_names),
        "images": {name: len(split) for name, split in pool.parts.items()},
        "class_counts": counts,
        "imbalance": {
            "largest": {"class": dataset.class_names[most], "images": int(train[most])},
            "smallest": {"class": dataset.class_names[least], "images": int(train[least])},
            "ratio": float(train[most] / max(train[least], 1)),
        },
    }


def _row(pool: Pool, finding: Finding, entries: list[dict[str, Any]]) -> dict[str, Any]:
    by_split = {name: int(np.sum(pool.split[finding.numbers] == at)) for at, name in enumerate(pool.parts)}
    return {
        "kind": finding.kind,
        "words": WORDS[finding.kind],
        "images": len(entries),
        "by_split": by_split,
        "groups": len(finding.groups),
        "across_splits": across_splits(pool, finding),
        "listed": entries,
    }


def _entries(pool: Pool, finding: Finding) -> list[dict[str, Any]]:
    """What the JSON says of each image, the worst first."""
    group_of = {int(number): at for at, group in enumerate(finding.groups) for number in group}
    names = pool.class_names
    entries = []
    for number, value, removable in zip(
        finding.numbers.tolist(), finding.values.tolist(), finding.removable.tolist(), strict=True
    ):
        entry = {"image": pool.name(number), "split": pool.place(number)[0], "class": names[pool.labels[number]]}
        entry |= {"value": value, "removable": removable, "note": finding.notes.get(number, "")}
        entries.append(entry | ({"group": group_of[number]} if finding.groups else {}))
    return entries


def _probed(pool: Pool, good: np.ndarray, probe: Probe) -> tuple[Finding, dict[str, Any], dict[str, Any]]:
    """(suspect labels, what is said of labels, what is said of drift)."""
    numbers = np.flatnonzero(good)
    if probe.images is not None and len(numbers) > probe.images:
        numbers = numbers[np.arange(probe.images) * len(numbers) // probe.images]
    parts = pool.parts_of(numbers)
    of_parts = probe.features(list(parts.values())) if parts else []
    about = {"backbone": probe.name, "images": len(numbers), "of": int(good.sum())}
    between = about | _drift(dict(zip(parts, of_parts, strict=True)), probe.seed)
    empty = Finding("suspect-label", np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    try:
        if not of_parts:
            raise TooFew("no image can be read")
        if pool.dataset.multi_label:
            raise TooFew("they are looked for among images of one class each, and these have several labels")
        found = suspect_labels(np.concatenate(of_parts), pool.labels[numbers], seed=probe.seed)
    except TooFew as reason:
        return empty, about | {"reason": str(reason)}, between
    suspects = _suspects(pool, numbers, found, found.suspects(pool.labels[numbers], probe.share))
    judged = {"judged": int(found.judged.sum()), "accuracy": found.accuracy}
    return suspects, about | judged, between


def _suspects(pool: Pool, numbers: np.ndarray, found: Suspicions, ranked: np.ndarray) -> Finding:
    names = pool.class_names
    notes = {
        int(numbers[at]): f"labelled {names[pool.labels[numbers[at]]]}, looks like {names[found.predicted[at]]}"
        for at in ranked.tolist()
    }
    return Finding("suspect-label", numbers[ranked], found.confidence[ranked], np.ones(len(ranked), bool), (), notes)


def _drift(features: dict[str, np.ndarray], seed: int) -> dict[str, Any]:
    if "train" not in features or "test" not in features:
        return {"reason": "there are no images of both to compare"}
    try:
        found = drift(features["train"], features["test"], seed=seed)
    except TooFew as reason:
        return {"reason": str(reason)}
    return asdict(found) | {"images": list(found.images), "differs": found.differs}


def _exclude(
    pool: Pool, findings: Sequence[Finding], missing: Sequence[dict[str, Any]], leave_out: Collection[Kind]
) -> tuple[str, list[str]]:
    """(the text of the list, the images that it leaves out). An image is left out by its first finding that does."""
    left: dict[str, None] = {}
    lines: list[tuple[str, str, str, bool]] = []

    def add(name: str, kind: Kind, digest: str) -> None:
        active = kind in leave_out and name not in left
        if active:
            left[name] = None
        if active or kind not in leave_out:
            lines.append((name, kind, digest, active))

    for entry in missing:
        add(entry["image"], "unreadable", "")
    photos = isinstance(pool.dataset.train.images, LazyImages)
    for finding in findings:
        for number in finding.numbers[finding.removable].tolist():
            digest = "" if photos else pixel_digest(pool.pixels(number)).hex()
            add(pool.name(number), finding.kind, digest)
    head = (
        f"# {pool.dataset.source}\n"
        "# A line leaves out the image that it names; a line that begins with '# ' does not: take the '# ' away to\n"
        "# leave its image out as well. Behind the name is what was found.\n"
        f"# finetune run --exclude FILE leaves out: {', '.join(leave_out) or 'nothing'}\n"
    )
    return head + written(lines), list(left)


def _pictures(pool: Pool, findings: Sequence[Finding], shown: int) -> dict[str, list[str]]:
    """Small pictures of the first images of each finding; of one that cannot be read there is none."""
    pictures: dict[str, list[str]] = {}
    for finding in findings:
        uris = []
        for number in finding.numbers[:shown].tolist():
            try:
                pixels = pool.pixels(number)
            except FinetuneError:
                uris.append("")
                continue
            uris.append(data_uri(pixels, photo=isinstance(pool.dataset.train.images, LazyImages)))
        pictures[finding.kind] = uris
    return pictures
