"""Stands in for `antimatter serve` in a session on Kaggle. It answers each prompt with itself.

FAKE_SERVE: `fails`; or `refuses` all prompts.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

ENDING = os.environ.get("FAKE_SERVE")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == "/v1/chat/completions"
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        answer: dict[str, Any] = {"choices": [{"message": {"content": f" to {prompt} "}}]}
        is_refused = ENDING == "refuses" or prompt == "too long"
        if is_refused:
            answer = {"error": {"message": "the text has 99 tokens"}}
        content = json.dumps(answer).encode()
        self.send_response(400 if is_refused else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


if ENDING == "fails":
    sys.exit(3)
with HTTPServer(("127.0.0.1", 0), Handler) as server:
    options = " ".join(sys.argv[1:])
    print(f"serving tiny by fake {options} at http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
