"""Questions and answers from the documentation inside installed packages, read with `ast`.

Three kinds, each with the licence of its package:

- question: what a function, method or class does, answered by the first sentence of its docstring;
- grounded: what an argument means, where its description stands in the prompt and is copied;
- refusal: the same for an argument that the prompt does not name: REFUSAL.

The name of a function predicts much of its answer, so the first kind can be learnt in part without
knowing anything. The other two can be scored exactly.
"""

import ast
import importlib.metadata
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import xxhash

from antimatter.chat.conversation import Conversation
from antimatter.chat.template import Message
from antimatter.data.embedded import is_documentation, licence_of, without_markup
from antimatter.data.raw_config import distributions
from antimatter.data.workers import processes

T = TypeVar("T")
REFUSAL = "The text does not say."
MIN_WORDS, MAX_WORDS = 4, 24  # of an answer to a question
MAX_DESCRIPTION = 25  # words of the description of an argument
MAX_TEXT = 80  # words of the descriptions in a prompt
MOST_ARGUMENTS = 5  # in a prompt
REFUSED = 3  # of the turns about a text, one in so many asks for what it does not say
SAMPLE_TURNS = (1, 1, 2, 3)  # turns about a text

SUMMARY_QUESTIONS = (
    "What does {package}'s {name} do?",
    "What does {name} of {package} do?",
    "What does the {kind} {name} of {package} do?",
    "What does {name} do in {package}?",
    "What is {name} in {package}?",
    "Explain {name} of {package}.",
    "What is {package}.{name} for?",
    "Tell me what {name} in {package} does.",
)
CLASS_QUESTIONS = (
    "What is {package}'s {name}?",
    "What is {name} of {package}?",
    "What is the class {name} of {package}?",
    "What is {name} in {package}?",
    "Explain {name} of {package}.",
    "What is {package}.{name}?",
)
ARGUMENT_QUESTIONS = (
    "What does {name} mean?",
    "What is {name}?",
    "What does {name} do?",
    "What does the text say about {name}?",
    "Explain {name}.",
)

# Verbs that docstrings begin with, in their base form
VERBS = frozenset(
    """accept access accumulate activate adapt add adjust advance aggregate align allocate allow
    analyze annotate append apply approximate apportion arrange assemble assert assign attach average
    backfill begin bind blend broadcast build calculate call cancel cast center change check choose
    classify clean clear clip clone close coerce collapse collect color combine compare compile
    complete compose compress compute concatenate configure connect consider construct consume
    contain contract control convert convolve copy correct count cover create cut deactivate
    decide declare decode decompose decompress decorate decrease define delete deliver denote
    depict deregister derive describe deserialize destroy detach detect determine differentiate
    disable disconnect discard dispatch display distribute divide divide do draw drop dump duplicate
    eliminate embed emit enable encode encapsulate end enforce ensure enumerate erase escape estimate
    evaluate examine execute exclude expand explode export expose express extend extract factor
    factorize fetch fill filter find finalize finish fit fix flatten flip fold force format forward
    free freeze gather generate get give group guess handle hash have help hide hold identify
    implement import improve include increase increment indicate infer inform inherit initialize
    insert inspect install instantiate integrate interpolate interpret intersect invalidate invert
    invoke issue iterate join keep label launch lead let limit linearize list load locate lock log
    look make manage map mark mask match maximize measure merge minimize mirror modify monitor move
    multiply negate normalize notify obtain offset open operate optimize order organize override pack
    pad paint parse partition pass perform permute pick place plot pop populate prepare prepend
    preprocess preserve prevent print process produce project promote propagate provide prune pull
    push put quantize query quit raise rank rasterize read rearrange rebuild receive recompute record
    recover redraw reduce refer refine refresh register reindex release reload remove rename render
    reorder repeat replace replicate report represent reproduce request require resample reset
    reshape resize resolve respond restart restore restrict resume retrieve return reverse rewrite
    roll rotate round route run sample save scale scan scatter schedule search select send separate
    serialize serve set shift show shrink shuffle shut signal simplify simulate skip slice smooth
    solve sort specify split stack standardize start stop store stream strip style subtract suggest
    sum summarize support suppress swap switch synchronize synthesize take tell terminate test throw
    tile toggle trace track train transfer transform translate transpose traverse treat trigger trim
    truncate try turn uncompress undo unfold unify uninstall unlink unlock unpack unregister unset
    unstack unwrap update upload upsample use validate verify view visit visualize wait walk warn
    watch weight wrap write yield zip""".split()
)
# Of these a second one in a sentence is surely a verb too ("compute and return"); of others it may
# be a noun ("sort and index"), so such a sentence is left out
CERTAIN = frozenset(
    """add apply assign attach build calculate call check close compute convert create delete
    destroy determine discard draw emit ensure evaluate execute extract find generate get give
    initialize insert install load make merge modify open parse perform populate print produce
    provide raise read register remove replace return run save send set show store take update use
    validate verify write yield""".split()
)
IRREGULAR = {"do": "does", "have": "has", "go": "goes", "be": "is"}
_BAD_TEXT = re.compile(r"[{}\[\]<>\\|=*_`~@#$^/\"]|\w\(|https?:|\bTODO\b|\b[Ii]nternal|\b[Dd]eprecat")
_SENTENCE = re.compile(r"(.+?(?<!e\.g)(?<!i\.e)(?<!etc)(?<!cf)(?<!vs)(?<!Eq)(?<!\b[A-Z])\.)(?=\s|$)")
_SIGNATURE = re.compile(r"^[\w.]+ ?\([^\n]*\)( *->.*)?$")
_NAME = re.compile(r"\*{0,2}([A-Za-z][A-Za-z0-9_]*)$")


@dataclass(frozen=True)
class Definition:
    """A documented function, method or class of a module."""

    file: str
    name: str  # Class.method
    kind: str  # function, method or class
    summary: str  # an answer; empty: the docstring gives none
    arguments: tuple[tuple[str, str], ...]  # name and description


def questions(packages: Mapping[str, str], workers: int) -> list[Conversation]:
    """The conversations of all kinds, in an order that the packages alone decide.

    Args:
        packages: distribution and version, as installed; none is imported.

    Raises:
        ValueError: a distribution is missing or has another version.
    """
    found: list[Conversation] = []
    answered: set[str] = set()
    with ExitStack() as held:
        pool = None if workers == 1 else held.enter_context(processes(workers))
        apply = map if pool is None else partial(pool.map, chunksize=8)
        for package, distribution in zip(packages, distributions(dict(packages)), strict=True):
            files = _python_files(distribution)
            definitions = [one for part in apply(_definitions_of, files) for one in part]
            source = f"documentation of {package} {packages[package]}"
            licence = licence_of(distribution)
            found += _summaries(package, source, licence, definitions, answered)
            found += _grounded(package, source, licence, definitions)
    return found


def _python_files(distribution: importlib.metadata.Distribution) -> list[tuple[str, str]]:
    paths = [file for file in sorted(distribution.files or []) if str(file).endswith(".py")]
    return [(str(file), str(file.locate())) for file in paths if is_documentation(str(file))]


def _definitions_of(file: tuple[str, str]) -> list[Definition]:
    name, path = file
    return definitions(name, Path(path).read_text(encoding="utf-8", errors="replace"))


# ---- a module


def definitions(file: str, code: str) -> list[Definition]:
    """The public functions, methods and classes of a module that have a usable docstring."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code, feature_version=(3, 11))
    except (SyntaxError, ValueError):
        return []
    return [found for node in tree.body for found in _documented(file, node, "")]


def _documented(file: str, node: ast.AST, owner: str) -> Iterator[Definition]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    if node.name.startswith("_"):
        return
    is_class = isinstance(node, ast.ClassDef)
    name = f"{owner}{node.name}"
    if doc := ast.get_docstring(node):
        kind = "class" if is_class else "method" if owner else "function"
        one = Definition(file, name, kind, summary(doc, is_class), tuple(arguments(doc)))
        if one.summary or len(one.arguments) > 1:
            yield one
    if is_class and not owner:
        for child in node.body:
            yield from _documented(file, child, f"{name}.")


def summary(doc: str, is_class: bool) -> str:
    """The first sentence of a docstring as an answer, or nothing if it makes no clean one."""
    parts = [part for part in re.split(r"\n\s*\n", inspect.cleandoc(doc)) if part.strip()]
    if len(parts) > 1 and _SIGNATURE.match(" ".join(parts[0].split())):
        parts = parts[1:]
    text = without_markup(" ".join(parts[0].split())) if parts else ""
    sentence = _SENTENCE.match(text)
    if sentence is None:
        return ""
    answer = _answer(sentence[1], is_class)
    return answer if answer and MIN_WORDS <= len(answer.split()) <= MAX_WORDS else ""


def _answer(sentence: str, is_class: bool) -> str:
    words = sentence.split()
    if not _is_clean(sentence) or len(words) < MIN_WORDS:
        return ""
    first, rest = words[0].lower(), words[1:]
    base = next((verb for verb in _bases(first) if verb in VERBS), None)
    if is_class and words[0] in ("A", "An", "The"):
        return " ".join(["It is", first, *rest])
    if is_class and base is None and first.isalpha() and not first.endswith(("ing", "s")):
        article = "an" if first[0] in "aeiou" else "a"
        return " ".join([f"It is {article}", first if words[0][1:].islower() else words[0], *rest])
    if base is None:
        return "It tells " + " ".join([first, *rest]) if first == "whether" else ""
    rest = _inflected(rest) if first == base else rest
    return " ".join(["It", inflect(base), *rest]) if rest else ""


def _inflected(words: list[str]) -> list[str]:
    """The words after an imperative, with a second imperative in the third person; none if there is
    a word of which nobody knows whether it is one.
    """
    found = list(words)
    for i, word in enumerate(words[1:], 1):
        if words[i - 1].rstrip(",") in ("and", "or", "then") and word in VERBS:
            if word not in CERTAIN:
                return []
            found[i] = inflect(word)
    if words[0] in ("and", "or"):
        if words[1] not in VERBS:
            return []
        found[1] = inflect(words[1])
    return found


def inflect(verb: str) -> str:
    """The third person of a verb."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _bases(word: str) -> Iterator[str]:
    yield word
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]


def _is_clean(text: str) -> bool:
    """Plain English words, mostly."""
    words = text.split()
    plain = sum(word.strip(".,;:()'!?").replace("-", "").replace("'", "").isalpha() for word in words)
    return text.isascii() and not _BAD_TEXT.search(text) and plain >= 0.85 * len(words)


def arguments(doc: str) -> list[tuple[str, str]]:
    """The arguments that a docstring in the style of numpy, Google or Sphinx describes."""
    lines = inspect.cleandoc(doc).expandtabs().split("\n")
    found: dict[str, str] = {}
    for name, text in (*_numpy_style(lines), *_indented_style(lines), *_sphinx_style(lines)):
        description = _description(text)
        if description and (match := _NAME.match(name)):
            found.setdefault(match[1], description)
    return list(found.items())


def _description(text: str) -> str:
    """Its first sentence, with a capital and a full stop; nothing if it is not plain English."""
    text = without_markup(" ".join(text.split()))
    sentence = _SENTENCE.match(text)
    text = sentence[1] if sentence else text
    if not text or not text[0].isalpha() or not _is_clean(text):
        return ""
    text = text[0].upper() + text[1:]
    text = text if text.endswith(".") else text.rstrip(",;:") + "."
    return text if 3 <= len(text.split()) <= MAX_DESCRIPTION else ""


def _numpy_style(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, line in enumerate(lines[:-1]):
        if line.strip() in ("Parameters", "Other Parameters") and lines[i + 1].startswith("---"):
            yield from _items(lines[i + 2 :], 0, r"^([\w*, ]+?)(?: *:.*)?$")


def _indented_style(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, line in enumerate(lines):
        if line.strip() in ("Args:", "Arguments:", "Parameters:"):
            inner = next((one for one in lines[i + 1 :] if one.strip()), "")
            indent = len(inner) - len(inner.lstrip())
            if indent > len(line) - len(line.lstrip()):
                yield from _items(lines[i + 1 :], indent, r"^([\w*]+)(?: *\([^)]*\))?: *(.*)$")


def _items(lines: Sequence[str], indent: int, pattern: str) -> Iterator[tuple[str, str]]:
    """Names at an indentation, each with the more deeply indented lines below it, up to a blank line
    or the next section.
    """
    name, text = "", list[str]()
    for line in [*lines, "."]:
        depth = len(line) - len(line.lstrip())
        if line.strip() and depth <= indent:
            if name:
                yield name, " ".join(text)
            match = re.match(pattern, line.strip()) if depth == indent else None
            if match is None or line.startswith("---"):
                return
            name = match[1] if "," not in match[1] else ""
            text = [match[2]] if match.lastindex and match.lastindex > 1 else []
        elif not line.strip() and text and not text[-1].strip():
            continue
        else:
            text.append(line.strip())


def _sphinx_style(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    text = "\n".join(lines)
    for match in re.finditer(r"^ *:param (?:[\w.]+ )?(\w+): *((?:.+\n?)(?:(?! *:)[^\n]\S*.*\n?)*)", text, re.M):
        yield match[1], match[2]


# ---- from definitions to conversations


def _summaries(
    package: str,
    source: str,
    licence: str,
    found: Sequence[Definition],
    answered: set[str],
) -> Iterator[Conversation]:
    """A question for each name that has one answer, and for each answer that has one name."""
    by_name: dict[str, Definition] = {}
    for one in sorted((one for one in found if one.summary), key=_publicity):
        by_name.setdefault(one.name, one)
    for name in sorted(by_name):
        one = by_name[name]
        if one.summary in answered:
            continue
        answered.add(one.summary)
        id = f"{package}/{one.file}#{name}"
        templates = CLASS_QUESTIONS if one.kind == "class" else SUMMARY_QUESTIONS
        asked = _pick(templates, id).format(package=package, name=name, kind=one.kind)
        last = name.split(".")[-1]
        yield Conversation(
            id=id,
            source=source,
            kind="question",
            messages=(Message("user", _typed(asked, id)), Message("assistant", one.summary)),
            licence=licence,
            group=last.lower(),
            more={"name": last},
        )


def _publicity(one: Definition) -> tuple[int, int, str]:
    """Public paths first: fewer private modules, then fewer folders."""
    parts = one.file.split("/")
    return sum(part.startswith("_") for part in parts), len(parts), one.file


def _grounded(package: str, source: str, licence: str, found: Sequence[Definition]) -> Iterator[Conversation]:
    others = sorted({name for one in found for name, _ in one.arguments})
    seen: set[str] = set()
    for one in sorted(found, key=lambda one: (one.name, _publicity(one))):
        listed = _fitting(one.arguments)
        text = " ".join(f"{name}: {description}" for name, description in listed)
        if len(listed) < 2 or text in seen:
            continue
        seen.add(text)
        id = f"{package}/{one.file}#{one.name}/arguments"
        messages, expected = _turns(id, text, dict(listed), others)
        yield Conversation(
            id=id,
            source=source,
            kind="refusal" if expected == REFUSAL else "grounded",
            messages=tuple(messages),
            licence=licence,
            group=one.name.split(".")[-1].lower(),
            expected=(expected.lower(),),
        )


def _fitting(listed: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first arguments that fit a prompt."""
    chosen: list[tuple[str, str]] = []
    words = 0
    for name, description in listed[:MOST_ARGUMENTS]:
        words += 1 + len(description.split())
        if words > MAX_TEXT:
            break
        chosen.append((name, description))
    return chosen


def _turns(id: str, text: str, listed: Mapping[str, str], others: Sequence[str]) -> tuple[list[Message], str]:
    """Questions about a text, and the last answer."""
    messages: list[Message] = []
    answer, left = "", list(listed)
    for turn in range(_pick(SAMPLE_TURNS, id, "turns")):
        name = _unnamed(id, turn, text, others)
        refused = name is not None and _hash(id, turn, "refused") % REFUSED == 0
        if not refused:
            if not left:
                break
            name = left.pop(_hash(id, turn, "name") % len(left))
        assert name is not None
        asked = _typed(_pick(ARGUMENT_QUESTIONS, id, turn).format(name=name), f"{id}{turn}")
        answer = REFUSAL if refused else listed[name]
        messages += [
            Message("user", f"{text}\n\n{asked}" if turn == 0 else asked),
            Message("assistant", answer),
        ]
    return messages, answer


def _unnamed(id: str, turn: int, text: str, others: Sequence[str]) -> str | None:
    """The name of an argument of something else that the text does not mention."""
    words = set(re.findall(r"\w+", text.lower()))
    for attempt in range(8):
        name = _pick(others, id, turn, attempt, "other")
        if name.lower() not in words:
            return name
    return None


def _typed(question: str, key: str) -> str:
    """The question, one time in five as people type in a hurry."""
    if _hash(key, "typed") % 5:
        return question
    return question[0].lower() + question[1:].rstrip("?.")


def _pick(options: Sequence[T], *key: object) -> T:
    return options[_hash(*key) % len(options)]


def _hash(*key: object) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(map(str, key)))
