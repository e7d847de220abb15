"""`antimatter plots`"""

import argparse
from pathlib import Path

from antimatter import outputs
from antimatter.cli import options
from antimatter.cli.options import Commands
from antimatter.errors import UserError


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "plots",
        help="all charts of one or several revisions in one PNG, without DVC; or live in a browser",
    )
    command.add_argument(
        "revision",
        nargs="*",
        help="commits, branches, names of experiments, or `workspace` (default: workspace)",
    )
    command.add_argument(
        "--output",
        type=Path,
        default=Path("plots.png"),
        metavar="FILE",
        help="(default: plots.png)",
    )
    command.add_argument(
        "--live",
        action="store_true",
        help="serve the page of `dvc plots` instead, which follows a running training; with"
        " revisions, beside their charts",
    )
    command.add_argument(
        "--port",
        type=options.integer(0, 65535),
        default=8001,
        help="of --live, on this machine alone; 0: a free one (default: 8001)",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.live:
        show_live(arguments.revision, arguments.port)
        return
    outputs.check_file(arguments.output, "--output")
    if arguments.output.suffix != ".png":
        raise UserError(f"--output {arguments.output} must end with .png, the only kind there is")
    from antimatter.report import revisions

    revisions.draw(arguments.revision or [revisions.WORKSPACE], arguments.output)
    print(arguments.output)


def show_live(revisions: list[str], port: int) -> None:
    from antimatter.report import live
    from antimatter.serve.http import runner

    with runner.bind("127.0.0.1", port) as listening:
        charts = live.Charts(revisions)
        # An unknown revision, or a folder without DVC
        charts.refresh()
        app = live.application(charts)
        print(f"plots at {runner.url(listening, None)}", flush=True)
        live.serve(app, listening)
