"""A Slurm script that runs the same jobs file, one job per task of an array; nothing is submitted here."""

import shlex
import sys

from finetune.batch.call import Call
from finetune.batch.status import look
from finetune.errors import WrongUse

_SCRIPT = """\
#!/bin/bash
# {count} jobs of {file}, one per task. Submit it from where the nodes see this folder, with options of sbatch:
#     bash THIS_FILE --partition=P --time=08:00:00
# which submits the array and, after it, a job that writes the summary; 'sbatch THIS_FILE' submits the array alone.
# Tasks that were cancelled, timed out or failed are gone on with by submitting it again. Slurm's MaxArraySize must
# be larger than {count}.
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
# exec: Slurm's signal before the time limit is for finetune, which then saves its state.
exec {command} --only "${{jobs[SLURM_ARRAY_TASK_ID - 1]}}"
"""


def script(call: Call, *, workers: int | None, cpus: int | None, gpus: float | None) -> str:
    """The script, for `bash` (array and summary) or `sbatch` (array).

    One task for each job of the call that is not done, by name, so that an edit of the jobs file cannot shift them;
    at most `workers` at once. Paths in it are absolute: the nodes must see them. WrongUse for a part of a GPU.
    """
    if gpus and gpus != int(gpus):
        raise WrongUse(f"--gpus-per-job {gpus:g} with Slurm: expected a whole number of GPUs")
    unfinished = [job for job in call.jobs if look(call.place, job).state != "done"] or list(call.jobs)
    place = call.place.path.absolute()
    base = [sys.executable, "-m", "finetune", "batch", str(call.file.absolute()), "--runs-dir", str(place)]
    base += call.survey_arguments
    name = f"finetune-{call.file.stem}"
    return _SCRIPT.format(
        count=len(unfinished),
        file=_comment(str(call.file.absolute())),
        name=shlex.quote("".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)),
        limit=f"%{workers}" if workers else "",
        cpus=cpus or 1,
        gpus=f"#SBATCH --gpus-per-task={int(gpus)}\n" if gpus else "",
        logs=shlex.quote(str(place / ".batch")),
        names="\n".join(f"    {job.name}" for job in unfinished),
        summary=shlex.quote(shlex.join([*base, "--summary-only"])),
        command=shlex.join(base),
    )


def _comment(text: str) -> str:
    """Text that stays in its line of the script."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
