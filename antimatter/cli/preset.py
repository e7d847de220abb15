"""`antimatter preset`"""

import argparse
import sys
from pathlib import Path

from antimatter import outputs
from antimatter.cli.options import PRESETS, Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "preset", help="list the presets, or replace params.yaml by one and show the difference"
    )
    command.add_argument(
        "name",
        nargs="?",
        help=f"the name of a file in {PRESETS}/, without .yaml; without it, all are listed",
    )
    command.add_argument(
        "--force",
        action="store_true",
        help="overwrite changes of params.yaml that are not committed",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    import difflib

    from antimatter import files, params
    from antimatter.pipeline import check

    if arguments.name is None:
        sys.stdout.writelines(f"{line}\n" for line in _list())
        return
    names = sorted(path.stem for path in _presets())
    if arguments.name not in names:
        known = ", ".join(names) or f"none ({PRESETS}/ is empty or missing)"
        raise UserError(f"there is no preset {arguments.name!r}: known are {known}")
    path = PRESETS / f"{arguments.name}.yaml"
    # A preset that is not readable, or older than the code, must not replace anything
    check.check_keys(path)
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


def _list() -> list[str]:
    """A line for each preset, with what its first comment says that it is for. The one that
    params.yaml equals has a star.
    """
    from antimatter import params

    paths = sorted(_presets())
    if not paths:
        raise UserError(f"{PRESETS}/ has no preset: run from the root of the repository")
    # A damaged file equals no other
    current = _text(params.PARAMS) if params.PARAMS.is_file() else None
    width = max(len(path.stem) for path in paths)
    lines = []
    for path in paths:
        first = _text(path).partition("\n")[0]
        purpose = first.removeprefix("#").strip() if first.startswith("#") else ""
        mark = "*" if _text(path) == current else " "
        lines.append(f"{mark} {path.stem:<{width}}  {purpose}".rstrip())
    return [*lines, "", "antimatter preset NAME replaces params.yaml; * is there now."]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _is_saved(text: str) -> bool:
    """Whether this params.yaml is that of the last commit, or a preset."""
    from antimatter import params
    from antimatter.repository import git

    # A damaged one equals no params.yaml
    return text in map(_text, _presets()) or text == git.query("show", f"HEAD:./{params.PARAMS}")
