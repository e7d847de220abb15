"""`antimatter card`"""

import argparse
from pathlib import Path

from antimatter import outputs
from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "card", help="write the model card from the files of the last run"
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("docs/model-card.md"),
        help="(default: docs/model-card.md)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    outputs.check_file(arguments.output, "--output")
    from antimatter.report import card

    card.write(arguments.output)
    print(f"{arguments.output} describes the model that dvc.lock records")
