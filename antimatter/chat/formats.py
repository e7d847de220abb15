"""Conversations in local files, in the shapes that people use.

A file is JSON in any form that data/sources/json_rows.py reads (each also packed), .parquet, or a
.zip file of such. The keys of a row tell its shape; other keys are ignored:

    messages                [{role, content}, ...] as OpenAI has them
    conversations, items    [{from, value}, ...] as ShareGPT has them
    instruction, output     texts, perhaps with `input`, as Alpaca has them
    prompt, completion      texts or lists of messages, as TRL has them
    prompt, response        the same
    question, answer        the same

A text in `system` comes before any of them. A row that is not a conversation is an error; no row is
dropped.
"""

from collections.abc import Collection, Iterator

from antimatter.chat.config import ConversationFiles
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.template import Message, Role
from antimatter.data.sources import columns, json_rows, kinds, local, opened, paths, tables
from antimatter.data.sources.faults import Strict
from antimatter.data.sources.json_rows import Row
from antimatter.errors import UserError

ROLES: dict[str, Role] = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
}
# The first of them whose keys a row has is its shape
SHAPES = (
    ("messages",),
    ("conversations",),
    ("items",),
    ("instruction", "output"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
OPTIONAL = ("input", "system")
TOOL_CALLS = ("tool_calls", "function_call")

KINDS = {"json", "parquet", "zip"}
ENDINGS = ".jsonl, .json (each also .gz, .zst, .bz2 or .xz), .parquet and .zip"


def read(config: ConversationFiles, key: str) -> Iterator[Conversation]:
    """The conversations of all files that match a pattern, in the order of their names. Files are
    streamed, so they may be larger than the memory.

    Args:
        key: the key of params.yaml that names them, for errors.

    Raises:
        UserError: the pattern matches no file; a file has an unknown ending, cannot be read or has
            no conversation; a row has an unknown shape, or its messages are not a conversation.
    """
    for path in paths.required(config.pattern, key):
        is_empty = True
        for row in _rows(path, key):
            is_empty = False
            try:
                turns = messages(row.value)
            except NotAConversation as error:
                fix = "correct it, or take it out of the file"
                raise UserError(f"{path}, {row.unit} {row.number}: {error}: {fix}") from None
            yield Conversation(
                f"{path}:{row.number}", config.pattern, "open", turns, config.licence
            )
        if is_empty:
            raise UserError(f"{path} holds no conversation: delete it, or take it out of {key}")


class NotAConversation(UserError):
    """A row is not a conversation. The text also names the reason in the metrics of the stage."""


def messages(row: object) -> tuple[Message, ...]:
    """The messages of a row of any shape.

    Raises:
        NotAConversation: it has no known shape, or is not a conversation. Without the place in the
            file.
    """
    if not isinstance(row, dict):
        raise NotAConversation(f"{row!r:.60} is not an object with keys")
    shape = _shape(row)
    if not shape:
        known = "; ".join(", ".join(names) for names in SHAPES)
        keys = ", ".join(map(str, row)) or "none"
        raise NotAConversation(f"its keys are {keys}; known are {known}")
    turns: list[Message] = []
    if row.get("system"):
        turns.append(Message("system", _text(row["system"], "`system`")))
    if len(shape) == 1:
        turns += _listed(row[shape[0]], f"`{shape[0]}`")
    elif shape[0] == "instruction":
        texts = (_text(row.get(name), f"`{name}`") for name in ("instruction", "input"))
        turns.append(Message("user", "\n\n".join(filter(None, texts))))
        turns.append(Message("assistant", _text(row["output"], "`output`")))
    else:
        turns += _side(row[shape[0]], "user", f"`{shape[0]}`")
        turns += _side(row[shape[1]], "assistant", f"`{shape[1]}`")
    if fault := problem(turns):
        raise NotAConversation(fault)
    return tuple(turns)


def _shape(keys: Collection[str]) -> tuple[str, ...]:
    """The shape of a row that has these keys; empty if there is none."""
    return next((shape for shape in SHAPES if all(name in keys for name in shape)), ())


def _side(value: object, role: Role, name: str) -> list[Message]:
    """A prompt or its completion: a text, or a list of messages."""
    return _listed(value, name) if isinstance(value, list) else [Message(role, _text(value, name))]


def _listed(values: object, name: str) -> list[Message]:
    if not isinstance(values, list):
        raise NotAConversation(f"{name} must be a list of messages, got {values!r:.60}")
    return [_message(value, f"message {number}") for number, value in enumerate(values, 1)]


def _message(value: object, where: str) -> Message:
    """A message of OpenAI or ShareGPT."""
    keys = value if isinstance(value, dict) else {}
    for call in TOOL_CALLS:
        if keys.get(call):
            raise NotAConversation(f"{where} calls a tool (`{call}`), which no role here can do")
    for role_key, text_key in (("role", "content"), ("from", "value")):
        if role_key in keys and text_key in keys:
            role = ROLES.get(str(keys[role_key]).lower())
            if role is None:
                known = ", ".join(ROLES)
                raise NotAConversation(
                    f"{where} has the role {keys[role_key]!r:.60}; known are {known}"
                )
            return Message(role, _text(keys[text_key], f"{where} ({role})"))
    raise NotAConversation(
        f"{where} must have role and content, or from and value, got {value!r:.60}"
    )


def _text(value: object, where: str) -> str:
    """A text, or the texts of a list of parts as OpenAI has them; None is an empty text."""
    if isinstance(value, list):
        for part in value:
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise NotAConversation(f"{where} has a part that is no text: {kind!r:.60}")
        value = "\n".join(_text(part.get("text"), where) for part in value)
    if not isinstance(value, str | None):
        raise NotAConversation(f"{where} must be text, got {value!r:.60}")
    return columns.encodable(local.plain(value or "")).strip()


# ---- files


def _rows(path: str, key: str) -> Iterator[Row]:
    """The rows of a file, or of the members of a .zip file."""
    kind = kinds.kind_of(path)
    if not kind or kind.name not in KINDS:
        raise UserError(f"{path} has an unknown ending: {key} takes {ENDINGS}")
    for source in opened.sources(path, paths.located(path), key, Strict()):
        try:
            if source.kind.name == "parquet":
                yield from tables.parquet_rows(source)
            elif source.kind.name == "json":
                yield from json_rows.rows(source, Strict())
        except opened.ERRORS as error:
            raise opened.unreadable(source.path, error, key, 0) from None
