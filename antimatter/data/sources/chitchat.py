"""The conversations inside the package chitchat-dataset: two people who write to each other.

The package is one JSON file and a few lines of Python. It is read, never imported.
"""

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from antimatter.data.documents import CONVERSATION, SEPARATOR, Document
from antimatter.errors import UserError

PACKAGE = "chitchat-dataset"
MIN_TURNS = 4
SPEAKERS = 2
# A message that ends so needs no full stop before the next one of the same speaker
ENDS = tuple(".!?,;:…-")


def documents(
    distribution: importlib.metadata.Distribution, source: str, licence: str
) -> Iterator[Document]:
    """The conversations of two speakers with MIN_TURNS turns or more, in the order of the file.

    Raises:
        UserError: the distribution lacks the file, so it is not the expected one.
    """
    paths = [file for file in distribution.files or [] if file.name == "dataset.json"]
    if not paths:
        raise UserError(f"{source} holds no dataset.json: reinstall it from requirements.lock")
    path = Path(str(paths[0].locate()))
    for number, conversation in json.loads(path.read_text(encoding="utf-8")).items():
        conversation_turns = turns(conversation)
        if len(conversation_turns) >= MIN_TURNS:
            text = SEPARATOR.join(conversation_turns)
            yield Document(f"{PACKAGE}/{number}", text, source, licence, CONVERSATION)


def turns(conversation: Mapping[str, Any]) -> list[str]:
    """The turns of the two speakers; successive messages of one speaker are one turn.

    The first speaker is the user. A last turn of the user is left out, since nobody answers it.
    Empty if there are not two speakers.
    """
    messages = [message for block in conversation["messages"] for message in block]
    texts = [(message["sender"], " ".join(message["text"].split())) for message in messages]
    texts = [(sender, text) for sender, text in texts if text]
    if len({sender for sender, _ in texts}) != SPEAKERS:
        return []
    by_speaker = groupby(texts, key=lambda pair: pair[0])
    result = [_join([text for _, text in group]) for _, group in by_speaker]
    return result[: len(result) // 2 * 2]


def _join(messages: list[str]) -> str:
    """Messages as one text, with a full stop after each that lacks an end mark, except the last."""
    *earlier, last = messages
    ended = [text if text.endswith(ENDS) else f"{text}." for text in earlier]
    return " ".join([*ended, last])
