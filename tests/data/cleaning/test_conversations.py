"""The rules for conversations: what is tidied, which turns are cut out, and which are kept."""

import dataclasses
from itertools import groupby

import pytest

from antimatter.data.cleaning.config import ConversationConfig, LanguageConfig
from antimatter.data.cleaning.conversations import ConversationRules, tidy
from antimatter.data.documents import SEPARATOR
from antimatter.errors import UserError

CONFIG = ConversationConfig(
    enabled=True,
    min_turns=4,
    max_turn_words=12,
    max_short_turns=0.5,
    max_non_ascii=0.0,
    biography="drop",
)
GOOD = [
    "Hello, how are you today?",
    "I am doing well, thank you very much.",
    "What do you like to eat?",
    "I like bread and cheese with apples.",
    "That sounds very good to me.",
    "You should try it some day.",
]


def rules(**changes):
    language = LanguageConfig(enabled=True, code="en", min_score=0.5)
    return ConversationRules(dataclasses.replace(CONFIG, **changes), language)


def reasons(turns, **changes):
    return [turn.reason for turn in rules(**changes)(SEPARATOR.join(turns))]


@pytest.mark.parametrize(
    ("original", "tidied"),
    [
        ("hi", "Hi."),
        ("im good. how are you", "I'm good. How are you?"),
        ("haha thats so coool!!!", "That's so cool!"),
        ("sooo good lol", "So good."),
        ("hahaha", "Haha."),
        ("lol :)", "Haha."),
        (":)", ""),
        ("yes :D i know ;)", "Yes I know."),
        ("really??!", "Really?"),
        ("well.... maybe", "Well... Maybe."),
        ("i like cats. *dogs", "I like cats."),
        ("u dont know , do u", "You don't know, do you."),
        ("I LOVE THIS", "I love this."),
        ("It costs 5.15 at 10:30, e.g. here", "It costs 5.15 at 10:30, e.g. Here."),
        ("it&#39;s fine", "It's fine."),
        ("Is it?", "Is it?"),
        ("a hat, the heath and him", "A hat, the heath and him."),
    ],
)
def test_a_turn_is_tidied(original, tidied):
    assert tidy(original) == tidied


def test_a_tidy_turn_is_not_changed():
    for turn in GOOD:
        assert tidy(turn) == turn
    assert reasons(GOOD) == [""] * 6


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("See www.cats.org for more.", "link"),
        ("Write to @ann about it.", "handle"),
        ("My mail is ann@post.net today.", "email"),
        ("Call me at 801-237-4821 now.", "phone"),
        ("You can call 8012374821 then.", "phone"),
        ("That is shitty, is it not?", "profanity"),
        ("One two three four five six seven eight nine ten eleven twelve more.", "too_long"),
        ("No no no no no no no.", "repeated_words"),
        ("I like the caf\u00e9 on the corner.", "non_ascii"),
        (";)", "no_words"),
        ("I study at BYU this year.", "biography"),
        ("My roommate is from here too.", "biography"),
        ("My name is Ann Lee.", "biography"),
    ],
)
def test_a_bad_turn_is_cut_out_for_its_reason_and_costs_no_other(turn, reason):
    assert reasons([*GOOD, turn, *GOOD]) == [""] * 6 + [reason] + [""] * 6


def test_words_that_only_look_bad_are_kept():
    turns = [
        "The grass is green in this classic assessment.",
        "Version 2.4.6 came on 12.10.2018 with 300 changes.",
        "Essex and the cocktail are both fine.",
        "A majority was in the classical concert.",
    ]
    assert reasons(turns) == [""] * 4


def test_the_answer_to_a_question_for_a_name_is_cut_out_too():
    assert reasons([*GOOD[:5], "What is your name?", "Kim.", *GOOD[:4]])[5:7] == ["", "biography"]


def test_biography_may_be_kept():
    turns = ["I study at BYU this year.", "What is your name?", "It is Kim, my friend.", *GOOD[:1]]
    assert reasons(turns, biography="keep") == [""] * 4


def test_short_runs_and_runs_of_short_turns_are_cut_out():
    assert reasons(GOOD[:3]) == ["too_few"] * 2 + ["unanswered"]
    short = ["Hello.", "Oh yes.", "Very good.", "What is it that you would like to eat today?"]
    assert reasons(short) == ["short"] * 4
    assert reasons(short, max_short_turns=0.75) == [""] * 4


def test_a_conversation_in_another_language_is_dropped_as_a_whole():
    turns = ["Guten Morgen, wie geht es dir heute?", "Sehr gut, vielen Dank, und dir?"] * 3
    assert reasons(turns) == ["language"] * 6


def test_every_run_is_a_conversation():
    """Wherever the bad turns are, a run has an even number of turns, and at least min_turns."""
    bad = "I study at BYU this year."
    for number in range(2**8):
        turns = [bad if number >> i & 1 else GOOD[i % 6] for i in range(8)]
        result = reasons(turns)
        assert len(result) == 8
        for reason, group in groupby(result):
            size = len(list(group))
            assert reason or (size >= 4 and size % 2 == 0), result


def test_disabled_rules_repair_text_and_cut_nothing():
    turns = rules(enabled=False)(SEPARATOR.join(["im at BYU &amp; Provo", "lol"]))
    assert [tuple(turn) for turn in turns] == [
        ("im at BYU &amp; Provo", "im at BYU & Provo", ""),
        ("lol", "lol", ""),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [("min_turns", 1), ("max_turn_words", 0), ("max_short_turns", 1.5), ("max_non_ascii", -0.1)],
)
def test_a_bad_value_is_named(key, value):
    with pytest.raises(UserError, match=rf"{key} .* {value}"):
        dataclasses.replace(CONFIG, **{key: value})
