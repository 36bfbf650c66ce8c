"""The command `finetune batch`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.shared_options import PATH, is_given, output_options, printed_json
from finetune.cli.startup import load_tensorflow

if TYPE_CHECKING:
    from finetune.batch.call import Call
    from finetune.batch.executors.job_process import Executor
    from finetune.batch.summary import Summary


@click.command()
@click.argument("jobs_file", type=PATH, metavar="JOBS.toml")
@click.option(
    "--runs-dir",
    type=PATH,
    metavar="DIR",
    help="Folder of the runs and the summary.  [default: beside the jobs file, under its name]",
)
@click.option("--dry-run", is_flag=True, help="Check every job and print its size; run nothing.")
@click.option("--workers", type=click.IntRange(1, 1000), metavar="N", help="Jobs at once.  [default: 1]")
@click.option("--seeds", type=int, metavar="N", help="Repeat every job with N seeds and report mean and spread.")
@click.option("--only", multiple=True, metavar="NAME|INDEX", help="Only this job, by name or number. Repeatable.")
@click.option("--fail-fast", is_flag=True, help="After the first failure stop the other jobs, which can be resumed.")
@click.option("--summary-only", is_flag=True, help="Write and print the summary of the runs so far; run nothing.")
@click.option("--yes-really", type=int, metavar="N", help="Confirm N jobs, if there are more than 100.")
@click.option(
    "--on",
    type=click.Choice(["local", "ray", "slurm"]),
    default="local",
    help="Where jobs run; slurm needs --print.  [default: local]",
)
@click.option("--address", metavar="A", help="Ray: the cluster's address, or 'auto'.  [default: a cluster of its own]")
@click.option("--cpus-per-job", type=click.IntRange(1), metavar="C", help="Ray, Slurm: cores of a job.  [default: 1]")
@click.option("--gpus-per-job", type=click.FloatRange(0), metavar="G", help="Ray, Slurm: GPUs of a job.  [default: 0]")
@click.option("--print", "print_script", is_flag=True, help="Slurm: write the script on standard output; run nothing.")
@output_options
def batch(
    jobs_file: Path, runs_dir: Path | None, seeds: int | None, only: tuple[str, ...], yes_really: int | None, **how: Any
) -> None:
    """Run every job of a file, each in its own process, and rank the results.

    \b
    [defaults]
    data = "cifar10"
    epochs = 3
    [matrix]                                # lists are crossed
    backbone = ["resnet_v1_50", "inception_v3"]
    freeze = [[], ["*"]]                    # a setting that takes a list has lists for values
    exclude = [{backbone = "inception_v3", freeze = ["*"]}]
    [[job]]                                 # and single jobs
    name = "from-scratch"
    backbone = "resnet_v1_50"
    from-scratch = true

    Keys are the options of 'finetune run'. Repeat the command to resume: finished jobs are skipped, interrupted ones
    go on, failed ones are tried again. A job that runs out of memory is repeated with half the batch size.
    """
    from finetune.batch.call import open_call
    from finetune.batch.slurm import slurm_script
    from finetune.cli.display_batch import BatchDisplay

    _check_use(**how)
    display = BatchDisplay(quiet=is_given("quiet"))
    call = open_call(jobs_file, runs_dir, seeds=seeds, really=yes_really, only=only, display=display)
    if how["dry_run"]:
        _plan(call, how["workers"] or 1)
    elif how["print_script"]:
        call.check()
        script = slurm_script(call, workers=how["workers"], cpus=how["cpus_per_job"], gpus=how["gpus_per_job"])
        click.echo(script, nl=False)
    elif how["summary_only"]:
        _finish(call, call.summary_only())
    else:
        with display.running():
            summary = call.run(lambda: _executor(how, call.count), fail_fast=how["fail_fast"])
        _finish(call, summary)


def _check_use(*, on: str, dry_run: bool, summary_only: bool, print_script: bool, **others: Any) -> None:
    from finetune.errors import WrongUse

    if dry_run + summary_only + print_script > 1:
        raise WrongUse("--dry-run, --summary-only and --print contradict each other: give one of them")
    if (on == "slurm") != print_script and not dry_run and not summary_only:
        raise WrongUse(
            "--on slurm and --print go together: 'finetune batch JOBS.toml --on slurm --print > night.sh' writes a "
            "script that 'bash night.sh' submits"
        )
    if print_script and is_given("json"):
        raise WrongUse("--print writes a script, not JSON: leave --json out")
    for option, places in {"address": "ray", "cpus-per-job": "ray and slurm", "gpus-per-job": "ray and slurm"}.items():
        if others[option.replace("-", "_")] is not None and on not in places.split(" and "):
            raise WrongUse(f"--{option} is for --on {places}: leave it out, or give --on")


def _executor(how: dict[str, Any], jobs: int) -> "Executor":
    from finetune.batch.executors.local import Local
    from finetune.process import cores

    if how["on"] == "ray":
        from finetune.batch.executors.ray_cluster import Ray

        return Ray(
            address=how["address"],
            cpus=how["cpus_per_job"] or 1,
            gpus=how["gpus_per_job"] or 0.0,
            workers=how["workers"],
        )
    local = Local(min(how["workers"] or 1, jobs), cores())
    local.warm_up()  # while the jobs are checked
    return local


def _plan(call: "Call", workers: int) -> None:
    """`--dry-run`."""
    call.check()
    load_tensorflow()
    from finetune.batch.survey import plan
    from finetune.cli.display_batch import show_plan

    rows, estimate = plan(call, workers)
    if not printed_json({"runs_dir": str(call.folder), "jobs": rows, "estimate": estimate}):
        show_plan(rows, estimate, call.folder)


def _finish(call: "Call", summary: "Summary") -> None:
    """Print the summary; exit code 1 if a job of this call has failed or is not done."""
    from finetune.cli.display_batch import show_summary

    if not printed_json(summary.to_json(call.folder)):
        show_summary(summary, call.folder)
    if not all(one.settled for one in call.own(summary)) or len(call.own(summary)) < call.count:
        sys.exit(1)
