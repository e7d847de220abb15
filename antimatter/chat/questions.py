"""Questions and answers from the documentation inside installed packages.

Four kinds (Conversation.kind), each with the licence of its package:

- recall: what a function, method or class does or is, answered by the first sentence of its
  docstring. Asked in several phrasings, of which one is held out. Of each package what is named
  shortest, as numpy.argsort is, because people ask for that and a small model keeps few facts;
- question: the same of some other definitions, all held out: is anything known beyond what was
  learnt?
- grounded: what an argument means, where its description is in the prompt and the answer copies it;
- refusal: the same for an argument that the prompt does not name; the answer is REFUSAL.

The last two can be scored exactly. The packages are parsed, never imported.
"""

import ast
import inspect
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

import xxhash

from antimatter.chat.conversation import Conversation
from antimatter.chat.docstrings import arguments, summary, without_signature
from antimatter.chat.template import Message
from antimatter.data.sources.config import distributions
from antimatter.data.sources.embedded import is_documentation, licence_of
from antimatter.tasks.workers import processes

T = TypeVar("T")

REFUSAL = "The text does not say."
# Characters of a conversation about a text: less than 200 tokens with a vocabulary of 4,096
MOST_CHARACTERS = 550
# Of the text in a prompt, which describes at most so many arguments
MOST_TEXT = 380
MOST_ARGUMENTS = 6
MOST_TURNS = 3
# Dots in a path that a person would type
MOST_DOTS = 3

# Definitions of a package that are asked for until they are known
BEST_KNOWN = 200
# One in so many of the others is asked for once, to evaluate
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


class Definition(NamedTuple):
    """A public function, class, method or property, and what its docstring gives."""

    file: str
    module: str
    # Within the module: DataFrame.merge
    name: str
    what: str
    # An answer; empty if the docstring has none that is fit
    summary: str
    # Names and their descriptions
    arguments: list[tuple[str, str]]


class Module(NamedTuple):
    """What a file defines, and what it takes from others, to find the paths people know."""

    name: str
    is_package: bool
    definitions: list[Definition]
    # Its names for the names of other modules
    imported: dict[str, tuple[str, str]]
    # Modules of which it imports everything
    stars: list[str]
    # `__all__`, if it is one list
    exported: list[str] | None


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
        ValueError: a distribution is missing or has another version.
    """
    found = distributions(dict(packages))
    libraries: list[Library] = []
    with ExitStack() as held:
        pool = None if workers == 1 else held.enter_context(processes(workers))
        apply = map if pool is None else partial(pool.map, chunksize=8)
        for package, distribution in zip(packages, found, strict=True):
            names = sorted(str(file) for file in distribution.files or [])
            wanted = [name for name in names if name.endswith(".py") and is_documentation(name)]
            files = [(name, str(distribution.locate_file(name))) for name in wanted]
            source = f"documentation of {package} {packages[package]}"
            modules = list(apply(_module, files))
            libraries.append(Library(package, source, licence_of(distribution), modules))
    return conversations(libraries)


def conversations(libraries: Sequence[Library]) -> list[Conversation]:
    """The conversations about some libraries, together: an answer that several definitions would
    give is kept for the one with the shortest path, and refusals ask for arguments of all of them.
    """
    return [*_summaries(libraries), *_about_texts(libraries)]


# ---- modules


def _module(file: tuple[str, str]) -> Module:
    name, path = file
    return read_module(name, Path(path).read_text(encoding="utf-8", errors="replace"))


def read_module(file: str, code: str) -> Module:
    """The public names of a module that have a docstring, and its imports. Empty if this Python
    cannot parse it: a template, or code for another version.
    """
    parts = file.removesuffix(".py").split("/")
    is_package = parts[-1] == "__init__"
    module = Module(".".join(parts[:-1] if is_package else parts), is_package, [], {}, [], None)
    # Half of the time goes into parsing
    if '"""' not in code and "import" not in code:
        return module
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(code, feature_version=(3, 11))
    except (SyntaxError, ValueError):
        return module
    found: dict[str, Definition] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom):
            _note_import(module, node)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            # Another mention may extend it
            if code.count("__all__") > 1:
                continue
            module = module._replace(exported=_literal_names(node.value))
        for one in _documented(file, module.name, node):
            found.setdefault(f"{one.module} {one.name}", one)
    module.definitions.extend(found.values())
    return module


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements, also those that depend on a condition, as for another version of Python."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])
        else:
            yield node


def _note_import(module: Module, node: ast.ImportFrom) -> None:
    source = node.module or ""
    if node.level:
        above = node.level - 1 if module.is_package else node.level
        base = module.name.split(".")
        source = ".".join([*base[: len(base) - above], *filter(None, [source])])
    for alias in node.names:
        if alias.name == "*":
            module.stars.append(source)
        else:
            module.imported[alias.asname or alias.name] = (source, alias.name)


def _literal_names(value: ast.expr) -> list[str] | None:
    try:
        return [name for name in ast.literal_eval(value) if isinstance(name, str)]
    except ValueError:
        return None


def _documented(file: str, module: str, node: ast.stmt, owner: str = "") -> Iterator[Definition]:
    if isinstance(node, ast.Expr | ast.Assign) and isinstance(node.value, ast.Call) and not owner:
        yield from _of_compiled(file, module, node)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    if node.name.startswith("_"):
        return
    name = owner + node.name
    documentation = ast.get_docstring(node)
    if isinstance(node, ast.ClassDef):
        what = "class"
        for child in _statements(node.body):
            yield from _documented(file, module, child, f"{name}.")
        # "Raised when ...": not what anybody asks for
        if node.name.endswith(("Error", "Exception", "Warning")):
            return
    else:
        decorators = " ".join(ast.unparse(one) for one in node.decorator_list)
        what = "property" if "property" in decorators else "method" if owner else "function"
    if documentation:
        yield from _definition(file, module, name, what, documentation)


def _of_compiled(file: str, module: str, node: ast.Expr | ast.Assign) -> Iterator[Definition]:
    """The docstring that numpy or torch gives to a compiled function in a call:

    add_newdoc("numpy._core", "nditer", ("close", text)), add_docstr(torch.abs, text),
    add_docstr_all("abs", text), or gamma = _add_docstr(_special.special_gamma, text).
    """
    assert isinstance(node.value, ast.Call)
    function, given = ast.unparse(node.value.func), node.value.args
    if not function.endswith(("add_newdoc", "add_docstr", "add_docstr_all")) or len(given) < 2:
        return
    parts = [part for argument in given for part in ast.walk(argument)]
    constants = [part for part in parts if isinstance(part, ast.Constant)]
    constants.sort(key=lambda part: (part.lineno, part.col_offset))
    texts = [part.value for part in constants if isinstance(part.value, str)]
    names = list(takewhile(lambda text: "\n" not in text, texts))
    documentation = inspect.cleandoc("".join(texts[len(names) :]))
    if isinstance(node, ast.Assign):
        names = [ast.unparse(node.targets[0])]
    elif function.endswith("add_newdoc") and names:
        module, *names = names
    elif function.endswith("add_docstr_all"):
        module, names = "torch", ["Tensor", *names]
    else:
        module, _, last = ast.unparse(given[0]).rpartition(".")
        names = [last]
    name = ".".join(names)
    if not documentation or not re.fullmatch(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)?", name):
        return
    has_signature = without_signature(documentation) != documentation
    nested = ("property", "method")[has_signature]
    what = nested if "." in name else ("class", "function")[has_signature]
    yield from _definition(file, module, name, what, documentation)


def _definition(file: str, module: str, name: str, what: str, text: str) -> Iterator[Definition]:
    found = Definition(file, module, name, what, summary(name, text), arguments(text))
    if found.summary or len(found.arguments) > 1:
        yield found


# ---- names that people know


def public_paths(modules: Sequence[Module]) -> dict[tuple[str, str], str]:
    """The shortest path without a private part to each function and class, by its module and name:
    numpy.argsort for argsort in numpy._core.fromnumeric. What has none is missing.
    """
    by_name = {module.name: module for module in modules}
    # Of each module the names that it defines, and where: a docstring may be written elsewhere
    defined: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    for module in modules:
        for one in module.definitions:
            first = one.name.split(".")[0]
            defined[one.module][first] = (one.module, first)

    def origin(name: str, offer: str, asked: frozenset[str]) -> tuple[str, str] | None:
        """Where what a module offers by this name is defined. Modules may import each other in a
        circle: those that were asked already are not asked again.
        """
        if found := defined[name].get(offer):
            return found
        if name in asked or name not in by_name:
            return None
        module, asked = by_name[name], asked | {name}
        if offer in module.imported:
            return origin(*module.imported[offer], asked)
        candidates = (origin(star, offer, asked) for star in module.stars if lets(star, offer))
        return next(filter(None, candidates), None)

    def lets(name: str, offer: str) -> bool:
        exported = by_name[name].exported if name in by_name else None
        return exported is None or offer in exported

    def names(name: str, asked: frozenset[str]) -> set[str]:
        """What a module may offer."""
        if name in asked or name not in by_name:
            return set(defined[name])
        module, asked = by_name[name], asked | {name}
        return {*defined[name], *module.imported}.union(
            *({one for one in names(star, asked) if lets(star, one)} for star in module.stars)
        )

    paths: dict[tuple[str, str], list[str]] = defaultdict(list)
    for place in [place for own in defined.values() for place in own.values()]:
        paths[place].append(".".join(place))
    for module in modules:
        for name in names(module.name, frozenset()) if module.is_package else ():
            if known := origin(module.name, name, frozenset()):
                paths[known].append(f"{module.name}.{name}")
    shortest = {}
    for place, every in paths.items():
        public = [path for path in every if not re.search(r"(?:^|\.)_", path)]
        if public:
            shortest[place] = min(public, key=lambda path: (path.count("."), path))
    return shortest


# ---- conversations


class _Answered(NamedTuple):
    owner: Library
    path: str
    # The name that people use: argsort, DataFrame.merge
    name: str
    definition: Definition


def _summaries(libraries: Sequence[Library]) -> Iterator[Conversation]:
    answered: set[str] = set()
    for library in libraries:
        number = 0
        for one in _distinct(library):
            if one.definition.summary in answered:
                continue
            answered.add(one.definition.summary)
            number += 1
            if number <= BEST_KNOWN:
                yield from _recalled(one)
            elif _hash(f"{one.path}/other") % OTHERS == 0:
                asked = _pick(_pick(_forms(one), one.path), one.path)
                yield _summary(one, asked, kind="question", held_out=True)


def _distinct(library: Library) -> list[_Answered]:
    """Definitions with a public path, the shortest first. Of several with the same name the one
    with the shortest path; none if two are as short and differ, as a question would be ambiguous.
    """
    paths = public_paths(library.modules)
    by_name: dict[str, list[_Answered]] = defaultdict(list)
    for definition in (one for module in library.modules for one in module.definitions):
        first, dot, rest = definition.name.partition(".")
        known = paths.get((definition.module, first))
        if definition.summary and known:
            path = known + dot + rest
            name = known.rpartition(".")[2] + dot + rest
            by_name[name].append(_Answered(library, path, name, definition))
    chosen = []
    for same in by_name.values():
        fewest = min(one.path.count(".") for one in same)
        best = [one for one in same if one.path.count(".") == fewest]
        if len({one.definition.summary for one in best}) == 1:
            chosen.append(min(best))
    return sorted(chosen, key=lambda one: (one.path.count("."), len(one.path), one.path))


def _recalled(one: _Answered) -> Iterator[Conversation]:
    """The question in every phrasing; one row of them is held out."""
    rows = _forms(one)
    unseen = _hash(f"{one.path}/held out") % len(rows)
    for number, row in enumerate(rows):
        for form in row[: 1 if number == unseen else None]:
            yield _summary(one, form, kind="recall", held_out=number == unseen)


def _forms(one: _Answered) -> Sequence[Sequence[str]]:
    summary = one.definition.summary
    is_thing = one.definition.what == "property" or re.match("It is (?:a|an|the) ", summary)
    return IS if is_thing else DOES


def _summary(one: _Answered, form: str, *, kind: str, held_out: bool) -> Conversation:
    package, definition = one.owner.package, one.definition
    genitive = "'" if package.endswith("s") else "'s"
    asked = form.format(
        owned=f"{package}{genitive} {one.name}",
        name=one.name,
        package=package,
        path=one.path,
        what=definition.what,
    )
    return Conversation(
        id=f"{package}/{definition.file}#{definition.name}/{asked}",
        source=one.owner.source,
        kind=kind,
        messages=(Message("user", asked), Message("assistant", definition.summary)),
        licence=one.owner.licence,
        group=one.path,
        held_out=held_out,
        more={"name": one.name.rpartition(".")[2]},
    )


def _about_texts(libraries: Sequence[Library]) -> Iterator[Conversation]:
    """Conversations about lists of arguments. A list of several definitions is asked about once."""
    modules = [(library, module) for library in libraries for module in library.modules]
    every = [(library, one) for library, module in modules for one in module.definitions]
    # As often as it is described, so that a name alone does not tell whether the text has it
    names = [name for _, one in every for name, _ in one.arguments]
    seen: set[str] = set()
    for library, definition in every:
        number = 0
        id = f"{library.package}/{definition.file}#{definition.name}"
        for part in _parts(definition.arguments):
            text = " ".join(f"{name}: {description}" for name, description in part)
            if text in seen:
                continue
            seen.add(text)
            for turns in _turns(text, _asked(id, part, text, names)):
                yield _about(f"{id}/grounded/{number}", library, definition, text, turns)
                number += 1


def _parts(listed: Sequence[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    """A list cut into pieces that fit a prompt, of two arguments at least."""
    part: list[tuple[str, str]] = []
    characters = 0
    for item in listed:
        length = len(f"{item[0]}: {item[1]} ")
        if len(part) == MOST_ARGUMENTS or characters + length > MOST_TEXT:
            if len(part) > 1:
                yield part
            part, characters = [], 0
        part.append(item)
        characters += length
    if len(part) > 1:
        yield part


def _asked(
    id: str,
    part: Sequence[tuple[str, str]],
    text: str,
    names: Sequence[str],
) -> list[tuple[str, str]]:
    """Names to ask for and their answers: each of a list, and half as many that it has not."""
    words = set(re.findall(r"\w+", text.lower()))
    missing: dict[str, str] = {}
    for attempt in range(20):
        name = names[_hash(f"{id}/{text}/{attempt}") % len(names)]
        if len(missing) < (len(part) + 1) // 2 and name.lower() not in words:
            missing[name] = REFUSAL
    return sorted([*part, *missing.items()], key=lambda item: _hash(f"{id}/{text}/{item[0]}"))


def _turns(text: str, asked: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The questions and answers of each conversation about a text."""
    start = 0
    while start < len(asked):
        end = start + 1 + _hash(f"{text}/{start}") % MOST_TURNS
        while end - start > 1 and _characters(text, asked[start:end]) > MOST_CHARACTERS:
            end -= 1
        yield asked[start:end]
        start = end


def _characters(text: str, turns: Sequence[tuple[str, str]]) -> int:
    longest = max(len(form) for form in THEN_ASKED)
    return len(text) + sum(longest + len(name) + len(answer) for name, answer in turns)


def _about(
    id: str,
    library: Library,
    one: Definition,
    text: str,
    turns: Sequence[tuple[str, str]],
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
        group=one.name.rpartition(".")[2].lower(),
        expected=(last.lower(),),
    )


def _pick(options: Sequence[T], key: str) -> T:
    return options[_hash(key) % len(options)]


def _hash(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key)
