"""The root of all errors that a user can correct, and what can be wrong with a file of weights or its name."""

from collections.abc import Sequence


def listed(names: Sequence[str], *, most: int = 8) -> str:
    """Names for a message: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class UserError(Exception):
    """An error that the user can correct.

    The message says what is wrong, with the value; what was expected; and what to do. The command line prints it as it
    is and ends with `exit_code`.
    """

    exit_code = 1


class CheckpointError(UserError):
    """A checkpoint cannot be found, read or assigned."""


class UnknownBackbone(CheckpointError):
    """A backbone name that matches no row of the catalogue, or several."""

    exit_code = 2
