"""The default corpus: the documentation and the conversations inside pinned packages, because it needs no network.

The docstrings, comments and READMEs that pip has already installed become paragraphs of prose. They are read with `ast`, never imported, so neither
the machine nor the Python that runs changes a byte.
"""

import ast
import bisect
import importlib.metadata
import inspect
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import xxhash

from antimatter.data.documents import Document
from antimatter.data.sources import chitchat
from antimatter.data.sources.config import distributions
from antimatter.tasks.workers import processes

PAGE_WORDS = 150  # a page ends with the definition that brings it to so many words ...
LONG_PAGE_WORDS = 800  # ... or, inside a long class, with the method that brings it to so many
# Differ by build
GENERATED = {
    "version.py",
    "_version.py",
    "__config__.py",
    "_version_meson.py",
    "_generated_version.py",
    "__about__.py",
}
TESTS = {"test", "tests", "testing", "conftest.py", "_vendor", "_vendored_packages"}


def embedded(packages: dict[str, str], workers: int) -> Iterator[Document]:
    """The documentation of installed distributions as pages of prose, and the conversations of
    chitchat-dataset. A paragraph that stands in many places is given once, where it stands first:
    else validation would ask for what training has shown.

    Raises:
        ValueError: a distribution is missing or has another version, so the corpus would not be the one that params.yaml asks for.
    """
    found = distributions(packages)
    seen: set[int] = set()
    with ExitStack() as held:
        apply = (
            map
            if workers == 1
            else partial(held.enter_context(processes(workers)).map, chunksize=8)
        )
        for name, distribution in zip(packages, found, strict=True):
            source, licence = f"{name} {packages[name]}", licence_of(distribution)
            if name == chitchat.PACKAGE:
                yield from chitchat.documents(distribution, source, licence)
                continue
            sources = [
                (str(file), str(file.locate()))
                for file in sorted(distribution.files or [])
                if is_documentation(str(file))
            ]
            readme = (distribution.read_text("METADATA") or "").partition("\n\n")[2]
            pages = chain([readme_pages("README", readme)], apply(_pages, sources))
            for identifier, lines in chain.from_iterable(pages):
                digests = [xxhash.xxh3_64_intdigest(line) for line in lines]
                fresh = [
                    line for line, digest in zip(lines, digests, strict=True) if digest not in seen
                ]
                seen.update(digests)
                if fresh:
                    yield Document(f"{name}/{identifier}", "\n".join(fresh), source, licence)


def licence_of(distribution: importlib.metadata.Distribution) -> str:
    """The licence in a line. Some packages paste their whole licence into the field `License`, and some leave it to a classifier."""
    fields = {
        key: distribution.metadata.get_all(key, [])
        for key in ("License-Expression", "License", "Classifier")
    }
    classified = ", ".join(
        value.split(" :: ")[-1] for value in fields["Classifier"] if value.startswith("License ::")
    )
    first_lines = [text.strip().split("\n")[0] for text in fields["License"]]
    named = [
        text for text in (*fields["License-Expression"], *fields["License"]) if "\n" not in text
    ]
    return next(filter(None, [*named, classified, *first_lines]), "unknown")


def is_documentation(path: str) -> bool:
    *folders, name = path.split("/")
    if (
        path.startswith("..")
        or TESTS & {*folders, name}
        or name in GENERATED
        or name.startswith("test_")
        or any(f.endswith(".dist-info") for f in folders)
    ):
        return False
    return name.endswith((".py", ".rst", ".md")) and not re.match(
        "(?i)licen[cs]e|copying|notice", name
    )


def _pages(file: tuple[str, str]) -> list[tuple[str, list[str]]]:
    name, path = file
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return python_pages(name, text) if name.endswith(".py") else readme_pages(name, text)


def readme_pages(name: str, text: str) -> list[tuple[str, list[str]]]:
    """Pages of a README or of an .rst file: (id, paragraphs)."""
    # Comments, tags, badges, images
    text = re.sub(
        r"<!--.*?-->|<[^<>\n]+>|!?\[!\[.*?\]\(.*?\)\]\(.*?\)|!\[.*?\]\(.*?\)",
        "",
        text,
        flags=re.DOTALL,
    )
    return _group(
        name,
        [
            (number, paragraphs(section))
            for number, section in enumerate(re.split(r"\n(?=#+ )", text))
        ],
    )


def python_pages(name: str, code: str) -> list[tuple[str, list[str]]]:
    """Pages of a module, (id, paragraphs): its docstrings, multi-line strings and comments in the order in which they stand."""
    if "generated" in code[:2000] and re.search(
        r"(?i)(auto\w*|file was) generated|generated by|do not edit", code[:2000]
    ):
        # Transformers writes its modeling_*.py from modular_*.py, which says the same once
        return []
    try:
        with warnings.catch_warnings(action="ignore"):  # "\d" in a docstring
            tree = ast.parse(code, feature_version=(3, 11))
    except (SyntaxError, ValueError):  # a template, or Python of another age
        return []
    pieces: dict[int, str] = {}  # first line -> text
    inside: set[int] = set()  # lines of strings, where `#` begins no comment
    for node in _strings(tree):
        inside.update(range(node.lineno, (node.end_lineno or 0) + 1))
        pieces[node.lineno] = inspect.cleandoc(str(node.value))
    first, run = 0, list[str]()
    for number, line in enumerate([*code.split("\n"), ""], 1):
        if number not in inside and (comment := re.match(r"\s*#+:? ?(.*)", line)):
            first = first if run else number
            run.append(comment[1])
        elif run:
            # A comment of one line speaks of the line below it and means little alone
            if len(run) > 1:
                pieces[first] = "\n".join(run)
            run = []
    ends = [node.end_lineno or 0 for node in tree.body]
    return _group(
        name,
        [
            (bisect.bisect_left(ends, line), paragraphs(text))
            for line, text in sorted(pieces.items())
            if not LICENCE.search(text)
        ],
    )


def _strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants over several lines. Not those inside f-strings, whose positions depend on the Python that parses them."""
    nodes = [tree]
    while nodes:
        for child in ast.iter_child_nodes(nodes.pop()):
            if getattr(child, "lineno", 0) == getattr(child, "end_lineno", None) or isinstance(
                child, ast.JoinedStr
            ):
                # A node on one line holds no string over several: this leaves out nine nodes of ten
                continue
            if (
                isinstance(child, ast.Constant)
                and isinstance(child.value, str)
                and "\n" in child.value
            ):
                yield child
            else:
                nodes.append(child)


def _group(name: str, pieces: Iterable[tuple[int, list[str]]]) -> list[tuple[str, list[str]]]:
    """Pages of (definition, paragraphs): whole definitions together until there are PAGE_WORDS, long ones cut after LONG_PAGE_WORDS."""
    pages: list[list[str]] = [[]]
    words, before = 0, None
    for definition, lines in pieces:
        if words >= LONG_PAGE_WORDS or (words >= PAGE_WORDS and definition != before):
            pages.append([])
            words = 0
        pages[-1] += lines
        words += sum(line.count(" ") + 1 for line in lines)
        before = definition
    return [
        (f"{name}#{number}", list(dict.fromkeys(page))) for number, page in enumerate(pages) if page
    ]


# ---- documentation markup -> paragraphs of prose, one a line

LICENCE = re.compile(r"copyright|licen[cs]ed under|without warrant", re.I)
CODE_DIRECTIVE = re.compile(
    r"\s*\.\. (?! *(?:note|warning|tip|hint|important|caution|danger|admonition|deprecated|version|seealso|\[))"
)
OUTPUT = -1  # no line is indented less
ITEM = re.compile(
    r"([-*+•]|\(?\w{1,2}[.)]|\.\. \[\w+\]|:\w+( [^:]+)?:|[\w.`*]{1,40}(, [\w.`*]+)*( \([^()]*\))?( *:| --?)) +\S"
)
# A name and its type, not the beginning of a sentence
TERM = re.compile(r"([\w*`., ]{1,60}?) : (?![A-Z]\w* \w+ \S+ \S+).*")
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


def paragraphs(text: str) -> list[str]:
    """Prose of a docstring, comment or README, a paragraph or list item a line: without doctests, code, tables, directives and headings.

    Where a paragraph ends is told by blank lines, by indentation and by the beginning of a list item.
    """
    found: list[str] = []
    block: list[str] = []  # lines of the paragraph at hand
    start = hang = 0  # indentation of its first line, and of those after it
    skip: int | None = None  # inside code: everything indented deeper than this
    fence = False

    def close() -> None:
        if block:
            found.append(" ".join(block))
            block.clear()

    lines = text.expandtabs().split("\n")
    for number, line in enumerate(lines):
        words = line.strip()
        indent = len(line) - len(line.lstrip())
        if words.startswith(("```", "~~~")):
            close()
            fence = not fence
            continue
        if fence or (words and skip is not None and indent > skip):
            continue
        if not words:
            if skip == OUTPUT:
                skip = None
            if block and block[-1].endswith("::") and not block[-1].startswith(".."):
                skip = start
            close()
            continue
        skip = None
        # With the output that follows, up to the blank line
        if words.startswith((">>>", "In [", "$ ")):
            close()
            skip = OUTPUT
            continue
        if CODE_DIRECTIVE.match(line):
            close()
            skip = indent
            continue
        # Underlines, tables, grids
        if not re.search(r"\w", words) or words[0] in "|+" or re.match(r"=+ |-+ -", words):
            if not re.search(r"\w", words) and len(block) == 1 and len(words) > 2:
                block.clear()  # the heading over an underline
            close()
            continue
        # numpy style: `x : array_like`, its description indented below
        if term := TERM.fullmatch(words):
            deeper = (
                number + 1 < len(lines)
                and len(lines[number + 1]) - len(lines[number + 1].lstrip()) > indent
            )
            words = f"{term[1]}:" if deeper else words
        if block and (
            indent not in ((start, hang) if len(block) == 1 or start == hang else (hang,))
            or ITEM.match(words)
        ):
            if len(block) == 1 and indent > start and not ITEM.match(words):
                hang = indent
            else:
                close()
        if not block:
            start = hang = indent
        elif len(block) == 1:
            hang = indent
        block.append(words)
    close()
    return [plain for paragraph in found if _is_prose(plain := without_markup(paragraph))]


def without_markup(paragraph: str) -> str:
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    return paragraph.strip().replace("::", ":")


def _is_prose(paragraph: str) -> bool:
    """Words, mostly: not a heading, a signature, code that was commented out, or a formula."""
    words = paragraph.split(" ")
    return (
        len(words) >= 4
        and not re.search(r"[{}\\]|\w\(\w+=|^(from|import) | = \w+[.(]", paragraph)
        and sum(word.strip(".,;:()'\"").replace("-", "").isalpha() for word in words)
        >= 0.7 * len(words)
    )
