"""Messages on their way to an engine: antimatter.chat.template makes the text, and this makes the
messages fit.

A conversation gets the system text that its model was tuned with, and loses its oldest turns before
the runtime cuts it anywhere.
"""

import bisect
from collections.abc import Callable, Sequence

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.llama.header import ChatFacts

Render = Callable[[Sequence[Message]], str]


def renderer(chat: ChatFacts | None) -> Render:
    """What makes the text of a conversation: with roles for a model that was tuned to chat; for a
    base model the text that it continues.
    """
    return template.continued if chat is None else template.prompt


def prepare(messages: Sequence[Message], chat: ChatFacts | None) -> list[Message]:
    """The messages as the model was tuned on them: its system text before them if they bring none,
    and no blanks around an answer. A base model gets them as they are.

    A system text that is empty stands for none.
    """
    if chat is None:
        return [*messages]
    own = [message for message in messages if message.role == "system"]
    prepared = [Message("system", chat.system)] if chat.system and not own else []
    for message in messages:
        if message.role == "assistant":
            prepared.append(Message("assistant", message.text.strip()))
        elif message.role == "user" or message.text:
            prepared.append(message)
    return prepared


def fit(
    messages: Sequence[Message],
    room: int,
    count: Callable[[Sequence[Message]], int],
) -> list[Message]:
    """The messages without their oldest turns, as few as must go for the prompt to have at most
    `room` tokens. System text and the last turn stay.

    What stays begins with a turn of the user, so an answer never stays without what it answers.
    Only a last turn that is no user's may stand alone.

    `count` is asked about 2 + log2(turns) times. A longer prompt has more tokens, so the right cut
    is found by halving; should runs of blanks at a border break that rule by a token, a turn more
    than needed may go, but what is returned was counted, and fits.

    Args:
        count: tokens of the prompt of some messages, [BOS] included.

    Raises:
        ValueError: system text and last turn alone are too long.
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    last = max(len(turns) - 1, 0)
    starts = sorted({0, last, *(i for i, turn in enumerate(turns) if turn.role == "user")})

    def tokens(start: int) -> int:
        return count([*system, *turns[start:]])

    if tokens(0) <= room:
        return [*system, *turns]
    if (n_tokens := tokens(last)) > room:
        reads = f"the model can read {room} and still answer"
        raise UserError(f"the text has {n_tokens} tokens, {reads}: shorten it")

    def fits(start: int) -> bool:
        return tokens(start) <= room

    cut = starts[bisect.bisect_left(starts, True, 1, len(starts) - 1, key=fits)]
    return [*system, *turns[cut:]]
