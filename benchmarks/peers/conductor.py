"""Starts every contender as a process of its own and lets them train in turn: A B A B."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Failed(Exception):
    """A contender that ended; with what it said last."""


@dataclass(frozen=True)
class Contender:
    """One of a row. `name` as printed; `command` after the interpreter; `environment` on top of what is there, None
    takes a variable away. `band`: by how much its losses may differ from ours, a share of them."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str | None] = field(default_factory=dict)
    python: str = sys.executable
    band: float = 0.05


class Worker:
    """A contender's process, built and waiting."""

    def __init__(self, contender):
        self.contender = contender
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        for name, value in contender.environment.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        script, *rest = contender.command
        self._process = subprocess.Popen(
            [contender.python, str(HERE / script), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env=environment,
            cwd=HERE,
        )
        self._answer()

    def train(self, steps):
        """(seconds, losses) of so many steps."""
        self._process.stdin.write(json.dumps({"steps": steps}) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["seconds"], answer["losses"]

    def end(self):
        with self._process, self._words:
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _answer(self):
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        with self._process, self._words:
            self._process.wait()
            self._words.seek(0)
            said = self._words.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise Failed(said[-1][:300])


def race(contenders, *, rounds, steps, batch, warm=20):
    """The contenders in turn, the first of them ours. Returns a dict by name: images/s of each round, ratios to ours,
    mean losses of the warm-up's last half, or why it does not count."""
    workers, found = {}, {one.name: {} for one in contenders}
    for one in contenders:
        print(f"{one.name}: {warm} steps to warm up", file=sys.stderr, flush=True)
        try:
            workers[one.name] = Worker(one)
            _, losses = workers[one.name].train(warm)
            found[one.name]["loss"] = statistics.fmean(losses[len(losses) // 2 :])
        except Failed as error:
            found[one.name]["failed"] = str(error)
            workers.pop(one.name, None)
    ours = contenders[0].name
    for one in contenders:
        mine, its = found[ours].get("loss"), found[one.name].get("loss")
        if mine is not None and its is not None and not abs(its - mine) <= one.band * mine:
            found[one.name]["failed"] = f"its loss after {warm} steps is {its:.3f}, ours {mine:.3f}"
            workers.pop(one.name).end()
    for name in workers:
        found[name]["images_per_second"] = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}: {', '.join(workers)}", file=sys.stderr, flush=True)
        for name, worker in workers.items():
            seconds, _ = worker.train(steps)
            found[name]["images_per_second"].append(batch * steps / seconds)
    for worker in workers.values():
        worker.end()
    for name in workers:
        its, mine = found[name]["images_per_second"], found[ours].get("images_per_second", [])
        found[name]["median"] = statistics.median(its)
        if mine:
            found[name]["ours_over_it"] = statistics.median(a / b for a, b in zip(mine, its, strict=True))
    return found
