"""Conversations made of one's own text: the user names a heading or begins a passage, and the
assistant says what the text says there.

Thus a model of a folder of notes can be asked about its headings. It works in any language, since
the only words that are not of the text are those of `conversations.passages.prompts`.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from antimatter.chat.config import PassagesConfig
from antimatter.chat.conversation import Conversation
from antimatter.chat.template import Message
from antimatter.data.cleaning.languages import ANY, traits
from antimatter.data.documents import CONVERSATION
from antimatter.data.parquet import read_rows

LANGUAGE = traits(ANY)
MARKDOWN_HEADING = re.compile(r"#{1,6}\s+(?P<title>.*?)\s*#*")
MOST_HEADING = 10  # words; a longer line is no heading
TITLE = "{title}"


class Passage(NamedTuple):
    title: str  # a heading, or the sentence before
    text: str
    has_heading: bool


def of_text(
    cleaned: Path, config: PassagesConfig, is_candidate: Callable[[str], bool]
) -> Iterator[Conversation]:
    """The passages of the cleaned texts, split as `shards` splits the documents.

    Args:
        is_candidate: whether a text is for validation there.
    """
    columns = ("id", "text", "source", "licence", "kind")
    for path in sorted(cleaned.glob("*.parquet")):
        for rows in read_rows(path, columns, "cleaned"):
            for id, text, source, licence, kind in rows:
                if kind == CONVERSATION:
                    continue
                for place, passage in enumerate(passages(text, config.words)):
                    # A sentence is continued, not asked about
                    prompts = config.prompts if passage.has_heading else (TITLE,)
                    for number, prompt in enumerate(prompts):
                        ask = prompt.replace(TITLE, passage.title)
                        yield Conversation(
                            id=f"{id}/{place}/{number}",
                            source=source,
                            kind="passage",
                            messages=(Message("user", ask), Message("assistant", passage.text)),
                            licence=licence,
                            group=f"{source}\0{id}",
                            held_out=is_candidate(text),
                        )


def passages(text: str, words: int) -> Iterator[Passage]:
    """The passages of a text, of at most `words` words each or of one sentence; together they are
    the text, but for headings without text and the first sentence of a text without a heading.
    """
    for heading, body in _sections(text):
        title, has_heading = heading, bool(heading)
        sentences = list(_sentences(body))
        if not title and sentences:
            title = sentences.pop(0)
        while sentences:
            answer = [sentences.pop(0)]
            while sentences and _count(" ".join([*answer, sentences[0]])) <= words:
                answer.append(sentences.pop(0))
            yield Passage(title, " ".join(answer), has_heading)
            title, has_heading = answer[-1], False


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Headings, the first perhaps empty, each with the text up to the next."""
    heading, body = "", list[str]()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if found := _heading(line, following):
            yield heading, "\n".join(body)
            heading, body = found, []
        else:
            body.append(line)
    yield heading, "\n".join(body)


def _heading(line: str, following: str) -> str:
    """The text of a heading; empty if the line is none. One without a mark of Markdown is short, is
    no sentence, and comes before one.
    """
    if match := MARKDOWN_HEADING.fullmatch(line):
        return match["title"]
    is_short = _count(line) <= MOST_HEADING and re.match(r"\w", line) is not None
    if not is_short or LANGUAGE.ends_sentence(line) or line.endswith((",", ";", "，", "；")):
        return ""
    sentence = LANGUAGE.ends_sentence(following) and _count(following) > _count(line)
    return line.rstrip(":：") if sentence else ""


def _sentences(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        start = 0
        for match in LANGUAGE.sentence_end.finditer(line):
            yield line[start : match.end()].strip()
            start = match.end()
        if line[start:].strip():
            yield line[start:].strip()


def _count(text: str) -> int:
    return len(LANGUAGE.spaced(text).split())
