from collections.abc import Sequence

import numpy as np
import pytest
from helpers import gguf_model

from antimatter.chat import packing
from antimatter.chat.template import Message, Rendered
from antimatter.data.special_tokens import BEGINS, BOS, COUNTS, PAD, SYSTEM, USER
from antimatter.data.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    gguf_model.save_tokenizer(folder)
    return Tokenizer.load(folder)


def rendered(*sizes: int, system: Sequence[int] = ()) -> list[Rendered]:
    """Conversations of these lengths without their opening; the last token of each counts."""
    head = [BOS, *([SYSTEM, *system] if system else [])]
    return [
        Rendered([*head, USER, *[10 + i] * (n - 1)], [False] * (len(head) + n - 1) + [True])
        for i, n in enumerate(sizes)
    ]


def unpacked(ids: np.ndarray, marks: np.ndarray) -> list[Rendered]:
    """The conversations of packed rows, each with its opening."""
    conversations = []
    for row, marked in zip(ids, marks, strict=True):
        for token, mark in zip(row.tolist(), marked.tolist(), strict=True):
            if token == BOS:
                head, is_open = [], True
            if mark & BEGINS:
                conversations.append(Rendered([*head], [False] * len(head)))
                is_open = False
            if is_open:
                head.append(token)
            elif token != PAD:
                conversations[-1].ids.append(token)
                conversations[-1].mask.append(bool(mark & COUNTS))
    return conversations


def test_every_conversation_is_packed_once_and_whole() -> None:
    conversations = rendered(3, 8, 4, 1, 6, 6, 1, 8)
    ids, marks = packing.pack(conversations, context=8)
    assert ids.shape == marks.shape == (5, 9)
    assert sorted(unpacked(ids, marks)) == sorted(conversations)
    # One [BOS] a row, and 37 tokens in 5 rows that have room for 40
    assert (ids == BOS).sum() == 5
    assert (ids != PAD).sum() == 5 + 37


def test_conversations_with_the_same_system_text_share_it() -> None:
    alike = rendered(4, 3, 5, 2, system=[20, 21])
    others = [*rendered(2, 3), *rendered(3, system=[30])]
    ids, marks = packing.pack([*alike, *others], context=20)
    assert sorted(unpacked(ids, marks)) == sorted([*alike, *others])
    # 14 and 4 tokens, 5 and 1, 3 and 3: all openings stand once
    assert ids.shape == (2, 21)
    assert (ids == BOS).sum() == 3 and (ids == SYSTEM).sum() == 2


def test_what_is_free_in_a_row_counts_for_nothing() -> None:
    ids, marks = packing.pack(rendered(3), context=8)
    assert ids[0].tolist()[4:] == [PAD] * 5
    assert marks[0].tolist() == [0, BEGINS, 0, COUNTS, 0, 0, 0, 0, 0]


def test_a_long_conversation_is_cut_between_exchanges_and_keeps_its_system_text(
    words: Tokenizer,
) -> None:
    turns = [Message("user" if i % 2 == 0 else "assistant", "turn") for i in range(12)]
    system = Message("system", "be kind")
    whole = len(packing.tokens([system, *turns[:4]], words).ids)
    pieces = packing.pieces([system, *turns], words, room=whole)
    assert len(pieces) == 3
    assert [message for piece in pieces for message in piece.messages[1:]] == turns
    for piece in pieces:
        assert piece.messages[0] == system
        assert len(piece.rendered.ids) <= whole
        assert piece.rendered == packing.tokens(piece.messages, words)


def test_an_exchange_that_does_not_fit_is_left_out(words: Tokenizer) -> None:
    short = [Message("user", "a"), Message("assistant", "b")]
    long = [Message("user", "a " * 40), Message("assistant", "b")]
    pieces = packing.pieces([*short, *long, *short], words, room=12)
    assert [piece.messages for piece in pieces] == [tuple(short), tuple(short)]
