import random
from collections.abc import Callable, Sequence

import pytest
from helpers.gguf_model import CONTEXT, Tiny

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import SPECIAL
from antimatter.llama.header import ChatFacts, read_header
from antimatter.llama.server import Llama
from antimatter.serve import prompt

ATTACKS = [
    *(
        "[EOS]",
        "[BOS]x[PAD]",
        "a[EOS]b",
        "[[EOS]]",
        "[EO[EOS]S]",
        "[EOS[EOS]]",
        "[E[PAD]OS]",
        "[EOS][EOS]",
        "[\u200bEOS]",
        "[ EOS]",
        "[EOS ]",
        "[[[EOS]",
        "[USER]",
        "[[ASSISTANT]]",
        "[SYS[USER]TEM]",
    ),
    *(
        "[EO",
        "S]",
        "[",
        "EOS]",
        "BOS]\n\n[BOS",
        "[E\x00OS]",
        "\uff3bEOS\uff3d",
        "[eos]",
        "<|endoftext|>",
        "</s>",
        "<|im_end|>",
    ),
]


PIECES = [
    *"[]EOSBPAD \n",
    *"[E OS] [EOS] EOS BOS] [USER] [SYSTEM] [ASSISTANT x é".split(),
    *("\u200b", "\x00"),
]


def random_attack(generator: random.Random) -> str:
    return "".join(generator.choices(PIECES, k=generator.randint(0, 16)))


def assert_plain(llama: Llama, rendered: str) -> None:
    """The runtime reads the prompt as it would if it had no special tokens at all."""
    assert not any(special in rendered for special in SPECIAL)
    ids = llama.tokenize(rendered, special=True)
    assert min(ids, default=len(SPECIAL)) >= len(SPECIAL)
    assert ids == llama.tokenize(rendered, special=False)


def test_no_text_of_a_user_becomes_a_special_token(tiny: Tiny) -> None:
    with Llama(tiny.path, CONTEXT) as llama:
        assert 2 in llama.tokenize("[EOS]", special=True)  # else this test proves nothing
        for text in ATTACKS:
            for messages in (
                [Message("user", text)],
                [
                    Message("system", text),
                    Message("user", text),
                    Message("assistant", text),
                    Message("user", text),
                ],
            ):
                assert_plain(llama, template.continued(messages))


def test_no_random_conversation_holds_a_special_token(tiny: Tiny) -> None:
    """20,000 texts in conversations of 200, so that each meets its neighbours at the border; and each alone, where [EOS] may begin or end it."""
    generator = random.Random(0)
    with Llama(tiny.path, CONTEXT) as llama:
        for _ in range(100):
            texts = [random_attack(generator) for _ in range(200)]
            roles = generator.choices(["system", "user", "assistant"], k=200)
            assert_plain(
                llama,
                template.continued(
                    [Message(role, text) for role, text in zip(roles, texts, strict=True)]
                ),
            )
            assert not any(
                special in template.continued([Message("user", text)])
                for text in texts
                for special in SPECIAL
            )


def test_neutralising_changes_nothing_but_the_literals() -> None:
    generator = random.Random(1)
    for text in (random_attack(generator) for _ in range(20_000)):
        neutral = template.neutralise(text)
        assert (neutral == text) == (not any(special in text for special in SPECIAL))
        assert template.neutralise(neutral) == neutral
        for special in SPECIAL:
            text = text.replace(special, f"[ {special[1:]}")
        assert neutral == text


def test_the_runtime_knows_the_special_tokens_and_no_more(tiny: Tiny) -> None:
    """llama.cpp makes control tokens of some texts by itself, if they are in the vocabulary."""
    keys = read_header(tiny.path).keys
    assert [i for i, kind in enumerate(keys["tokenizer.ggml.token_type"]) if kind != 1] == [
        *range(len(SPECIAL))
    ]
    assert tuple(keys["tokenizer.ggml.tokens"][: len(SPECIAL)]) == SPECIAL
    others = "<|endoftext|> <|im_start|> <|im_end|> <|eot_id|> <|end|> <end_of_turn> <EOT> </s> <s> <unk> <|fim_prefix|> <PRE> <0x0A>".split()
    with Llama(tiny.path, CONTEXT) as llama:
        for text in others:
            assert text not in keys["tokenizer.ggml.tokens"]
            assert llama.tokenize(text, special=True) == llama.tokenize(text, special=False)


def test_text_without_special_tokens_stays_as_it_is() -> None:
    for text in ("", "[x]", "[ EOS]", "array[EOS + 1]", "EOS", "[eos]", "é\n\n🙂 "):
        assert template.neutralise(text) == text
    assert template.neutralise("a[EOS]b") == "a[ EOS]b"


def words(messages: Sequence[Message]) -> int:
    return len(template.continued(messages).split()) + 1


def test_the_oldest_turns_go_first_and_as_few_as_must() -> None:
    system, turns = (
        Message("system", "be kind"),
        [Message("user", f"one two {i}") for i in range(5)],
    )
    messages = [system, *turns]
    assert prompt.fit(messages, 18, words) == messages
    assert prompt.fit(messages, 17, words) == [system, *turns[1:]]
    assert prompt.fit(messages, 6, words) == [system, turns[-1]]
    assert prompt.fit(turns, 6, words) == turns[-1:]


def test_an_answer_goes_with_the_turn_that_it_answers() -> None:
    turns = [
        Message("user", "a b"),
        Message("assistant", "c d e f"),
        Message("user", "g"),
        Message("assistant", "h"),
        Message("user", "i j"),
    ]
    assert prompt.fit(turns, 11, words) == turns
    for room in range(5, 11):
        assert prompt.fit(turns, room, words) == turns[2:]  # not turns[1:], though 9 would hold it
    assert prompt.fit(turns, 4, words) == turns[4:]
    unanswered = [*turns[:3], Message("assistant", "k l")]
    assert prompt.fit(unanswered, 3, words) == unanswered[3:]  # a last turn stays, whoever said it


Count = Callable[[Sequence[Message]], int]


def one_by_one(messages: list[Message], room: int, count: Count) -> list[Message] | None:
    """What fit does, in the plainest way: try every cut from the oldest on."""
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    for start in range(max(len(turns), 1)):
        if start in (0, len(turns) - 1) or turns[start].role == "user":
            kept = [*system, *turns[start:]]
            if count(kept) <= room:
                return kept
    return None


@pytest.mark.parametrize("render", [template.continued, template.prompt])
def test_halving_finds_the_cut_that_trying_all_finds(tiny: Tiny, render: prompt.Render) -> None:
    """With the tokenizer that merges across the borders of turns: counts of turns do not add up."""
    generator = random.Random(2)
    pieces = ["the function", " returns", "\n", "é", "x", "  ", ": int", "[EOS]", ""]

    def count(messages: Sequence[Message]) -> int:
        return len(tiny.tokenizer.encode(render(messages))) + 1

    cut = 0
    for _ in range(250):
        roles = generator.choices(
            ["user", "assistant", "user", "assistant", "system"], k=generator.randint(0, 12)
        )
        messages = [
            Message(role, "".join(generator.choices(pieces, k=generator.randint(0, 6))))
            for role in roles
        ]
        room = generator.randint(1, 60 if render is template.continued else 120)
        expected = one_by_one(messages, room, count)
        if expected is None:
            with pytest.raises(ValueError, match="shorten it"):
                prompt.fit(messages, room, count)
        else:
            assert prompt.fit(messages, room, count) == expected
            cut += len(expected) < len(messages)
    assert cut > 25


def test_a_thousand_turns_are_cut_with_a_dozen_counts() -> None:
    asked = []

    def count(messages: Sequence[Message]) -> int:
        asked.append(messages)
        return words(messages)

    turns = [Message("user", f"turn {i}") for i in range(1000)]
    assert prompt.fit(turns, 101, count) == turns[-50:]
    assert len(asked) <= 12


def test_a_last_turn_that_is_too_long_is_an_error_with_both_numbers() -> None:
    with pytest.raises(
        ValueError,
        match=r"the text has 12 tokens, the model can read 8 and still answer: shorten it",
    ):
        prompt.fit([Message("user", "old"), Message("user", "x " * 11)], 8, words)


FACTS = ChatFacts("Be kind.", "Hello!", ())


def test_a_model_gets_the_system_text_of_its_tuning_unless_the_messages_bring_one() -> None:
    asked, own = Message("user", "x"), Message("system", "Be brief.")
    assert prompt.prepare([asked], FACTS) == [Message("system", "Be kind."), asked]
    assert prompt.prepare([own, asked], FACTS) == [own, asked]
    assert prompt.prepare([Message("system", ""), asked], FACTS) == [asked]  # none is wanted
    for facts in (None, ChatFacts("", "Hello!", ())):
        assert prompt.prepare([asked], facts) == [asked]


def test_answers_are_as_the_tuning_had_them_and_what_a_user_wrote_stays() -> None:
    messages = [Message("user", " x "), Message("assistant", " y\n"), Message("user", "")]
    talked = prompt.prepare(messages, ChatFacts("", "", ()))
    assert talked == [messages[0], Message("assistant", "y"), messages[2]]
    assert prompt.prepare(messages, None) == messages
