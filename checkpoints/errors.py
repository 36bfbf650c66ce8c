"""What can be wrong with a file of weights or the name of one."""


class CheckpointError(Exception):
    """A checkpoint cannot be found, read or assigned.

    The message says what is wrong with the value in it, what was expected and what to do.
    It is shown to the user as it is; `exit_code` is what the command line returns.
    """

    exit_code = 1


class UnknownBackbone(CheckpointError):
    """A backbone name that no catalogue row has, or that several have."""

    exit_code = 2
