import re
from typing import Any

import jinja2
import pytest
from tiny_gguf import CONTEXT, Tiny

from antimatter.export import template
from antimatter.export.llama import Llama
from antimatter.serve import prompt
from antimatter.serve.prompt import Message

CONVERSATIONS = [
    [Message("user", "The function returns")],
    [Message("system", "You are kind."), Message("user", "Hi")],
    [Message("user", "Hi {{ x }}"), Message("assistant", " there.\n"), Message("user", "a < b & 'c' \"d\" {% if %}\n\n é 🙂 ")],
    [Message("system", "S"), Message("user", "1"), Message("assistant", "2"), Message("user", "3"), Message("assistant", "4"), Message("user", "5")],
]


def as_json(messages: list[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def render_go(text: str, messages: list[Message]) -> str:
    """Go's text/template, as much of it as our one line uses: range with index, if on a number (0 is false), a quoted string, a field."""
    loop = re.fullmatch(r"\{\{ range \$i, \$message := \.Messages \}\}(.*)\{\{ end \}\}", text)
    assert loop
    body = re.fullmatch(r'\{\{ if \$i \}\}\{\{ "((?:[^"\\]|\\n)*)" \}\}\{\{ end \}\}\{\{ \$message\.Content \}\}', loop[1])
    assert body
    return "".join((body[1].replace("\\n", "\n") if i else "") + message.text for i, message in enumerate(messages))


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_jinja_go_and_python_render_alike(messages: list[Message]) -> None:
    expected = "\n\n".join(message.text for message in messages)
    assert jinja2.Template(template.JINJA, keep_trailing_newline=True).render(messages=as_json(messages)) == expected
    assert render_go(template.GO, messages) == expected
    assert prompt.render(messages) == expected


def test_llama_cpp_renders_the_template_in_the_file_like_that_too(tiny: Tiny) -> None:
    with Llama(tiny.path, CONTEXT) as llama:
        for messages in CONVERSATIONS:
            assert llama.post("/apply-template", {"messages": as_json(messages)})["prompt"] == prompt.render(messages)


def test_bos_comes_from_the_tokenizer_and_once(tiny: Tiny) -> None:
    assert "BOS" not in template.JINJA + template.GO
    with Llama(tiny.path, CONTEXT) as llama:
        text = llama.post("/apply-template", {"messages": as_json(CONVERSATIONS[1])})["prompt"]
        ids = llama.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        assert ids[0] == 1 and 1 not in ids[1:]
        evaluated = llama.post("/completion", {"prompt": text, "n_predict": 1, "stream": False})["tokens_evaluated"]
        assert evaluated == len(ids)
