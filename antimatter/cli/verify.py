"""`antimatter verify`"""

import argparse
import signal
import sys
from pathlib import Path

from antimatter import outputs
from antimatter.cli import options
from antimatter.cli.options import Commands


def add_parser(commands: Commands) -> None:
    command = commands.add_parser(
        "verify",
        help="run the pipeline again in a temporary clone, and compare every output with what the"
        " commit records",
        description="Reproduces the commit that is checked out, in a temporary clone (TMPDIR) with"
        " an empty cache. Exits 0 if all is identical, or within the tolerance of another kind of"
        " machine (docs/verify.md); else 1. The progress goes to stderr, the report to stdout.",
    )
    command.add_argument(
        "--from",
        dest="start",
        default="",
        metavar="STAGE",
        help="this stage and the stages that depend on it; their inputs come from the cache",
    )
    command.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a parameter for this run; can be repeated",
    )
    command.add_argument(
        "--exact", action="store_true", help="exit 0 only if every output is the same to the byte"
    )
    command.add_argument("--keep", action="store_true", help="keep the clone, and say where")
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report there too, for programs"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.json:
        outputs.check_file(arguments.json, "--json")
    from antimatter import files
    from antimatter.verify import report as reports
    from antimatter.verify.run import Request, verify

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP, and so must we
        if signal.getsignal(number) != signal.SIG_IGN:
            # As an exception, so that every `finally` ends the stages and deletes the clone
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    request = Request(arguments.start, tuple(arguments.set_param), arguments.keep)
    report = verify(Path(), request, options.log)
    if arguments.json:
        files.write_json(arguments.json, reports.as_json(report, arguments.exact))
    sys.stdout.writelines(f"{line}\n" for line in reports.lines(report))
    sys.stdout.flush()
    if status := report.status(arguments.exact):
        sys.exit(status)
