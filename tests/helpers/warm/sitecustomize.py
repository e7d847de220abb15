"""`python -m stages.X` where a test has this folder on PYTHONPATH (a_pipeline.WARM): the stage runs
in a fork of server.py, which has imported the libraries. That takes longer than a tiny stage.

This process stays for it: it ends as the stage ends, passes on the signals that it gets, and takes
the stage along when it is killed.
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

    server = None
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(address)
        except ConnectionRefusedError:
            link.close()
            if server is None:  # of several that are started one gets the address
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
    except BaseException as error:  # site would print it and let Python run the stage
        print(f"tests/warm: {error!r}", file=sys.stderr)
        os._exit(1)
