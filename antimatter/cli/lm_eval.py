"""`antimatter lm-eval`"""

import argparse
from pathlib import Path

from antimatter import outputs
from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "lm-eval",
        help="EleutherAI's evaluation harness on this model (an extra: docs/lm-eval.md)",
        description="Runs tasks of EleutherAI's lm-evaluation-harness on a checkpoint. The packages"
        " that it needs are an extra of this project.",
    )
    command.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        help="names of tasks, groups or tags, or YAML files, separated by spaces or commas",
    )
    command.add_argument(
        "--include-path",
        type=Path,
        metavar="FOLDER",
        help="further tasks: a folder with their YAML files",
    )
    command.add_argument(
        "--num-fewshot",
        type=options.integer(0),
        metavar="N",
        help="examples before each question (default: as the task says)",
    )
    command.add_argument(
        "--limit",
        type=options.number("(0, inf)"),
        metavar="N",
        help="documents of each task; below 1: a share of them (default: all)",
    )
    options.add_checkpoint(command, options.CHECKPOINTS, str(options.CHECKPOINTS))
    options.add_tokenizer(command)
    command.add_argument(
        "--batch-size",
        type=options.integer(1),
        default=16,
        help="texts in a forward pass (default: 16)",
    )
    command.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the results as JSON too, with every digit",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.output:
        outputs.check_file(arguments.output, "--output")
    options.prepare_torch()
    try:
        from antimatter.evaluation import harness
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed: `pip install -c requirements.lock -e '.[lm-eval]'`"
            " adds the harness (docs/lm-eval.md)"
        ) from None
    import torch

    from antimatter import files
    from antimatter.export import source

    tokenizer = options.load_tokenizer(arguments)
    model = source.open_checkpoint(arguments.checkpoint).load()
    if model.config.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the checkpoint was trained with"
            f" {model.config.vocab_size}: name the one that belongs to it with --tokenizer"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = harness.Antimatter(model.to(device), tokenizer, arguments.batch_size)
    names = [name for word in arguments.tasks for name in word.split(",") if name]
    results = harness.run(
        lm,
        names,
        include_path=arguments.include_path,
        num_fewshot=arguments.num_fewshot,
        limit=arguments.limit,
    )
    if arguments.output:
        files.write_json(arguments.output, {"checkpoint": str(arguments.checkpoint), **results})
    print(harness.table(results))
