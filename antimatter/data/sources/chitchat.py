"""The conversations inside the package chitchat-dataset: two people who write to each other.

The package is one file of JSON and a few lines of Python. It is read, never imported.
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
    distribution: importlib.metadata.Distribution,
    source: str,
    licence: str,
) -> Iterator[Document]:
    """The conversations of two speakers with MIN_TURNS turns or more, in the order of the file.

    Raises:
        ValueError: the distribution holds no such file, so it is not the one that is meant.
    """
    found = [file for file in distribution.files or [] if file.name == "dataset.json"]
    if not found:
        raise UserError(f"{source} holds no dataset.json: reinstall it from requirements.lock")
    path = Path(str(found[0].locate()))
    for number, conversation in json.loads(path.read_text(encoding="utf-8")).items():
        said = turns(conversation)
        if len(said) >= MIN_TURNS:
            text = SEPARATOR.join(said)
            yield Document(f"{PACKAGE}/{number}", text, source, licence, CONVERSATION)


def turns(conversation: Mapping[str, Any]) -> list[str]:
    """What the two say in turn, a speaker's successive messages as one turn.

    The first speaker is the user. A last turn of the user is left out, since nobody answers it.
    Empty if there are not two speakers.
    """
    messages = [message for block in conversation["messages"] for message in block]
    spoken = [(message["sender"], " ".join(message["text"].split())) for message in messages]
    spoken = [(sender, text) for sender, text in spoken if text]
    if len({sender for sender, _ in spoken}) != SPEAKERS:
        return []
    grouped = groupby(spoken, key=lambda one: one[0])
    said = [_joined([text for _, text in group]) for _, group in grouped]
    return said[: len(said) // 2 * 2]


def _joined(messages: list[str]) -> str:
    """Messages as one text, a full stop after each but the last that ends without a mark."""
    *earlier, last = messages
    ended = [text if text.endswith(ENDS) else f"{text}." for text in earlier]
    return " ".join([*ended, last])
