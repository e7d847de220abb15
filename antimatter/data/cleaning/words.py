"""The words of a text and hashes of its n-grams, without a Python object for each word: numpy finds
where the words begin and hashes them in place.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from datatrove.utils.text import PUNCTUATION_SET

# Characters processed at once, which bounds the memory for a document of any length
BLOCK = 1 << 16
# Base of the polynomial hash modulo 2^64; odd, so that it has an inverse
BASE = 0x9E6C63D0876A9A35
INVERSE = pow(BASE, -1, 1 << 64)
# Of the hash of n-grams. With BASE in its place, "ab cd" and "db ca" would have the same hash
MIX = 0xD1B54A32D192ED03
# Kinds of characters, as bits: not white space; neither white space nor punctuation; a letter
VISIBLE, PROPER, LETTER = 1, 2, 4


class Words(NamedTuple):
    """The N words of a text, split at white space.

    The hash of a string is the sum of (code point + 1) * BASE^position. The hash of adjacent words
    joined is the difference of two prefix sums, shifted to position 0.
    """

    # (N + 1,) int64: the characters before each word, and in all; without white space
    starts: np.ndarray
    sums: np.ndarray  # (N + 1,) uint64: hash of these characters
    shifts: np.ndarray  # (N,) uint64: BASE^-starts
    kinds: np.ndarray  # (N,) uint8: bitwise or of the kinds of its characters

    def lengths(self, n: int) -> np.ndarray:
        """Characters of each n adjacent words."""
        return self.starts[n:] - self.starts[:-n]

    def joined(self, n: int) -> np.ndarray:
        """Hash of each n adjacent words, joined without spaces."""
        differences = self.sums[n:] - self.sums[:-n]
        return differences * self.shifts[: len(differences)]

    def ngrams(self, n: int) -> np.ndarray:
        """Hash of each n adjacent words as a sequence of words."""
        grams = each = self.joined(1)
        for later in range(1, n):
            grams = grams[:-1] * MIX + each[later:]
        return grams


# Cached because three rules ask for the words of the same text
@lru_cache(maxsize=1)
def words_of(text: str) -> Words:
    return _block(text) if len(text) <= BLOCK else _long(text)


def has_longer_word(line: str, length: int) -> bool:
    """Whether a word of the line has more than `length` characters.

    Strides from space to space, each as long as it can be without skipping such a word.
    """
    start = 0
    while len(line) - start > length:
        start = line.rfind(" ", start, start + length + 1) + 1
        # No space within `length` + 1 characters, but perhaps other white space
        if start == 0:
            return bool(words_of(line).lengths(1).max(initial=0) > length)
    return False


def top_ngram_characters(words: Words, n: int) -> int:
    """Characters of all occurrences of the commonest n-gram, joined by spaces; of the first one if
    several are equally common.
    """
    grams = words.ngrams(n)
    if not len(grams):
        return 0
    ordered = np.sort(grams)
    # The first of each run of equal hashes
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    counts = np.diff(first, append=len(ordered))
    position = np.isin(grams, ordered[first[counts == counts.max()]]).argmax()
    return int(counts.max() * (words.lengths(n)[position] + n - 1))


def repeated_characters(words: Words, n: int) -> int:
    """Characters of the n-grams, joined without spaces, that occurred before. After such a repeat
    the search continues n words later.
    """
    grams, lengths = words.joined(n), words.lengths(n)
    ordered = np.sort(grams)
    # Only hashes that occur twice can change the result
    positions = np.flatnonzero(np.isin(grams, ordered[1:][ordered[1:] == ordered[:-1]]))
    seen = set[int]()
    characters = free = 0
    for position, gram, length in zip(
        positions.tolist(), grams[positions].tolist(), lengths[positions].tolist(), strict=True
    ):
        if position >= free and gram in seen:
            characters += length
            free = position + n
        elif position >= free:
            seen.add(gram)
    return characters


def upper_halves(hashes: np.ndarray) -> np.ndarray:
    """32 of the 64 bits of each hash, which sort twice as fast. If no two halves are equal, no two
    hashes are.
    """
    return hashes.view(np.uint32)[1::2]


def _block(text: str) -> Words:
    powers, inverses = _powers(BASE), _powers(INVERSE)
    codes = _code_points(f" {text} ")
    kinds = _kinds().take(codes)
    visible = kinds > 0
    # Alternately the position before the first character of a word and that of its last one
    edges = np.flatnonzero(visible[1:] != visible[:-1])
    before, last = edges[::2], edges[1::2]
    starts = _prefix_sums(last - before)

    hashes = codes.astype(np.uint64)
    hashes += 1
    hashes *= powers[: len(codes)]
    sums = np.cumsum(hashes, out=hashes)[edges]
    # Shifted back by the white space that precedes each word
    words = (sums[1::2] - sums[::2]) * inverses[before + 1 - starts[:-1]]

    word_kinds = kinds[before + 1]
    # Most words begin with a letter, which sets every bit; only the others are looked at in full
    unclear = np.flatnonzero(word_kinds < LETTER)
    inside = edges.reshape(-1, 2)[unclear].ravel() + 1
    word_kinds[unclear] = np.bitwise_or.reduceat(kinds, inside)[::2]
    return Words(starts, _prefix_sums(words), inverses[starts[:-1]], word_kinds)


def _long(text: str) -> Words:
    """Block by block; a word that a border cuts is put together again."""
    starts, sums, shifts, kinds = (list[np.ndarray]() for _ in range(4))
    # Characters of the blocks before, and their hash
    size = total = 0
    for begin in range(0, len(text), BLOCK):
        block = _block(text[begin : begin + BLOCK])
        up, down = pow(BASE, size, 1 << 64), pow(INVERSE, size, 1 << 64)
        cut = begin > 0 and not text[begin - 1].isspace() and not text[begin].isspace()
        if cut:
            kinds[-1][-1] |= block.kinds[0]
        if len(block.kinds) > cut:
            starts.append(block.starts[cut:-1] + size)
            sums.append(block.sums[cut:-1] * np.uint64(up) + np.uint64(total))
            shifts.append(block.shifts[cut:] * np.uint64(down))
            kinds.append(block.kinds[cut:])
        size += int(block.starts[-1])
        total = (total + int(block.sums[-1]) * up) % (1 << 64)
    starts.append(np.array([size]))
    sums.append(np.array([total], np.uint64))
    return Words(*map(np.concatenate, (starts, sums, shifts, kinds)))


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    """The sum of the values before each one, and of all: (n,) -> (n + 1,)."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


def _code_points(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _powers(base: int) -> np.ndarray:
    """base^0, base^1, ... modulo 2^64."""
    return np.cumprod(np.array([1] + [base] * (BLOCK + 1), np.uint64))


@cache
def _kinds() -> np.ndarray:
    """The kind of every code point."""
    letters = np.fromiter(map(str.isalpha, map(chr, range(0x110000))), bool)
    kinds = np.where(letters, np.uint8(VISIBLE | PROPER | LETTER), np.uint8(VISIBLE | PROPER))
    kinds[[ord(character) for character in PUNCTUATION_SET]] = VISIBLE
    # U+3000 is the last white space of Unicode
    kinds[[code for code in range(0x3001) if chr(code).isspace()]] = 0
    return kinds
