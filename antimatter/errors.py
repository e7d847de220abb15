"""The one class of error that a user can fix."""


class UserError(ValueError):
    """A value, a file or a setting is wrong, and the message says which, what it is and how to fix it.

    Stages and the command line print it as one line, without a traceback, and exit with status 1.
    Every other exception is a bug of this project and keeps its traceback, except an OSError of the
    operating system (it has an `errno`: a full disk, a missing permission, a port in use).
    """
