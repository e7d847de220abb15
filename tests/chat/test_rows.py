import sys
from pathlib import Path

import numpy as np
import pytest

from antimatter.chat import rows
from antimatter.chat.template import Message, Rendered
from antimatter.data.special import BOS, PAD
from antimatter.data.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_gguf


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    tiny_gguf.save_tokenizer(folder)
    return Tokenizer.load(folder)


def rendered(*sizes: int) -> list[Rendered]:
    """Conversations of these lengths; the last token of each counts."""
    return [Rendered([BOS, *[10 + i] * (n - 1)], [False] * (n - 1) + [True]) for i, n in enumerate(sizes)]


def test_every_conversation_is_packed_once_and_whole() -> None:
    sizes = (4, 9, 5, 2, 7, 7, 2, 9)
    conversations = rendered(*sizes)
    ids, mask = rows.pack(conversations, context=8)
    assert ids.shape == mask.shape and ids.shape[1] == 9
    found = []
    for row in ids:
        starts = np.flatnonzero(row == BOS)
        found += [part[part != PAD].tolist() for part in np.split(row, starts[1:])]
    assert sorted(found) == sorted(c.ids for c in conversations)
    assert mask.sum() == len(sizes)
    # 45 tokens fit 5 rows of 9 exactly: best fit finds them
    assert len(ids) == 5


def test_what_is_free_in_a_row_counts_for_nothing() -> None:
    ids, mask = rows.pack(rendered(4), context=8)
    assert ids[0].tolist()[4:] == [PAD] * 5
    assert mask[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_long_conversation_is_cut_between_exchanges_and_keeps_its_system_text(words: Tokenizer) -> None:
    turns = [Message("user" if i % 2 == 0 else "assistant", "turn") for i in range(12)]
    system = Message("system", "be kind")
    whole = len(rows.tokens([system, *turns[:4]], words).ids)
    found = rows.pieces([system, *turns], words, room=whole)
    assert len(found) == 3
    assert [message for piece in found for message in piece.messages[1:]] == turns
    for piece in found:
        assert piece.messages[0] == system
        assert len(piece.rendered.ids) <= whole
        assert piece.rendered == rows.tokens(piece.messages, words)


def test_an_exchange_that_does_not_fit_is_left_out(words: Tokenizer) -> None:
    short = [Message("user", "a"), Message("assistant", "b")]
    long = [Message("user", "a " * 40), Message("assistant", "b")]
    found = rows.pieces([*short, *long, *short], words, room=12)
    assert [piece.messages for piece in found] == [tuple(short), tuple(short)]
