"""Run a jobs file from Python, each job in a process of its own, and print the ranking. Repeat it: it goes on."""

import argparse
from pathlib import Path

from finetune.batch.call import Call
from finetune.batch.executors.local import Local
from finetune.batch.folder import BatchFolder, default_place
from finetune.batch.jobs import read
from finetune.process import cores

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("jobs", type=Path)
parser.add_argument("--workers", type=int, default=1)
options = parser.parse_args()

jobs = read(options.jobs)
call = Call(options.jobs, BatchFolder(default_place(options.jobs)), every=jobs, jobs=jobs)
summary = call.run(lambda: Local(options.workers, cores()), fail_fast=False)
for group in summary.groups:
    accuracy = "failed" if group.test is None else f"{group.test:.1%}"
    print(f"{group.rank or '-':>3}  {group.name:40} {accuracy:>7}  {group.verdict}")
raise SystemExit(0 if summary.complete else 1)
