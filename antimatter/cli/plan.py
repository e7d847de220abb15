"""`antimatter plan`"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from antimatter.cli import options
from antimatter.cli.options import PRESETS, Commands
from antimatter.errors import UserError

if TYPE_CHECKING:
    from antimatter.planning.presets import Preset

LADDER, SUMMARY = Path("ladder"), Path("metrics/evaluation/summary.json")


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "plan",
        help="what a training takes: FLOPs, memory, hours and money on known GPUs",
        description="Of one params.yaml, or of all presets in one table.",
    )
    command.add_argument(
        "file",
        nargs="?",
        type=Path,
        help=f"the parameters; without it, all presets in {PRESETS}/ are compared",
    )
    options.add_gpus(command)
    command.add_argument(
        "--kaggle",
        action="store_true",
        help="the parts of one session on Kaggle's two T4, from raw text to the chat model",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    lines = _of_presets(arguments) if arguments.file is None else _of_file(arguments)
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _of_file(arguments: argparse.Namespace) -> list[str]:
    from antimatter.planning import budget, gpus, plan, reads

    if arguments.kaggle:
        if arguments.gpu or arguments.devices != 1 or arguments.price is not None:
            raise UserError(
                "--kaggle is about two T4 for free: leave out --gpu, --devices and --price"
            )
        planned = plan.read(arguments.file, 1, arguments.mfu)
        return budget.report(planned, reads.read(arguments.file))
    cards = gpus.choose(arguments.gpu, arguments.price)
    planned = plan.read(arguments.file, arguments.devices, arguments.mfu)
    return plan.report(planned, cards, reads.read(arguments.file).kept_tokens)


def _of_presets(arguments: argparse.Namespace) -> list[str]:
    from antimatter.planning import gpus, presets

    if arguments.kaggle:
        raise UserError(f"--kaggle needs a file, such as {PRESETS}/kaggle.yaml: name it")
    cards = gpus.choose(arguments.gpu or presets.USUAL, arguments.price)
    shown = [(card, arguments.devices) for card in cards]
    if not arguments.gpu and arguments.devices == 1:
        # Kaggle's two
        shown.insert(1, (cards[0], 2))
    paths = sorted(PRESETS.glob("*.yaml"))
    if not paths:
        raise UserError(f"{PRESETS}/ has no preset: run from the root of the repository")
    compared = presets.read(paths, arguments.mfu)
    return presets.table(compared, shown, _losses(compared))


def _losses(compared: "list[Preset]") -> dict[str, tuple[str, str]]:
    """Bits per byte and perplexity: the forecasts of the committed ladder, or what was measured if
    params.yaml is one of the presets.
    """
    from antimatter import files, params
    from antimatter.ladder import forecast

    law = forecast.read(LADDER)
    losses = {}
    for preset in compared:
        if law and (one := law.of(preset.plan, preset.reads.kept_bytes)):
            bits = f"{one.bits_per_byte.median:.2f}"
            low, high = one.perplexity.low, one.perplexity.high
            losses[preset.name] = bits, f"{one.perplexity.median:,.0f} ({low:,.0f}-{high:,.0f})"
        path = PRESETS / f"{preset.name}.yaml"
        is_chosen = params.PARAMS.is_file() and path.read_bytes() == params.PARAMS.read_bytes()
        if is_chosen and _is_recorded():
            summary = files.read_json(SUMMARY)
            bits = f"{summary['bits_per_byte']:.2f}"
            losses[preset.name] = bits, f"{summary['perplexity']:,.0f} measured"
    return losses


def _is_recorded() -> bool:
    """Whether dvc.lock records the summary, as that of a run with this params.yaml."""
    from antimatter import params
    from antimatter.pipeline import recorded

    if not (SUMMARY.is_file() and recorded.LOCK.is_file()):
        return False
    stages, current = recorded.stages(), params.load()
    sections = [stage.get("params", {}).get(str(params.PARAMS), {}) for stage in stages.values()]
    return recorded.md5(SUMMARY) == recorded.hashes(stages).get(SUMMARY.as_posix()) and all(
        current.get(name) == values for section in sections for name, values in section.items()
    )
