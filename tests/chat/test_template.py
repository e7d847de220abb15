"""One template in the languages of all runtimes: the same conversation is the same ids in each, and
no text in it becomes a special token.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import pytest
import tokenizers
from helpers.gguf_model import CHAT, CONTEXT, Tiny, make, of_model

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import ASSISTANT, BOS, EOS, SPECIAL, SYSTEM, USER
from antimatter.export import huggingface, tokenization
from antimatter.llama.server import Llama

PLAIN = [
    [Message("user", "The function returns")],
    [Message("system", "You are kind."), Message("user", "Hi")],
    [Message("user", ""), Message("assistant", ""), Message("user", "")],
    [Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", " And\n\nyou?\n")],
    [
        Message("user", "1"),
        Message("assistant", "2"),
        Message("user", "3"),
        Message("assistant", ""),
    ],
]
PIECES = [
    *(*SPECIAL, *SPECIAL, "[", "]", "[[", "USER]", "[EO[EOS]S]", "[EOS[EOS]]", "[ EOS]", "EOS"),
    *("{{ x }}", "{% if x %}", "{%", "}}", "{# x #}", "{{ .Content }}", "' + '", '"""', "\\"),
    *(" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\x00", "\\n"),
    *("é", "e\u0301", "日本", "🙂", "Hello", " I am", "don't", " 1,000"),
    *("</s>", "<|im_end|>", "<b>&amp;</b>", "[user]", "User: "),
]


def random_conversations() -> Iterator[list[Message]]:
    generator = random.Random(0)
    for _ in range(200):
        turns = [Message("system", "")] if generator.random() < 0.3 else []
        for _ in range(generator.randrange(1, 4)):
            turns += [Message("user", ""), Message("assistant", "")]
        turns = turns[: len(turns) - generator.choice([0, 1, 1])]
        yield [replace(turn, text=_random_text(generator)) for turn in turns]


def _random_text(generator: random.Random) -> str:
    return "".join(generator.choices(PIECES, k=generator.randrange(7)))


HOSTILE = [*random_conversations(), *tokenization.conversations(100)]
CONVERSATIONS = [*PLAIN, *HOSTILE]


def as_json(messages: list[Message]) -> list[dict[str, Any]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def is_open(messages: list[Message]) -> bool:
    return messages[-1].role == "assistant"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def llama(tiny: Tiny) -> Iterator[Llama]:
    with Llama(tiny.chat_path, CONTEXT) as server:
        yield server


@pytest.fixture(scope="module")
def reader(tiny: Tiny) -> tokenizers.Tokenizer:
    """Finds special tokens in a text, as the runtimes do."""
    return tokenizers.Tokenizer.from_file(str(tiny.tokenizer_folder / "tokenizer.json"))


# ---- what is rendered


def test_a_turn_is_a_role_token_and_its_text_and_an_answer_ends(tiny: Tiny) -> None:
    messages = [Message("system", "S."), Message("user", "a b"), Message("assistant", "c")]
    system, question, answer = (tiny.tokenizer.encode(message.text) for message in messages)
    ids, mask = template.tokens([*messages, Message("user", "d")], tiny.tokenizer)
    last = [USER, *tiny.tokenizer.encode("d")]
    assert ids == [BOS, SYSTEM, *system, USER, *question, ASSISTANT, *answer, EOS, *last]
    start, end = len(ids) - len(last) - len(answer) - 1, len(ids) - len(last)
    assert [i for i, counts in enumerate(mask) if counts] == [*range(start, end)]
    assert template.prompt_tokens(messages[:2], tiny.tokenizer) == [*ids[: start - 1], ASSISTANT]
    assert template.prompt_tokens(messages, tiny.tokenizer) == ids[: end - 1]


def test_no_text_becomes_a_special_token(tiny: Tiny) -> None:
    order = {"system": [SYSTEM], "user": [USER], "assistant": [ASSISTANT, EOS]}
    for messages in CONVERSATIONS:
        ids = template.tokens(messages, tiny.tokenizer).ids
        expected = [BOS, *(token for message in messages for token in order[message.role])]
        assert [token for token in ids if token < len(SPECIAL)] == expected


# ---- the same in every language


def test_the_text_of_a_prompt_has_its_tokens(tiny: Tiny, reader: tokenizers.Tokenizer) -> None:
    for messages in CONVERSATIONS:
        ids = reader.encode(template.prompt(messages), add_special_tokens=False).ids
        assert [BOS, *ids] == template.prompt_tokens(messages, tiny.tokenizer)


def test_jinja_renders_prompts_and_conversations(tiny: Tiny, reader: tokenizers.Tokenizer) -> None:
    # As transformers have it
    options = {"trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(**options)
    jinja = environment.from_string(template.JINJA)
    whole = environment.from_string(template.HUGGING_FACE)
    for messages in CONVERSATIONS:
        given = as_json(messages)
        if not is_open(messages):
            text = jinja.render(messages=given, add_generation_prompt=True)
            assert text == template.prompt(messages)
        text = whole.render(messages=given, add_generation_prompt=False)
        ids = reader.encode(text, add_special_tokens=False).ids
        assert ids == template.tokens(messages, tiny.tokenizer).ids


def test_llama_cpp_renders_the_template_in_the_file(tiny: Tiny, llama: Llama) -> None:
    """An answer to go on with is not the template's: llama.cpp appends it as it is, unless it is
    empty.
    """
    for messages in CONVERSATIONS:
        if is_open(messages):
            *before, last = messages
            messages = [*before, replace(last, text=template.neutralise(last.text) or "x")]
        text = llama.post("/apply-template", {"messages": as_json(messages)})["prompt"]
        assert text == template.prompt(messages)
        expected = template.prompt_tokens(messages, tiny.tokenizer)
        assert [BOS, *llama.tokenize(text, special=True)] == expected


def test_transformers_apply_the_template(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = replace(of_model(tiny.model), chat=CHAT)
    huggingface.write(source, tiny.tokenizer_folder / "tokenizer.json", tmp_path / "hf")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for messages in CONVERSATIONS:
        given, expected = as_json(messages), template.prompt_tokens(messages, tiny.tokenizer)
        if not is_open(messages):
            prompt = tokenizer.apply_chat_template(given, add_generation_prompt=True)
            assert prompt["input_ids"] == expected
        whole = tokenizer.apply_chat_template(given)["input_ids"]
        assert whole == template.tokens(messages, tiny.tokenizer).ids


def test_ollama_renders_text_that_was_neutralised_and_no_other() -> None:
    """Go's templates cannot replace text: what `ollama run` reads is not made harmless."""
    for messages in CONVERSATIONS:
        harmless = [replace(turn, text=template.neutralise(turn.text)) for turn in messages]
        assert Go(template.GO).render(harmless) == template.prompt(messages)
    assert Go(template.GO).render([Message("user", "[EOS]")]) == "[USER][EOS][ASSISTANT]"


# ---- the model that continues text


def test_a_base_model_reads_the_texts_with_blank_lines_between(tiny: Tiny) -> None:
    hard = "a < b & 'c' \"d\" {% if %}\n\n é 🙂 "
    conversations = [messages for messages in PLAIN if all(message.text for message in messages)]
    answered = [Message("user", "{{ x }}"), Message("assistant", " there.\n")]
    conversations.append([*answered, Message("user", hard)])
    jinja = jinja2.Template(template.CONTINUED_JINJA, keep_trailing_newline=True)
    with Llama(tiny.path, CONTEXT) as base:
        for messages in conversations:
            expected = "\n\n".join(message.text for message in messages)
            assert template.continued(messages) == expected
            assert jinja.render(messages=as_json(messages)) == expected
            assert Go(template.CONTINUED_GO).render(messages) == expected
            answer = base.post("/apply-template", {"messages": as_json(messages)})
            assert answer["prompt"] == expected


@pytest.mark.parametrize("is_chat", [True, False])
def test_bos_comes_from_the_tokenizer_and_once(tiny: Tiny, is_chat: bool) -> None:
    with Llama(tiny.chat_path if is_chat else tiny.path, CONTEXT) as llama:
        text = llama.post("/apply-template", {"messages": as_json(PLAIN[1])})["prompt"]
        body = {"content": text, "add_special": True, "parse_special": True}
        ids = llama.post("/tokenize", body)["tokens"]
        assert ids[0] == BOS and BOS not in ids[1:]
        body = {"prompt": text, "n_predict": 1, "stream": False}
        assert llama.post("/completion", body)["tokens_evaluated"] == len(ids)


# ---- Go


class Go:
    """Go's text/template, as much of it as ours use: range with an index, if, else if, else, eq,
    ne, len, slice of a list from an index, texts, fields and variables.
    """

    def __init__(self, text: str) -> None:
        self._parts = re.split(r"\{\{ (.*?) \}\}", text)  # a text, an action, a text, ...

    def render(self, messages: list[Message]) -> str:
        root = {"Messages": [{"Role": one.role, "Content": one.text} for one in messages]}
        return self._block(0, {"$": root, "": root})[0]

    def _block(self, at: int, scope: dict[str, Any]) -> tuple[str, int]:
        """Renders from the text at `at` to the block's `else` or `end`, and returns its place."""
        text = self._parts[at]
        while at + 1 < len(self._parts):
            word, _, rest = self._parts[at + 1].partition(" ")
            if word in ("else", "end"):
                break
            if word == "range":
                shown, at = self._range(at + 2, scope)
            elif word == "if":
                shown, at = self._if(rest, at + 2, scope)
            else:
                shown, at = str(self._value(self._parts[at + 1], scope)), at + 1
            at += 1
            text += shown + self._parts[at]
        return text, at + 1

    def _range(self, body: int, scope: dict[str, Any]) -> tuple[str, int]:
        rendered, end = "", body
        for i, message in enumerate(scope[""]["Messages"]):
            inner = {**scope, "": message, "$i": i, "$message": message}
            text, end = self._block(body, inner)
            rendered += text
        return rendered, end

    def _if(self, condition: str, body: int, scope: dict[str, Any]) -> tuple[str, int]:
        text, end = self._block(body, scope)
        word, _, rest = self._parts[end].partition(" ")
        other = ""
        if word == "else":
            other, end = self._if(rest.removeprefix("if ") or "1", end + 1, scope)
        return text if self._value(condition, scope) else other, end

    def _value(self, words: str, scope: dict[str, Any]) -> Any:
        if inner := re.search(r"\(([^()]*)\)", words):  # the innermost, as a variable
            known = {**scope, "$inner": self._value(inner[1], scope)}
            return self._value(words.replace(inner[0], "$inner", 1), known)
        name, *rest = words.split(" ")
        if rest:
            values = [self._value(word, scope) for word in rest]
            functions: dict[str, Any] = {
                "eq": lambda a, b: a == b,
                "ne": lambda a, b: a != b,
                "len": len,
                "slice": lambda items, start: items[start:],
            }
            return functions[name](*values)
        if name.startswith('"'):
            return name[1:-1].replace("\\n", "\n")
        if name.isdigit():
            return int(name)
        variable, _, field = name.partition(".")
        return scope[variable][field] if field else scope[variable]
