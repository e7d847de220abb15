"""`antimatter site`"""

import argparse
from pathlib import Path

from antimatter import outputs
from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError

# Six times as near to the trained model as q4_k_m, and 15% larger (decision 40)
TYPE = "q8_0"


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "site",
        help="a folder with the chat page that runs the model in the browser, without a server",
        description="Writes a static folder: the chat page, a GGUF file, and llama.cpp as"
        " WebAssembly, which is downloaded once (3.4 MB). Any static host can serve it; the model"
        " runs in the visitor's browser.",
    )
    command.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="the folder to write; an earlier one of this command is replaced",
    )
    command.add_argument(
        "--model",
        type=Path,
        help=f"a GGUF file, or a folder with one of type {TYPE} (default: {options.GGUF})",
    )
    command.add_argument(
        "--package",
        type=Path,
        metavar="FILE.tgz",
        help="the npm package of llama.cpp for browsers, for a machine without a network",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter import params, text
    from antimatter.export.ollama import OllamaConfig
    from antimatter.llama.header import read_header
    from antimatter.serve.site import build, wllama

    folder: Path = arguments.output
    outputs.check_folder(folder, "--output", build.NAMES)
    model = model_file(arguments.model)
    values = options.params_file(has_defaults=arguments.model is not None)
    config = params.read(OllamaConfig, "ollama", values)
    header = read_header(model)
    build.check_model(model, header)
    package = wllama.package(arguments.package, options.log)
    size = build.write(folder, model, header, package, config, facts(model))
    print(f"{folder}: {model.name} and llama.cpp for the browser, {text.size(size)}. Try it:")
    print(f"  python -m http.server --bind 127.0.0.1 --directory {folder}")
    print("and publish the folder with any static host (docs/serving.md).")


def model_file(given: Path | None) -> Path:
    """The file of `--model`, or the one of type TYPE in its folder.

    Raises:
        UserError: there is none, or more than one.
    """
    if given is not None and given.is_file():
        return given
    folder = given or options.GGUF
    if not folder.is_dir():
        fix = "name a GGUF file" if given else "run `make repro` to make it, or `dvc pull`"
        raise UserError(f"{folder} is missing: {fix}")
    paths = sorted(folder.glob(f"*-{TYPE}.gguf"))
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths)
        found = f"{len(paths)} ({names})" if paths else "none"
        fix = "name a file with --model"
        raise UserError(f"{folder} must have one file *-{TYPE}.gguf, it has {found}: {fix}")
    return paths[0]


def facts(model: Path) -> dict[str, str]:
    """What the model card says, if the file is of the run that dvc.lock records."""
    from antimatter.pipeline import recorded
    from antimatter.report.card import RunRecord
    from antimatter.report.facts import facts

    folder = options.GGUF
    if model.resolve().parent != folder.resolve():
        return {}
    try:
        run = RunRecord(Path("."))
        if run.hashes.get(folder.as_posix()) == recorded.md5(folder):
            return facts(run)
        reason = f"dvc.lock does not record {folder}: run `dvc repro`"
    except UserError as error:
        reason = str(error)
    options.log(f"note: the page does not say what the model was trained on, because {reason}")
    return {}
