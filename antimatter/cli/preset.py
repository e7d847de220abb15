"""`antimatter preset`"""

import argparse
import sys
from pathlib import Path

from antimatter import outputs
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

    names = sorted(path.stem for path in _presets())
    if arguments.name not in names:
        known = ", ".join(names) or f"none ({PRESETS}/ is empty or missing)"
        raise UserError(f"there is no preset {arguments.name!r}: known are {known}")
    path = PRESETS / f"{arguments.name}.yaml"
    # A preset that is not readable must not replace anything
    params.load(path)
    new = path.read_text(encoding="utf-8")
    outputs.check_file(params.PARAMS, "the file")
    try:
        old = params.PARAMS.read_text(encoding="utf-8") if params.PARAMS.is_file() else ""
    except UnicodeDecodeError as error:
        fix = "correct it, or rename it, then run again"
        raise UserError(f"{params.PARAMS} is not UTF-8 ({error}): {fix}") from None
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


def _presets() -> list[Path]:
    if not PRESETS.is_dir():
        return []
    try:
        # Not glob(), which skips a folder that is not readable
        return [path for path in PRESETS.iterdir() if path.suffix == ".yaml" and path.is_file()]
    except OSError as error:
        fix = f"`chmod u+rx {PRESETS}` if it is yours"
        raise UserError(f"{PRESETS}/ is not readable ({error.strerror}): {fix}") from None


def _is_saved(text: str) -> bool:
    """Whether this params.yaml is that of the last commit, or a preset."""
    from antimatter import params
    from antimatter.repository import git

    # A damaged one equals no params.yaml
    presets = [path.read_text(encoding="utf-8", errors="replace") for path in _presets()]
    return text in presets or text == git.query("show", f"HEAD:./{params.PARAMS}")
