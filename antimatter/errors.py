"""The one class of error that a user can fix."""


class UserError(ValueError):
    """A value, a file or a setting is wrong; the message says which, what it is and how to fix it.

    Stages and the command line print it as one line, without a traceback, and exit with status 1.
    """


def is_users(error: BaseException) -> bool:
    """Whether a user can fix an error: a UserError, or an OSError.

    The latter is a full disk, a missing permission, a port in use. Libraries raise it without the
    `errno` of the system, so that does not tell. Every other exception is a bug of this project
    and keeps its traceback.
    """
    return isinstance(error, UserError | OSError)
