"""The one place where a conversation becomes a prompt, for every engine.

The text is the one that TEMPLATE and the chat template in the GGUF file render (antimatter.export.template says why it looks so). What this adds:
user text cannot turn into special tokens, and a conversation that outgrows the context loses its oldest turns before the runtime cuts it anywhere.
"""

import bisect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from antimatter.export.template import SEPARATOR

_SPECIAL = re.compile(r"\[(?=(?:PAD|BOS|EOS)\])")


@dataclass(frozen=True)
class Message:
    role: Literal["system", "user", "assistant"]
    text: str


def render(messages: Sequence[Message]) -> str:
    return SEPARATOR.join(neutralise(message.text) for message in messages if message.text)


def neutralise(text: str) -> str:
    """The text with a space inside each literal [PAD], [BOS] and [EOS]: `[ EOS]`.

    llama.cpp and Ollama look for special tokens in every prompt, and a user's [EOS] would end the text that the model sees. Adding a character cannot
    make a new one of them: none holds a space.
    """
    return _SPECIAL.sub("[ ", text)


def fit(messages: Sequence[Message], room: int, count: Callable[[str], int]) -> list[Message]:
    """The messages without their oldest turns, as few as must go for the prompt to have at most `room` tokens. System text and the last turn stay.

    What stays begins with a turn of the user, so an answer never stays without what it answers: it continues that text in the middle of a sentence,
    while after [BOS] the model has only ever seen texts begin. Only a last turn that is no user's may stand alone.

    `count` is asked about 2 + log2(turns) times. A longer prompt has more tokens, so the right cut is found by halving; should runs of blanks at a
    border break that rule by a token, a turn more than needed may go, but what is returned was counted, and fits.

    Args:
        count: tokens of a prompt, [BOS] included.

    Raises:
        ValueError: system text and last turn alone are too long.
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    last = max(len(turns) - 1, 0)
    starts = sorted({0, last, *(i for i, turn in enumerate(turns) if turn.role == "user")})

    def tokens(start: int) -> int:
        return count(render([*system, *turns[start:]]))

    if tokens(0) <= room:
        return [*system, *turns]
    if (n_tokens := tokens(last)) > room:
        raise ValueError(f"the text has {n_tokens} tokens, the model can read {room} and still answer: shorten it")
    cut = starts[bisect.bisect_left(starts, True, 1, len(starts) - 1, key=lambda start: tokens(start) <= room)]
    return [*system, *turns[cut:]]
