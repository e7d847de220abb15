"""Runs the usual clients of both APIs against a real `antimatter serve`, and prints a table.

    python -m venv /tmp/clients
    /tmp/clients/bin/pip install -e . openai ollama langchain-openai litellm
    /tmp/clients/bin/python benchmarks/clients.py [--model models/gguf/antimatter-f16.gguf]

A call that must be refused counts as right if the client raises its own error and that names the
key. Open WebUI is replayed: its requests, taken from backend/open_webui/{routers,utils}, are sent
with aiohttp as it sends them. Exits with status 1 if a call fails.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import serve_process

# LiteLLM would fetch prices, and both look for accounts
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_API_KEY": "none"}
import aiohttp
import langchain_core.messages as langchain
import litellm
import ollama
import openai
from langchain_openai import ChatOpenAI, OpenAI

MODEL = "antimatter"
ASKED = [{"role": "user", "content": "Who are you?"}]
PARTS = [{"type": "text", "text": "Who are "}, {"type": "text", "text": "you?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
    },
}
Call = tuple[str, str, Callable[[], Any]]


def refused(call: Callable[[], Any], word: str) -> str:
    """The error of a call that must fail, which must have this word."""
    try:
        call()
    except Exception as error:
        assert word in str(error), f"{type(error).__name__}: {error}"
        return f"refused, {type(error).__name__}"
    raise AssertionError("it was not refused")


async def gathered(stream: Any) -> list[Any]:
    return [part async for part in stream]


def openai_calls(url: str) -> Iterator[Call]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    chat, text = client.chat.completions, client.completions
    to_chat: dict[str, Any] = {"model": MODEL, "messages": ASKED}
    to_continue: dict[str, Any] = {"model": MODEL, "prompt": "The array", "max_tokens": 8}
    usage: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}

    def streamed() -> str:
        chunks = list(chat.create(**to_chat, **usage))
        assert not chunks[-1].choices and chunks[-1].usage.completion_tokens > 0
        return "".join(c.choices[0].delta.content or "" for c in chunks[:-1])

    async def asynchronous() -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as other:
            chunks = await gathered(await other.chat.completions.create(**to_chat, stream=True))
            whole = await other.chat.completions.create(**to_chat)
        assert whole.choices[0].message.content
        return "".join(c.choices[0].delta.content or "" for c in chunks)

    def helper() -> str:
        with chat.stream(**to_chat) as stream:
            return str(stream.get_final_completion().choices[0].message.content)

    def several() -> str:
        chunks = list(chat.create(**to_chat, n=3, seed=1, stream=True))
        assert {c.choices[0].index for c in chunks} == {0, 1, 2}
        choices = chat.create(**to_chat, n=3, seed=1).choices
        assert [c.index for c in choices] == [0, 1, 2]
        return str(choices[2].message.content)

    def seeded() -> str:
        one, two = (chat.create(**to_chat, temperature=1, seed=7) for _ in range(2))
        assert one.choices[0].message.content == two.choices[0].message.content
        return str(one.choices[0].message.content)

    def history() -> str:
        answer = chat.create(**to_chat).choices[0].message
        messages = [{"role": "developer", "content": "Be brief."}, *ASKED, answer]
        messages.append({"role": "user", "content": PARTS, "name": "ann"})
        answer = chat.create(model=MODEL, messages=messages, max_completion_tokens=20)
        return str(answer.choices[0].message.content)

    def prompts() -> str:
        choices = text.create(**to_continue | {"prompt": ["The array", "A list"], "n": 2}).choices
        assert len(choices) == 4
        return str(choices[3].text)

    json_format = {"type": "json_object"}
    many = [{"role": "user", "content": "word " * 2000}]
    name = "openai-python"
    yield name, "`models.list()`", lambda: [m.id for m in client.models.list()] == [MODEL]
    yield name, "`models.retrieve()`", lambda: client.models.retrieve(MODEL).id
    retrieve = client.models.retrieve
    yield name, '`models.retrieve("gpt")`', lambda: refused(lambda: retrieve("gpt"), "gpt")
    yield name, "chat", lambda: chat.create(**to_chat).choices[0].message.content
    yield name, "chat, streamed, `include_usage`", streamed
    yield name, "chat, async, streamed and not", lambda: asyncio.run(asynchronous())
    yield name, "`chat.completions.stream()`", helper
    yield name, "chat, `n=3`, streamed and not", several
    yield name, "chat, `seed` twice", seeded
    yield name, "chat, `developer`, its own answer sent back, parts, `name`", history
    yield name, "completion", lambda: text.create(**to_continue).choices[0].text
    streaming = to_continue | {"stream": True}
    yield name, "completion, streamed", lambda: len(list(text.create(**streaming)))
    yield name, "completion, two prompts, `n=2`", prompts
    for word, options in (
        ("tools", {"tools": [TOOL]}),
        ("logprobs", {"logprobs": True, "top_logprobs": 2}),
        ("response_format", {"response_format": json_format}),
        ("too long", {"messages": many}),
        ("reasoning_effort", {"reasoning_effort": "high"}),
    ):
        call = partial(chat.create, **to_chat | options)
        label = "chat, longer than the context" if word == "too long" else f"chat, `{word}`"
        yield name, label, partial(refused, call, word)
    ids = to_continue | {"prompt": [1, 2]}
    yield name, "completion, token ids", lambda: refused(lambda: text.create(**ids), "token ids")
    embed = lambda: client.embeddings.create(model=MODEL, input="x")  # noqa: E731
    yield name, "`embeddings.create()`", lambda: refused(embed, "embeddings")


def langchain_calls(url: str) -> Iterator[Call]:
    options: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    chat = ChatOpenAI(model=MODEL, **options)
    llm = OpenAI(model=MODEL, max_tokens=8, **options)
    human = langchain.HumanMessage(PARTS, name="ann")
    messages = [langchain.SystemMessage("Be brief."), human, chat.invoke([human])]
    messages.append(langchain.HumanMessage("And who made you?"))

    async def asynchronous() -> str:
        parts = await gathered(chat.astream("Who are you?"))
        assert (await chat.ainvoke("Who are you?")).content
        return "".join(str(part.content) for part in parts)

    def usage() -> int:
        counting = ChatOpenAI(model=MODEL, stream_usage=True, **options)
        usages = [part.usage_metadata for part in counting.stream("Who are you?")]
        return int(sum(usage["output_tokens"] for usage in usages if usage))

    def generations() -> str:
        answers = llm.bind(n=2, best_of=2).invoke("The array")
        assert len(llm.generate(["The array", "A list"]).generations) == 2
        return str(answers)

    name = "ChatOpenAI (LangChain)"
    yield name, "`invoke`", lambda: chat.invoke("Who are you?").content
    yield name, "`invoke`, a conversation with parts and a name", lambda: chat.invoke(messages)
    yield name, "`stream`", lambda: "".join(str(c.content) for c in chat.stream("Who are you?"))
    yield name, "`stream`, `stream_usage`", usage
    yield name, "`ainvoke`, `astream`", lambda: asyncio.run(asynchronous())
    yield name, "`batch`", lambda: chat.batch(["Who are you?"] * 3)
    bound = chat.bind_tools([TOOL])
    long = "word " * 2000
    # It has an error of its own for that
    label = "`invoke`, longer than the context"
    yield name, label, lambda: refused(lambda: chat.invoke(long), "too long")
    yield name, "`bind_tools`", lambda: refused(lambda: bound.invoke("Add 1 and 2"), "tools")
    name = "OpenAI (LangChain)"
    yield name, "`invoke`", lambda: llm.invoke("The array")
    yield name, "`stream`", lambda: "".join(llm.stream("The array"))
    yield name, "`ainvoke`", lambda: asyncio.run(llm.ainvoke("The array"))
    yield name, "`generate` of two prompts, `n=2`", generations


def litellm_calls(url: str) -> Iterator[Call]:
    litellm.suppress_debug_info = True
    for provider, base in (("openai", f"{url}/v1"), ("ollama_chat", url), ("ollama", url)):
        options: dict[str, Any] = {"api_base": base, "api_key": "none", "num_retries": 0}
        chat: dict[str, Any] = {"model": f"{provider}/{MODEL}", "messages": ASKED, **options}

        def streamed(chat: dict[str, Any] = chat) -> str:
            chunks = litellm.completion(**chat, stream=True)
            return "".join(c.choices[0].delta.content or "" for c in chunks)

        async def gather(chat: dict[str, Any] = chat) -> str:
            chunks = await gathered(await litellm.acompletion(**chat, stream=True))
            assert (await litellm.acompletion(**chat)).choices[0].message.content
            return "".join(c.choices[0].delta.content or "" for c in chunks)

        def asynchronous(gather: Callable[..., Coroutine[Any, Any, str]] = gather) -> str:
            return asyncio.run(gather())

        def whole(chat: dict[str, Any] = chat) -> str:
            answer = litellm.completion(**chat, max_tokens=20, temperature=0, seed=1)
            assert answer.usage.completion_tokens > 0
            return str(answer.choices[0].message.content)

        def tools(chat: dict[str, Any] = chat) -> str:
            return refused(lambda: litellm.completion(**chat, tools=[TOOL]), "tools")

        name = f"LiteLLM, `{provider}/`"
        yield name, "`completion`", whole
        yield name, "`completion`, streamed", streamed
        yield name, "`acompletion`, streamed and not", asynchronous
        # `ollama/` writes them into the prompt
        if provider != "ollama":
            yield name, "`completion` with `tools`", tools
    both = {"max_tokens": 20, "max_completion_tokens": 20}
    extra = {"model": f"openai/{MODEL}", "messages": ASKED, "api_base": f"{url}/v1"}
    name = "LiteLLM, `openai/`"
    yield name, "`completion`, both lengths", lambda: litellm.completion(**extra, **both)
    text = {"model": f"text-completion-openai/{MODEL}", "api_base": f"{url}/v1", "max_tokens": 8}
    yield name, "`text_completion`", lambda: litellm.text_completion(**text, prompt="The array")
    two = ["The array", "A list"]
    yield name, "`text_completion` of a list", lambda: litellm.text_completion(**text, prompt=two)


def ollama_calls(url: str) -> Iterator[Call]:
    client = ollama.Client(host=url)
    options = {"temperature": 0, "seed": 1, "num_predict": 8, "num_ctx": 4096, "num_gpu": 0}

    def streamed() -> str:
        *parts, last = client.chat(model=MODEL, messages=ASKED, stream=True)
        assert last.done and last.done_reason == "stop" and last.eval_count
        return "".join(part.message.content or "" for part in parts)

    async def asynchronous() -> str:
        other = ollama.AsyncClient(host=url)
        parts = await gathered(await other.chat(model=MODEL, messages=ASKED, stream=True))
        whole = await other.generate(model=MODEL, prompt="Who are you?")
        assert whole.response
        return "".join(part.message.content or "" for part in parts)

    def raw() -> str:
        roles = "[USER]Who are you?[ASSISTANT]"
        raw = client.generate(model=MODEL, prompt=roles, raw=True, options={"temperature": 0})
        messages = [{"role": "system", "content": ""}, *ASKED]
        same = client.chat(model=MODEL, messages=messages, options={"temperature": 0})
        assert raw.response == same.message.content
        return str(raw.response)

    def quantization() -> str | None:
        details = client.show(MODEL).details
        return details.quantization_level if details else None

    to_refuse: dict[str, Callable[[], Any]] = {
        "tools": lambda: client.chat(model=MODEL, messages=ASKED, tools=[TOOL]),
        "format": lambda: client.chat(model=MODEL, messages=ASKED, format="json"),
        "think": lambda: client.chat(model=MODEL, messages=ASKED, think=True),
        "images": lambda: client.generate(MODEL, "What?", images=[b"x"]),
        "llama3": lambda: client.chat(model="llama3", messages=ASKED),
        "embed": lambda: client.embed(model=MODEL, input="x"),
        "pull": lambda: client.pull("llama3"),
    }
    name = "ollama (Python)"
    yield name, "`list()`", lambda: client.list().models[0].model == f"{MODEL}:latest"
    yield name, "`show()`", quantization
    yield name, "`ps()`", lambda: client.ps().models[0].context_length
    yield name, "`chat`", lambda: client.chat(model=MODEL, messages=ASKED).message.content
    yield name, "`chat`, streamed", streamed
    yield name, "async `chat`, streamed, and `generate`", lambda: asyncio.run(asynchronous())
    generate = client.generate
    yield name, "`generate`, `options`", lambda: generate(MODEL, "Who?", options=options).response
    yield name, "`generate`, streamed", lambda: len(list(generate(MODEL, "Who?", stream=True)))
    yield name, "`generate`, `raw`", raw
    yield name, "`generate` without a prompt", lambda: generate(MODEL).done_reason == "load"
    for word, call in to_refuse.items():
        label = "another model" if word == "llama3" else f"`{word}`"
        yield name, label, partial(refused, call, word)


async def fetch(method: str, url: str, body: Any = None) -> tuple[int, str]:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    content = None if body is None else json.dumps(body)
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        session.request(method, url, data=content, headers=headers) as response,
    ):
        return response.status, await response.text()


def open_webui_calls(url: str) -> Iterator[Call]:
    def sends(method: str, path: str, body: Any = None, end: str = "") -> str:
        status, answer = asyncio.run(fetch(method, url + path, body))
        assert status == 200, answer
        assert end in answer, answer
        return answer

    to_openai: dict[str, Any] = {
        "model": MODEL,
        "messages": ASKED,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.9,
        "min_p": 0.0,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "max_tokens": 20,
        "seed": 1,
        "stop": ["\n\n"],
    }
    title: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Generate a concise title of this chat."}],
        "stream": False,
    }
    to_ollama: dict[str, Any] = {
        "model": f"{MODEL}:latest",
        "messages": ASKED,
        "stream": True,
        "options": {"temperature": 0.5, "num_ctx": 2048, "num_gpu": 0, "mirostat": 0, "top_k": 40},
        "keep_alive": "5m",
    }
    name = "Open WebUI, OpenAI connection"
    chat = "/v1/chat/completions"
    yield name, "`/v1/models`", lambda: sends("GET", "/v1/models", end='"data"')
    yield name, "chat with its parameters", lambda: sends("POST", chat, to_openai, "[DONE]")
    long = title | {"max_completion_tokens": 1000}
    yield name, "title", lambda: sends("POST", chat, long, '"content"')
    name = "Open WebUI, Ollama connection"
    for path in ("version", "tags", "ps"):
        yield name, f"`/api/{path}`", partial(sends, "GET", f"/api/{path}")
    show = {"model": f"{MODEL}:latest"}
    yield name, "`/api/show`", lambda: sends("POST", "/api/show", show, '"capabilities"')
    yield name, "chat", lambda: sends("POST", "/api/chat", to_ollama, '"done":true')
    titled = title | {"num_predict": 1000, "options": {}}
    yield name, "title", lambda: sends("POST", "/api/chat", titled, '"content"')


def curl_calls(url: str) -> Iterator[Call]:
    """The first examples of both manuals, with this model."""

    def curl(*arguments: str) -> str:
        run = subprocess.run(
            ["curl", "-sS", "--fail-with-body", "--noproxy", "*", *arguments],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    body = json.dumps({"model": MODEL, "messages": ASKED})
    openai_url = f"{url}/v1/chat/completions"
    headers = ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer none"]
    prompt = json.dumps({"model": MODEL, "prompt": "Who are you?"})
    name = "curl"
    yield name, "OpenAI's manual", lambda: curl(openai_url, *headers, "-d", body)
    yield name, "Ollama's manual, generate", lambda: curl(f"{url}/api/generate", "-d", prompt)
    yield name, "Ollama's manual, chat", lambda: curl(f"{url}/api/chat", "-d", body)
    yield name, "Ollama's manual, tags", lambda: curl(f"{url}/api/tags")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=Path("models/gguf/antimatter-f16.gguf"))
    parser.add_argument("--verbose", action="store_true", help="show what the calls return")
    arguments = parser.parse_args()
    packages = "openai langchain-openai litellm ollama".split()
    print(", ".join(f"{name} {metadata.version(name)}" for name in packages))
    rows: dict[str, tuple[list[str], list[str], list[str]]] = {}
    with serve_process.serving(arguments.model) as server:
        for client, call, run in calls(f"http://127.0.0.1:{server.port}"):
            answered, refused_by_name, failed = rows.setdefault(client, ([], [], []))
            try:
                returned = run()
                assert returned not in (None, "", False), repr(returned)
            except Exception as error:
                words = " ".join(str(error).split())[:300]
                failed.append(f"{call}: {type(error).__name__}: {words}")
                continue
            is_refusal = isinstance(returned, str) and returned.startswith("refused")
            (refused_by_name if is_refusal else answered).append(call)
            if arguments.verbose:
                print(f"{client}, {call}: {returned!r:.200}")
    print("\n| client | answered | refused by name | failed |\n|---|---|---|---|")
    for client, columns in rows.items():
        print(f"| {client} | {' | '.join('; '.join(column) for column in columns)} |")
    if any(failed for _, _, failed in rows.values()):
        sys.exit(1)


def calls(url: str) -> Iterator[Call]:
    yield from openai_calls(url)
    yield from langchain_calls(url)
    yield from litellm_calls(url)
    yield from ollama_calls(url)
    yield from open_webui_calls(url)
    yield from curl_calls(url)


if __name__ == "__main__":
    main()
