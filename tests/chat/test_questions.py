import importlib.metadata
import re

import pytest

from antimatter.chat import questions as module
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.docstrings import arguments, summary
from antimatter.chat.python_modules import public_paths, read_module
from antimatter.chat.questions import (
    DOES,
    MOST_CHARACTERS,
    REFUSAL,
    Library,
    conversations,
    questions,
)

SORTING = '''
def argsort(a, axis=-1, kind=None):
    """
    Returns the indices that would sort an array.

    Parameters
    ----------
    a : array_like
        Array to sort.
    axis : int, optional
        Axis along which to sort.  The default is the last one.
    kind : {'quicksort', 'stable'}
        sorting algorithm to use
    """

def lexsort(keys):
    """Perform an indirect sort using a sequence of keys."""

class Sorter:
    """Base class for all sorters."""

    def run(self, data):
        """Sort the data and return it."""

    @property
    def order(self):
        """The order of the elements."""

    def _hidden(self):
        """Return the name of the sorter."""
'''
ROTATING = '''
def rotate(angle, centre, copy=True):
    """Rotate the picture by an angle.

    Args:
        angle (float, optional): The angle in degrees.
        centre: the centre of the rotation, as a pair
            of numbers
        copy (bool): Whether to return a new picture.
    """

def scale(factor, origin):
    """Scale the picture by a factor.

    :param float factor: The factor of the scale.
    :param origin: The point that stays in its place.
    """
'''


def library(**modules: str) -> Library:
    """A library whose modules have these names, with __ for a dot, and these sources."""
    paths = [re.sub("(?<=[a-z])__(?=[a-z])", "/", name) for name in modules]
    sources = zip(paths, modules.values(), strict=True)
    read = [read_module(f"pic/{path}.py", code) for path, code in sources]
    return Library("pic", "documentation of pic 1.0", "MIT", read)


@pytest.fixture(scope="module")
def of_pic() -> list[Conversation]:
    return conversations([library(sorting=SORTING, rotating=ROTATING)])


def answers(*libraries: Library) -> dict[str, str]:
    """The answer to each question of what something does or is, by the end of its id."""
    asked = [one for one in conversations(libraries) if one.kind == "recall"]
    return {one.id.partition("#")[2].partition("/")[0]: one.messages[-1].text for one in asked}


@pytest.mark.parametrize(
    ("name", "documentation", "answer"),
    [
        ("argsort", "Return the indices that sort.", "It returns the indices that sort."),
        ("argsort", "Returns the sorted keys.\n\nMore.", "It returns the sorted keys."),
        ("apply", "Apply `f` to every element", "It applies f to every element."),
        ("push", "Push an item onto\nthe stack.", "It pushes an item onto the stack."),
        ("Node", "Base class for all nodes.", "It is a base class for all nodes."),
        ("Node", "A Node is a vertex of a graph.", "It is a vertex of a graph."),
        ("norm", "This function computes the norm.", "It computes the norm."),
        ("norm", "The norm of a vector.", "It is the norm of a vector."),
        ("close", "Whether the file is closed.", "It tells whether the file is closed."),
        ("abs", "abs(x) -> Tensor\n\nTakes the absolute value.", "It takes the absolute value."),
        ("flip", "Recursively flip the tree.", "It recursively flips the tree."),
        # No answers
        ("key", "Sort key for the rows of it.", ""),
        ("make", "Create the file and return the path.", ""),
        ("plot", "A graph is bipartite if it has two colors.", ""),
        ("save", "Save the file to https://example.org/files.", ""),
        ("save", "TODO: save the file to the disk.", ""),
        ("walk", "Walk over all the nodes in the following order:\n\n- first", ""),
        ("area", "Area under a curve\n==================", ""),
        ("solve", "Solve a*x = b for the unknown x.", ""),
        ("get", "Get it.", ""),
        ("split", "Split the text at the", ""),
    ],
)
def test_a_first_sentence_becomes_an_answer(name: str, documentation: str, answer: str) -> None:
    assert summary(name, documentation) == answer


def test_arguments_are_read_in_three_styles() -> None:
    definitions = read_module("pic/a.py", SORTING + ROTATING).definitions
    read = {one.name: one.arguments for one in definitions}
    assert read["argsort"] == [
        ("a", "Array to sort."),
        ("axis", "Axis along which to sort."),
        ("kind", "Sorting algorithm to use."),
    ]
    assert read["rotate"] == [
        ("angle", "The angle in degrees."),
        ("centre", "The centre of the rotation, as a pair of numbers."),
        ("copy", "Whether to return a new picture."),
    ]
    assert read["scale"] == [
        ("factor", "The factor of the scale."),
        ("origin", "The point that stays in its place."),
    ]
    assert arguments("Args:\n    x: one of {1, 2} is set\n    y: No.") == []


def test_what_is_public_is_asked_for() -> None:
    assert answers(library(sorting=SORTING)) == {
        "argsort": "It returns the indices that would sort an array.",
        "lexsort": "It performs an indirect sort using a sequence of keys.",
        "Sorter": "It is a base class for all sorters.",
        "Sorter.order": "It is the order of the elements.",
    }


def test_a_private_module_counts_where_a_package_exports_its_names() -> None:
    hidden = {"_impl": 'def turn(x):\n    """Turn the picture to the left."""\n'}
    assert answers(library(__init__="", **hidden)) == {}
    assert answers(library(__init__="from ._impl import turn", **hidden))
    assert answers(library(__init__="from pic._impl import *", **hidden))
    with_all = hidden["_impl"] + "__all__ = []\n"
    assert answers(library(__init__="from ._impl import *", _impl=with_all)) == {}


def test_one_name_has_one_answer_and_one_answer_one_name() -> None:
    near = 'def turn(x):\n    """Turn the picture to the left."""\n'
    far = 'def turn(x):\n    """Turn the page of the book."""\n'
    same = 'def flip(x):\n    """Turn the picture to the left."""\n'
    left = ["It turns the picture to the left."]
    shorter = library(a=near, b__c=far)
    assert list(answers(shorter).values()) == left
    assert list(answers(library(a=near, b=far)).values()) == []
    assert list(answers(library(a=near, b=near)).values()) == left
    assert list(answers(library(a=near, b__c=same)).values()) == left


def test_docstrings_of_compiled_functions_are_read() -> None:
    numpy = 'add_newdoc("pic", "grid", ("close", "close()\\n\\nClose the grid for good."))'
    torch = 'add_docstr(pic.turn, "turn(x) -> Line\\n\\nTurns the line" + " to the left.")'
    code = f'"""Documentation of compiled functions."""\n{numpy}\n{torch}'
    assert answers(library(_docs=code)) == {
        "grid.close": "It closes the grid for good.",
        "turn": "It turns the line to the left.",
    }


def test_messages_and_provenance(of_pic: list[Conversation]) -> None:
    assert len({one.id for one in of_pic}) == len(of_pic)
    for one in of_pic:
        assert problem(one.messages) == ""
        assert (one.source, one.licence) == ("documentation of pic 1.0", "MIT")
        text = "\n\n".join(message.text for message in one.messages)
        assert len(text) <= MOST_CHARACTERS
        assert text.isascii() and "`" not in text
    assert {one.more["name"] for one in of_pic if one.kind == "recall"} >= {"argsort", "order"}


def test_a_grounded_answer_is_in_the_prompt_and_a_refused_name_is_not(
    of_pic: list[Conversation],
) -> None:
    kinds = set()
    for one in of_pic:
        if one.kind == "recall":
            continue
        text, _, first = one.messages[0].text.partition("\n\n")
        asked = [first, *(message.text for message in one.messages[2::2])]
        answered = [message.text for message in one.messages[1::2]]
        described = dict(re.findall(r"(\w+): ([^:]+\.)(?= \w+:|$)", text))
        for question, answer in zip(asked, answered, strict=True):
            named = [name for name in described if re.search(rf"\b{name}\b", question)]
            assert [described[name] for name in named] == [answer] * (answer != REFUSAL)
        kinds.add(one.kind)
        assert (one.kind == "refusal") == (answered[-1] == REFUSAL)
        assert one.expected == (answered[-1].lower(),)
    assert kinds == {"grounded", "refusal"}


def test_an_installed_package_gives_the_same_for_any_number_of_workers() -> None:
    version = importlib.metadata.version("click")
    alone = questions({"click": version}, 1)
    assert questions({"click": version}, 2) == alone
    assert {one.kind for one in alone} >= {"recall", "grounded", "refusal"}
    cited = {(one.source, one.licence) for one in alone}
    assert cited == {(f"documentation of click {version}", "BSD-3-Clause")}
    assert any(one.id.startswith("click/click/utils.py#echo/") for one in alone)


def test_every_phrasing_is_asked_and_one_is_held_out() -> None:
    code = "".join(
        f'def turn_{n}(x):\n    """Turn the picture to the left {n} times."""\n' for n in range(40)
    )
    of_library = conversations([library(a=code)])
    assert {one.kind for one in of_library} == {"recall"}
    rows = [[form.replace("{what}", "function") for form in row] for row in DOES]
    held_out = set()
    for n in range(40):
        asked = [one for one in of_library if one.more["name"] == f"turn_{n}"]
        names = {"owned": f"pic's turn_{n}", "path": f"pic.a.turn_{n}", "name": f"turn_{n}"}
        texts = {one.messages[0].text: one.held_out for one in asked}
        filled = [[form.format(**names, package="pic") for form in row] for row in rows]
        [unseen] = [row for row in filled if texts[row[0]]]
        trained = {text: False for row in filled if row is not unseen for text in row}
        assert texts == trained | {unseen[0]: True}
        held_out.add(filled.index(unseen))
    assert len(held_out) == len(DOES)


def test_what_is_named_longer_is_for_evaluation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEST_KNOWN", 2)
    monkeypatch.setattr(module, "OTHERS", 1)
    code = "".join(
        f'def t{"u" * n}rn(x):\n    """Turn the picture to the left {n} times."""\n'
        for n in range(5)
    )
    of_library = conversations([library(a=code)])
    unseen = [one for one in of_library if one.held_out]
    kinds = {one.more["name"]: (one.kind, one.held_out) for one in unseen}
    assert kinds == {
        "trn": ("recall", True),
        "turn": ("recall", True),
        "tuurn": ("question", True),
        "tuuurn": ("question", True),
        "tuuuurn": ("question", True),
    }
    assert sum(one.kind == "question" for one in of_library) == 3


def test_modules_that_import_each_other_have_their_names() -> None:
    """As pandas has: a module without a docstring passes on what another defines."""
    frame = 'from pic.b import other\ndef turn(x):\n    """Turn the picture to the left."""\n'
    passes_on = "from pic.frame import turn\n"
    circle = "from pic.frame import *\nfrom pic.b import *\n"
    top = "from pic.b import *\nfrom pic.api import turn\n"
    modules = library(b=circle, frame=frame, api=passes_on, __init__=top).modules
    assert public_paths(modules)["pic.frame", "turn"] == "pic.turn"


def test_the_question_of_the_documentation_is_asked() -> None:
    version = importlib.metadata.version("numpy")
    argsort = read_module("numpy/_core/fromnumeric.py", SORTING)
    package = read_module("numpy/__init__.py", "from ._core.fromnumeric import argsort")
    numpy = Library("numpy", f"documentation of numpy {version}", "BSD", [package, argsort])
    answer_to = {one.messages[0].text: one.messages[1].text for one in conversations([numpy])}
    assert (
        answer_to["What does numpy's argsort do?"]
        == "It returns the indices that would sort an array."
    )
