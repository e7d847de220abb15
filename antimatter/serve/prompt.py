"""Makes the prompt of a conversation: the system text that the model was tuned with, and as many of
the last turns as fit into the context.

antimatter.chat.template renders the text. The oldest turns are dropped here, before the runtime
could cut the prompt anywhere.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.errors import UserError
from antimatter.llama.header import ChatFacts
from antimatter.serve.backend import Backend, Generation

Render = Callable[[Sequence[Message]], str]


@dataclass(frozen=True)
class Prompt:
    text: str
    messages: list[Message]  # those that fit
    generation: Generation  # as asked for, with as many tokens as fit


async def build(
    backend: Backend,
    messages: Sequence[Message],
    generation: Generation,
    *,
    render: Render | None = None,
    n_ctx: int | None = None,
) -> Prompt:
    """The prompt of a conversation, without the oldest turns if they do not fit.

    Prompt and answer together never exceed the context, so no runtime has a reason to shift it:
    positions are learned and cannot be shifted.

    Args:
        render: how the messages become text; None: as the model was tuned.
        n_ctx: tokens of prompt and answer, if fewer than the backend's are to be used.

    Raises:
        UserError: the last turn alone is too long.
        BackendError: the backend cannot count the tokens.
    """
    as_text = render or renderer(backend.chat)
    room = min(n_ctx or backend.n_ctx, backend.n_ctx)

    async def count(some: Sequence[Message]) -> int:
        return await backend.count(as_text(some))

    # Tokens kept free, so that a long conversation still gets an answer
    reserved = min(generation.max_tokens, room // 2)
    fitting, n_tokens = await fit(messages, room - reserved, count)
    max_tokens = min(generation.max_tokens, room - n_tokens)
    # llama.cpp reserves memory for the number of tokens that it is given
    last_n = room if generation.repeat_last_n < 0 else min(generation.repeat_last_n, room)
    fits = replace(generation, max_tokens=max_tokens, repeat_last_n=last_n)
    return Prompt(as_text(fitting), fitting, fits)


def renderer(chat: ChatFacts | None) -> Render:
    """Renders a conversation: with roles for a model that was tuned to chat, as the text to
    continue for a base model.
    """
    return template.continued if chat is None else template.prompt


def prepare(messages: Sequence[Message], chat: ChatFacts | None) -> list[Message]:
    """The messages in the form of the tuning data: after the model's system text unless they bring
    one, and answers without surrounding blanks. Those for a base model stay unchanged.

    An empty system text means no system text.
    """
    if chat is None:
        return [*messages]
    has_system = any(message.role == "system" for message in messages)
    prepared = [Message("system", chat.system)] if chat.system and not has_system else []
    for message in messages:
        if message.role == "assistant":
            prepared.append(Message("assistant", message.text.strip()))
        elif message.role == "user" or message.text:
            prepared.append(message)
    return prepared


async def fit(
    messages: Sequence[Message],
    room: int,
    count: Callable[[Sequence[Message]], Awaitable[int]],
) -> tuple[list[Message], int]:
    """The messages without the fewest oldest turns, so that the prompt has at most `room` tokens;
    and its number of tokens. System texts and the last turn stay.

    The rest begins with a turn of the user, so no answer stays without its question. Only a last
    turn of another role may be alone.

    `count` is called 2 + log2(turns) times. A longer prompt has more tokens, so the cut is found by
    bisection. Where blanks at a border break that rule by a token, one turn more than needed may be
    dropped, but the result was counted and fits.

    Args:
        count: tokens of the prompt of some messages, [BOS] included.

    Raises:
        UserError: system text and last turn alone are too long.
    """
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    last = max(len(turns) - 1, 0)
    starts = sorted({0, last, *(i for i, turn in enumerate(turns) if turn.role == "user")})

    async def tokens(start: int) -> int:
        return await count([*system, *turns[start:]])

    if (n_tokens := await tokens(0)) <= room:
        return [*system, *turns], n_tokens
    if (n_tokens := await tokens(last)) > room:
        # Clients look for the first words to know that they must send less
        limit = f"it has {n_tokens} tokens, the model can read {room} and still answer"
        raise UserError(f"the prompt is too long, {limit}: shorten it")
    low, high = 1, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        if (n_middle := await tokens(starts[middle])) <= room:
            high, n_tokens = middle, n_middle
        else:
            low = middle + 1
    return [*system, *turns[starts[high] :]], n_tokens
