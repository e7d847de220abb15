"""English text from templates: sentences and articles, as they appear on the web.

The templates are in the folder `planted`. There `(a|b)` is a choice, and `@name` an entry of the
slot of that name.
"""

import re
from pathlib import Path
from random import Random

CHOICE = re.compile(r"\(([^()|]*\|[^()]*)\)|@([a-z]+)")
ARTICLE = re.compile(r"\b([Aa])(?= (?:[aeio]|un[^i]|um|8\d*\b|1[18]\b))")


def _read(name: str) -> str:
    return Path(__file__).with_name("planted").joinpath(f"{name}.txt").read_text(encoding="utf-8")


def _by_name(text: str) -> dict[str, list[str]]:
    """`name: entry|entry`, over several lines."""
    return {
        name: entries.strip().replace("\n", "|").split("|")
        for name, entries in re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", text, re.M | re.S)
    }


def _by_heading(text: str) -> dict[str, list[str]]:
    """`[name]`, and an entry on each of the following lines."""
    headings = re.findall(r"^\[([\w ]+)\]\n(.*?)(?=^\[[\w ]+\]\n|\Z)", text, re.M | re.S)
    return {name: entries.strip().split("\n") for name, entries in headings}


SLOTS = _by_name(_read("slots")) | {
    "number": [str(n) for n in range(12, 98)],
    "year": [str(n) for n in range(1790, 2024, 3)],
}
LANGUAGES = _by_name(_read("languages"))
BANKS = _by_heading(_read("sentences"))
GENRES = "news howto review forum encyclopedia letter dialogue recipe essay story".split()


def sentence(random: Random, template: str) -> str:
    text = ARTICLE.sub(r"\1n", fill(random, template))
    start = 1 if text.startswith('"') else 0
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def sentence_of(random: Random, bank: str) -> str:
    return sentence(random, random.choice(BANKS[bank]))


def fill(random: Random, template: str) -> str:
    """Replaces choices and slots until none remain."""

    def choose(match: re.Match[str]) -> str:
        choices, slot = match[1], match[2]
        return random.choice(SLOTS.get(slot, [match[0]]) if slot else choices.split("|"))

    text = ""
    while template != text:
        text = template
        template = CHOICE.sub(choose, text)
    return text


def shuffled(random: Random, bank: str) -> list[str]:
    return random.sample(BANKS[bank], len(BANKS[bank]))


def article(random: Random, genre: str) -> str:
    """60 to 800 words, short ones more often, in the layout of its genre on the web."""
    least = 60 * (800 / 60) ** random.random()
    own, common, paragraphs = shuffled(random, genre), shuffled(random, "common"), list[str]()
    while sum(len(paragraph.split()) for paragraph in paragraphs) < least:
        sentences = []
        for _ in range(1 if genre == "dialogue" else random.randint(1, 6)):
            own = own or shuffled(random, random.choice(("essay", "story")))
            common = common or shuffled(random, "common")
            bank = own if random.random() < 0.6 else common
            sentences.append(sentence(random, bank.pop()))
        paragraphs.append(" ".join(sentences))
    text = random.choice(("\n", "\n\n")).join(_layout(random, genre, paragraphs))
    if random.random() < 0.4:
        text = re.sub(r'(^|\s)"', r"\1“", text, flags=re.M).replace('"', "”").replace("'", "’")
    return text


def _layout(random: Random, genre: str, paragraphs: list[str]) -> list[str]:
    name, title = sentence(random, "@first @last"), sentence_of(random, "title")
    marked = [random.random() < 0.2 for _ in paragraphs]
    if genre == "news":
        return [title, *random.sample([f"By {name}"], random.randint(0, 1)), *paragraphs]
    if genre == "howto":
        style = random.choice(("{text}", "Step {n}: {text}", "{n}. {text}"))
        steps = [style.format(n=n, text=text) for n, text in enumerate(paragraphs, 1)]
        return [f"How To {title.title()}", *steps]
    if genre == "review":
        return [title, f"{random.randint(1, 5)} out of 5 stars", *paragraphs, f"Reviewed by {name}"]
    if genre == "forum":
        smiley = random.choice((" :)", " ;-)", " lol", "..", ""))
        posts = [text + smiley * mark for mark, text in zip(marked, paragraphs, strict=True)]
        return [f"Re: {title}", *posts]
    if genre == "encyclopedia":
        return [
            title,
            *(
                text + f"[{random.randint(1, 40)}]" * mark
                for mark, text in zip(marked, paragraphs, strict=True)
            ),
        ]
    if genre == "letter":
        greeting = "Dear (@first|Mr. @last|Mrs. @last|Dr. @last|all|friends),"
        return [sentence(random, greeting), *paragraphs, "Yours sincerely,", name]
    if genre == "recipe":
        return [title, f"Serves {random.randint(2, 8)}", *paragraphs]
    # With the sentences of its second paragraph as a list
    if genre == "essay" and random.random() < 0.5:
        bullet = random.choice(("\n- ", "\n• ", "\n* "))
        paragraphs[1:2] = [
            re.sub(r"^|(?<=[.!?]) ", bullet, text).strip() for text in paragraphs[1:2]
        ]
    return paragraphs
