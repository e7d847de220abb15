"""`antimatter plan`"""

import argparse
import sys
from pathlib import Path

from antimatter.cli import options
from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "plan", help="what a training takes: FLOPs, memory, hours and money on known GPUs"
    )
    command.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=Path("params.yaml"),
        help="the parameters (default: params.yaml)",
    )
    options.add_gpus(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter.planning import gpus, plan

    cards = gpus.choose(arguments.gpu, arguments.price)
    lines = plan.report(plan.read(arguments.file, arguments.devices, arguments.mfu), cards)
    sys.stdout.writelines(f"{line}\n" for line in lines)
