"""Run a jobs file from Python, each job in a process of its own, and print the ranking. Repeat it to resume."""

import argparse
from pathlib import Path

from finetune.batch.call import open_call
from finetune.batch.executors.local import Local
from finetune.process import cores

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("jobs", type=Path)
parser.add_argument("--workers", type=int, default=1)
options = parser.parse_args()

call = open_call(options.jobs)
summary = call.run(lambda: Local(options.workers, cores()), fail_fast=False)
for group in summary.groups:
    mean = group.results.mean
    accuracy = "failed" if mean is None else f"{mean:.1%}"
    print(f"{group.rank or '-':>3}  {group.name:40} {accuracy:>7}  {group.verdict}")
raise SystemExit(0 if summary.complete else 1)
