"""With this folder on PYTHONPATH (tiny_pipeline.WARM), `python -m stages.X` runs in a fork of
server.py, which has imported the libraries. Their import takes longer than a tiny stage.

This process represents the stage: it passes signals on, ends with the same exit code or signal, and
the stage is killed if this process is.
"""

import os
import sys


def _run(module: str, arguments: list[str], address: str) -> None:
    import json
    import signal
    import socket

    passed_on = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    request = {
        "module": module,
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
    }
    with _connect(address) as link:
        socket.send_fds(link, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
        answers = link.makefile()
        process = int(answers.readline())
        for number in passed_on:
            signal.signal(number, lambda number, _: os.kill(process, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
        status = int(answers.readline())
    if status < 0:
        if -status in passed_on:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _connect(address: str) -> "socket.socket":  # noqa: F821
    import socket
    import subprocess
    import time

    server, deadline = None, time.monotonic() + 60
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(address)
        except ConnectionRefusedError:
            link.close()
            if time.monotonic() > deadline:
                raise
            # Of several servers that start at once one gets the address
            if server is None:
                script = os.path.join(os.path.dirname(__file__), "server.py")
                server = subprocess.Popen(
                    [sys.executable, script, address[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            time.sleep(0.05)
        else:
            return link


if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("stages."):
    try:
        _run(sys.orig_argv[2], sys.orig_argv[3:], "\0" + os.environ["ANTIMATTER_WARM"])
    # Otherwise `site` would print the error and let Python run the stage
    except BaseException as error:
        print(f"tests/helpers/warm: {error!r}", file=sys.stderr)
        os._exit(1)
