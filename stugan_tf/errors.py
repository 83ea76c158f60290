"""Errors for the user: commands print them without a traceback and exit with 1.

Any other exception is a defect of the package and keeps its traceback.
"""


class UserError(Exception):
    """An error that the user can act on; the message says how."""


class InputError(UserError, ValueError):
    """The user gave something that cannot work.

    The message says what was given, what is allowed and what to do.
    """


class NotInstalledError(InputError):
    """What was asked for needs a package that an extra of ours installs; the message names it."""


class FailedRun(UserError, RuntimeError):  # noqa: N818
    """A run started well but could not go on."""
