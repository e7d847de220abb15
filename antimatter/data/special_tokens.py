"""The special tokens: names and ids. By themselves, so that whoever needs no more than these loads
no tokenizer.
"""

import re

# The last three begin the turns of a conversation (antimatter/chat/template.py)
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[USER]", "[ASSISTANT]", "[SYSTEM]")
PAD, BOS, EOS, USER, ASSISTANT, SYSTEM = range(len(SPECIAL))  # their ids
ROLE_IDS = {"[USER]": USER, "[ASSISTANT]": ASSISTANT, "[SYSTEM]": SYSTEM}

# Bits of a token's mark in packed rows: it counts as a target; it begins a text that continues the
# opening before it
COUNTS, BEGINS = 1, 2

_LITERAL = re.compile(rf"\[(?=(?:{'|'.join(token[1:-1] for token in SPECIAL)})\])")


def neutralise(text: str) -> str:
    """The text with a space inside each literal special token: `[ EOS]`.

    llama.cpp, Ollama and transformers look for special tokens in every prompt, so a user's [EOS]
    would end the conversation that the model sees. Adding a character cannot make a new one of
    them: none holds a space.
    """
    return _LITERAL.sub("[ ", text)
