"""The one class of error that a user can fix, and what a user reads of an error."""

import errno

# Of errors of the operating system, by their number
FIXES = {
    errno.EACCES: "change its permissions, or name another path",
    errno.EROFS: "name a path on another disk",
    errno.ENOENT: "name one that exists, or run `dvc repro`",
    errno.ENOTDIR: "a part of the path is a file: name another one",
    errno.EISDIR: "name a file",
}


class UserError(ValueError):
    """A value, a file or a setting is wrong; the message says which, what it is and how to fix it.

    Stages and the command line print it as one line, without a traceback, and exit with status 1.
    So they do for an OSError, as it is a full disk, a missing permission or a port in use. Every
    other exception is a bug of this project and keeps its traceback.
    """


def one_line(error: UserError | OSError) -> str:
    """What a user reads of an error, without the number that the system gives it."""
    text, fix = str(error), ""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text, fix = f"{error.filename}: {error.strerror}", FIXES.get(error.errno or 0, "")
    # Libraries raise it without a number
    if "No space left" in text:
        fix = "free some space and run again, finished work is kept"
    # The faults of params.yaml are one line each; a name in one of them may have several
    lines = (" ".join(part.splitlines()) for part in text.split("\nerror: "))
    return "\nerror: ".join(lines) + (f": {fix}" if fix else "")
