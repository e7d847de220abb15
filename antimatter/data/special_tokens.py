"""The special tokens: names and ids. Separate from tokenizer.py, whose libraries few need."""

import re
from collections.abc import Mapping
from pathlib import Path

from antimatter.errors import UserError

# The last three begin the turns of a conversation (antimatter/chat/template.py)
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[USER]", "[ASSISTANT]", "[SYSTEM]")
PAD, BOS, EOS, USER, ASSISTANT, SYSTEM = range(len(SPECIAL))  # their ids
ROLE_IDS = {"[USER]": USER, "[ASSISTANT]": ASSISTANT, "[SYSTEM]": SYSTEM}

# Bits of a token's mark in packed rows: it is a target of the loss; it begins a text that continues
# the opening before it
COUNTS, BEGINS = 1, 2

_LITERAL = re.compile(rf"\[(?=(?:{'|'.join(token[1:-1] for token in SPECIAL)})\])")


def check_ids(ids: Mapping[str, int | None], path: Path) -> None:
    """Raises UserError unless the vocabulary in `path` gives each special token its id."""
    if any(ids.get(token) != i for i, token in enumerate(SPECIAL)):
        needed = ", ".join(f"{token}={i}" for i, token in enumerate(SPECIAL))
        fix = "run `dvc repro tokenizer` to rebuild it"
        raise UserError(f"{path} lacks special tokens, it must have {needed}: {fix}")


def neutralise(text: str) -> str:
    """The text with a space inside each literal special token: `[ EOS]`.

    llama.cpp, Ollama and transformers look for special tokens in every prompt, so a user's [EOS]
    would end the conversation that the model sees. The added space cannot make a new special token,
    as none holds one.
    """
    return _LITERAL.sub("[ ", text)
