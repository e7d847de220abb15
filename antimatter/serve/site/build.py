"""Writes a page without a server: a folder that any static host can serve, with the chat page, a
GGUF file and llama.cpp for the browser.

The page is that of `antimatter serve`, with engine.js in place of the server. The host needs to set
no headers: the policy is in the page, and the single-threaded build of llama.cpp is used where the
page is not cross-origin isolated.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from antimatter import files, text
from antimatter.data import special_tokens
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, SPECIAL, SYSTEM, USER
from antimatter.errors import UserError
from antimatter.export.ollama import FILE_TYPES, OllamaConfig
from antimatter.llama.header import Header
from antimatter.serve.http import access, openai, server
from antimatter.serve.site import wllama

ENGINE = Path(__file__).with_name("engine.js")
NOTICE = "wllama/NOTICE.txt"
# The paths that a folder has: what a later build replaces
NAMES = ("index.html", "*.gguf", NOTICE, *(f"wllama/{name}" for name in wllama.MEMBERS.values()))
LARGEST = (1 << 31) - 1  # bytes of a model: llama.cpp reads it with ftell() of 32 bits
LIMITS = (
    "It can be wrong in every sentence: what it says about the world or about a function is a guess"
    " from words that it has read. It cannot look anything up, calculate, write programs, or"
    " remember an earlier conversation."
)
CONTINUES = "It continues text: it answers no questions and follows no instructions."
_META = re.compile(r'<meta http-equiv="Content-Security-Policy" content="[^"]*">')
_ICON = '<link rel="icon" href="favicon.ico">'


def check_model(path: Path, header: Header) -> None:
    """Raises UserError if a browser cannot load the model, or its special tokens have other ids."""
    if (size := path.stat().st_size) > LARGEST:
        limit = f"a browser loads at most {text.size(LARGEST)}"
        raise UserError(f"{path} has {text.size(size)}, {limit}: name a smaller type with --model")
    if header.chat is not None:
        vocabulary = header.keys.get("tokenizer.ggml.tokens", ())
        special_tokens.check_ids(dict(zip(vocabulary, range(len(SPECIAL)), strict=False)), path)


def write(
    folder: Path,
    model: Path,
    header: Header,
    package: Path,
    config: OllamaConfig,
    facts: Mapping[str, str],
) -> int:
    """Writes the folder, which replaces an earlier one as a whole, and returns its size in bytes.

    Args:
        package: the verified archive of wllama.
        facts: what the page shows about the model, besides what its header says.

    Raises:
        UserError: the archive is damaged.
        OSError: the disk is full, or the folder cannot be written.
    """
    with files.replacing(folder) as partial:
        (partial / "wllama").mkdir(parents=True)
        wllama.unpack(package, partial / "wllama")
        (partial / NOTICE).write_text(_notice(), encoding="utf-8")
        shutil.copyfile(model, partial / model.name)
        description = _description(partial, model.name, header, config, facts)
        (partial / "index.html").write_text(page(description), encoding="utf-8")
        return sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())


def page(description: Mapping[str, Any]) -> str:
    """The chat page with the engine, and with a policy that lets WebAssembly run and nothing else:
    the page's own scripts by their hashes, and files of the folder.
    """
    html = server.PAGE.read_text(encoding="utf-8")
    engine = ENGINE.read_text(encoding="utf-8")
    # A text in it must not end the element
    data = json.dumps(description, ensure_ascii=False).replace("<", "\\u003c")
    scripts = (
        f'<script id="site" type="application/json">{data}</script>\n<script>{engine}</script>'
    )
    html = _replaced(html, "<script>", f"{scripts}\n<script>")
    html = _replaced(html, _ICON, '<link rel="icon" href="data:,">')
    policy = [
        "default-src 'none'",
        f"script-src 'self' 'wasm-unsafe-eval' {' '.join(access.inline_sources(html, 'script'))}",
        f"style-src {' '.join(access.inline_sources(html, 'style'))}",
        # blob: is the address of what the page has downloaded or written itself
        "connect-src 'self' blob:",
        "worker-src blob:",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    meta = f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">'
    return _replaced(html, _META.findall(html)[0], meta)


def _replaced(html: str, old: str, new: str) -> str:
    if html.count(old) != 1:
        raise AssertionError(
            f"{server.PAGE} must have {old!r} once, it has it {html.count(old)} times"
        )
    return html.replace(old, new)


def _description(
    folder: Path, model: str, header: Header, config: OllamaConfig, facts: Mapping[str, str]
) -> dict[str, Any]:
    """What engine.js knows: the model as in the answer to GET /v1/models, the files, the tokens and
    the stop texts.
    """
    n_ctx = min(config.num_ctx, header.context_length)
    described = openai.model(config, "", n_ctx, header.chat)
    return {
        "model": described,
        "file": _file(folder, model),
        "script": _file(folder, f"wllama/{wllama.SCRIPT}"),
        "single": _file(folder, f"wllama/{wllama.SINGLE}"),
        "multi": _file(folder, f"wllama/{wllama.MULTI}"),
        "stop": config.stop,
        "tokens": {
            "bos": header.keys.get("tokenizer.ggml.bos_token_id", BOS),
            "eos": EOS,
            "special": SPECIAL,
            "roles": {"system": SYSTEM, "user": USER, "assistant": ASSISTANT},
        },
        "facts": list((_header_facts(folder / model, header, n_ctx) | dict(facts)).items()),
    }


def _header_facts(path: Path, header: Header, n_ctx: int) -> dict[str, str]:
    unknown = "the file does not say"
    kind = FILE_TYPES.get(header.keys.get("general.file_type", 0), "F32")
    limits = LIMITS if header.chat else f"{CONTINUES} {LIMITS}"
    return {
        "Name": str(header.keys.get("general.name", path.stem)),
        "Parameters": str(header.keys.get("general.size_label", unknown)),
        "Licence": str(header.keys.get("general.license", unknown)),
        "File": f"{path.name}, {kind}, {text.size(path.stat().st_size)}",
        "Context": f"{n_ctx} tokens; it forgets what no longer fits",
        "Your texts": "they do not leave this browser",
        "Trained on": unknown,
        "What it cannot do": limits,
    }


def _file(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return {"path": name, "bytes": path.stat().st_size, "version": files.sha256(path)[:16]}


def _notice() -> str:
    return (
        f"The files here are from @wllama/wllama {wllama.VERSION} (MIT licence, "
        f"{wllama.LICENCE}), unchanged.\n"
        f"Its WebAssembly contains llama.cpp {wllama.LLAMA_CPP} (MIT licence, Copyright (c) "
        "2023-2026 The ggml authors).\n"
    )
