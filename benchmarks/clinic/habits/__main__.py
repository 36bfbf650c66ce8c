"""The clinic of strangers' habits: `python -m benchmarks.clinic.habits`, from the top of the repository.

It makes the models that the kept evidence lacks, diagnoses each with four test sets, and writes the tables into
`benchmarks/clinic/README.md`. `--report` makes nothing: it judges the kept evidence by the rules as they are now.
`--held-out` makes the recipes that had no part in the rules. Their evidence and their tables are kept apart.
"""

import argparse
import os
import random
import tempfile
import traceback
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("FINETUNE_CLINIC", Path.home() / ".cache" / "finetune-clinic"))
"""Pretrained networks, and the rows of models that are done: outside of the repository."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--held-out", action="store_true", help="the recipes that had no part in the rules")
    parser.add_argument("--most", type=int, default=1000, help="trainings, at most")
    parser.add_argument("--again", action="store_true", help="models that have evidence, too")
    parser.add_argument("--report", action="store_true", help="judge the kept evidence, make nothing")
    arguments = parser.parse_args()
    from benchmarks.clinic.habits import judged

    if not arguments.report:
        make(arguments.only, arguments.again, arguments.held_out, arguments.most)
    judged.write()


def plan() -> list[tuple[Any, str, Any]]:
    """(habit, network, world): every habit in a small network, then in any.

    The networks rotate, so that each meets every kind of habit. A large one takes five times as long as a small one.
    """
    from benchmarks.clinic.habits import keras_habits, tf1_habits
    from benchmarks.clinic.habits.images import FIRST
    from benchmarks.clinic.habits.networks import NETWORKS, SMALL

    found: list[tuple[Any, str, Any]] = []
    for round_ in (0, 1):
        networks = [name for name in NETWORKS if round_ or name in SMALL]
        habits = [*keras_habits.habits(bool(round_)), *tf1_habits.habits(bool(round_))]
        random.Random(0).shuffle(habits)  # a run that is cut short has met every kind
        some = (networks[(number + 2 * round_) % len(networks)] for number in range(len(habits)))
        found += [(habit, network, FIRST) for habit, network in zip(habits, some, strict=True)]
    return found


def make(only: str, again: bool, held_out: bool, most: int) -> None:
    """Run what is missing, a model after the other."""
    from finetune.cli.startup import load_tensorflow

    load_tensorflow()
    from benchmarks.clinic.habits import held_out as unseen
    from benchmarks.clinic.habits import judged, trial
    from benchmarks.clinic.habits.habit import Bench

    kept = judged.HELD_OUT if held_out else judged.KEPT
    before = [*judged.rows(kept), *judged.rows(judged.CORRECTED_BY)]
    done = set() if again else {row["model"] for row in before}
    known = {name.rpartition(" | ")[0] for name in done}
    plans = enumerate(unseen.plan(), 5_000) if held_out else enumerate(plan())
    for number, (habit, network, world) in sorted(
        plans, key=lambda one: f"{one[1][0].name} | {one[1][0].dialect}" in known
    ):
        name = trial.model(habit.name, habit.dialect, network)
        if only not in name or name in done:
            continue
        if most == 0:
            break
        most -= 1
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), network, pretrained(network, world), number, world)
            try:
                for rows in trial.run(habit, bench):
                    judged.keep(rows, kept)
                    said = " ".join(f"{row['test_images']}:{row['verdict']}" for row in rows)
                    print(f"{rows[0]['model']}\n   {said} {rows[0]['seconds']} {rows[0]['remedy']}", flush=True)
            except Exception:
                print(f"FAILED {name}", flush=True)
                traceback.print_exc()


def pretrained(network: str, world: Any) -> dict[str, Any]:
    """The weights of a network, trained once."""
    import numpy as np

    from benchmarks.clinic.habits.keras_habits import pretrain

    path = CACHE / f"{network}-{world.source}.npz" if world.source else CACHE / f"{network}.npz"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(path, **pretrain(network, world))
    with np.load(path) as file:
        return dict(file)


if __name__ == "__main__":
    main()
