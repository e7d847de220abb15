"""Conversations as rows of tokens to tune on: packed whole, never cropped.

A row has room for one context and the last target. Rows are filled by best fit: each conversation
goes where the least room stays free, as in nanochat's tuning. What is free is [PAD], which no
target counts.
"""

# R rows, T tokens of context
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from antimatter.chat.template import Message, Rendered, tokens
from antimatter.data.special import PAD
from antimatter.data.tokenizer import Tokenizer


class Piece(NamedTuple):
    """A part of a conversation that fits a context, and the messages that it was made of."""

    rendered: Rendered
    messages: tuple[Message, ...]


def pieces(messages: Sequence[Message], tokenizer: Tokenizer, room: int) -> list[Piece]:
    """A conversation in parts of at most `room` tokens, each with whole exchanges of a question and
    its answer, and with the system text, if there is one.

    An exchange that is longer by itself is left out: there is nothing honest to cut.
    """
    system = tuple(message for message in messages[:1] if message.role == "system")
    turns = messages[len(system) :]
    exchanges = [tuple(turns[i : i + 2]) for i in range(0, len(turns) - 1, 2)]
    found: list[Piece] = []
    held: tuple[Message, ...] = ()
    for exchange in exchanges:
        longer = Piece(tokens([*system, *held, *exchange], tokenizer), (*system, *held, *exchange))
        if len(longer.rendered.ids) <= room:
            if held:
                found.pop()
            held += exchange
            found.append(longer)
            continue
        alone = Piece(tokens([*system, *exchange], tokenizer), (*system, *exchange))
        held = exchange if len(alone.rendered.ids) <= room else ()
        if held:
            found.append(alone)
    return found


def pack(conversations: Sequence[Rendered], context: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `context` + 1 tokens with whole conversations: (R, T + 1) uint16 tokens, and uint8
    masks of the targets that count.

    The order within and between rows depends on the conversations alone.
    """
    room = context + 1
    rows: list[list[int]] = []
    # Rows by the room that is free in them: best fit takes the last of the fullest that has enough
    by_free: list[list[int]] = [[] for _ in range(room + 1)]
    # Bit n: some row has n tokens free. Its lowest bits are found faster than by a walk
    used = 0
    for number, size in _longest_first(conversations):
        fitting = used >> size
        if fitting:
            free = size + (fitting & -fitting).bit_length() - 1
            row = by_free[free].pop()
        else:
            row, free = len(rows), room
            rows.append([])
        rows[row].append(number)
        by_free[free - size].append(row)
        used |= 1 << (free - size)
        if not by_free[free]:
            used &= ~(1 << free)
    ids = np.full((len(rows), room), PAD, np.uint16)
    mask = np.zeros((len(rows), room), np.uint8)
    for row, numbers in enumerate(rows):
        start = 0
        for number in numbers:
            rendered = conversations[number]
            end = start + len(rendered.ids)
            ids[row, start:end], mask[row, start:end] = rendered.ids, rendered.mask
            start = end
    return ids, mask


def _longest_first(conversations: Sequence[Rendered]) -> Iterator[tuple[int, int]]:
    """(number, tokens), as best fit leaves least room free when the long ones come first."""
    sizes = np.array([len(rendered.ids) for rendered in conversations], np.int64)
    for number in np.argsort(-sizes, kind="stable"):
        yield int(number), int(sizes[number])
