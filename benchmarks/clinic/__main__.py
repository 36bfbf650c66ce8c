"""The clinic: every cause brought about for real, and healthy runs; does the diagnosis name the cause?

`python -m benchmarks.clinic` runs the cells that results.jsonl does not hold yet and writes the table into README.md.
`--judge` runs nothing and judges the evidence kept in results.jsonl by the rules as they are now.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"
RECALIBRATED = (
    "updates-never-ran", "updates-never-ran-since-source", "statistics-lag", "partially-restored",
    "frozen-statistics-trained-weights", "averaged-weights-raw-statistics", "not-finite",
)  # fmt: skip
"""Causes that new statistics cure and whose is_training=True figure is sound: that of noisy ones is of few images."""
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--network", default="", help="cells of this network")
    parser.add_argument("--again", action="store_true", help="run cells that have a result already, too")
    parser.add_argument("--judge", action="store_true", help="run nothing: judge the evidence that is there")
    arguments = parser.parse_args()
    rows = {}
    if RESULTS.is_file():
        rows = {row["cell"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    if not arguments.judge:
        from finetune.cli.startup import load_tensorflow

        load_tensorflow()
        from benchmarks.clinic.cells import in_order

        for cell in in_order():
            wanted = arguments.only in cell.key and cell.recipe.body.startswith(arguments.network)
            if not wanted or (cell.key in rows and not arguments.again):
                continue
            rows[cell.key] = run(cell)
            with RESULTS.open("a") as file:
                file.write(json.dumps(rows[cell.key]) + "\n")
    report(rows)


def run(cell) -> dict:
    """One cell: trained, fallen ill, examined. A row of results.jsonl."""
    from benchmarks.clinic.cells import bring
    from finetune.batchnorm.statistics import KerasSubject
    from finetune.diagnosis.measure import examine
    from finetune.files import finite

    started = time.monotonic()
    patient = bring(cell)
    trained = time.monotonic() - started
    evidence = examine(
        KerasSubject(patient.model), test=patient.test, train=patient.train, source=patient.source, facts=patient.facts
    )
    row = {
        "cell": cell.key, "expected": cell.expected, "train_seconds": round(trained, 1),
        "diagnosis_seconds": round(time.monotonic() - started - trained, 1),
        "evidence": rounded(finite(dataclasses.asdict(evidence))),
    }  # fmt: skip
    named = judged(row).cause
    print(f"{'ok   ' if named == cell.expected else 'WRONG'} {cell.key} -> {named}", flush=True)
    return row


def rounded(value):
    """Five significant digits: the file stays small, and no rule is that fine."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def judged(row: dict, *, records: bool = True):
    """The verdict of the rules as they are now; `records`: whether they may look at what the training's records say."""
    from benchmarks.clinic.memory import evidence_from
    from finetune.diagnosis.evidence import Facts
    from finetune.diagnosis.rules.rule import Commands
    from finetune.diagnosis.verdict import judge

    evidence = evidence_from(row["evidence"])
    if not records:
        evidence = dataclasses.replace(evidence, facts=Facts(affine_moved=evidence.facts.affine_moved))
    return judge(evidence, Commands("MODEL"))


def right(row: dict, verdict) -> bool:
    """Whether a verdict is right: of a healthy run, any that does not blame BatchNorm."""
    return verdict.healthy if row["expected"] == "healthy" else verdict.cause == row["expected"]


def reliability(rows: dict) -> dict[str, tuple[int, int]]:
    """What a verdict stands on -> (right verdicts, verdicts)."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows.values():
        verdict = judged(row)
        fine, total = found.get(verdict.basis, (0, 0))
        found[verdict.basis] = fine + right(row, verdict), total + 1
    return found


def report(rows: dict) -> None:
    """The table, into README.md."""
    table = [
        "| brought about | network | False | True | recalibrated | named | without records |",
        "|---|---|---|---|---|---|---|",
    ]
    outright, total, alarms, recovered = Counter(), Counter(), 0, []
    for row in sorted(rows.values(), key=lambda row: row["cell"]):
        expected, variant, body = row["cell"].split(" | ")
        verdict, blind = judged(row), judged(row, records=False).cause
        named = verdict.cause
        kind = "healthy" if expected == "healthy" else "sick"
        total[kind] += 1
        outright[kind] += named == expected
        alarms += kind == "healthy" and verdict.exit_code == 3
        ways = row["evidence"]["test"]
        false, true, again = (
            ways[way]["correct"] / ways[way]["examples"]
            for way in ("is_training_false", "is_training_true", "recalibrated")
        )
        figures = f"{false:.1%} | {true:.1%} | {again:.1%}"
        if expected in RECALIBRATED and true > false:
            recovered.append((again - false) / (true - false))
        mark = "" if right(row, verdict) else " **(wrong)**"
        table.append(
            f"| {expected}: {variant} | {body} | {figures} | {named}{mark} | "
            f"{'the same' if blind == named else blind} |"
        )
    summary = (
        f"Right cause in {outright['sick']} of {total['sick']} cells; {alarms} false alarms in {total['healthy']} "
        f"healthy runs, {outright['healthy']} of them called healthy outright. Where statistics are the cause, "
        f"recalibration recovers {min(recovered, default=0):.0%} to {max(recovered, default=0):.0%} of what "
        f"is_training=True shows was lost (median {statistics.median(recovered or [0]):.0%}, {len(recovered)} cells)."
    )
    bases = sorted(reliability(rows).items())
    counted = ", ".join(f"{basis} {fine} of {cells}" for basis, (fine, cells) in bases)
    summary += f" Right verdicts by what they stand on: {counted}."
    print("\n".join(table), summary, sep="\n")
    readme = HERE / "README.md"
    if readme.is_file():
        head, _, rest = readme.read_text().partition(BEGIN)
        readme.write_text("\n".join([head + BEGIN, "", summary, "", *table, "", END + rest.partition(END)[2]]))


if __name__ == "__main__":
    main()
