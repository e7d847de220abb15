"""The requests of Open WebUI, with either kind of connection.

It is too large to install here. The bodies have the keys that its source sends
(backend/open_webui/routers/{openai,ollama,tasks}.py and utils/payload.py of open-webui/open-webui).
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import aiohttp
import pytest
from helpers.backends import ScriptedBackend, run
from helpers.http_server import Served, serving

from antimatter.llama.header import ChatFacts

TOKEN = "a-Token-of-16-chars"
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who are you?"},
]
TITLE = [{"role": "user", "content": "### Task: Generate a concise title of the chat."}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    facts = ChatFacts("Be kind.", "Hello!", ())
    backend = ScriptedBackend(repeats=3, pause=0.001, chat=facts)
    with serving(backend, token=TOKEN) as served:
        yield served
        assert served.log == []


def fetch(served: Served, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
    """The status, the content type and the text of an answer to aiohttp, which it uses too."""

    async def ask() -> tuple[int, str, str]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        headers["X-OpenWebUI-User-Name"] = "ann"
        content = None if body is None else json.dumps(body)
        url = f"http://127.0.0.1:{served.port}{path}"
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            session.request(method, url, data=content, headers=headers) as response,
        ):
            return response.status, response.headers["Content-Type"], await response.text()

    return run(ask())


def test_its_connection_to_openai_lists_models_and_chats(served: Served) -> None:
    status, _, text = fetch(served, "GET", "/v1/models")
    assert (status, [model["id"] for model in json.loads(text)["data"]]) == (200, ["antimatter"])
    body = {
        "model": "antimatter",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.8,
        "top_p": 0.9,
        "min_p": 0.05,
        "max_tokens": 128,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "seed": 42,
        "stop": ["###"],
        "logit_bias": {},
    }
    status, kind, text = fetch(served, "POST", "/v1/chat/completions", body)
    assert status == 200 and "text/event-stream" in kind
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "xxx"
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["usage"]] == [3]


def test_its_connection_to_openai_asks_for_a_title(served: Served) -> None:
    body = {"model": "antimatter", "messages": TITLE, "stream": False}
    body |= {"max_completion_tokens": 1000}
    status, _, text = fetch(served, "POST", "/v1/chat/completions", body)
    assert status == 200
    assert json.loads(text)["choices"][0]["message"]["content"] == "xxx"


def test_its_connection_to_ollama_is_verified_and_lists_models(served: Served) -> None:
    status, _, text = fetch(served, "GET", "/api/version")
    assert status == 200 and json.loads(text)["version"]
    (listed,) = json.loads(fetch(served, "GET", "/api/tags")[2])["models"]
    (running,) = json.loads(fetch(served, "GET", "/api/ps")[2])["models"]
    assert listed["model"] == listed["name"] == running["name"] == "antimatter:latest"
    # As it does with this text
    assert int(datetime.fromisoformat(running["expires_at"]).timestamp()) > 10**11
    status, _, text = fetch(served, "POST", "/api/show", {"model": "antimatter:latest"})
    assert status == 200 and json.loads(text)["details"]["family"] == "mpt"


def test_its_connection_to_ollama_chats(served: Served) -> None:
    options = {"temperature": 0.8, "top_k": 40, "num_ctx": 2048, "num_predict": 128, "stop": ["#"]}
    options |= {"mirostat": 0, "mirostat_eta": 0.1, "mirostat_tau": 5.0, "num_keep": 24}
    options |= {"use_mmap": True, "use_mlock": False, "num_thread": 2, "num_gpu": 0}
    body = {"model": "antimatter:latest", "messages": MESSAGES, "stream": True, "options": options}
    body |= {"keep_alive": "5m", "think": False, "format": ""}
    status, kind, text = fetch(served, "POST", "/api/chat", body)
    assert (status, kind) == (200, "application/x-ndjson")
    parts = [json.loads(line) for line in text.splitlines()]
    assert "".join(part["message"]["content"] for part in parts) == "xxx"
    assert [part["done"] for part in parts][-1] is True and parts[-1]["eval_count"] == 3


def test_its_connection_to_ollama_asks_for_a_title(served: Served) -> None:
    # Its max_tokens becomes a key beside the options
    body = {"model": "antimatter:latest", "messages": TITLE, "stream": False, "options": {}}
    status, _, text = fetch(served, "POST", "/api/chat", body | {"num_predict": 1000})
    assert status == 200 and json.loads(text)["message"]["content"] == "xxx"


def test_an_error_has_the_key_that_it_shows(served: Served) -> None:
    body = {"model": "antimatter", "messages": MESSAGES, "tools": [{"type": "function"}]}
    for path in ("/v1/chat/completions", "/api/chat"):
        status, _, text = fetch(served, "POST", path, body)
        assert status == 400 and "tools" in str(json.loads(text)["error"])
