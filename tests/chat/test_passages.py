"""Conversations made of one's own text."""

import pytest
from helpers.languages import TEXTS

from antimatter.chat import passages
from antimatter.chat.config import PassagesConfig
from antimatter.chat.conversation import problem
from antimatter.data.documents import Document, write_parquet
from antimatter.errors import UserError

NOTES = """\
# The garden

The beans are planted in April. They need water each morning. In June they are taller than a child.

## Tools

A spade and a rake hang in the shed.

Seeds and soil
Seeds are kept in paper bags, and never in the kitchen where it is warm.
"""


def test_what_a_text_says_under_its_headings():
    found = list(passages.passages(NOTES, words=12))
    assert found == [
        ("The garden", "The beans are planted in April. They need water each morning.", True),
        ("They need water each morning.", "In June they are taller than a child.", False),
        ("Tools", "A spade and a rake hang in the shed.", True),
        (
            "Seeds and soil",
            "Seeds are kept in paper bags, and never in the kitchen where it is warm.",
            True,
        ),
    ]


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize("words", [1, 20, 1_000])
def test_the_passages_of_a_text_are_the_text(code, words):
    """In any language, whatever their length."""
    found = list(passages.passages(TEXTS[code], words))
    whole = [found[0].title, *(passage.text for passage in found)]
    assert "".join(whole).replace(" ", "") == TEXTS[code].replace(" ", "").replace("\n", "")
    sizes = [len(passages.LANGUAGE.spaced(passage.text).split()) for passage in found]
    assert all(
        size <= words or len(list(passages._sentences(p.text))) == 1
        for size, p in zip(sizes, found, strict=True)
    )


@pytest.mark.parametrize(
    "text", ["", "One sentence.", "# A heading", "...", "#", "# # #\n# a #", "\n"]
)
def test_a_text_without_a_passage_has_none(text):
    assert list(passages.passages(text, 10)) == []


def test_they_are_conversations_on_the_side_of_their_document(tmp_path):
    texts = [NOTES, NOTES.replace("beans", "peas")]
    documents = [Document(str(i), text, "notes", "mine") for i, text in enumerate(texts)]
    documents.append(Document("2", "Hi.\n\nHello.", "people", "mit", "conversation"))
    write_parquet(documents, tmp_path, 1)
    config = PassagesConfig(weight=1, words=50, prompts=("{title}", "What about {title}?"))
    found = list(passages.of_text(tmp_path, config, lambda text: "peas" in text))
    assert [one.messages[0].text for one in found[:4]] == [
        "The garden", "What about The garden?", "Tools", "What about Tools?",
    ]  # fmt: skip
    assert all(not problem(one.messages) and one.licence == "mine" for one in found)
    assert {(one.group, one.held_out) for one in found} == {
        ("notes\x000", False),
        ("notes\x001", True),
    }
    assert len({one.id for one in found}) == len(found) == 12


def test_a_prompt_without_the_title_is_an_error():
    with pytest.raises(UserError, match=r"prompts must each hold \{title\}, got 'What\?'"):
        PassagesConfig(weight=1, words=50, prompts=("What?",))
