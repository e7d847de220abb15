"""`antimatter resume`"""

import argparse
import sys
from pathlib import Path

from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "resume",
        help="continue an interrupted run after a change of the code",
        description="Lists unfinished work. For a folder, shows what has changed in its code; with"
        " --accept, continues it under the present code. Work that began under the present code is"
        " resumed by `dvc repro` itself.",
    )
    command.add_argument("folder", nargs="?", type=Path, help="in .state, as listed")
    command.add_argument(
        "--accept",
        action="store_true",
        help="continue it; the provenance of the model, or the metrics of the data, will say so",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter.pipeline import adoption

    if arguments.folder is None:
        works = adoption.works()
        sys.stdout.writelines(f"{work.line()}\n" for work in works)
        if works:
            print("antimatter resume FOLDER shows what has changed")
        else:
            print("there is no unfinished work in .state")
    elif arguments.accept:
        folder = adoption.adopt(arguments.folder)
        print(f"{folder}: `dvc repro` resumes it if its parameters and data are unchanged")
    else:
        sys.stdout.writelines(adoption.diff(adoption.work(arguments.folder)))
        print(
            f"\n`antimatter resume {arguments.folder} --accept` continues it under the present"
            " code; its results will say so"
        )
