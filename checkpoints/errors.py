"""The root of all errors that a user can correct, and what can be wrong with a file of weights or its name."""


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
