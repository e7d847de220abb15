"""`antimatter export`"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from antimatter import outputs
from antimatter.cli import options
from antimatter.cli.options import Commands

if TYPE_CHECKING:
    from antimatter.export.source import Source


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "export",
        help="any checkpoint as GGUF or for Hugging Face, also a .pt file or a saved state of a"
        " training that is still running",
        description="What the stage gguf does, for one checkpoint of your choice, and the same for"
        " transformers. Nothing in a .pt file is executed.",
    )
    described = f"{options.TUNED}, or {options.CHECKPOINTS}, as `gguf.model` says"
    options.add_checkpoint(command, None, described)
    command.add_argument(
        "--config",
        type=Path,
        help="its config.json (default: the one beside it, or else its shapes, and `model:` of"
        " params.yaml)",
    )
    command.add_argument(
        "--type",
        action="append",
        choices=("f32", "f16", "q8_0", "q4_k_m", "hf"),
        help="can be repeated; hf: a folder for Hugging Face's transformers instead of a GGUF file"
        " (default: `gguf.types`)",
    )
    options.add_tokenizer(command)
    command.add_argument(
        "--output",
        type=Path,
        default=Path("."),
        help="the folder for <name>-<type>.gguf, or <name>-hf/ (default: here)",
    )
    command.add_argument("--name", help="of the model (default: `gguf.name`)")
    command.add_argument(
        "--windows",
        type=options.integer(0),
        default=4,
        help="contexts of validation text on which to compare it with torch; 0: none (default: 4)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from antimatter import params
    from antimatter.data.shards.reader import Shards
    from antimatter.export import facts, gguf, huggingface, parity
    from antimatter.export.config import GGUFConfig

    values = options.params_file(has_defaults=arguments.checkpoint is not None)
    config = params.read(GGUFConfig, "gguf", values)
    config = replace(config, name=arguments.name or config.name)
    types = arguments.type or config.types
    for file_type in types:
        if file_type == "hf":
            huggingface.check_output(huggingface.path_of(arguments.output, config.name))
        else:
            path = gguf.path_of(arguments.output, config.name, file_type)
            outputs.check_file(path, "--output")
    default = options.TUNED if config.model == "tuned" else options.CHECKPOINTS
    checkpoint: Path = arguments.checkpoint or default
    source = _source(checkpoint, arguments.config)
    tokenizer = options.tokenizer_file(arguments, checkpoint)
    model, windows = None, None
    absent, names = f"{options.SHARDS} is missing", list[str]()
    if options.SHARDS.is_dir() and set(types) != {"hf"}:
        shards = Shards(options.SHARDS)
        names = facts.data_sets(source, shards)
        absent = f"{options.SHARDS} has another vocabulary"
        if arguments.windows and shards.vocab_size == source.config.vocab_size:
            model = source.load()
            validation = shards.split("validation")
            windows = parity.windows(validation, model.config.block_size, arguments.windows)
    # transformers computes with torch, so only GGUF files are compared with it
    for file_type in types:
        if file_type == "hf":
            folder = huggingface.path_of(arguments.output, config.name)
            huggingface.write(source, tokenizer, folder)
            loaders = "AutoModelForCausalLM.from_pretrained and AutoTokenizer.from_pretrained"
            print(f"{folder}: for {loaders}")
            continue
        path = gguf.path_of(arguments.output, config.name, file_type)
        options.log(f"writing {path} ...")
        gguf.write(source, tokenizer, path, file_type, config, names)
        print(f"{path}: {path.stat().st_size / 1e6:,.1f} MB", end="", flush=True)
        if model is not None and windows is not None:
            report = parity.check(model, path, windows, getattr(config.max_kl, file_type))
            print(
                f"; in llama.cpp KL {report['kl']:g} from torch, {report['top1_agreement']:.2%} of"
                " first choices the same"
            )
        elif arguments.windows:
            print(f"; not compared with torch, since {absent}")
        else:
            print()


def _source(path: Path, config: Path | None) -> "Source":
    """The checkpoint, with the commit that recorded it if it is an output of the pipeline."""
    from dataclasses import replace

    from antimatter.export.source import open_checkpoint
    from antimatter.pipeline import recorded
    from antimatter.repository import history

    source = open_checkpoint(path, config)
    if path.is_dir() and (commit := history.commit_of(recorded.md5(path))):
        source = replace(source, provenance=source.provenance | {"commit": commit})
    return source
