"""Ollama's own API, for the clients that speak it, whichever backend answers.

Chat and generate, and what describes the one model. The prompt is rendered here, as for OpenAI's
API, so both give the same answer. Routes that manage models are refused.

Source: docs/api.md, api/types.go and server/routes.go of github.com/ollama/ollama.
"""

import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from antimatter.chat import template
from antimatter.chat.template import ROLES, Message
from antimatter.export.ollama import FILE_TYPES, TAG, OllamaConfig, human_number
from antimatter.llama.header import ChatFacts
from antimatter.serve.backend import Finish, ModelFile
from antimatter.serve.http import question, values
from antimatter.serve.http.answers import Event, Part, Queued, Started
from antimatter.serve.http.errors import APIError
from antimatter.serve.http.question import SAMPLING, Question

# Routes that manage models, or need another kind of model. Methods do not matter
UNSUPPORTED = [
    *("/api/embed", "/api/embeddings", "/api/pull", "/api/push", "/api/create", "/api/copy"),
    *("/api/delete", "/api/blobs/{digest}", "/api/me", "/api/signout"),
]
_NEVER = "9999-12-31T23:59:59Z"  # when the model is unloaded
# Open WebUI puts num_predict there when it asks for a title
_KEYS = {"model", "stream", "options", "keep_alive", "num_predict"}
# This server never shifts a context, so an answer ends where it is full
_IGNORED = {"shift", "metadata"}
_FIXED: dict[str, list[Any]] = {
    "format": [""],
    "images": [[]],
    "logprobs": [False],
    "think": [False],
    "tools": [[]],
    "top_logprobs": [0],
    "_debug_render_only": [False],
}
# Old turns are dropped where they do not fit; the prompt of generate is never cut
_OF_CHAT: dict[str, list[Any]] = {"truncate": [True]}
_OF_GENERATE: dict[str, list[Any]] = {
    "context": [[]],
    "suffix": [""],
    "template": [""],
    "truncate": [True, False],
    "width": [0],
    "height": [0],
    "steps": [0],
}
_OPTIONS = {*SAMPLING, "num_ctx", "num_predict", "seed", "stop"}
# How a model is loaded, and details of what is off or is not done here
_IGNORED_OPTIONS = {
    *("numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "use_mmap", "use_mlock"),
    *("num_thread", "num_keep", "draft_num_predict", "mirostat_tau", "mirostat_eta"),
}
_FIXED_OPTIONS: dict[str, list[Any]] = {
    "embedding_only": [False],
    "logits_all": [False],
    "mirostat": [0],
    "penalize_newline": [True],
    "tfs_z": [1],
    "vocab_only": [False],
}


def parse_chat(body: bytes, defaults: OllamaConfig) -> "tuple[Question, Reply]":
    """Raises APIError. No messages means to load the model: there is nothing to answer."""
    given = _read(body, {"messages"}, _FIXED | _OF_CHAT, defaults)
    # Ollama's Python client leaves an empty content out
    prompts = [question.messages(given["messages"], ROLES)] if given.get("messages") else []
    reply = Reply(True, given["model"], given.get("keep_alive"))
    return _question(given, prompts, "chat", defaults), reply


def parse_generate(body: bytes, defaults: OllamaConfig) -> "tuple[Question, Reply]":
    """Raises APIError. No prompt means to load the model: there is nothing to answer."""
    given = _read(body, {"prompt", "raw", "system"}, _FIXED | _OF_GENERATE, defaults)
    text = values.text(given.get("prompt", ""), "prompt")
    system = values.text(given.get("system", ""), "system")
    is_raw = values.boolean(given.get("raw", False), "raw")
    if is_raw and system:
        raise APIError(400, "raw mode does not support system: leave it out")
    messages = [Message("user", text)]
    if system:
        messages.insert(0, Message("system", system))
    style: Literal["chat", "raw"] = "raw" if is_raw else "chat"
    reply = Reply(False, given["model"], given.get("keep_alive"))
    return _question(given, [messages] if text else [], style, defaults), reply


def parse_show(body: bytes, defaults: OllamaConfig) -> bool:
    """Whether everything of the model is asked for. Raises APIError."""
    known = {"model", "name", "verbose"}
    fixed: dict[str, list[Any]] = {"system": [""], "template": [""], "options": [{}]}
    given = values.select(values.parse_object(body), known, (), fixed)
    _check_model(given.get("model") or given.get("name"), defaults)
    return values.boolean(given.get("verbose", False), "verbose")


def _read(
    body: bytes, keys: set[str], fixed: Mapping[str, list[Any]], defaults: OllamaConfig
) -> dict[str, Any]:
    given = values.select(values.parse_object(body), _KEYS | keys, _IGNORED, fixed)
    _check_model(given.get("model"), defaults)
    if not isinstance(given.get("keep_alive", 0), int | float | str):
        raise values.wrong("keep_alive", "be a number of seconds or a text", given["keep_alive"])
    options = given.get("options", {})
    if not isinstance(options, dict):
        raise values.wrong("options", "be an object", options)
    selected = values.select(options, _OPTIONS, _IGNORED_OPTIONS, _FIXED_OPTIONS, "options.")
    return given | {"options": selected}


def _question(
    given: Mapping[str, Any],
    prompts: list[list[Message]],
    style: Literal["chat", "raw"],
    defaults: OllamaConfig,
) -> Question:
    options = given["options"]
    max_tokens, n_ctx = None, None
    for place, prefix in ((given, ""), (options, "options.")):
        if "num_predict" in place:
            # -2 fills the context, and so does -1 here
            name = f"{prefix}num_predict"
            max_tokens = question.length(place["num_predict"], name, (-1, -2))
    if "num_ctx" in options:
        n_ctx = values.integer(options["num_ctx"], "options.num_ctx", 2, values.INT32_MAX)
    return Question(
        prompts=prompts,
        style=style,
        generation=question.generation(options, defaults, max_tokens, "options."),
        stream=values.boolean(given.get("stream", True), "stream"),
        n_ctx=n_ctx,
    )


def _check_model(model: Any, defaults: OllamaConfig) -> None:
    if model in (None, ""):
        raise APIError(400, "model is required")
    if not question.is_served(values.text(model, "model"), defaults):
        problem = f"not found: this server has {defaults.name}:{TAG}"
        raise APIError(404, f"model {values.shown(model)} {problem}")


class Reply:
    """Builds the JSON of the answer to a question: of the whole, or of its lines."""

    content_type = "application/x-ndjson"

    def __init__(self, is_chat: bool, model: str, keep_alive: Any) -> None:
        self._is_chat, self._model = is_chat, model
        self._unloads = keep_alive in (0, "0", "0s", "0m") and keep_alive is not False
        self._asked = self._began = time.monotonic()
        self._pieces: list[str] = []
        self._finish: Finish | None = None

    def add(self, event: Event) -> None:
        """For whole()."""
        match event:
            case Started(_, began):
                self._began = began
            case Part(_, str(text)):
                self._pieces.append(text)
            case Part(_, Finish() as finish):
                self._finish = finish

    def whole(self) -> dict[str, Any]:
        """Without an answer, it says that the model is loaded. It always is, and stays so."""
        answer = self._object("".join(self._pieces), True)
        if self._finish is None:
            return answer | {"done_reason": "unload" if self._unloads else "load"}
        return answer | self._end(self._finish)

    def chunks(self, event: Event) -> Iterator[str]:
        """What a stream sends when this happens. A line can hold no comment, so a client that waits
        gets nothing.
        """
        match event:
            case Queued():
                return
            case Started(_, began):
                self._began = began
            case Part(_, str(text)):
                yield _line(self._object(text, False))
            case Part(_, Finish() as finish):
                yield _line(self._object("", True) | self._end(finish))

    def failure(self, error: APIError) -> str:
        """What a stream that has begun ends with."""
        return _line(error.ollama())

    def _object(self, text: str, is_done: bool) -> dict[str, Any]:
        message = {"message": {"role": "assistant", "content": text}}
        return {
            "model": self._model,
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            **(message if self._is_chat else {"response": text}),
            "done": is_done,
        }

    def _end(self, finish: Finish) -> dict[str, Any]:
        """Durations are in nanoseconds. Nothing is loaded, so `load_duration` is what came before:
        the tokens of the prompt were counted, and the client waited for its turn.
        """
        speed = finish.tokens_per_second
        seconds = {
            "total_duration": time.monotonic() - self._asked,
            "load_duration": self._began - self._asked,
            "prompt_eval_duration": finish.prompt_seconds,
            "eval_duration": finish.completion_tokens / speed if speed else 0.0,
        }
        counts = {
            "prompt_eval_count": finish.prompt_tokens,
            "eval_count": finish.completion_tokens,
        }
        durations = {name: round(1e9 * value) for name, value in seconds.items()}
        return {"done_reason": finish.reason} | durations | counts


def tags(defaults: OllamaConfig, file: ModelFile) -> dict[str, Any]:
    """The list of models, which is the one."""
    return {"models": [_entry(defaults, file) | {"modified_at": file.modified}]}


def running(defaults: OllamaConfig, file: ModelFile, n_ctx: int) -> dict[str, Any]:
    """The models in memory. Where it is, in that of a GPU or not, only Ollama itself knows."""
    state = {"expires_at": _NEVER, "size_vram": 0, "context_length": n_ctx}
    return {"models": [_entry(defaults, file) | state]}


def show(
    defaults: OllamaConfig, file: ModelFile, chat: ChatFacts | None, n_ctx: int, verbose: bool
) -> dict[str, Any]:
    """What is known of the model. As from Ollama, long lists are null unless asked for."""
    info = {
        key: None if isinstance(value, list) and not verbose else value
        for key, value in file.keys.items()
    }
    parameters: dict[str, Any] = {
        "num_ctx": n_ctx,
        "num_predict": defaults.num_predict,
        "repeat_penalty": defaults.repeat_penalty,
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
    }
    lines = [f"{name:<30} {value}" for name, value in parameters.items()]
    lines += [f'{"stop":<30} "{text}"' for text in defaults.stop]
    return {
        "parameters": "\n".join(lines),
        "template": template.GO if chat else template.CONTINUED_GO,
        "system": chat.system if chat else "",
        "details": _details(file),
        "model_info": info | {"general.parameter_count": _parameters(file)},
        "capabilities": ["completion"],
        "modified_at": file.modified,
    }


def _entry(defaults: OllamaConfig, file: ModelFile) -> dict[str, Any]:
    name = f"{defaults.name}:{TAG}"
    return {
        "name": name,
        "model": name,
        "size": file.size,
        "digest": file.digest,
        "details": _details(file),
    }


def _details(file: ModelFile) -> dict[str, Any]:
    family = file.keys.get("general.architecture", "unknown")
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": human_number(_parameters(file)),
        "quantization_level": FILE_TYPES.get(file.keys.get("general.file_type", 0), "unknown"),
    }


def _parameters(file: ModelFile) -> int:
    """Those of the model. A file of ours records them, as it has more values: its feed-forward
    networks are rewritten.
    """
    recorded = str(file.keys.get("antimatter.parameters", ""))
    return int(recorded) if re.fullmatch("[0-9]{1,15}", recorded) else file.n_parameters


def _line(value: Any) -> str:
    return f"{values.dumps(value)}\n"
