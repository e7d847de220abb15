"""`antimatter inspect cleaned` and `antimatter inspect shards`"""

import argparse
import sys
from pathlib import Path

from antimatter.cli import options
from antimatter.cli.options import Commands

METRICS = Path("metrics/cleaned/summary.json")


def add_parser(commands: Commands) -> None:
    inspect = commands.add_parser("inspect", help="look at the output of a data stage")
    stages = inspect.add_subparsers(required=True, metavar="stage")
    command = stages.add_parser(
        "cleaned", help="why text was dropped: the table, or examples of one reason"
    )
    command.add_argument(
        "--reason",
        default="",
        help="show documents that were dropped for it, before any repair",
    )
    command.add_argument(
        "--count",
        type=options.integer(0),
        default=5,
        help="how many of them, at most 20 (default: 5)",
    )
    command.set_defaults(run=_cleaned)
    command = stages.add_parser(
        "shards", help="check every shard against the index, and decode some documents"
    )
    command.add_argument(
        "--count",
        type=options.integer(0),
        default=2,
        help="documents of each split (default: 2)",
    )
    command.add_argument(
        "--seed", type=options.integer(0, 2**64 - 1), default=0, help="which ones (default: 0)"
    )
    command.set_defaults(run=_shards)


def _cleaned(arguments: argparse.Namespace) -> None:
    from antimatter.data import inspection

    if arguments.reason:
        lines = inspection.dropped(options.CLEANED, arguments.reason, arguments.count)
        sys.stdout.writelines(f"{line}\n" for line in lines)
    else:
        sys.stdout.writelines(f"{line}\n" for line in inspection.reasons(METRICS))
        print("\nantimatter inspect cleaned --reason NAME shows examples")


def _shards(arguments: argparse.Namespace) -> None:
    from antimatter.data import inspection
    from antimatter.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(options.TOKENIZER)
    for line in inspection.verify(options.SHARDS):
        print(line, flush=True)
    lines = inspection.excerpts(options.SHARDS, tokenizer, arguments.count, arguments.seed)
    sys.stdout.writelines(f"{line}\n" for line in lines)
