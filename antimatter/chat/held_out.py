"""The conversations that tuning has not seen, as a file: one JSON object a line."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from antimatter import files
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.template import Message
from antimatter.errors import UserError

NAME = "held_out.jsonl"


def write(path: Path, conversations: Iterable[Conversation]) -> None:
    with files.replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for conversation in conversations:
            file.write(json.dumps(asdict(conversation), ensure_ascii=False) + "\n")


def read(path: Path) -> list[Conversation]:
    """The conversations of a file, in its order.

    Raises:
        UserError: the file is missing, or a line is not a conversation.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro conversations` to make it")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fix = "run `dvc repro conversations` to make it again"
        raise UserError(f"{path} is not UTF-8 text ({error}): {fix}") from None
    conversations = []
    # Not splitlines(), which also splits at characters that JSON leaves inside a text
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            conversations.append(_conversation(line))
        except (KeyError, TypeError, ValueError) as error:
            fault = f"{path}, line {number} is not a conversation ({error})"
            raise UserError(f"{fault}: run `dvc repro conversations` to make it again") from None
    return conversations


def _conversation(line: str) -> Conversation:
    values = json.loads(line)
    messages = tuple(Message(message["role"], message["text"]) for message in values["messages"])
    if fault := problem(messages):
        raise UserError(fault)
    expected = tuple(values["expected"])
    return Conversation(**{**values, "messages": messages, "expected": expected})
