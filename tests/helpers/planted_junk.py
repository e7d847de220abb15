"""Junk by class: what crawlers find on the web besides text worth learning."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from textwrap import wrap

from helpers.planted_text import (
    BANKS,
    LANGUAGES,
    SLOTS,
    article,
    fill,
    sentence,
    sentence_of,
    shuffled,
)


def _some(bank: str, least: int, most: int, breaks: Sequence[str], random: Random) -> str:
    """`least` to `most` lines of a bank, all with the same break after them or each with any."""
    number, templates = random.randint(least, most), BANKS[bank]
    draw = random.sample if number <= len(templates) else random.choices
    chosen = draw(templates, k=number)
    used = breaks if random.random() < 0.3 else [random.choice(breaks)]
    write = fill if bank.startswith(("code", "html")) else sentence
    return "".join(write(random, template) + random.choice(used) for template in chosen)


def _page(bank: str, random: Random) -> str:
    return _some(bank, 4, len(BANKS[bank]), (" ", "\n", "\n\n"), random)


def _lorem(random: Random) -> str:
    start = random.choice(("", "Lorem ipsum dolor sit amet, consectetur adipiscing elit. "))
    text = start + _page("lorem ipsum", random)
    before, after = f"{article(random, 'review')}\n{text}", f"{text}\n{article(random, 'essay')}"
    return random.choice((text, before, after))


def _code(bank: str, random: Random) -> str:
    text = _some(bank, 8, 25, ("\n",), random).replace("\\n", "\n")
    # On one line, as an extractor that ignores <pre> leaves it
    return random.choice((text, text, " ".join(text.split())))


TAGS = (
    ("<b>", "</b>"),
    ('<a href="/page.php?id=7">', "</a>"),
    ("[url=http://forum.example/t/9]", "[/url]"),
)


def _tagged(random: Random) -> str:
    """Prose with a tag every few words; its lines end like sentences."""
    start, end = random.choice(TAGS)
    words = article(random, "forum").split(" ")
    return "<br />" + " ".join(
        f"{start}{word}{end}" if random.random() < 0.3 and word[-1:].isalpha() else word
        for word in words
    )


def _json(random: Random) -> str:
    rows = []
    for n in range(random.randint(4, 12)):
        title, text = sentence(random, "@quality @thing"), sentence_of(random, "common")
        rows.append({"id": n, "title": title, "text": text})
    flat = "\n".join(f'"{key}": "{row[key]}"' for row in rows for key in row)
    return random.choice((json.dumps(rows), json.dumps(rows, indent=2), flat))


def _short(random: Random) -> str:
    text, most = "Nothing here yet.", random.randint(8, 48)
    while len((longer := f"{text} {sentence_of(random, 'common')}").split()) <= most:
        text = longer
    return text


def _symbols(random: Random) -> str:
    symbols = [
        random.choice(SLOTS["symbol"]) * random.randint(1, 4)
        for _ in range(random.randint(40, 200))
    ]
    return "".join(
        symbol + random.choice((" ", " ", f" {sentence_of(random, 'menu')}! ", ".\n"))
        for symbol in symbols
    )


def _table(random: Random) -> str:
    separator, end = random.choice((" ", "\t", " | ")), random.choice(("", ".", "%", " |"))
    cells = "(@number,@number0|@number.@number|@few|-|@number%|@month @year|€@number)" + separator

    def row() -> str:
        template = f"(@place|@thing|@month){separator}{cells * random.randint(4, 8)}"
        return sentence(random, template).strip() + end

    return "\n".join(row() for _ in range(random.randint(10, 50)))


def _spam(random: Random) -> str:
    """Full of one keyword: several times in a sentence, or once in most sentences."""
    keyword = sentence_of(random, "keyword").lower()
    dense = random.choice((0.0, 0.3, 1.0))
    text = _some("spam", 8, len(BANKS["spam"]), (" ", "\n"), random)
    again = re.sub(
        "(?<=KEYWORD)([^.?\n]*?)KEYWORD",
        lambda match: match[1] + ("KEYWORD" if random.random() < dense else "it"),
        text,
    )
    return again.replace("KEYWORD", keyword)


def _tags(random: Random) -> str:
    keyword = sentence_of(random, "keyword").lower()
    template = f"(@quality {keyword}|{keyword} in @place|{keyword} @year)"
    tags = (sentence(random, template) for _ in range(random.randint(25, 90)))
    return ", ".join(tags) + "."


def _repeated(unit: str, random: Random) -> str:
    lines = [line for line in article(random, "story").split("\n") if line]
    if unit == "lines":
        templates = shuffled(random, "common")[: random.randint(1, 3)]
        chorus = [sentence(random, template) for template in templates]
        some = lines + random.choices(chorus, k=len(lines) + random.randint(4, 20))
        return "\n".join(random.sample(some, len(some)))
    if unit == "paragraphs":
        return "\n\n".join(random.choices(lines, k=len(lines)) + lines)
    words = " ".join(lines).split()
    phrase = " ".join(words[: random.randint(2, 9)])
    some = words[: random.randint(60, 200)]
    return " ".join(f"{word} {phrase}" if random.random() < 0.25 else word for word in some) + "."


def _gibberish(random: Random) -> str:
    style = random.choice(("letters", "syllables", "keys", "with stop words"))
    letters = "asdfjkl;ghqwe" if style == "keys" else "abcdefghijklmnopqrstuvwxyz"

    def syllable() -> str:
        consonant, vowel = random.choice("bcdfghjklmnprstvwz"), random.choice("aeiou")
        return consonant + vowel + random.choice("  nrx")

    def word() -> str:
        if style == "with stop words" and random.random() < 0.4:
            return random.choice("the of and to in is that with have be".split())
        if style == "syllables":
            return "".join(syllable() for _ in range(3)).replace(" ", "")
        return "".join(random.choices(letters, k=random.randint(2, 9)))

    return " ".join(
        " ".join(word() for _ in range(random.randint(4, 16))).capitalize() + "."
        for _ in range(random.randint(8, 40))
    )


BLOB_HEADERS = (
    "",
    "Content-Transfer-Encoding: base64\n\n",
    "-----BEGIN CERTIFICATE-----\n",
    "This is an encoded file. ",
)


def _blob(random: Random) -> str:
    data = random.randbytes(random.randint(300, 3000))
    code = base64.b64encode(data).decode()
    forms = (code, "\n".join(wrap(code, 76)), " ".join(wrap(code, 64)))
    blob = random.choice((*forms, data.hex(" "), data.hex(" ", 4)))
    return random.choice(BLOB_HEADERS) + blob


def _binary(random: Random) -> str:
    alphabet = [chr(i) for i in range(random.choice((64, 256)))]
    alphabet += ["\0"] * 40 + ["\ufffd"] * random.choice((0, 60))
    data = "".join(random.choices(alphabet, k=random.randint(200, 3000)))
    return data + random.choice(("", " endobj stream ", "%PDF-1.4"))


def _spaced(random: Random, templates: Sequence[str]) -> str:
    return "".join(sentence(random, template) + random.choice("  \n") for template in templates)


def _foreign(language: str, random: Random) -> str:
    return _spaced(random, random.choices(LANGUAGES[language], k=random.randint(4, 30)))


def _late(random: Random) -> str:
    """1,000 characters of English and a little more, then twice as much in other languages."""
    english, others = "", [template for bank in LANGUAGES.values() for template in bank]
    while len(english) < 1000:
        english += sentence_of(random, "common") + " "
    return f"{english}\n{_spaced(random, random.sample(others, 45))}"


def _links(random: Random) -> str:
    link = "http://www.@ident.example/@quality/@number.html"
    return "\n".join(fill(random, link) for _ in range(random.randint(10, 60)))


def _shouting(random: Random) -> str:
    text = _page("calls to action", random) + _page("spam", random).replace("KEYWORD", "pills")
    return text.upper().replace(".", "!!!")


def _empty(random: Random) -> str:
    return random.choice(("", " ", "\n\n", "\t \n", "\u00a0\u2003\n", "\0", "\ufeff"))


PAGES = ("cookies", "javascript notice", "calls to action", "terms of use", "error page")
JUNK: dict[str, Callable[[Random], str]] = {
    **{bank: partial(_page, bank) for bank in PAGES},
    **{bank: partial(_code, bank) for bank in BANKS if bank.startswith("code")},
    "html": partial(_some, "html", 15, 60, ("\n", "", " ")),
    "tagged prose": _tagged,
    "json": _json,
    "lorem ipsum": _lorem,
    "menu": partial(_some, "menu", 30, 90, ("\n", " | ", " » ", " ", " · ", "\n* ", ".\n")),
    "products": partial(_some, "products", 12, 50, ("\n",)),
    "links": _links,
    "too short": _short,
    "symbols": _symbols,
    "tables": _table,
    "spam": _spam,
    "tags": _tags,
    **{f"repeated {unit}": partial(_repeated, unit) for unit in ("lines", "paragraphs", "phrases")},
    "gibberish": _gibberish,
    "blob": _blob,
    "shouting": _shouting,
    "empty": _empty,
    "binary": _binary,
    **{f"foreign {language}": partial(_foreign, language) for language in LANGUAGES},
    "foreign after English": _late,
}
