"""`antimatter kaggle`"""

import argparse
from pathlib import Path

from antimatter.cli import options
from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "kaggle",
        help="write a kernel folder that runs the pipeline on Kaggle, or serves its model there",
        description="Writes FOLDER/kernel-metadata.json, run.py and dataset/ for `kaggle datasets"
        " create` and `kaggle kernels push`: docs/kaggle.md.",
    )
    command.add_argument("folder", type=Path, help="a previous one is replaced")
    command.add_argument("--user", required=True, help="your user name at Kaggle")
    command.add_argument(
        "--mode",
        choices=("pipeline", "serve"),
        default="pipeline",
        help="pipeline: `dvc repro`; serve: `antimatter serve` (default: pipeline)",
    )
    command.add_argument(
        "--title",
        default="",
        help="of the kernel; determines its address (default: antimatter MODE)",
    )
    command.add_argument(
        "--accelerator",
        choices=("none", "t4"),
        default="none",
        help="t4: the two T4 that Kaggle offers (default: none)",
    )
    command.add_argument(
        "--offline", action="store_true", help="internet off: everything comes from the data set"
    )
    command.add_argument(
        "--data",
        action="store_true",
        help="include data/shards; the run begins with the training, on Kaggle's own torch",
    )
    command.add_argument(
        "--after",
        default="",
        metavar="KERNEL",
        help="attach its output: a pipeline continues from it, a server takes its model",
    )
    command.add_argument(
        "--wheels", type=Path, metavar="DIR", help="wheels to include, for --offline"
    )
    command.add_argument(
        "--ollama",
        type=Path,
        metavar="FILE",
        help="an archive of Ollama to include, for --offline",
    )
    command.add_argument(
        "--hours",
        type=float,
        default=11.5,
        help="then the state is saved and the run ends; Kaggle's limit is 12 (default: 11.5)",
    )
    command.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="to serve after the first answers (default: 0; in an interactive session, all hours)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import fields

    from antimatter.kaggle.kernel import Kernel, write

    # The options have the names of its fields
    values = {field.name: getattr(arguments, field.name) for field in fields(Kernel)}
    values["title"] = arguments.title or f"antimatter {arguments.mode}"
    kernel = Kernel(**values)
    folder: Path = arguments.folder
    commit = write(folder, kernel)[:12]
    data = f"{folder}/dataset"
    print(f"{folder} runs commit {commit} on Kaggle. Next (docs/kaggle.md):")
    print(
        f"  kaggle datasets create -p {data}    # later: kaggle datasets version -p {data}"
        f" -m {commit}"
    )
    print(f"  kaggle datasets status {kernel.data_set}    # until it says ready")
    print(f"  kaggle kernels push -p {folder}")
    if kernel.offline and kernel.wheels is None:
        options.log(
            "note: with the internet off, packages that Kaggle lacks must be included: --wheels,"
            " docs/kaggle.md has the commands"
        )
