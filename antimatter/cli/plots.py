"""`antimatter plots`"""

import argparse
from pathlib import Path

from antimatter import outputs
from antimatter.cli.options import Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "plots", help="all charts of one or several revisions in one PNG, without DVC"
    )
    command.add_argument(
        "revision",
        nargs="*",
        help="commits, branches, names of experiments, or `workspace` (default: workspace)",
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("plots.png"),
        metavar="FILE",
        help="(default: plots.png)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    outputs.check_file(arguments.output, "--output")
    if arguments.output.suffix != ".png":
        raise UserError(f"--output {arguments.output} must end with .png, the only kind there is")
    from antimatter.report import revisions

    revisions.draw(arguments.revision or [revisions.WORKSPACE], arguments.output)
    print(arguments.output)
