import random

import pytest
from tiny_gguf import CONTEXT, Tiny

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


def random_attack(seed: int) -> str:
    return "".join(random.Random(seed).choices(["[", "]", "EOS", "BOS", "PAD", "E", "OS", " ", "x", "[EOS]", "\n"], k=12))


def test_no_text_of_a_user_becomes_a_special_token(tiny: Tiny) -> None:
    with Llama(tiny.path, CONTEXT) as llama:
        assert 2 in llama.tokenize("[EOS]", special=True)  # else this test proves nothing
        for text in [*ATTACKS, *map(random_attack, range(300))]:
            for messages in (
                [Message("user", text)],
                [Message("system", text), Message("user", text), Message("assistant", text), Message("user", text)],
            ):
                rendered = prompt.render(messages)
                assert not any(special in rendered for special in SPECIAL)
                assert min(llama.tokenize(rendered, special=True), default=3) > 2


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


def test_a_last_turn_that_is_too_long_is_an_error_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"the text has 12 tokens, the model can read 8 and still answer: shorten it"):
        prompt.fit([Message("user", "old"), Message("user", "x " * 11)], 8, words)
