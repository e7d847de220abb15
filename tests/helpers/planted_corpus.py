"""A corpus with known truth to measure the cleaning: clean documents, duplicates of measured
similarity, and junk by class.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from textwrap import wrap

from helpers.planted_junk import JUNK
from helpers.planted_text import BANKS, GENRES, article, sentence, sentence_of

SHINGLE = 5  # words
TOLERANCE = 0.01  # of the similarity of near duplicates
MIN_NEAR_WORDS = 110  # a shorter document has too few shingles for that tolerance


@dataclass(frozen=True, kw_only=True)
class Planted:
    id: str
    text: str
    kind: str  # clean/..., exact/..., near/... or junk/...
    twin: str | None  # id of the clean document that a duplicate was made from
    similarity: float | None  # to that document, measured


def plant(seed: int, size: int) -> list[Planted]:
    """About `size` documents: two fifths clean, three tenths duplicates of these, three tenths
    junk, the same number of each class.

    They are mixed, but a duplicate lies at least a fifth of the list before or after its twin: in
    another file, if the list is cut into seven or more.
    """
    random = Random(seed)
    placed: list[tuple[float, Planted]] = []

    def add(kind: str, text: str, position: float, twin: Planted | None = None) -> None:
        document = Planted(
            id=f"{len(placed):05d}",
            text=text,
            kind=kind,
            twin=twin.id if twin else None,
            similarity=jaccard(text, twin.text) if twin else None,
        )
        placed.append((position, document))

    for number in range(2 * size // 5):
        genre = GENRES[number % len(GENRES)]
        text = article(random, genre)
        special = random.choice(list(SPECIAL)) if random.random() < 0.15 else None
        if special:
            text = SPECIAL[special](random, text)
        add(f"clean/{special or genre}", text, random.random())
    plain = [pair for pair in placed if pair[1].kind.removeprefix("clean/") not in SPECIAL]
    random.shuffle(plain)
    for kind, (share, make) in DUPLICATES.items():
        least = 0 if kind.startswith("exact") else MIN_NEAR_WORDS
        for _ in range(round(size * share)):
            n = next(n for n, (_, one) in enumerate(plain) if len(one.text.split()) >= least)
            position, twin = plain.pop(n)
            text = make(random, twin.text)
            add(kind, text, (position + random.uniform(0.2, 0.8)) % 1, twin)
    for kind, write in JUNK.items():
        for _ in range(3 * size // 10 // len(JUNK)):
            add(f"junk/{kind}", write(random), random.random())
    return [document for _, document in sorted(placed, key=lambda pair: pair[0])]


def jaccard(a: str, b: str) -> float:
    """Similarity of the sets of shingles of lower-case words."""
    first, second = shingles(a), shingles(b)
    return len(first & second) / len(first | second)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


# ---- clean documents with a complication


def _with_sentence(random: Random, text: str, more: str) -> str:
    """With one more sentence, at the start or the end of some line."""
    lines = text.split("\n")
    number = random.choice([number for number, line in enumerate(lines) if line])
    lines[number] = random.choice((f"{more} {lines[number]}", f"{lines[number]} {more}"))
    return "\n".join(lines)


def _furnished(random: Random, text: str) -> str:
    """With the menus and notices of its page."""
    above = [sentence_of(random, bank) for bank in ("menu", "cookies", "menu")]
    banks = ("calls to action", "javascript notice", "menu", "menu")
    below = [sentence_of(random, bank) for bank in banks]
    return "\n".join([*random.sample(above, 2), text, *random.sample(below, 3)])


def _shared(random: Random, text: str) -> str:
    """With a first and a last paragraph that other documents have too, about the same event or by
    the same author.
    """
    return "\n".join([random.choice(BANKS["agency"]), text, random.choice(BANKS["author"])])


NON_ASCII = (
    "The (café|fiancée|naïve painter|jalapeño) “@place” cost @number € – or £@number… "
    "at @number °C."
)


def _broken(random: Random, text: str) -> str:
    """UTF-8 that was decoded as another encoding, once or twice."""
    whole = _with_sentence(random, text, sentence(random, NON_ASCII))
    broken = mojibake(whole, random.choice(("cp1252", "latin-1")))
    return mojibake(broken, "cp1252") if random.random() < 0.2 else broken


def mojibake(text: str, codec: str) -> str:
    """As browsers decode: the five bytes that cp1252 leaves undefined become control characters."""
    return "".join(
        bytes([byte]).decode(codec, errors="ignore") or chr(byte) for byte in text.encode()
    )


def _tokens(random: Random, text: str) -> str:
    """With the name of a special token."""
    token = random.choice(("[EOS]", "<|endoftext|>", "[PAD]", "[BOS]", "<s>", "</s>"))
    more = f"Each answer of the model ends with {token} and a new line."
    quoted = _with_sentence(random, text, more)
    return random.choice((quoted, quoted, f"{text}{token}", f"{text}\n{token}", f"{token}{text}"))


SPECIAL: dict[str, Callable[[Random, str], str]] = {
    "furnished": _furnished,
    "shared": _shared,
    "mojibake": _broken,
    "tokens": _tokens,
}


# ---- duplicates


def near(similarity: float, random: Random, text: str) -> str:
    """`text` edited until the two have that similarity, within TOLERANCE. The edit replaces words
    here and there or in a row, cuts words, or adds some.
    """
    # Words, and the white space between them
    parts = re.split(r"(\s+)", text.strip())
    length = len(parts) // 2 + 1
    for _ in range(1000):
        manner = random.choice(("here and there", "here and there", "in a row", "cut", "add"))
        start = random.randrange(length)
        # Words that are replaced in a row
        run = length if manner == "in a row" else random.randint(1, 4)
        starts = [start]
        if manner != "in a row":
            starts = random.sample(range(0, length, run), -(-length // run))
        order = [(i + j) % length for i in starts for j in range(run)]
        fresh = " ".join(article(random, "essay") for _ in range(length // 60 + 1)).split()
        edit = partial(_edited, parts, manner, start, order, fresh)
        # The similarity falls with the number of edited words
        n = bisect_left(range(length), -similarity, key=lambda n: -jaccard(text, edit(n)))
        if abs(jaccard(text, edit(n)) - similarity) <= TOLERANCE:
            return edit(n)
    raise ValueError(f"no edit of {text[:60]!r} has similarity {similarity}")


def _edited(
    parts: list[str], manner: str, start: int, order: list[int], fresh: list[str], n: int
) -> str:
    """The text with n words edited."""
    if manner == "cut":
        return "".join(parts[: 2 * start] + parts[2 * (start + n) :])
    if manner == "add":
        added = [f"{word} " for word in fresh[:n]]
        return "".join([*parts[: 2 * start], *added, *parts[2 * start :]])
    changed = dict(zip(order[:n], fresh, strict=False))
    return "".join(
        changed.get(i // 2, part) if i % 2 == 0 else part for i, part in enumerate(parts)
    )


def _spaced(spaces: Sequence[str], random: Random, text: str) -> str:
    return re.sub(" ", lambda _: random.choice(spaces), text)


def _wrapped(random: Random, text: str) -> str:
    width = random.randint(50, 90)
    return "\n".join("\n".join(wrap(paragraph, width)) for paragraph in text.split("\n"))


# Kind: its share of the corpus, and how it is made
DUPLICATES: dict[str, tuple[float, Callable[[Random, str], str]]] = {
    "exact/same": (0.012, lambda random, text: text),
    "exact/spaces": (0.008, partial(_spaced, (" ", "  ", "\t", " \t "))),
    "exact/no-break spaces": (0.008, partial(_spaced, (" ", " ", "\u00a0", "\u2009"))),
    "exact/line ends": (0.008, lambda random, text: text.replace("\n", "\r\n\r\n")),
    "exact/one line": (0.008, lambda random, text: " ".join(text.split())),
    "exact/wrapped": (0.008, _wrapped),
    "exact/upper case": (0.008, lambda random, text: text.upper()),
    "exact/lower case": (0.008, lambda random, text: text.lower()),
    "exact/title case": (0.008, lambda random, text: text.title()),
    "near/0.7": (0.04, partial(near, 0.7)),
    "near/0.8": (0.1, partial(near, 0.8)),
    "near/0.9": (0.04, partial(near, 0.9)),
}
