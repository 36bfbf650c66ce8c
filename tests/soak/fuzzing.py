"""Mutated files, read one after another; what ended as it must not."""

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak import corpus
from tests.soak.hostile_process import Reading


@dataclass
class Tally:
    """outcomes by seed's name. findings: what broke, with what was done to which file; files: how many were read."""

    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    files: int = 0
    slowest: float = 0.0
    largest: float = 0.0

    def table(self) -> str:
        """A line a reader, as docs/evidence/reliability.md has it."""
        lines = ["| reader | files | read | refused |", "|---|---:|---:|---:|"]
        for name, count in self.outcomes.items():
            lines.append(f"| {name} | {count.total()} | {count['read']} | {count['refused']} |")
        read, refused = (sum(count[one] for count in self.outcomes.values()) for one in ("read", "refused"))
        return "\n".join([*lines, f"| all | {self.files} | {read} | {refused} |"])


def fuzz(
    reading: Reading,
    trees: dict[str, Path],
    *,
    each: int,
    seed: int,
    names: tuple[str, ...] = (),
    keep: Path | None = None,
) -> Tally:
    """Read `each` mutations of every seed (times its weight), and first the whole file, which must be read.

    keep: where files that break a reader are put, to look at them. The same `seed` gives the same files.
    """
    tally = Tally()
    contents = [
        path.read_bytes()[:100_000] for tree in trees.values() for path in sorted(tree.rglob("*")) if path.is_file()
    ]
    for one in corpus.SEEDS:
        if names and one.name not in names:
            continue
        count = tally.outcomes[one.name] = Counter()
        whole = _ask(reading, one, trees[one.name])
        if whole.outcome != "read":
            tally.findings.append(f"{one.name}: whole, and {whole.outcome}: {whole.words}")
        for number in range(each * one.weight):
            rng = random.Random(f"{seed} {one.name} {number}")
            case = reading.case / "x"
            shutil.rmtree(case, ignore_errors=True)
            shutil.copytree(trees[one.name], case)
            done = one.mutated(case, rng, rng.sample(contents, 3))
            answer = reading.ask(one.reader, case / one.opened if one.opened else case)
            tally.files += 1
            count[answer.outcome] += 1
            tally.slowest, tally.largest = max(tally.slowest, answer.seconds), max(tally.largest, answer.mib)
            if not answer.good:
                tally.findings.append(
                    f"{one.name} #{number} ({done}): {answer.outcome} after {answer.seconds:.1f} s, "
                    f"{answer.mib:.0f} MiB: {answer.words}"
                )
                if keep is not None:
                    shutil.copytree(trees[one.name], keep / f"{one.name}-{number}", dirs_exist_ok=True)
                    shutil.copytree(case, keep / f"{one.name}-{number}", dirs_exist_ok=True)
        trespasses = reading.trespasses()
        if trespasses:
            tally.findings.append(f"{one.name}: left {trespasses}")
    return tally


def _ask(reading: Reading, seed: corpus.Seed, tree: Path) -> object:
    case = reading.case / "x"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(tree, case)
    return reading.ask(seed.reader, case / seed.opened if seed.opened else case)


def main() -> None:
    """`python tests/soak/fuzzing.py EACH SEED [NAME...]`: the table, and every finding."""
    each, seed, *names = sys.argv[1:]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        chosen = tuple(one for one in corpus.SEEDS if not names or one.name in names)
        trees = corpus.make_trees(Path(place) / "trees", chosen)
        reading = Reading(Path(place) / "sandbox")
        keep = Path(tempfile.mkdtemp(prefix="findings-"))
        try:
            tally = fuzz(reading, trees, each=int(each), seed=int(seed), names=tuple(names), keep=keep)
        finally:
            reading.close()
    print(tally.table())
    print(json.dumps({"findings": len(tally.findings), "slowest_s": round(tally.slowest, 1),
                      "largest_mib": round(tally.largest), "processes": reading.started, "kept_in": str(keep),
                      "seconds": round(time.monotonic() - started)}))  # fmt: skip
    for finding in tally.findings:
        print("-" * 80 + "\n" + finding)


if __name__ == "__main__":
    main()
