"""Questions and answers from the documentation inside installed packages.

Four kinds (Conversation.kind), each with the licence of its package:

- recall: what a function, method or class does or is, answered by the first sentence of its
  docstring. Asked in several phrasings, of which one is held out. From each package the definitions
  with the shortest paths, as numpy.argsort, because people ask for those and a small model keeps
  few facts;
- question: the same for some other definitions, all held out: does the model know anything beyond
  what it was trained on?
- grounded: what an argument means, where its description is in the prompt and the answer copies it;
- refusal: the same for an argument that the prompt does not name; the answer is REFUSAL.

The last two can be scored exactly.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import xxhash

from antimatter.chat.conversation import Conversation
from antimatter.chat.python_modules import Definition, Module, public_paths, read_module
from antimatter.chat.template import Message
from antimatter.data.sources.config import distributions
from antimatter.data.sources.embedded import is_documentation, licence_of
from antimatter.tasks.workers import processes

T = TypeVar("T")
Pair = tuple[str, str]  # the name of an argument, and its description or REFUSAL

REFUSAL = "The text does not say."
# Characters of a conversation about a text: less than 200 tokens with a vocabulary of 4,096
MOST_CHARACTERS = 550
# Characters and arguments of the text in a prompt
MOST_TEXT = 380
MOST_ARGUMENTS = 6
MOST_TURNS = 3

# Definitions of a package that `recall` trains on
BEST_KNOWN = 200
# One in this many of the others becomes a `question`
OTHERS = 20

# Phrasings, those in one row alike; {owned}: numpy's argsort; {path}: numpy.argsort; {what}:
# function, class, method or property
DOES = (
    ("What does {owned} do?", "what does {owned} do"),
    ("What does {name} do in {package}?", "what does {name} do in {package}"),
    ("What does {name} of {package} do?",),
    ("What does the {what} {name} of {package} do?",),
    ("What does {path} do?",),
    ("Explain {path}.",),
    ("Tell me what {name} of {package} does.",),
)
IS = (
    ("What is {owned}?", "what is {owned}"),
    ("What is {name} in {package}?", "what is {name} in {package}"),
    ("What is {name} of {package}?",),
    ("What is the {what} {name} of {package}?",),
    ("What is {path}?",),
    ("Explain {path}.",),
    ("Tell me what {name} of {package} is.",),
)
FIRST_ASKED = (
    "What does {name} mean?",
    "What is {name}?",
    "What does the text say about {name}?",
    "Explain {name}.",
    "what does {name} mean",
    "what is {name}",
    "Tell me what {name} means.",
)
THEN_ASKED = (*FIRST_ASKED, "And {name}?", "What about {name}?", "And what does {name} mean?")


class Library(NamedTuple):
    """A distribution as its conversations cite it."""

    package: str
    source: str
    licence: str
    modules: list[Module]


def questions(packages: Mapping[str, str], workers: int) -> list[Conversation]:
    """The conversations of all kinds, the same for any number of worker processes.

    Args:
        packages: names of installed distributions and their versions.

    Raises:
        UserError: a distribution is missing or has another version.
    """
    libraries: list[Library] = []
    with ExitStack() as stack:
        pool = None if workers == 1 else stack.enter_context(processes(workers))
        apply = map if pool is None else partial(pool.map, chunksize=8)
        for package, distribution in zip(packages, distributions(dict(packages)), strict=True):
            # Sorted, so that the conversations do not depend on the order in the package's RECORD
            names = sorted(str(file) for file in distribution.files or [])
            documented = [name for name in names if name.endswith(".py") and is_documentation(name)]
            files = [(name, str(distribution.locate_file(name))) for name in documented]
            source = f"documentation of {package} {packages[package]}"
            modules = list(apply(_module, files))
            libraries.append(Library(package, source, licence_of(distribution), modules))
    return conversations(libraries)


def _module(file: tuple[str, str]) -> Module:
    name, path = file
    return read_module(name, Path(path).read_text(encoding="utf-8", errors="replace"))


def conversations(libraries: Sequence[Library]) -> list[Conversation]:
    """The conversations about some libraries, together: an answer that several definitions would
    give is kept for the one with the shortest path, and refusals ask for arguments of all of them.
    """
    return [*_summaries(libraries), *_about_texts(libraries)]


# ---- recall and question


class _Candidate(NamedTuple):
    owner: Library
    path: str
    name: str  # that people use: argsort, DataFrame.merge
    definition: Definition


def _summaries(libraries: Sequence[Library]) -> Iterator[Conversation]:
    answered: set[str] = set()
    for library in libraries:
        number = 0
        for candidate in _candidates(library):
            if candidate.definition.summary in answered:
                continue
            answered.add(candidate.definition.summary)
            number += 1
            if number <= BEST_KNOWN:
                yield from _recall(candidate)
            elif _hash(f"{candidate.path}/other") % OTHERS == 0:
                form = _pick(_pick(_forms(candidate), candidate.path), candidate.path)
                yield _summary(candidate, form, kind="question", held_out=True)


def _candidates(library: Library) -> list[_Candidate]:
    """Definitions with a public path, the shortest first. Of several with the same name the one
    with the shortest path; none if two are as short and differ, as a question would be ambiguous.
    """
    paths = public_paths(library.modules)
    by_name: dict[str, list[_Candidate]] = defaultdict(list)
    for definition in (entry for module in library.modules for entry in module.definitions):
        first, dot, rest = definition.name.partition(".")
        public = paths.get((definition.module, first))
        if definition.summary and public:
            path = public + dot + rest
            name = public.rpartition(".")[2] + dot + rest
            by_name[name].append(_Candidate(library, path, name, definition))
    chosen = []
    for same in by_name.values():
        fewest = min(candidate.path.count(".") for candidate in same)
        best = [candidate for candidate in same if candidate.path.count(".") == fewest]
        if len({candidate.definition.summary for candidate in best}) == 1:
            chosen.append(min(best))
    return sorted(chosen, key=lambda each: (each.path.count("."), len(each.path), each.path))


def _recall(candidate: _Candidate) -> Iterator[Conversation]:
    """The question in every phrasing; one row of them is held out."""
    rows = _forms(candidate)
    unseen = _hash(f"{candidate.path}/held out") % len(rows)
    for number, row in enumerate(rows):
        for form in row[: 1 if number == unseen else None]:
            yield _summary(candidate, form, kind="recall", held_out=number == unseen)


def _forms(candidate: _Candidate) -> Sequence[Sequence[str]]:
    definition = candidate.definition
    is_thing = definition.what == "property" or re.match("It is (?:a|an|the) ", definition.summary)
    return IS if is_thing else DOES


def _summary(candidate: _Candidate, form: str, *, kind: str, held_out: bool) -> Conversation:
    package, definition = candidate.owner.package, candidate.definition
    genitive = "'" if package.endswith("s") else "'s"
    question = form.format(
        owned=f"{package}{genitive} {candidate.name}",
        name=candidate.name,
        package=package,
        path=candidate.path,
        what=definition.what,
    )
    return Conversation(
        id=f"{package}/{definition.file}#{definition.name}/{question}",
        source=candidate.owner.source,
        kind=kind,
        messages=(Message("user", question), Message("assistant", definition.summary)),
        licence=candidate.owner.licence,
        group=candidate.path,
        held_out=held_out,
        more={"name": candidate.name.rpartition(".")[2]},
    )


# ---- grounded and refusal


def _about_texts(libraries: Sequence[Library]) -> Iterator[Conversation]:
    """Conversations about lists of arguments. A list of several definitions is asked about once."""
    modules = [(library, module) for library in libraries for module in library.modules]
    every = [(library, entry) for library, module in modules for entry in module.definitions]
    # As often as it is described, so that a name alone does not tell whether the text has it
    names = [name for _, definition in every for name, _ in definition.arguments]
    seen: set[str] = set()
    for library, definition in every:
        number = 0
        id = f"{library.package}/{definition.file}#{definition.name}"
        for part in _parts(definition.arguments):
            text = " ".join(f"{name}: {description}" for name, description in part)
            if text in seen:
                continue
            seen.add(text)
            for turns in _turns(text, _pairs(id, part, text, names)):
                yield _about(f"{id}/grounded/{number}", library, definition, text, turns)
                number += 1


def _parts(arguments: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
    """A list cut into pieces that fit a prompt, of two arguments at least."""
    part: list[Pair] = []
    characters = 0
    for item in arguments:
        length = len(f"{item[0]}: {item[1]} ")
        if len(part) == MOST_ARGUMENTS or characters + length > MOST_TEXT:
            if len(part) > 1:
                yield part
            part, characters = [], 0
        part.append(item)
        characters += length
    if len(part) > 1:
        yield part


def _pairs(id: str, part: Sequence[Pair], text: str, names: Sequence[str]) -> list[Pair]:
    """Names to ask for and their answers: each of a list, and half as many that it has not."""
    words = set(re.findall(r"\w+", text.lower()))
    missing: dict[str, str] = {}
    # Enough attempts, since a text has few of all names
    for attempt in range(20):
        name = names[_hash(f"{id}/{text}/{attempt}") % len(names)]
        if len(missing) < (len(part) + 1) // 2 and name.lower() not in words:
            missing[name] = REFUSAL
    return sorted([*part, *missing.items()], key=lambda pair: _hash(f"{id}/{text}/{pair[0]}"))


def _turns(text: str, pairs: list[Pair]) -> Iterator[list[Pair]]:
    """The questions and answers of each conversation about a text."""
    start = 0
    while start < len(pairs):
        end = start + 1 + _hash(f"{text}/{start}") % MOST_TURNS
        while end - start > 1 and _characters(text, pairs[start:end]) > MOST_CHARACTERS:
            end -= 1
        yield pairs[start:end]
        start = end


def _characters(text: str, turns: Sequence[Pair]) -> int:
    longest = max(len(form) for form in THEN_ASKED)
    return len(text) + sum(longest + len(name) + len(answer) for name, answer in turns)


def _about(
    id: str,
    library: Library,
    definition: Definition,
    text: str,
    turns: Sequence[Pair],
) -> Conversation:
    messages: list[Message] = []
    for number, (name, answer) in enumerate(turns):
        forms = THEN_ASKED if number else FIRST_ASKED
        question = _pick(forms, f"{id}/{number}").format(name=name)
        prompt = question if number else f"{text}\n\n{question}"
        messages += [Message("user", prompt), Message("assistant", answer)]
    last = turns[-1][1]
    return Conversation(
        id=id,
        source=library.source,
        kind="refusal" if last == REFUSAL else "grounded",
        messages=tuple(messages),
        licence=library.licence,
        group=definition.name.rpartition(".")[2].lower(),
        expected=(last.lower(),),
    )


def _pick(options: Sequence[T], key: str) -> T:
    return options[_hash(key) % len(options)]


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key)
