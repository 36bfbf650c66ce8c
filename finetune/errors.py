"""The errors of this package that a user can correct. `finetune.cli` prints them, in one place."""

from checkpoints.errors import UserError

__all__ = ["FinetuneError", "Interrupted", "UserError", "WorkerLost", "WrongUse"]


class FinetuneError(UserError):
    """The work failed on its input or on its environment (exit code 1)."""


class WrongUse(FinetuneError):
    """The request itself is wrong: an option, a pattern, a policy (exit code 2)."""

    exit_code = 2


class Interrupted(FinetuneError):
    """Ctrl-C or SIGTERM while a run was training; the run can be resumed (exit code 130)."""

    exit_code = 130


class WorkerLost(FinetuneError):
    """Another worker of a distributed run has stopped or cannot be reached; the run can be resumed (exit code 1)."""
