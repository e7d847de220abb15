"""Words and n-grams against str.split() and datatrove."""

from itertools import product
from random import Random

import numpy as np
import pytest
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_top_duplicate,
    get_n_grams,
)
from datatrove.utils.text import PUNCTUATION_SET

from antimatter.data.cleaning.words import (
    BLOCK,
    LETTER,
    PROPER,
    VISIBLE,
    has_longer_word,
    repeated_characters,
    top_ngram_characters,
    words_of,
)


def test_words_are_those_of_split():
    random = Random(0)
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    for size in (0, 1, 2, 10, 1000):
        alphabet = [*spaces, *"abc.,é1²\x00\U0001f600\ud800"]
        text = "".join(random.choices(alphabet, k=size))
        words = words_of(text)
        assert words.lengths(1).tolist() == [len(word) for word in text.split()]
        assert len(set(words.joined(1).tolist())) == len(set(text.split()))


def test_every_character_has_its_kind():
    visible = [chr(code) for code in range(0x110000) if not chr(code).isspace()]
    expected = [
        VISIBLE | PROPER * (character not in PUNCTUATION_SET) | LETTER * character.isalpha()
        for character in visible
    ]
    assert words_of(" ".join(visible)).kinds.tolist() == expected


def test_the_borders_of_blocks_change_nothing():
    random = Random(0)
    some = [".", "1", "of", "é", "\n", ". ", "hundred"]
    mixed = "".join(
        random.choice(some) * random.choice((1, 1, 1, 2, BLOCK // 3, 2 * BLOCK))
        + random.choice(("", " "))
        for _ in range(100)
    )
    for text in (mixed, "1" * BLOCK + " y", "." * BLOCK + "y 1", "." * (BLOCK - 1) + " y"):
        words, shifted, split = words_of(text), words_of(" " * 1000 + text), text.split()
        assert words.lengths(1).tolist() == [len(word) for word in split]
        assert words.kinds.tolist() == [
            np.bitwise_or.reduce(words_of(" ".join(set(word))).kinds) for word in split
        ]
        for n in (1, 2, 7):
            assert words.joined(n).tolist() == shifted.joined(n).tolist()
        assert words.joined(2)[-1] == words_of(split[-2] + split[-1]).joined(1)[0]


def test_ngrams_are_compared_as_words_and_joined_ones_as_letters():
    words = words_of("ab cd db ca abc d a bcd")
    assert len(set(words.ngrams(2).tolist())) == 7
    pairs = words.joined(2).tolist()
    assert pairs[0] == pairs[4] == pairs[6] and len(set(pairs)) == 5
    assert repeated_characters(words, 2) == len("abcd") * 2


def test_repetition_is_counted_as_datatrove_does():
    random = Random(0)
    for _ in range(500):
        words = random.choices(("a", "b", "ab", "ba", "aa"), k=random.randrange(1, 60))
        for n in range(1, 8):
            assert repeated_characters(words_of(" ".join(words)), n) == find_all_duplicate(words, n)
            assert top_ngram_characters(words_of(" ".join(words)), n) == (
                find_top_duplicate(get_n_grams(words, n)) if n <= len(words) else 0
            )


@pytest.mark.parametrize("space", [" ", "\t", "\u3000"])
def test_a_long_word_is_found_at_every_position(space):
    for before, after in product(range(8), range(8)):
        for length in range(8):
            line = "a" * before + space + "b" * length + space + "c" * after
            assert has_longer_word(line, 4) == any(len(word) > 4 for word in line.split())
