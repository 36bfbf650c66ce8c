"""`finetune batch`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli import shared_options
from finetune.cli.startup import load_tensorflow

if TYPE_CHECKING:
    from finetune.batch.call import Call
    from finetune.batch.executors.job_process import Executor


@click.command()
@click.argument("jobs_file", type=shared_options.PATH, metavar="JOBS.toml")
@click.option(
    "--runs-dir",
    type=shared_options.PATH,
    metavar="DIR",
    help="Where the runs and the summary go.  [default: beside the jobs file, under its name]",
)
@click.option("--dry-run", is_flag=True, help="Check and print every job with what it amounts to; run nothing.")
@click.option("--workers", type=click.IntRange(1, 1000), metavar="N", help="Jobs at once.  [default: 1]")
@click.option("--seeds", type=int, metavar="N", help="Repeat every job with N seeds and report mean and spread.")
@click.option("--only", multiple=True, metavar="NAME|INDEX", help="Only this job, by name or number. Repeatable.")
@click.option("--fail-fast", is_flag=True, help="After the first failure stop the others; they can be gone on with.")
@click.option("--summary-only", is_flag=True, help="Write and print the summary of what there is; run nothing.")
@click.option("--yes-really", type=int, metavar="N", help="Run N jobs where they are more than 100.")
@click.option(
    "--on",
    type=click.Choice(["local", "ray", "slurm"]),
    default="local",
    help="Where jobs run; slurm goes with --print.  [default: local]",
)
@click.option("--address", metavar="A", help="Ray: the cluster's address, or 'auto'.  [default: a cluster of its own]")
@click.option("--cpus-per-job", type=click.IntRange(1), metavar="C", help="Ray, Slurm: cores of a job.  [default: 1]")
@click.option("--gpus-per-job", type=click.FloatRange(0), metavar="G", help="Ray, Slurm: GPUs of a job.  [default: 0]")
@click.option("--print", "print_script", is_flag=True, help="Slurm: write the script on standard output; run nothing.")
@shared_options.JSON
@shared_options.QUIET
def batch(
    jobs_file: Path,
    runs_dir: Path | None,
    seeds: int | None,
    only: tuple[str, ...],
    yes_really: int | None,
    dry_run: bool,
    summary_only: bool,
    print_script: bool,
    as_json: bool,
    quiet: bool,
    **how: Any,
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

    Keys are the options of 'finetune run'. Finished jobs are skipped, interrupted ones go on, failed ones are tried
    again: repeat the command. Out of memory, a job is repeated with half the batch size.
    """
    from finetune.batch import jobs, slurm
    from finetune.batch.call import Call
    from finetune.batch.folder import BatchFolder, default_place
    from finetune.cli.display_batch import BatchDisplay

    _check_use(how, dry_run=dry_run, summary_only=summary_only, print_script=print_script, as_json=as_json)
    every = jobs.read(jobs_file, seeds=seeds, really=yes_really)
    display = BatchDisplay(quiet=quiet)
    place = runs_dir if runs_dir is not None else default_place(jobs_file)
    more = {"--seeds": seeds, "--yes-really": yes_really}
    call = Call(
        file=jobs_file,
        # Nodes of a cluster have another working directory.
        place=BatchFolder(place.absolute() if how["on"] == "ray" else place),
        every=every,
        jobs=jobs.select(every, only),
        survey_arguments=tuple(str(word) for pair in more.items() if pair[1] is not None for word in pair),
        display=display,
    )
    if dry_run:
        _plan(call, how["workers"] or 1, as_json=as_json)
        return
    if print_script:
        call.check()
        click.echo(
            slurm.script(call, workers=how["workers"], cpus=how["cpus_per_job"], gpus=how["gpus_per_job"]), nl=False
        )
        return
    if summary_only:
        _finish(call, call.summary_only(), as_json=as_json)
        return
    with display.running():
        summary = call.run(lambda: _executor(how, len(call.every)), fail_fast=how["fail_fast"])
    _finish(call, summary, as_json=as_json)


def _check_use(how: dict[str, Any], *, dry_run: bool, summary_only: bool, print_script: bool, as_json: bool) -> None:
    from finetune.errors import WrongUse

    if dry_run + summary_only + print_script > 1:
        raise WrongUse("--dry-run, --summary-only and --print are three different things: give one of them")
    on = how["on"]
    if (on == "slurm") != print_script and not dry_run and not summary_only:
        raise WrongUse(
            "--on slurm and --print go together: 'finetune batch JOBS.toml --on slurm --print > night.sh' writes a "
            "script that 'bash night.sh' submits"
        )
    if print_script and as_json:
        raise WrongUse("--print writes a script, not JSON: leave --json out")
    for option, places in (
        ("address", ["ray"]),
        ("cpus_per_job", ["ray", "slurm"]),
        ("gpus_per_job", ["ray", "slurm"]),
    ):
        if how[option] is not None and on not in places:
            raise WrongUse(
                f"--{option.replace('_', '-')} is for --on {' and '.join(places)}: leave it out, or say --on"
            )


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
    return Local(min(how["workers"] or 1, jobs), cores())


def _plan(call: "Call", workers: int, *, as_json: bool) -> None:
    """`--dry-run`."""
    call.check()
    load_tensorflow()
    from finetune.batch.survey import plan
    from finetune.cli.display_batch import show_plan

    rows, estimate = plan(call, workers)
    if as_json:
        shared_options.emit({"runs_dir": str(call.place), "jobs": rows, "estimate": estimate})
    else:
        show_plan(rows, estimate, call.place)


def _finish(call: "Call", summary: Any, *, as_json: bool) -> None:
    """Print the summary; exit code 1 where a job of this call has failed or is not done."""
    from finetune.cli.display_batch import show_summary

    if as_json:
        shared_options.emit(summary.to_json(call.place))
    else:
        show_summary(summary, call.place)
    mine = {job.index for job in call.jobs}
    if any(one.state != "done" for one in summary.standings if one.job.index in mine):
        sys.exit(1)
