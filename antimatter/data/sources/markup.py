"""Paragraphs of prose out of documentation: reStructuredText, Markdown, and docstrings in the
styles of numpy and Google.
"""

import re

# A directive whose body is code or a figure, where that of a note is prose
CODE_DIRECTIVE = re.compile(
    r"\s*\.\. (?! *(?:note|warning|tip|hint|important|caution|danger|admonition|deprecated"
    r"|version|seealso|\[))"
)
ITEM = re.compile(
    r"([-*+•]|\(?\w{1,2}[.)]|\.\. \[\w+\]|:\w+( [^:]+)?:"
    r"|[\w.`*]{1,40}(, [\w.`*]+)*( \([^()]*\))?( *:| --?)) +\S"
)
# A name and its type, not the beginning of a sentence
TERM = re.compile(r"([\w*`., ]{1,60}?) : (?![A-Z]\w* \w+ \S+ \S+).*")
# As an indentation to skip from: no line is indented less
EVERY_LINE = -1
MARKUP = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Bullets, citations, quotes, admonitions, headings
        (r"^(?:[-*+•]|\(?\d{1,2}[.)]|\.\. \[\w+\]|>|\.\. \w+::(?: *v?\d\S*)?|#+) +", ""),
        # Fields
        (
            r"^:(?:param|arg|argument|keyword|ivar|cvar|var|raises|type)(?: [^:]*?)? ([\w*.]+): *",
            r"\1: ",
        ),
        (r"^:(returns?|yields?): *", lambda match: f"{match[1].capitalize()}: "),
        # :class:`~torch.Tensor` -> Tensor
        (r":(?:\w+:)+`(?:[^`<]*?)~([^`<>]*?)`", lambda match: match[1].rsplit(".", 1)[-1]),
        (r"(?::\w+)*:?`([^`<>]+?) *<[^`<>]+>`_{0,2}", r"\1"),  # `name <target>`_
        (r":(?:\w+:)+`!?([^`]*)`", r"\1"),  # roles
        (r"\[`{1,2}~?([^`\]]+)`{1,2}\](?:\([^)]*\))?", r"\1"),  # [`~Trainer`]
        (r"!?\[([^\]\[]+)\]\([^)]*\)", r"\1"),  # [text](link)
        (r"``([^`]*)``", r"\1"),
        (r"`([^`]*)`_{0,2}", r"\1"),
        (r" ?\[[\w#*-]+\]_", ""),  # footnotes
        (r"\*\*([^*\s][^*]*)\*\*", r"\1"),
        (r"(?<![\w*])\*(\w|\w[^*]*\w)\*(?![\w*])", r"\1"),
        (r"\|(\w+)\|", r"\1"),
        (r"\\([*_`|\\])", r"\1"),
        (r"[-=~#*_]{4,}", ""),  # rulers
        (r"\s+", " "),
    )
]


class _Paragraphs:
    """Joins lines into paragraphs. One ends where the indentation changes or a list item begins."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lines: list[str] = []  # of the paragraph that is not closed yet
        self.first = self.rest = 0  # indentation of its first line, and of those after it

    def add(self, words: str, indent: int) -> None:
        is_item = bool(self.lines and ITEM.match(words))
        if self.lines and (is_item or not self._continues(indent)):
            if len(self.lines) == 1 and indent > self.first and not is_item:
                self.rest = indent
            else:
                self.close()
        if not self.lines:
            self.first = self.rest = indent
        elif len(self.lines) == 1:
            self.rest = indent
        self.lines.append(words)

    def _continues(self, indent: int) -> bool:
        """Whether a line of this indentation belongs to the paragraph."""
        return indent == self.rest or (len(self.lines) == 1 and indent == self.first)

    def announce_code(self) -> bool:
        """Whether the paragraph ends with the `::` of reStructuredText, before indented code."""
        last = self.lines[-1] if self.lines else ""
        return last.endswith("::") and not last.startswith("..")

    def close(self) -> None:
        if self.lines:
            self.texts.append(" ".join(self.lines))
            self.lines = []


def paragraphs(text: str) -> list[str]:
    """Prose of a docstring, comment or README, one string for each paragraph or list item: without
    doctests, code, tables, directives and headings.
    """
    result = _Paragraphs()
    skip: int | None = None  # inside code: everything indented deeper than this
    is_fenced = False
    lines = text.expandtabs().split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        words, indent = line.strip(), _indent(line)
        if words.startswith(("```", "~~~")):
            result.close()
            is_fenced = not is_fenced
        elif is_fenced or (words and skip is not None and indent > skip):
            continue
        elif not words:
            skip = None if skip == EVERY_LINE else skip
            if result.announce_code():
                skip = result.first
            result.close()
        # A doctest, with the output that follows up to the blank line
        elif words.startswith((">>>", "In [", "$ ")):
            result.close()
            skip = EVERY_LINE
        elif CODE_DIRECTIVE.match(line):
            result.close()
            skip = indent
        elif _is_ruled(words):
            skip = None
            # The heading over an underline
            if not re.search(r"\w", words) and len(result.lines) == 1 and len(words) > 2:
                result.lines = []
            result.close()
        else:
            skip = None
            # numpy style: `x : array_like`, its description indented below
            if (term := TERM.fullmatch(words)) and _indent(following) > indent:
                words = f"{term[1]}:"
            result.add(words, indent)
    result.close()
    return [text for text in map(without_markup, result.texts) if _is_prose(text)]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_ruled(words: str) -> bool:
    """Underlines, tables, grids."""
    return not re.search(r"\w", words) or words[0] in "|+" or bool(re.match(r"=+ |-+ -", words))


def without_markup(paragraph: str) -> str:
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    return paragraph.strip().replace("::", ":")


def _is_prose(paragraph: str) -> bool:
    """Words, mostly: not a heading, a signature, code that was commented out, or a formula."""
    words = paragraph.split(" ")
    if len(words) < 4 or re.search(r"[{}\\]|\w\(\w+=|^(from|import) | = \w+[.(]", paragraph):
        return False
    alphabetic = sum(word.strip(".,;:()'\"").replace("-", "").isalpha() for word in words)
    return alphabetic >= 0.7 * len(words)
