"""`antimatter preset`"""

import argparse
import sys

from antimatter.cli.options import PRESETS, Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "preset", help="replace params.yaml by a preset, and show the difference"
    )
    command.add_argument("name", help=f"the name of a file in {PRESETS}/, without .yaml")
    command.add_argument(
        "--force",
        action="store_true",
        help="overwrite changes of params.yaml that are not committed",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    import difflib

    from antimatter import files, params

    names = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if arguments.name not in names:
        known = ", ".join(names) or f"none ({PRESETS}/ is empty or missing)"
        raise UserError(f"there is no preset {arguments.name!r}: known are {known}")
    path = PRESETS / f"{arguments.name}.yaml"
    # A preset that is not readable must not replace anything
    params.load(path)
    new = path.read_text(encoding="utf-8")
    old = params.PARAMS.read_text(encoding="utf-8") if params.PARAMS.is_file() else ""
    if new == old:
        print(f"{params.PARAMS} is {path} already")
        return
    if old and not arguments.force and not _is_saved(old):
        raise UserError(
            f"{params.PARAMS} has changes that are in no commit: `git commit` or `git stash` them,"
            " or overwrite them with --force"
        )
    files.write_text(params.PARAMS, new)
    before, after = f"{params.PARAMS} (before)", f"{params.PARAMS} (now)"
    diff = difflib.unified_diff(old.splitlines(True), new.splitlines(True), before, after)
    sys.stdout.writelines(diff)


def _is_saved(text: str) -> bool:
    """Whether this params.yaml is that of the last commit, or a preset."""
    from antimatter import params
    from antimatter.repository import git

    presets = [path.read_text(encoding="utf-8") for path in PRESETS.glob("*.yaml")]
    return text in presets or text == git.query("show", f"HEAD:./{params.PARAMS}")
