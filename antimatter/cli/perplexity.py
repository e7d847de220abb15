"""`antimatter perplexity`"""

import argparse
import json
import sys

from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "perplexity",
        help="how well the model predicts a text of your own",
        description="Sliding-window perplexity and bits per byte of any texts. Every token is"
        " scored once, each document from its beginning.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file of any text (docs/data.md has the kinds), a folder, a glob pattern, or - for"
        " standard input",
    )
    options.add_checkpoint(command, options.CHECKPOINTS, str(options.CHECKPOINTS))
    options.add_tokenizer(command)
    command.add_argument(
        "--stride",
        type=int,
        help="tokens from one window to the next; fewer is slower, with more context"
        " (default: `evaluation.stride`)",
    )
    command.add_argument(
        "--text-column",
        help="of JSON, CSV and parquet: the column with the text (default:"
        " `evaluation.text_column`)",
    )
    command.add_argument(
        "--json",
        action="store_true",
        help="for programs: with more digits, and the sha256 of each file",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from antimatter import params
    from antimatter.data.sources import paths
    from antimatter.evaluation import texts
    from antimatter.evaluation.config import EvaluationRuntime, PerplexityConfig
    from antimatter.export import source

    values = options.params_file(has_defaults=arguments.checkpoint != options.CHECKPOINTS)
    config = params.read(PerplexityConfig, "evaluation", values, part=True)
    runtime = params.read(EvaluationRuntime, "runtime", values, part=True)
    model = source.open_checkpoint(arguments.checkpoint).load()
    tokenizer = options.load_tokenizer(arguments)
    context = model.config.block_size
    if arguments.stride is not None and not 1 <= arguments.stride <= context:
        raise UserError(
            f"--stride must lie between 1 and the model's context of {context},"
            f" got {arguments.stride}"
        )
    stride = min(arguments.stride or config.stride, context)
    scored = texts.score(
        model.to(runtime.device_type()),
        tokenizer,
        arguments.paths,
        column=arguments.text_column or config.text_column,
        stride=stride,
        key=paths.COMMAND_LINE,
    )
    if arguments.json:
        total = texts.in_all(scored)
        report = {
            "checkpoint": str(arguments.checkpoint),
            "stride": stride,
            "files": {text.path: text.figures() for text in scored},
            "all": {"tokens": total.tokens, "bytes": total.bytes, **total.figures()},
        }
        print(json.dumps(report, indent=2))
    else:
        sys.stdout.writelines(f"{line}\n" for line in texts.table(scored))
