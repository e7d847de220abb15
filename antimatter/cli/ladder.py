"""`antimatter ladder`"""

import argparse
import sys
from pathlib import Path

from antimatter.cli import options
from antimatter.cli.options import PRESETS, Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "ladder",
        help="run smaller versions of the model as DVC experiments, fit the scaling law, forecast a"
        " large run",
        description="Runs those rungs that have not run yet, and writes ladder/rungs.csv,"
        " ladder.json and ladder.png: docs/ladder.md.",
    )
    command.add_argument(
        "--dry-run", action="store_true", help="only list the rungs and how long they would take"
    )
    command.add_argument(
        "--fit", action="store_true", help="run nothing: fit the results that there are"
    )
    command.add_argument(
        "--jobs",
        type=options.integer(1),
        help="rungs at a time (default: one per core; one if there is a GPU)",
    )
    command.add_argument(
        "--flops",
        type=options.number("(0, inf)"),
        default=1e18,
        help="that the largest rung may take; the width of a larger run is halved until it fits"
        " (default: 1e18)",
    )
    forecast = command.add_argument_group("the forecast")
    forecast.add_argument(
        "--forecast",
        type=Path,
        default=PRESETS / "300m.yaml",
        metavar="FILE",
        help=f"the parameters of the run (default: {PRESETS}/300m.yaml)",
    )
    options.add_gpus(forecast)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    options.prepare_torch()
    from antimatter.ladder import run as ladder
    from antimatter.planning import gpus, plan

    cards = gpus.choose(arguments.gpu, arguments.price)
    request = ladder.Options(
        flops=arguments.flops,
        jobs=arguments.jobs,
        target=arguments.forecast,
        devices=arguments.devices,
        mfu=arguments.mfu,
    )
    # Before the runs, which take long
    plan.read(arguments.forecast, arguments.devices, arguments.mfu)
    if arguments.dry_run:
        ladder.dry_run(Path(), request, cards, sys.stdout)
    else:
        ladder.run(Path(), request, cards, sys.stdout, sys.stderr, fit_only=arguments.fit)
