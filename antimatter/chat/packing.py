"""Conversations as rows of tokens to tune on: packed whole, never cropped.

A row has room for one context and the last target. Conversations of a row that open alike, with
[BOS] and the same system text or none, share that opening, which the row holds once:

    [BOS] [SYSTEM] text   [USER] ... [EOS]   [USER] ... [EOS]   [USER] ... [EOS]

Each is learnt from as if it followed the opening alone (`segments` of GPT.hidden). Rows are filled
by best fit: each conversation goes where the least room stays free, as in nanochat's tuning. Free
places hold [PAD], which does not count as a target.
"""

# R rows, T tokens of context
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from antimatter.chat.template import Message, Rendered, tokens
from antimatter.data.special_tokens import BEGINS, COUNTS, PAD, USER
from antimatter.data.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A part of a conversation that fits a context, as tokens and as messages."""

    rendered: Rendered
    messages: tuple[Message, ...]


def pieces(messages: Sequence[Message], tokenizer: Tokenizer, room: int) -> list[Piece]:
    """A conversation in parts of at most `room` tokens, each with whole exchanges of a question and
    its answer, and with the system text, if there is one.

    An exchange that is longer than `room` is left out, never cropped.
    """
    system = tuple(message for message in messages[:1] if message.role == "system")
    turns = messages[len(system) :]
    exchanges = [tuple(turns[i : i + 2]) for i in range(0, len(turns) - 1, 2)]
    result: list[Piece] = []
    current: tuple[Message, ...] = ()  # the turns of the last piece, while it can grow
    for exchange in exchanges:
        longer = _piece((*system, *current, *exchange), tokenizer)
        if len(longer.rendered.ids) <= room:
            if current:
                result.pop()
            current += exchange
            result.append(longer)
            continue
        alone = _piece((*system, *exchange), tokenizer)
        current = exchange if len(alone.rendered.ids) <= room else ()
        if current:
            result.append(alone)
    return result


def _piece(messages: tuple[Message, ...], tokenizer: Tokenizer) -> Piece:
    return Piece(tokens(messages, tokenizer), messages)


def opening(conversation: Rendered) -> int:
    """The number of tokens before the first turn: [BOS], and the system text if there is one."""
    return conversation.ids.index(USER)


def pack(conversations: Sequence[Rendered], context: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `context` + 1 tokens with whole conversations: (R, T + 1) uint16 tokens, and uint8
    marks of them, COUNTS and BEGINS.

    The order within and between rows depends on the conversations alone.

    Args:
        conversations: each of `context` + 1 tokens at most, with a user's turn.
    """
    room = context + 1
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, one in enumerate(conversations):
        alike.setdefault(tuple(one.ids[: opening(one)]), []).append(number)
    # Conversations that share an opening, and the tokens that they take together
    shared: list[list[int]] = []
    sizes: list[int] = []
    for numbers in alike.values():
        head = opening(conversations[numbers[0]])
        lengths = [len(conversations[number].ids) - head for number in numbers]
        for part in _best_fit(lengths, room - head):
            shared.append([numbers[i] for i in part])
            sizes.append(head + sum(lengths[i] for i in part))
    rows = _best_fit(sizes, room)
    ids = np.full((len(rows), room), PAD, np.uint16)
    marks = np.zeros((len(rows), room), np.uint8)
    for row, groups in enumerate(rows):
        end = 0
        for numbers in (shared[group] for group in groups):
            head = opening(conversations[numbers[0]])
            start, end = end, end + head
            ids[row, start:end] = conversations[numbers[0]].ids[:head]
            for one in (conversations[number] for number in numbers):
                start, end = end, end + len(one.ids) - head
                ids[row, start:end] = one.ids[head:]
                marks[row, start:end] = np.array(one.mask[head:], np.uint8) * COUNTS
                marks[row, start] |= BEGINS
    return ids, marks


def _best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """The numbers of the sizes in bins of `room`. The long ones come first, which leaves least room
    free.
    """
    bins: list[list[int]] = []
    # Bins by their free room: best fit takes the last of the fullest bins that have enough
    by_free: list[list[int]] = [[] for _ in range(room + 1)]
    # Bit n: some bin has n free. The lowest bit of an integer is found faster than by a loop
    used = 0
    # A stable sort, so that equal lengths keep their order on every machine
    for number in np.argsort(-np.array(sizes, np.int64), kind="stable").tolist():
        size = sizes[number]
        fitting = used >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            place = by_free[free].pop()
        else:
            place, free = len(bins), room
            bins.append([])
        bins[place].append(number)
        by_free[free - size].append(place)
        used |= 1 << (free - size)
        if not by_free[free]:
            used &= ~(1 << free)
    return bins
