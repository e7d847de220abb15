"""`antimatter watch`. It runs on a bare machine, so it imports only the standard library."""

import argparse
import sys
from pathlib import Path

from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "watch",
        help="the running training in this terminal: its curve, its speed, its newest sample",
    )
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("."),
        help="where it runs, with plots/ and metrics/ (default: here)",
    )
    command.add_argument(
        "--once", action="store_true", help="print it once, e.g. into a file or a pipe"
    )
    command.add_argument(
        "--every",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two updates (default: 2)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter.monitor import watch

    watch.watch(arguments.folder, arguments.once, arguments.every, sys.stdout)
