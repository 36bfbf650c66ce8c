"""The kept evidence, judged by the rules as they are, and the tables of it in the clinic's README."""

import gzip
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.clinic.habits import exact_test
from benchmarks.clinic.habits.habit import CLASS, HEALTHY
from benchmarks.clinic.memory import evidence_from
from finetune.diagnosis.confidence import RELIABILITY
from finetune.diagnosis.rules.rule import Commands
from finetune.diagnosis.verdict import Verdict, judge

HERE = Path(__file__).parent
KEPT = HERE / "evidence.jsonl.gz"
HELD_OUT = HERE / "held_out.jsonl.gz"
"""Of recipes that had no part in the rules."""
CORRECTED_BY = HERE / "corrected_by.jsonl.gz"
"""Of recipes that had no part in the rules before three of them were corrected by what these had shown."""
README = HERE.parent / "README.md"
PARTS = (("habits", KEPT), ("held out", HELD_OUT))
"""The marks in the README, and the evidence of the tables between them."""
UNDETERMINED = "undetermined"
HARMLESS, HARMFUL = 0.02, 0.05
"""Accuracy that new statistics gain: under the first the statistics are harmless whatever made them, over the second
they are to blame. Between the two, either verdict is right."""
SOUND = 0.8
"""Share of the reach that the pixels of the training win, of a network with no other illness."""
BINS = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01)
"""Of the confidence."""


def rows(kept: Path = KEPT) -> list[dict[str, Any]]:
    """The kept cells, the newest of each."""
    if not kept.is_file():
        return []
    with gzip.open(kept, "rt") as file:
        found = {(row["model"], row["test_images"]): row for row in map(json.loads, file)}
    return list(found.values())


def keep(new: list[dict[str, Any]], kept: Path = KEPT) -> None:
    """Add cells to the file."""
    with gzip.open(kept, "at", compresslevel=9) as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in new)


@dataclass(frozen=True)
class Cell:
    """One diagnosis of one model, and the truth about it."""

    row: dict[str, Any]

    @property
    def network(self) -> str:
        """The name of its network."""
        return str(self.row["model"]).rpartition(" | ")[2]

    @property
    def images(self) -> int:
        """Test images."""
        return int(self.row["test_images"])

    @cached_property
    def verdict(self) -> Verdict:
        return judge(evidence_from(self.row["evidence"]), Commands("MODEL"))

    @property
    def gain(self) -> float:
        """What new statistics truly gain, on test images or on training images: whichever they gain more on."""
        return max(float(one["gained"] - one["lost"]) for one in self.row["truth"].values())

    @property
    def reach(self) -> float:
        """What the best of the three modes truly gains over `is_training=False`."""
        truth = self.row["truth"]["test"]
        return float(max(truth["true"], truth["recalibrated"]) - truth["false"])

    @cached_property
    def allowed(self) -> tuple[str, ...]:
        """The causes that are right. A habit that did no harm left a healthy model; one that is healthy as a rule may
        have done harm."""
        right = tuple(self.row["right"])
        cause = CLASS[right[0]]
        lag = ("statistics-lag", "statistics-noisy")
        if cause == "none":
            return lag if self.gain >= HARMFUL else (*right, *lag) if self.gain >= HARMLESS else right
        if cause == "recalibrate":
            return right if self.gain >= HARMFUL else (*right, *HEALTHY)
        trained = self.row.get("as_trained")
        if cause == "pixels" and trained is not None:
            # A network that does badly on the pixels of its training too has a second illness.
            before = self.row["truth"]["test"]["false"]
            if trained - before < SOUND * self.reach:
                return (*right, *lag)
        if cause in ("pixels", "train again") and abs(self.reach) < HARMLESS and abs(self.gain) < HARMLESS:
            return (*right, *HEALTHY)
        return right

    @property
    def exact(self) -> bool:
        """Whether the cause is named."""
        return self.verdict.cause in self.allowed

    @property
    def useful(self) -> bool:
        """Whether the cause or another with the same remedy is named."""
        return self.verdict.cause != UNDETERMINED and CLASS[self.verdict.cause] in {CLASS[one] for one in self.allowed}

    @cached_property
    def power(self) -> float:
        """Of McNemar's exact test on the images of the cell, for the true gain: on test images alone, or with the
        training images, whichever finds it more often."""
        test, train = self.row["truth"]["test"], self.row["truth"]["train"]
        n, m = self.images, train["images"]
        both = [(n * test[way] + m * train[way]) / (n + m) for way in ("gained", "lost")]
        return max(exact_test.power(n, test["gained"], test["lost"]), exact_test.power(n + m, *both))

    @property
    def undetermined(self) -> bool:
        return self.verdict.cause == UNDETERMINED

    @property
    def wrongly_undetermined(self) -> bool:
        """Whether the images do show a gain that matters."""
        return self.undetermined and self.gain >= HARMLESS and self.power >= exact_test.POWER

    @property
    def alarm(self) -> bool:
        """A healthy model called ill."""
        return all(CLASS[one] == "none" for one in self.allowed) and self.verdict.exit_code == 3

    @property
    def acquittal(self) -> bool:
        """An ill model called healthy."""
        return self.gain >= HARMFUL and self.verdict.exit_code == 0


def write() -> None:
    """The tables of both parts, into the README."""
    for mark, kept in PARTS:
        begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
        text = "\n".join(report([Cell(row) for row in rows(kept)]))
        print(f"{mark}\n\n{text}\n")
        head, _, rest = README.read_text().partition(begin)
        if rest:
            README.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


def report(cells: list[Cell]) -> list[str]:
    """The lines of the README."""
    models = {cell.row["model"] for cell in cells}
    return [
        f"{len(cells)} cells: {len(models)} models of {len(_networks(cells))} networks, each with test sets of 50 to "
        "1,000 images.",
        "",
        *by_size(cells),
        "",
        *confusion(cells),
        "",
        *calibration(cells),
        "",
        *remedies(cells),
        "",
        *wrong(cells),
    ]


def by_size(cells: list[Cell]) -> list[str]:
    """What the issue asks for, by the number of test images."""
    lines = [
        "| test images | cells | cause named | or its remedy | undetermined | wrongly so | healthy called ill | ill "
        "acquitted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size in sorted({cell.images for cell in cells}):
        own = [cell for cell in cells if cell.images == size]
        told = [cell for cell in own if not cell.undetermined]
        lines.append(
            f"| {size:,} | {len(own)} | {_share(own, lambda one: one.exact)} | {_share(own, lambda one: one.useful)} | "
            f"{_share(own, lambda one: one.undetermined)} | {sum(one.wrongly_undetermined for one in own)} | "
            f"{sum(one.alarm for one in told)} | {sum(one.acquittal for one in told)} |"
        )
    return lines


def _share(cells: list[Cell], holds: Callable[[Cell], bool]) -> str:
    count = sum(map(holds, cells))
    low, high = exact_test.wilson(count, len(cells))
    return f"{count / max(len(cells), 1):.1%} ({low:.1%} to {high:.1%})"


def confusion(cells: list[Cell]) -> list[str]:
    """Right cause -> the causes named, with counts."""
    named: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        named[cell.row["right"][0]][cell.verdict.cause] += 1
    lines = ["| brought about | cells | named |", "|---|---|---|"]
    for right, counts in sorted(named.items()):
        said = ", ".join(f"{cause} {count}" for cause, count in counts.most_common())
        lines.append(f"| {right} | {sum(counts.values())} | {said} |")
    return lines


def calibration(cells: list[Cell]) -> list[str]:
    """The confidence against the share of right verdicts.

    A network's own verdicts have no part in it: `RELIABILITY` is measured on the other networks for each.
    """
    lines = ["| confidence | verdicts | its mean | cause named | or its remedy |", "|---|---|---|---|---|"]
    told = [cell for cell in cells if not cell.undetermined]
    measured = {network: reliability([one for one in told if one.network != network]) for network in _networks(told)}
    said = [
        (cell.verdict.confidence / RELIABILITY[cell.verdict.basis] * measured[cell.network][cell.verdict.basis], cell)
        for cell in told
    ]
    for low, high in itertools.pairwise(BINS):
        own = [(confidence, cell) for confidence, cell in said if low <= confidence < high]
        if own:
            mean, named = _mean(confidence for confidence, _ in own), [cell for _, cell in own]
            exact, useful = _share(named, lambda one: one.exact), _share(named, lambda one: one.useful)
            lines.append(f"| {low:.0%} to {min(high, 1):.0%} | {len(own)} | {mean:.1%} | {exact} | {useful} |")
    return lines


def reliability(cells: list[Cell]) -> dict[str, float]:
    """What verdicts stand on -> the share that is right: (right + 1) / (verdicts + 2), by Laplace's rule."""
    right, verdicts = Counter(dict.fromkeys(RELIABILITY, 1)), Counter(dict.fromkeys(RELIABILITY, 2))
    for cell in cells:
        right[cell.verdict.basis] += cell.exact
        verdicts[cell.verdict.basis] += 1
    return {basis: right[basis] / verdicts[basis] for basis in RELIABILITY}


def _networks(cells: list[Cell]) -> set[str]:
    return {cell.network for cell in cells}


def remedies(cells: list[Cell]) -> list[str]:
    """What the printed commands did when they were run, in the cells with 1,000 test images."""
    ran = [cell for cell in cells if cell.images == 1000 and cell.row["remedy"]]
    groups: dict[str, list[Cell]] = defaultdict(list)
    for cell in ran:
        groups[cell.row["remedy"]["command"]].append(cell)
    lines = ["| remedy | ran | ended well | accuracy before, after (mean) | least gain |", "|---|---|---|---|---|"]
    for command, own in sorted(groups.items()):
        if command == "run":
            planned = sum(cell.row["remedy"]["exit_code"] == 0 for cell in own)
            lines.append(f"| `run` (its plan) | {len(own)} | {planned} | | |")
            continue
        after = [cell for cell in own if "after" in cell.row["remedy"]]
        pairs = [(before_remedy(cell), cell.row["remedy"]["after"]) for cell in after]
        gains = [new - old for old, new in pairs]
        lines.append(
            f"| `{command}` | {len(own)} | {len(after)} | {_mean(old for old, _ in pairs):.1%}, "
            f"{_mean(new for _, new in pairs):.1%} | {min(gains, default=0):+.1%} |"
        )
    return lines


def before_remedy(cell: Cell) -> float:
    """Test accuracy with `is_training=False` in the diagnosis that printed the remedy."""
    scored = cell.row["evidence"]["test"]["is_training_false"]
    return float(scored["correct"] / scored["examples"])


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / max(len(values), 1)


def wrong(cells: list[Cell]) -> list[str]:
    """The cells that are wrong, one a line."""
    lines = [
        "| wrong | test images | False, recalibrated (all test images) | right | named |", "|---|---|---|---|---|"
    ]  # fmt: skip
    for cell in cells:
        if cell.exact or (cell.undetermined and not cell.wrongly_undetermined):
            continue
        truth = cell.row["truth"]["test"]
        lines.append(
            f"| {cell.row['model'].replace(' | ', ', ')} | {cell.images} | {truth['false']:.1%}, "
            f"{truth['recalibrated']:.1%} | {cell.allowed[0]} | {cell.verdict.cause} |"
        )
    return lines
