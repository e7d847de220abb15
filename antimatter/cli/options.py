"""What several subcommands share: default paths, options, and how they report progress."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from antimatter import threads
from antimatter.errors import UserError

if TYPE_CHECKING:
    from antimatter.data.tokenizer import Tokenizer
    from antimatter.export.ollama import OllamaConfig
    from antimatter.serve.choose import Choice

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

CHECKOUT = Path(__file__).parents[2]
PRESETS = Path("presets")
GGUF = Path("models/gguf")
CLEANED, TOKENIZER, SHARDS = Path("data/cleaned"), Path("data/tokenizer"), Path("data/shards")
CHECKPOINTS, TUNED = Path("models/checkpoints"), Path("models/tuned")
CONVERSATIONS = Path("data/conversations")


def log(text: str) -> None:
    """Prints a line on stderr, as stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def prepare_torch() -> None:
    """Prepares the process as stages/__init__.py does. To be called before torch is imported."""
    threads.yield_soon()


def params_file(*, has_defaults: bool) -> Path:
    """params.yaml, or that of this checkout if there is none here; then stderr says so.

    Args:
        has_defaults: the user has named the files to work on, so params.yaml only provides
            defaults.
    """
    from antimatter.params import PARAMS

    default = CHECKOUT / PARAMS
    if PARAMS.exists() or not has_defaults or not default.is_file():
        return PARAMS
    log(f"no {PARAMS} here: using the values of {default}")
    return default


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """The type of an option that is a whole number from `low` to `high`, by default the largest
    that params.yaml takes.
    """

    def parse(text: str) -> int:
        # Here, as the start of a command needs the standard library alone
        from antimatter.params import LARGEST

        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        _check(f"[{low}, {LARGEST if high is None else high}]", value)
        return value

    return parse


def number(interval: str) -> Callable[[str], float]:
    """The type of an option that is a finite number in the interval, such as "(0, 1]"."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
        if not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"must be a finite number, got {text}")
        _check(interval, value)
        return value

    return parse


def _check(interval: str, value: float) -> None:
    from antimatter.params import Within

    try:
        Within(interval).check("it", value)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_model(command: argparse.ArgumentParser, auto: str) -> None:
    """Which model answers.

    Args:
        auto: what `--engine auto` does.
    """
    command.add_argument(
        "--model",
        type=Path,
        help=f"a GGUF file, or a folder with one (default: {GGUF}); implies --engine embedded",
    )
    command.add_argument(
        "--engine",
        choices=("auto", "ollama", "embedded"),
        default="auto",
        help=f"auto: {auto}",
    )


def ollama_config(arguments: argparse.Namespace) -> "OllamaConfig":
    """The section `ollama` of params.yaml, for a command with add_model()."""
    from antimatter import params
    from antimatter.export.ollama import OllamaConfig

    has_defaults = arguments.model is not None or arguments.engine == "ollama"
    return params.read(OllamaConfig, "ollama", params_file(has_defaults=has_defaults))


def backend_choice(arguments: argparse.Namespace) -> "Choice":
    if arguments.model and arguments.engine == "ollama":
        raise UserError("--model is for llama.cpp, --engine ollama has its own: leave one out")
    return "embedded" if arguments.model else arguments.engine


def gguf_file(arguments: argparse.Namespace, config: "OllamaConfig") -> Path:
    """The file of `--model`, or the one in its folder."""
    from antimatter.export import ollama

    path: Path = arguments.model or GGUF
    if arguments.model is None or path.is_dir():
        return ollama.source_of(path, config.type)
    return path


def add_checkpoint(command: argparse.ArgumentParser, default: Path | None, described: str) -> None:
    """A model that was trained with torch.

    Args:
        described: the default, as the help describes it.
    """
    command.add_argument(
        "--checkpoint",
        type=Path,
        default=default,
        help="a folder, a .safetensors file, or a .pt file with a state dict"
        f" (default: {described})",
    )


def add_tokenizer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tokenizer",
        type=Path,
        help="the tokenizer.json that the model was trained with, or its folder (default: the one"
        f" in the folder of the checkpoint, or else {TOKENIZER})",
    )


def tokenizer_file(arguments: argparse.Namespace, checkpoint: Path) -> Path:
    """The tokenizer.json that --tokenizer names, or else that of the checkpoint."""
    from antimatter.export import source

    path: Path = arguments.tokenizer or source.find_tokenizer(checkpoint)
    return path / "tokenizer.json" if path.is_dir() else path


def load_tokenizer(arguments: argparse.Namespace) -> "Tokenizer":
    """For a command with add_checkpoint() and add_tokenizer()."""
    from antimatter.data.tokenizer import Tokenizer

    return Tokenizer.load(tokenizer_file(arguments, arguments.checkpoint))


def add_gpus(group: "argparse._ActionsContainer") -> None:
    """The GPUs for which a run is planned."""
    group.add_argument(
        "--devices", type=integer(1), default=1, help="GPUs that share the batch (default: 1)"
    )
    group.add_argument(
        "--mfu",
        type=number("(0, 1]"),
        help="share of the GPU's peak that the training reaches (default: an assumption for each"
        " GPU)",
    )
    group.add_argument(
        "--gpu",
        action="append",
        default=[],
        metavar="NAME",
        help="show only this one; may be repeated, or name several with commas",
    )
    group.add_argument(
        "--price", type=float, help="US$ per GPU-hour of your provider, for all GPUs"
    )
