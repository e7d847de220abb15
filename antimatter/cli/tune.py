"""`antimatter tune`"""

import argparse
from pathlib import Path

from antimatter import outputs
from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "tune",
        help="give the tuned model another persona, in a minute or two",
        description="Trains a model that converses on the conversations of a persona file, and asks"
        " it the phrasings that the file holds out.",
    )
    command.add_argument("persona", type=Path, help="a file like prompts/persona.yaml")
    command.add_argument(
        "--from",
        dest="initial",
        type=Path,
        default=options.TUNED,
        help=f"the folder of the model to begin with (default: {options.TUNED})",
    )
    command.add_argument("--output", type=Path, required=True, help="the folder to write")
    command.add_argument(
        "--epochs", type=options.number("(0, 1000]"), default=1.0, help="(default: 1)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    options.prepare_torch()
    _check(arguments)
    from antimatter.evaluation import persona_tuning
    from antimatter.evaluation.persona_tuning import PersonaTuning

    request = PersonaTuning(
        persona=arguments.persona,
        initial=arguments.initial,
        tokenizer=options.TOKENIZER,
        conversations=options.CONVERSATIONS,
        output=arguments.output,
        epochs=arguments.epochs,
    )
    right, total = persona_tuning.tune(request, options.log)
    output, name = arguments.output, arguments.output.name
    print(f"{output}: {right} of {total} held-out questions about its identity answered correctly")
    export = f"antimatter export --checkpoint {output} --type q8_0 --name {name}"
    print(f"talk to it: {export} && antimatter chat --model {name}-q8_0.gguf")


def _check(arguments: argparse.Namespace) -> None:
    """Raises UserError for paths that do not fit, before the work."""
    from antimatter.model import weights

    initial, output = arguments.initial, arguments.output
    for path in (initial / weights.CONFIG, weights.path_of(initial)):
        if not path.is_file():
            fix = "name the folder of a model (`dvc repro tuned` makes one)"
            raise UserError(f"--from {initial} has no file {path.name}: {fix}")
    outputs.check_folder(output, "--output", (weights.FINAL, weights.CONFIG))
    if (output / weights.CONFIG).exists():
        weights.read_config(output / weights.CONFIG, "name another folder as --output")
