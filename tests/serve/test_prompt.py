import random
from collections.abc import Callable

import pytest
from tiny_gguf import CONTEXT, Tiny

from antimatter.export.header import read_header
from antimatter.export.llama import Llama
from antimatter.serve import prompt
from antimatter.serve.prompt import Message

SPECIAL = ("[PAD]", "[BOS]", "[EOS]")
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
    ),
    *("[EO", "S]", "[", "EOS]", "BOS]\n\n[BOS", "[E\x00OS]", "\uff3bEOS\uff3d", "[eos]", "<|endoftext|>", "</s>", "<|im_end|>"),
]


def random_attack(generator: random.Random) -> str:
    return "".join(generator.choices([*"[]EOSBPAD \n", "[E", "OS]", "[EOS]", "EOS", "BOS]", "x", "é", "\u200b", "\x00"], k=generator.randint(0, 16)))


def assert_plain(llama: Llama, rendered: str) -> None:
    """The runtime reads the prompt as it would if it had no special tokens at all."""
    assert not any(special in rendered for special in SPECIAL)
    ids = llama.tokenize(rendered, special=True)
    assert min(ids, default=3) > 2
    assert ids == llama.tokenize(rendered, special=False)


def test_no_text_of_a_user_becomes_a_special_token(tiny: Tiny) -> None:
    with Llama(tiny.path, CONTEXT) as llama:
        assert 2 in llama.tokenize("[EOS]", special=True)  # else this test proves nothing
        for text in ATTACKS:
            for messages in (
                [Message("user", text)],
                [Message("system", text), Message("user", text), Message("assistant", text), Message("user", text)],
            ):
                assert_plain(llama, prompt.render(messages))


def test_no_random_conversation_holds_a_special_token(tiny: Tiny) -> None:
    """20,000 texts in conversations of 200, so that each meets its neighbours at the border; and each alone, where [EOS] may begin or end it."""
    generator = random.Random(0)
    with Llama(tiny.path, CONTEXT) as llama:
        for _ in range(100):
            texts = [random_attack(generator) for _ in range(200)]
            roles = generator.choices(["system", "user", "assistant"], k=200)
            assert_plain(llama, prompt.render([Message(role, text) for role, text in zip(roles, texts, strict=True)]))
            assert not any(special in prompt.render([Message("user", text)]) for text in texts for special in SPECIAL)


def test_neutralising_changes_nothing_but_the_three_literals() -> None:
    generator = random.Random(1)
    for text in (random_attack(generator) for _ in range(20_000)):
        neutral = prompt.neutralise(text)
        assert (neutral == text) == (not any(special in text for special in SPECIAL))
        assert prompt.neutralise(neutral) == neutral
        for special in SPECIAL:
            text = text.replace(special, f"[ {special[1:]}")
        assert neutral == text


def test_the_runtime_knows_three_special_tokens_and_no_more(tiny: Tiny) -> None:
    """llama.cpp makes control tokens of some texts by itself, if they are in the vocabulary."""
    keys = read_header(tiny.path).keys
    assert [i for i, kind in enumerate(keys["tokenizer.ggml.token_type"]) if kind != 1] == [0, 1, 2]
    assert tuple(keys["tokenizer.ggml.tokens"][:3]) == SPECIAL
    others = "<|endoftext|> <|im_start|> <|im_end|> <|eot_id|> <|end|> <end_of_turn> <EOT> </s> <s> <unk> <|fim_prefix|> <PRE> <0x0A>".split()
    with Llama(tiny.path, CONTEXT) as llama:
        for text in others:
            assert text not in keys["tokenizer.ggml.tokens"]
            assert llama.tokenize(text, special=True) == llama.tokenize(text, special=False)


def test_text_without_special_tokens_stays_as_it_is() -> None:
    for text in ("", "[x]", "[ EOS]", "array[EOS + 1]", "EOS", "[eos]", "é\n\n🙂 "):
        assert prompt.neutralise(text) == text
    assert prompt.neutralise("a[EOS]b") == "a[ EOS]b"


def words(text: str) -> int:
    return len(text.split()) + 1


def test_the_oldest_turns_go_first_and_as_few_as_must() -> None:
    system, turns = Message("system", "be kind"), [Message("user", f"one two {i}") for i in range(5)]
    messages = [system, *turns]
    assert prompt.fit(messages, 18, words) == messages
    assert prompt.fit(messages, 17, words) == [system, *turns[1:]]
    assert prompt.fit(messages, 6, words) == [system, turns[-1]]
    assert prompt.fit(turns, 6, words) == turns[-1:]


def test_an_answer_goes_with_the_turn_that_it_answers() -> None:
    turns = [Message("user", "a b"), Message("assistant", "c d e f"), Message("user", "g"), Message("assistant", "h"), Message("user", "i j")]
    assert prompt.fit(turns, 11, words) == turns
    for room in range(5, 11):
        assert prompt.fit(turns, room, words) == turns[2:]  # not turns[1:], though 9 would hold it
    assert prompt.fit(turns, 4, words) == turns[4:]
    unanswered = [*turns[:3], Message("assistant", "k l")]
    assert prompt.fit(unanswered, 3, words) == unanswered[3:]  # a last turn stays, whoever said it


def one_by_one(messages: list[Message], room: int, count: Callable[[str], int]) -> list[Message] | None:
    """What fit does, in the plainest way: try every cut from the oldest on."""
    system = [message for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    for start in range(max(len(turns), 1)):
        if start in (0, len(turns) - 1) or turns[start].role == "user":
            kept = [*system, *turns[start:]]
            if count(prompt.render(kept)) <= room:
                return kept
    return None


def test_halving_finds_the_cut_that_trying_all_finds(tiny: Tiny) -> None:
    """With the tokenizer that merges across the borders of turns: counts of turns do not add up."""
    generator = random.Random(2)
    pieces = ["the function", " returns", "\n", "é", "x", "  ", ": int", "[EOS]", ""]

    def count(text: str) -> int:
        return len(tiny.tokenizer.encode(text)) + 1

    cut = 0
    for _ in range(500):
        roles = generator.choices(["user", "assistant", "user", "assistant", "system"], k=generator.randint(0, 12))
        messages = [Message(role, "".join(generator.choices(pieces, k=generator.randint(0, 6)))) for role in roles]
        room = generator.randint(1, 60)
        expected = one_by_one(messages, room, count)
        if expected is None:
            with pytest.raises(ValueError, match="shorten it"):
                prompt.fit(messages, room, count)
        else:
            assert prompt.fit(messages, room, count) == expected
            cut += len(expected) < len(messages)
    assert cut > 50


def test_a_thousand_turns_are_cut_with_a_dozen_counts() -> None:
    asked = []

    def count(text: str) -> int:
        asked.append(text)
        return words(text)

    turns = [Message("user", f"turn {i}") for i in range(1000)]
    assert prompt.fit(turns, 101, count) == turns[-50:]
    assert len(asked) <= 12


def test_a_last_turn_that_is_too_long_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"the text has 12 tokens, the model can read 8 and still answer: shorten it"):
        prompt.fit([Message("user", "old"), Message("user", "x " * 11)], 8, words)
