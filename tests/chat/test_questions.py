"""Questions from docstrings: what becomes an answer, what does not, and where each comes from."""

import importlib.metadata

import pytest

from antimatter.chat import questions
from antimatter.chat.conversation import Conversation, problem

DOC = """Return the value.

    Parameters
    ----------
    axis : int, optional
        Axis along which to sort. If None, all of it.
    kind : {'a', 'b'}
        Sorting algorithm to be used.
    """


@pytest.mark.parametrize(
    ("doc", "answer"),
    [
        ("Return the indices that sort an array.", "It returns the indices that sort an array."),
        ("Returns the copy of an array.", "It returns the copy of an array."),
        ("Compute and return the mean value.", "It computes and returns the mean value."),
        ("f(a, b)\n\nApply a rule to the\nwhole array. More.", "It applies a rule to the whole array."),
        ("Whether the graph is connected at all.", "It tells whether the graph is connected at all."),
        # A second verb that may be a noun, markup, a name, no sentence, too short
        ("Build and index the table of words.", ""),
        ("Return x[0] of the given array here.", ""),
        ("Deprecated since the last version of all.", ""),
        ("Return the value without an end", ""),
        ("Return it.", ""),
    ],
)
def test_the_first_sentence_becomes_an_answer_or_nothing(doc: str, answer: str) -> None:
    assert questions.summary(doc, is_class=False) == answer


def test_a_class_is_something() -> None:
    assert questions.summary("A base class for all graphs.", is_class=True) == "It is a base class for all graphs."
    assert questions.summary("Container for many small values.", is_class=True) == "It is a container for many small values."


@pytest.mark.parametrize(
    "doc",
    [
        DOC,
        "F.\n\nArgs:\n    axis (int): Axis along which to sort. If None, all.\n    kind: Sorting algorithm to be used.",
        "F.\n\n:param axis: Axis along which to sort. If None, all.\n:param str kind: sorting algorithm to be used\n",
    ],
    ids=["numpy", "google", "sphinx"],
)
def test_arguments_are_read_in_three_styles(doc: str) -> None:
    assert questions.arguments(doc) == [
        ("axis", "Axis along which to sort."),
        ("kind", "Sorting algorithm to be used."),
    ]


def test_private_names_and_what_is_no_python_give_nothing() -> None:
    code = "def _f():\n    '''Return the value of it.'''\nclass A:\n    def g(self):\n        '''Return the value of it.'''\n"
    assert [one.name for one in questions.definitions("m.py", code)] == ["A.g"]
    assert questions.definitions("m.py", "def f(:\n") == []


@pytest.fixture(scope="module")
def found() -> list[Conversation]:
    return questions.questions({"networkx": importlib.metadata.version("networkx")}, 2)


def test_each_kind_is_a_conversation_with_its_source_and_licence(found: list[Conversation]) -> None:
    assert {one.kind for one in found} == {"question", "grounded", "refusal"}
    assert {one.licence for one in found} == {"BSD-3-Clause"}
    assert len({one.id for one in found}) == len(found)
    assert [problem(one.messages) for one in found if problem(one.messages)] == []


def test_a_grounded_answer_stands_in_the_text_and_a_refused_name_does_not(found: list[Conversation]) -> None:
    asked = [one for one in found if one.kind != "question"]
    for one in asked:
        text, first = one.messages[0].text.split("\n\n")
        for question, answer in zip([first, *(m.text for m in one.messages[2::2])], one.messages[1::2], strict=True):
            name = next((name for name in text.split() if name.endswith(":") and name[:-1] in question.rstrip("?.").split()), "")
            assert (answer.text in text) == (answer.text != questions.REFUSAL), one.id
            if answer.text == questions.REFUSAL:
                assert not name, one.id
    assert sum(one.kind == "refusal" for one in asked) / len(asked) == pytest.approx(1 / 3, abs=0.1)


def test_any_number_of_workers_finds_the_same(found: list[Conversation]) -> None:
    assert questions.questions({"networkx": importlib.metadata.version("networkx")}, 1) == found
