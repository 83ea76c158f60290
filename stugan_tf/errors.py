"""Errors that speak to the user: commands print them without a traceback and exit with 1.

Every other exception keeps its traceback, for it is a defect of ours.
"""


class UserError(Exception):
    """Something the user can act on; the message says what."""


class InputError(UserError, ValueError):
    """The user gave something that cannot work.

    The message says what was given, what is allowed and what to do.
    """


class FailedRun(UserError, RuntimeError):  # noqa: N818
    """A run that was well started came to an end it should not have."""
