"""The command `antimatter`. Each subcommand is a module with `add_parser` and `run`; run() imports
what the subcommand needs, so that all of them start fast and `watch` needs only the standard
library.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from antimatter.cli import (
    card,
    chat,
    check,
    export,
    inspect,
    kaggle,
    ladder,
    lm_eval,
    perplexity,
    plan,
    plots,
    preset,
    push,
    resume,
    serve,
    site,
    tune,
    verify,
    watch,
)
from antimatter.errors import UserError, one_line

# In the order of --help
COMMANDS = (
    *(chat, export, push, tune, lm_eval, serve, site, perplexity, inspect, check, resume, preset),
    *(plan, ladder, watch, card, plots, verify, kaggle),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit status.

    Prints a UserError, or an error of the operating system, as one line. ANTIMATTER_TRACEBACK=1
    shows the traceback too.
    """
    try:
        _prepare_streams()
        try:
            parsed = parser().parse_args(arguments)
        # Also after --help, which ends the process
        finally:
            _flush()
        parsed.run(parsed)
        _flush()
    except BrokenPipeError:
        # The reader has seen enough, as with `| head`
        _discard_output()
        return 0
    except InterruptedError as paused:
        print(paused, file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        if os.environ.get("ANTIMATTER_TRACEBACK"):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
        raise


def _discard_output() -> None:
    # Otherwise the interpreter's last flush would fail too, and say so
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="antimatter", description="The pipeline's tools. The pipeline itself: `dvc repro`."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def _prepare_streams() -> None:
    # The caller has closed it; print(file=None) would put messages among the answers. In this
    # order, as each open() takes the lowest free number
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # In a C locale Python would stop at the first byte that is not ASCII
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
