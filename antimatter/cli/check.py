"""`antimatter check`"""

import argparse

from antimatter.cli import options
from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "check",
        help="check params.yaml before anything is computed; also repairs files of DVC that a kill"
        " has left incomplete",
        description="Reads every section of params.yaml as its stage will, and looks for the texts"
        " and packages that it names.",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter import params
    from antimatter.pipeline import check
    from antimatter.repository import recovery

    for line in recovery.repair():
        options.log(f"note: {line}")
    check.check_once(again=True)
    for line in check.stale_starts():
        options.log(f"note: {line}")
    print(f"{params.PARAMS} is good")
