"""The errors a user can mend. `finetune.cli` translates them once, in the command group."""


class FinetuneError(Exception):
    """The work failed on its input or its surroundings (exit code 1).

    The message says what is wrong with the value in it, what was expected and what to do.
    """

    exit_code = 1


class WrongUse(FinetuneError):
    """The request itself is wrong: an option, a pattern, a policy (exit code 2)."""

    exit_code = 2


class Interrupted(FinetuneError):
    """Ctrl-C or SIGTERM while a run was training; the run can be resumed (exit code 130)."""

    exit_code = 130


class WorkerLost(FinetuneError):
    """Another worker of a distributed run has stopped or cannot be reached; the run can be resumed (exit code 1)."""
