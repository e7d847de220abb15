"""The plots page while a training runs: the same charts, from the rows written so far.

DVC makes the charts, in a process of its own: `dvc plots show` takes no lock, so `dvc repro` runs
on. It runs when the page asks for news and the files have changed, for a tenth of the time of one
core and at a low priority, so that a training hardly notices.
"""

import asyncio
import json
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from socket import socket
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from antimatter.errors import UserError
from antimatter.monitor import watch
from antimatter.report import page
from antimatter.repository import dvc
from antimatter.serve.http import access

PATTERNS = ("plots/*/*.csv", "dvc.yaml", ".dvc/plots/*.json")
# Those with a status of their own while they run
TRAININGS = ("checkpoints", "tuned")
SECONDS = 2.0  # at least between two runs of DVC
SHARE = 0.1  # of a core, for DVC
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Charts:
    """What DVC draws from the present files.

    Args:
        revisions: to compare with; none: the files alone.
    """

    def __init__(self, revisions: Sequence[str]) -> None:
        part = ("diff", *revisions) if revisions else ("show",)
        self._command = ["nice", *dvc.COMMAND, "plots", *part, "--json"]
        self._files: list[tuple[str, int, int]] | None = None
        self._next = 0.0
        self.version = 0
        self.json = "{}"  # as DVC prints it

    def refresh(self) -> None:
        """Lets DVC read the files if they have changed, unless it did a moment ago.

        Raises:
            UserError: DVC fails, or finds no chart. The charts remain as they were.
        """
        present = _files()
        if time.monotonic() < self._next or present == self._files:
            return
        before = _seconds_of_children()
        done = subprocess.run(
            self._command, env=dvc.environment(), capture_output=True, text=True, check=False
        )
        used = _seconds_of_children() - before
        self._next = time.monotonic() + max(SECONDS, used / SHARE)
        if done.returncode:
            raise UserError(f"`dvc plots` failed: {dvc.last_error(done.stderr)}")
        answer = json.loads(done.stdout)
        # It also reports each file that a stage has not written yet
        if not any(answer.get("data", {}).values()):
            reasons = [error["msg"] for error in answer.get("errors", ()) if error.get("msg")]
            reason = " ".join(reasons[0].split()) if reasons else "DVC knows none in this folder"
            raise UserError(f"there is no chart ({reason}): `dvc plots show` says more")
        self._files, self.json = present, done.stdout
        self.version += 1


def application(charts: Charts) -> web.Application:
    """The page at /, and its charts at /charts.json."""
    reading = asyncio.Lock()
    text = page.template().replace("{plot_divs}", "").replace("{refresh_tag}", "")

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type="text/html")

    async def news(request: web.Request) -> web.Response:
        """The status, and the charts unless the page has this version of them."""
        answer: dict[str, Any] = {"error": ""}
        async with reading:
            try:
                await asyncio.to_thread(charts.refresh)
            except UserError as error:
                answer["error"] = str(error)
        answer |= {"version": charts.version, "status": status(time.time())}
        known = request.query.get("version") == str(charts.version)
        body = json.dumps(answer)[:-1] + (f', "charts": {charts.json}' if not known else "") + "}"
        return web.Response(text=body, content_type="application/json")

    app = web.Application(middlewares=[_respond])
    app.add_routes([web.get("/", show), web.get("/charts.json", news)])
    return app


def serve(app: web.Application, listening: socket) -> None:
    """Serves it until SIGTERM or Ctrl-C."""
    web.run_app(app, sock=listening, print=None, access_log=None, shutdown_timeout=1.0)


def status(now: float) -> str:
    """The step, the loss and the time left of the training that is running; empty if none is."""
    runs = [watch.read(Path("."), watch.Run(), stage) for stage in TRAININGS]
    newest = max(runs, key=lambda run: run.live.get("updated", 0))
    if newest.live.get("state") != "training":
        return ""
    return "\n".join(watch.status(newest, now, width=200))


def _seconds_of_children() -> float:
    """Of the processor."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _files() -> list[tuple[str, int, int]]:
    """The files that decide the charts, with what changes when one is written."""
    found = []
    for path in (path for pattern in PATTERNS for path in Path(".").glob(pattern)):
        try:
            stat = path.stat()
        # DVC deletes the outputs of a stage before it runs
        except FileNotFoundError:
            continue
        found.append((str(path), stat.st_mtime_ns, stat.st_size))
    return sorted(found)


@web.middleware
async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses requests from other sites, which could read the charts by DNS rebinding."""
    hosts, origins = (request.headers.getall(name, []) for name in ("Host", "Origin"))
    try:
        access.check_origin(hosts, origins, ())
    except UserError as error:
        raise web.HTTPForbidden(text=str(error)) from None
    response = await handler(request)
    response.headers.update(HEADERS)
    return response
