"""How a conversation becomes text and tokens: one template, in the language of each runtime.

A turn is a role token and its text; an assistant's turn ends with [EOS]:

    [BOS] [SYSTEM] text [USER] text [ASSISTANT] text [EOS] [USER] text [ASSISTANT] text [EOS]

There is nothing between a token and its text. Tuning and evaluation render to ids (`tokens`), the
chat and the server to text (`prompt`), llama.cpp by JINJA in the GGUF file, transformers by
HUGGING_FACE, Ollama by GO. tests/chat/test_template.py holds all of them together.

A model that was not tuned knows no roles: it continues text. CONTINUED_JINJA and CONTINUED_GO put
only blank lines between the turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from antimatter.data.special_tokens import BOS, EOS, ROLE_IDS, SPECIAL
from antimatter.data.special_tokens import neutralise as neutralise

Role = Literal["system", "user", "assistant"]
ROLES: dict[Role, str] = {"system": "[SYSTEM]", "user": "[USER]", "assistant": "[ASSISTANT]"}
END = "[EOS]"
SEPARATOR = "\n\n"  # between the turns of a conversation that a base model continues


@dataclass(frozen=True)
class Message:
    role: Role
    text: str


class Encoder(Protocol):
    """The part of Tokenizer that this module needs, so that `chat` starts without importing it."""

    def encode(self, text: str) -> list[int]: ...


class Rendered(NamedTuple):
    """A conversation as token ids, with a mask of the assistant's."""

    ids: list[int]  # [BOS] first
    mask: list[bool]  # the texts of the assistant's turns, each with its [EOS]


def tokens(messages: Sequence[Message], tokenizer: Encoder) -> Rendered:
    """A whole conversation, to learn from: every turn of the assistant ends with [EOS]."""
    ids, mask = [BOS], [False]
    for message in messages:
        text = tokenizer.encode(neutralise(message.text))
        is_answer = message.role == "assistant"
        turn = [ROLE_IDS[ROLES[message.role]], *text, *([EOS] if is_answer else [])]
        ids += turn
        mask += [False, *[is_answer] * (len(turn) - 1)]
    return Rendered(ids, mask)


def prompt_tokens(messages: Sequence[Message], tokenizer: Encoder) -> list[int]:
    """The ids that the model reads before it answers: those of prompt(), after [BOS]."""
    ids = tokens(messages, tokenizer).ids
    is_open = bool(messages) and messages[-1].role == "assistant"
    return ids[:-1] if is_open else [*ids, ROLE_IDS[ROLES["assistant"]]]


def prompt(messages: Sequence[Message]) -> str:
    """The text before an assistant's turn, without [BOS], which the runtimes add.

    A last message of the assistant stays open: the model continues it.
    """
    turns = [ROLES[message.role] + neutralise(message.text) for message in messages]
    for i, message in enumerate(messages[:-1]):
        turns[i] += END if message.role == "assistant" else ""
    is_open = bool(messages) and messages[-1].role == "assistant"
    return "".join(turns) + ("" if is_open else ROLES["assistant"])


def continued(messages: Sequence[Message]) -> str:
    """The text that a base model continues."""
    return SEPARATOR.join(neutralise(message.text) for message in messages if message.text)


# ---- the same template in the languages of the runtimes

_REPLACED = "".join(f"|replace('{token}','[ {token[1:]}')" for token in SPECIAL)
# For llama.cpp, whose tokenizer adds [BOS] (add_bos_token). A last message of the assistant is
# closed here, as in tokens(): llama.cpp and transformers handle a message to continue themselves.
# llama.cpp appends its text unchanged, without this template
JINJA = (
    "{% for message in messages %}{{ '[' + message['role']|upper + ']' }}"
    f"{{{{ message['content']{_REPLACED} }}}}"
    "{% if message['role'] == 'assistant' %}{{ '[EOS]' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[ASSISTANT]' }}{% endif %}"
)
# transformers add no token to what a template renders
HUGGING_FACE = "{{ '[BOS]' }}" + JINJA
# For Ollama. Go's templates cannot replace text, so in `ollama run` a role token that a user types
# is a role token. The chat and the server send Ollama the text of prompt()
GO = (
    "{{ range $i, $message := .Messages }}"
    '{{ if eq .Role "system" }}[SYSTEM]{{ else if eq .Role "user" }}[USER]'
    "{{ else }}[ASSISTANT]{{ end }}{{ .Content }}"
    "{{ if eq (len (slice $.Messages $i)) 1 }}"
    '{{ if ne .Role "assistant" }}[ASSISTANT]{{ end }}'
    '{{ else if eq .Role "assistant" }}[EOS]{{ end }}{{ end }}'
)
_BETWEEN_JINJA = "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
_BODY_JINJA = _BETWEEN_JINJA + "{{ message['content'] }}"
CONTINUED_JINJA = "{% for message in messages %}" + _BODY_JINJA + "{% endfor %}"
_BETWEEN_GO = '{{ if $i }}{{ "\\n\\n" }}{{ end }}'
_BODY_GO = _BETWEEN_GO + "{{ $message.Content }}"
CONTINUED_GO = "{{ range $i, $message := .Messages }}" + _BODY_GO + "{{ end }}"
