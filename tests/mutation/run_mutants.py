"""Mutation testing: `python -m tests.mutation.run_mutants [GROUP ...]`, or `make mutation`.

One process imports TensorFlow and everything else that is not ours once, and forks a child for each mutant, which
imports our packages with the changed module in place of the one on disk and runs the tests of its group. Nothing is
written into the source tree. A mutant is killed when a test fails, when it cannot be imported, or when it needs far
more processor time than the tests do. What survives is printed; a group below 85 % fails.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.mutation import mutants
from tests.mutation.mutants import Mutant
from tests.support.places import ROOT

REQUIRED = 0.85
_SILENT_SECONDS = 300  # a child that neither ends nor uses its processor time in this long hangs

_OUR_FAULT = 99


@dataclass(frozen=True)
class Group:
    """Modules, and the tests that must notice a change of theirs."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "verdict": Group(
        tuple(
            f"finetune.diagnosis.{name}"
            for name in ("verdict", "rules.rule", "rules.data_rules", "rules.statistics_rules", "thresholds")
        ),
        ("tests/unit/diagnosis/test_verdict.py", "tests/unit/diagnosis/test_verdict_edges.py"),
    ),
    "strict loading": Group(
        ("checkpoints.matching.transfer", "checkpoints.matching.leftovers", "checkpoints.matching.fit"),
        ("tests/unit/checkpoints/matching/test_transfer.py", "tests/unit/checkpoints/matching/test_fit.py"),
    ),
    "evaluation": Group(
        ("finetune.evaluation.evaluator", "finetune.evaluation.predictions", "finetune.evaluation.metrics"),
        (
            "tests/unit/evaluation/test_evaluator.py",
            "tests/unit/evaluation/test_predictions.py",
            "tests/unit/evaluation/test_metrics.py",
        ),
    ),
}


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports one module from a text; where it looks for files beside it, it finds those of the real one."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutant.module:
            return None
        return importlib.util.spec_from_file_location(name, _file(name), loader=self)

    def get_source(self, name: str) -> str:
        return self._mutant.source

    def get_code(self, name: str) -> Any:
        return compile(self._mutant.source, str(_file(name)), "exec")


def _file(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def _child(mutant: Mutant | None, group: Group, processor_seconds: int) -> int:
    """Run the tests of `group` in a fork; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code, told = _OUR_FAULT, os.dup(2)
    try:
        os.setpgid(0, 0)
        if mutant is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            resource.setrlimit(resource.RLIMIT_CPU, (processor_seconds, processor_seconds + 5))
            sys.meta_path.insert(0, _Instead(mutant))
        sys.path.insert(0, str(ROOT))
        os.environ["PYTHONPATH"] = str(ROOT)
        code = _tested([str(ROOT / test) for test in group.tests])
    except BaseException:
        with os.fdopen(told, "w") as stderr:
            traceback.print_exc(file=stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _tested(places: list[str]) -> int:
    chosen = ["-m", "not slow and not soak", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
    # Not pytest's own numbered folders, which each of several clears away behind the others.
    own = f"--basetemp={tempfile.mkdtemp(prefix='tests-')}/here"
    return int(pytest.main(["-x", "-q", "-c", str(ROOT / "pyproject.toml"), own, *chosen, *places]))


def _outcomes(found: Sequence[Mutant], group: Group, seconds: int, jobs: int) -> Iterator[tuple[Mutant, str]]:
    """`killed`, `timeout` or `survived` of each mutant, as they end."""
    waiting, running = list(reversed(found)), dict[int, tuple[Mutant, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                running[_child(mutant, group, seconds)] = mutant, time.monotonic()
            for child, (mutant, since) in list(running.items()):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    del running[child]
                    code = os.waitstatus_to_exitcode(status)
                    yield mutant, "timeout" if code in (-signal.SIGXCPU, -signal.SIGKILL) else _meaning(code)
                elif time.monotonic() - since > _SILENT_SECONDS:
                    os.killpg(child, signal.SIGKILL)
            time.sleep(0.01)
    finally:
        for child in running:
            with contextlib.suppress(ProcessLookupError):  # it has not made its own group yet
                os.killpg(child, signal.SIGKILL)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _meaning(code: int) -> str:
    if code == _OUR_FAULT:
        raise SystemExit("pytest itself failed in a child: see what it printed without a mutant")
    return "survived" if code == 0 else "killed"


def _baseline(name: str, group: Group) -> int:
    """Seconds of processor time a mutant may use; the tests must pass without one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, status = os.waitpid(_child(None, group, 0), 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the tests of '{name}' fail as they are: make them pass first")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return int(used * 4) + 10


def _import_what_is_not_ours() -> None:
    for name in ("numpy", "tensorflow", "keras", "h5py", "scipy.special", "sklearn.metrics", "PIL.Image"):
        importlib.import_module(name)
    # pytest's plugins as well: a first run of it takes four times as long as any later one.
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        _tested([folder])
    gc.collect()
    gc.freeze()
    ours = [name for name in sys.modules if name.partition(".")[0] in ("finetune", "checkpoints")]
    if ours:
        raise SystemExit(f"{ours[0]} is imported already: a mutant of it would not be")


def _examine(name: str, group: Group, jobs: int, only: Sequence[str]) -> bool:
    seconds = _baseline(name, group)
    print(f"{name}: at most {seconds} s of processor time each", flush=True)
    table, survivors = dict[str, dict[str, int]](), []
    for module in [module for module in group.modules if not only or module in only]:
        found = mutants.of(module, _file(module).read_text())
        row = table[module] = dict.fromkeys(("mutants", "killed", "timeout", "survived"), 0)
        for mutant, outcome in _outcomes(found, group, seconds, jobs):
            row["mutants"] += 1
            row[outcome] += 1
            if outcome == "survived":
                survivors.append(mutant)
                print(f"  survived  {mutant}", flush=True)
        print(f"  {module}: {row}", flush=True)
    total, killed = sum(row["mutants"] for row in table.values()), 0
    print(f"\n| {name} | mutants | killed | of them by time | survived | killed |\n|---|---:|---:|---:|---:|---:|")
    for module, row in table.items():
        dead = row["killed"] + row["timeout"]
        killed += dead
        share = f"{dead / row['mutants']:.1%}"
        print(f"| `{module}` | {row['mutants']} | {dead} | {row['timeout']} | {row['survived']} | {share} |")
    share = killed / total
    print(f"\n{name}: {killed} of {total} killed, {share:.1%}\n", flush=True)
    return share >= REQUIRED


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of the parts that must not be wrong.")
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="children at once")
    parser.add_argument("--module", action="append", default=[], help="only this module, such as checkpoints.store")
    asked = parser.parse_args()
    if not set(asked.groups) <= set(GROUPS):
        parser.error(f"groups are {', '.join(GROUPS)}")
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        _import_what_is_not_ours()
        results = [_examine(name, GROUPS[name], asked.jobs, asked.module) for name in asked.groups or GROUPS]
    if not all(results):
        raise SystemExit(f"fewer than {REQUIRED:.0%} killed: write the test that the survivors miss")


if __name__ == "__main__":
    main()
