"""`antimatter push`"""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError

if TYPE_CHECKING:
    from antimatter.export.hub import File, Remote


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "push",
        help="upload a model to the Hugging Face hub, with its card and GGUF files",
        description="Uploads a folder for transformers (`antimatter export --type hf`), GGUF files"
        " and the model card in one commit. The token is HF_TOKEN, or that of `hf auth login`."
        " HF_HUB_DISABLE_XET=1 sends large files over Git LFS.",
    )
    command.add_argument("place", choices=("hf",), help="hf: the Hugging Face hub")
    command.add_argument("repository", metavar="OWNER/NAME", help="made if it does not exist")
    command.add_argument(
        "--folder",
        type=Path,
        help="for transformers (default: <gguf.name>-hf, as `antimatter export --type hf` names"
        " it)",
    )
    command.add_argument(
        "--gguf",
        type=Path,
        action="append",
        default=[],
        help="a GGUF file, or a folder with some; can be repeated (default: none)",
    )
    command.add_argument(
        "--card",
        type=Path,
        help="README.md of the repository (default: that of `antimatter card`, if the folder holds"
        " the model of the last run)",
    )
    command.add_argument("--private", action="store_true", help="make a private repository")
    command.add_argument("--revision", default="main", help="branch (default: main)")
    command.add_argument(
        "--replace", action="store_true", help="replace files that the repository has with others"
    )
    command.add_argument(
        "--dry-run", action="store_true", help="list the files; without a connection"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from antimatter.export import hub

    hub.check_name(arguments.repository)
    folder = arguments.folder or _default_folder()
    content = hub.collect(folder, arguments.gguf, _card(folder, arguments.card))
    total = sum(file.size for file in content)
    if arguments.dry_run:
        for file in content:
            print(f"{file.size:>15,}  {file.name}")
        print(f"{total:>15,}  bytes for {arguments.repository}, nothing was uploaded")
        return
    if not sys.stderr.isatty():
        disable_progress_bars()
    place = hub.Hub(hub.Target(arguments.repository, arguments.revision, arguments.private))
    remote = place.remote()
    _show(content, remote)
    changed = [file.name for file in content if remote.state(file) == "changed"]
    if changed and not arguments.replace:
        where = f"{arguments.repository} has other files of these names"
        fix = "--replace replaces them, --revision names another branch"
        raise UserError(f"{where}: {', '.join(changed)}: {fix}")
    if all(remote.state(file) == "same" for file in content):
        print(f"{arguments.repository} has these files already")
        return
    address = place.upload(content, remote, f"Upload {folder.name}")
    print(f"{address}: {len(content)} files, {total / 1e6:,.1f} MB")


def _default_folder() -> Path:
    from antimatter import params
    from antimatter.export import huggingface
    from antimatter.export.config import GGUFConfig

    return huggingface.path_of(Path("."), params.read(GGUFConfig, "gguf").name)


def _show(content: "list[File]", remote: "Remote") -> None:
    for file in content:
        options.log(f"{remote.state(file):>8}  {file.size:>15,}  {file.name}")
    names = {file.name for file in content}
    for name in sorted(remote.digests.keys() - names):
        options.log(f"{'kept':>8}  {'':>15}  {name}")


def _card(folder: Path, given: Path | None) -> str:
    """The text of the model card.

    Raises:
        UserError: none was given, and the folder does not hold the model of the last run.
    """
    if given is not None:
        return given.read_text(encoding="utf-8")
    from antimatter.report import card

    if not _is_of_last_run(folder):
        raise UserError(
            f"{folder} does not hold the model of the last run, which `antimatter card` describes:"
            " write a model card and name it with --card"
        )
    text = card.card(card.RunRecord(Path(".")))
    # The hub has no other file of this repository
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", text)


def _is_of_last_run(folder: Path) -> bool:
    from antimatter import files

    path = folder / "config.json"
    config: dict[str, Any] = files.read_json(path) if path.is_file() else {}
    # transformers write this key when they save, perhaps after more training
    if "transformers_version" in config:
        return False
    provenance = dict(config.get("antimatter", {}).get("provenance", {}))
    provenance.pop("commit", None)
    records = [Path("metrics", stage, "provenance.json") for stage in ("tuned", "checkpoints")]
    return any(path.is_file() and files.read_json(path) == provenance for path in records)
