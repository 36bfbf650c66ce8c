"""A Slurm script that runs the jobs file, one job per task of an array. The user submits it."""

import shlex

from finetune.batch.call import Call
from finetune.batch.status import job_status
from finetune.errors import WrongUse

_SCRIPT = """\
#!/bin/bash
# {count} jobs of {file}, one per task. Submit it from a folder that the nodes see too, with options of sbatch:
#     bash THIS_FILE --partition=P --time=08:00:00
# It submits the array and, after it, a job that writes the summary; 'sbatch THIS_FILE' submits the array alone.
# Submit it again to resume tasks that were cancelled, timed out or failed. Slurm's MaxArraySize must be larger
# than {count}.
#SBATCH --job-name={name}
#SBATCH --array=1-{count}{limit}
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --output={logs}/slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120

jobs=(
{names}
)

if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then
    set -e
    mkdir -p {logs}
    array=$(sbatch --parsable "$@" "$0")
    sbatch --dependency="afterany:${{array%%;*}}" --job-name={name}-summary --output={logs}/slurm-summary-%j.log "$@" \\
        --wrap={summary}
    exit
fi

export FINETUNE_THREADS="${{SLURM_CPUS_PER_TASK:-{cpus}}}"
# exec: Slurm's signal before the time limit then reaches finetune, which saves its state.
exec {command} --only "${{jobs[SLURM_ARRAY_TASK_ID - 1]}}"
"""


def slurm_script(call: Call, *, workers: int | None, cpus: int | None, gpus: float | None) -> str:
    """The script, for `bash` (array and summary) or `sbatch` (array).

    There is one task for each job of the call that is not done. Tasks name their jobs, so that an edit of the jobs
    file cannot shift them. At most `workers` tasks run at once. Paths are absolute, and the nodes must see them.
    Raises WrongUse for a fraction of a GPU, and for a search that needs the results of its trials.
    """
    if call.search is not None and (call.search.prune or not call.search.beforehand):
        raise WrongUse(
            f"{call.file}: a Slurm array has all jobs beforehand, so no trial is proposed from the results of others, "
            'or pruned: set sampler = "random" and prune = false in [search], or use --on ray'
        )
    if gpus and gpus != int(gpus):
        raise WrongUse(f"--gpus-per-job {gpus:g} with Slurm: expected a whole number of GPUs")
    unfinished = [job for job in call.jobs if not job_status(call.folder, job).settled] or list(call.jobs)
    folder = call.folder.path.absolute()
    name = f"finetune-{call.file.stem}"
    return _SCRIPT.format(
        count=len(unfinished),
        file=_comment(str(call.file.absolute())),
        name=shlex.quote("".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)),
        limit=f"%{workers}" if workers else "",
        cpus=cpus or 1,
        gpus=f"#SBATCH --gpus-per-task={int(gpus)}\n" if gpus else "",
        logs=shlex.quote(str(folder / ".batch")),
        names="\n".join(f"    {job.name}" for job in unfinished),
        summary=shlex.quote(shlex.join([*call.command, "--summary-only"])),
        command=shlex.join(call.command),
    )


def _comment(text: str) -> str:
    """`text` on one line: a line break would end the comment in the script."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
