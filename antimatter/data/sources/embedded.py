"""The default corpus: the documentation and the conversations inside pinned packages, because it
needs no network.

The docstrings, comments and READMEs that pip has already installed become paragraphs of prose. They
are read with `ast`, never imported, so neither the machine nor the Python that runs changes a byte.
"""

import ast
import bisect
import importlib.metadata
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import xxhash

from antimatter.data.documents import Document
from antimatter.data.sources import chitchat
from antimatter.data.sources.config import distributions
from antimatter.data.sources.markup import paragraphs
from antimatter.tasks.workers import processes

PAGE_WORDS = 150  # a page ends with the definition that brings it to this many words ...
LONG_PAGE_WORDS = 800  # ... or, inside a long class, with the method that brings it to this many
# Files that differ by build
GENERATED = {
    "version.py",
    "_version.py",
    "__config__.py",
    "_version_meson.py",
    "_generated_version.py",
    "__about__.py",
}
TESTS = {"test", "tests", "testing", "conftest.py", "_vendor", "_vendored_packages"}
LICENCE = re.compile(r"copyright|licen[cs]ed under|without warrant", re.I)
LICENCE_FILE = re.compile("(?i)licen[cs]e|copying|notice")
# Comments, tags, badges, images
README_MARKUP = re.compile(
    r"<!--.*?-->|<[^<>\n]+>|!?\[!\[.*?\]\(.*?\)\]\(.*?\)|!\[.*?\]\(.*?\)", re.DOTALL
)

Page = tuple[str, list[str]]  # id, paragraphs


def embedded(packages: dict[str, str], workers: int) -> Iterator[Document]:
    """The documentation of installed distributions as pages of prose, and the conversations of
    chitchat-dataset. A paragraph that occurs in several places is given once, at the first: else
    validation would test what training has seen.

    Raises:
        UserError: a distribution is missing or has another version, so the corpus would not be the
            one that params.yaml asks for.
    """
    installed = distributions(packages)
    seen: set[int] = set()
    with ExitStack() as stack:
        apply: Callable[..., Iterable[list[Page]]] = map
        if workers > 1:
            apply = partial(stack.enter_context(processes(workers)).map, chunksize=8)
        for name, distribution in zip(packages, installed, strict=True):
            source, licence = f"{name} {packages[name]}", licence_of(distribution)
            if name == chitchat.PACKAGE:
                yield from chitchat.documents(distribution, source, licence)
                continue
            readme = (distribution.read_text("METADATA") or "").partition("\n\n")[2]
            pages = apply(file_pages, documentation_files(distribution))
            pages = chain([readme_pages("README", readme)], pages)
            for identifier, lines in chain.from_iterable(pages):
                digests = {xxhash.xxh3_64_intdigest(line): line for line in lines}
                fresh = [line for digest, line in digests.items() if digest not in seen]
                seen.update(digests)
                if fresh:
                    yield Document(f"{name}/{identifier}", "\n".join(fresh), source, licence)


def licence_of(distribution: importlib.metadata.Distribution) -> str:
    """The licence in one line. Some packages paste their whole licence into the field `License`,
    and some leave it to a classifier.
    """
    expressions, licences, classifiers = (
        distribution.metadata.get_all(field, [])
        for field in ("License-Expression", "License", "Classifier")
    )
    names = [text for text in (*expressions, *licences) if "\n" not in text]
    classified = [
        value.split(" :: ")[-1] for value in classifiers if value.startswith("License ::")
    ]
    first_lines = [text.strip().split("\n")[0] for text in licences]
    return next(filter(None, [*names, ", ".join(classified), *first_lines]), "unknown")


def documentation_files(distribution: importlib.metadata.Distribution) -> list[tuple[str, str]]:
    """The files that documentation is read from: name in the distribution, and path."""
    files = sorted(distribution.files or [])
    return [(str(file), str(file.locate())) for file in files if is_documentation(str(file))]


def is_documentation(path: str) -> bool:
    *folders, name = path.split("/")
    return (
        name.endswith((".py", ".rst", ".md"))
        and not path.startswith("..")
        and not TESTS & {*folders, name}
        and name not in GENERATED
        and not name.startswith("test_")
        and not any(folder.endswith(".dist-info") for folder in folders)
        and not LICENCE_FILE.match(name)
    )


def file_pages(file: tuple[str, str]) -> list[Page]:
    """Pages of one of documentation_files()."""
    name, path = file
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return python_pages(name, text) if name.endswith(".py") else readme_pages(name, text)


def readme_pages(name: str, text: str) -> list[Page]:
    """Pages of a README or of an .rst file."""
    sections = re.split(r"\n(?=#+ )", README_MARKUP.sub("", text))
    return _group(name, [(i, paragraphs(section)) for i, section in enumerate(sections)])


def python_pages(name: str, code: str) -> list[Page]:
    """Pages of a module: its docstrings, multi-line strings and comments in their order."""
    # Transformers writes its modeling_*.py from modular_*.py, which holds the same once
    head, generated = code[:2000], r"(?i)(auto\w*|file was) generated|generated by|do not edit"
    if "generated" in head and re.search(generated, head):
        return []
    try:
        # Invalid escapes, such as "\d" in a docstring
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code, feature_version=(3, 11))
    # A template, or another version of Python
    except (SyntaxError, ValueError):
        return []
    strings = list(_strings(tree))
    texts = {node.lineno: inspect.cleandoc(str(node.value)) for node in strings}
    inside = {line for node in strings for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    texts |= _comments(code, inside)
    ends = [node.end_lineno or 0 for node in tree.body]
    pieces = [
        (bisect.bisect_left(ends, line), paragraphs(text))
        for line, text in sorted(texts.items())
        if not LICENCE.search(text)
    ]
    return _group(name, pieces)


def _strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """String constants over several lines. Not those inside f-strings, whose positions depend on
    the Python that parses them.
    """
    nodes = [tree]
    while nodes:
        for node in ast.iter_child_nodes(nodes.pop()):
            # A node on one line holds no string over several: this leaves out nine nodes of ten
            is_one_line = getattr(node, "lineno", 0) == getattr(node, "end_lineno", None)
            if is_one_line or isinstance(node, ast.JoinedStr):
                continue
            if isinstance(node, ast.Constant):
                if isinstance(node.value, str) and "\n" in node.value:
                    yield node
            else:
                nodes.append(node)


def _comments(code: str, inside: set[int]) -> dict[int, str]:
    """Comments of several lines, by the number of the first. A comment of one line is about the
    line below it and means little alone.

    Args:
        inside: the numbers of the lines of strings, in which `#` begins no comment.
    """
    comments: dict[int, str] = {}
    first, lines = 0, list[str]()
    # Lines as `ast` counts them: str.splitlines() also splits at a form feed or U+2028
    for number, line in enumerate([*code.split("\n"), ""], 1):
        if number not in inside and (comment := re.match(r"\s*#+:? ?(.*)", line)):
            first = first if lines else number
            lines.append(comment[1])
        elif lines:
            if len(lines) > 1:
                comments[first] = "\n".join(lines)
            lines = []
    return comments


def _group(name: str, pieces: Iterable[tuple[int, list[str]]]) -> list[Page]:
    """Pages of (definition, paragraphs): whole definitions together until there are PAGE_WORDS,
    long ones cut after LONG_PAGE_WORDS.
    """
    pages: list[list[str]] = [[]]
    words, before = 0, None
    for definition, lines in pieces:
        if words >= LONG_PAGE_WORDS or (words >= PAGE_WORDS and definition != before):
            pages.append([])
            words = 0
        pages[-1] += lines
        words += sum(line.count(" ") + 1 for line in lines)
        before = definition
    return [(f"{name}#{i}", list(dict.fromkeys(page))) for i, page in enumerate(pages) if page]
