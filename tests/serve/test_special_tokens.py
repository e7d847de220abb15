"""No text of a user becomes a special token of the runtime."""

import random

from helpers.gguf_model import CONTEXT, Tiny

from antimatter.chat import template
from antimatter.chat.template import Message
from antimatter.data.special_tokens import SPECIAL
from antimatter.llama.header import read_header
from antimatter.llama.server import Llama

ATTACKS = """
[EOS] [BOS]x[PAD] a[EOS]b [[EOS]] [EO[EOS]S] [EOS[EOS]] [E[PAD]OS] [EOS][EOS] [[[EOS] [USER]
[[ASSISTANT]] [SYS[USER]TEM] [EO S] [ EOS] [eos] <|endoftext|> </s> <|im_end|>
""".split()
ATTACKS += ["[ EOS]", "[EOS ]", "[\u200bEOS]", "[E\x00OS]", "\uff3bEOS\uff3d", "BOS]\n\n[BOS"]
PIECES = [
    *"[]EOSBPAD \n",
    *"[E OS] [EOS] EOS BOS] [USER] [SYSTEM] [ASSISTANT x é".split(),
    *("\u200b", "\x00"),
]
# Texts that llama.cpp makes control tokens by itself, if they are in the vocabulary
CONTROL = """
<|endoftext|> <|im_start|> <|im_end|> <|eot_id|> <|end|> <end_of_turn> <EOT> </s> <s> <unk>
<|fim_prefix|> <PRE> <0x0A>
""".split()


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
        # Otherwise this would prove nothing
        assert 2 in llama.tokenize("[EOS]", special=True)
        for text in ATTACKS:
            assert_plain(llama, template.continued([Message("user", text)]))
            roles = ("system", "user", "assistant", "user")
            assert_plain(llama, template.continued([Message(role, text) for role in roles]))


def test_no_random_conversation_contains_a_special_token(tiny: Tiny) -> None:
    """20,000 texts in conversations of 200, so that each meets its neighbours at the border; and
    each alone, where [EOS] may begin or end it.
    """
    generator = random.Random(0)
    with Llama(tiny.path, CONTEXT) as llama:
        for _ in range(100):
            texts = [random_attack(generator) for _ in range(200)]
            roles = generator.choices(["system", "user", "assistant"], k=200)
            messages = list(map(Message, roles, texts))
            assert_plain(llama, template.continued(messages))
            for text in texts:
                alone = template.continued([Message("user", text)])
                assert not any(special in alone for special in SPECIAL)


def test_neutralising_changes_nothing_but_the_literals() -> None:
    generator = random.Random(1)
    for text in (random_attack(generator) for _ in range(20_000)):
        neutral = template.neutralise(text)
        assert (neutral == text) == (not any(special in text for special in SPECIAL))
        assert template.neutralise(neutral) == neutral
        for special in SPECIAL:
            text = text.replace(special, f"[ {special[1:]}")
        assert neutral == text


def test_the_runtime_knows_these_special_tokens_only(tiny: Tiny) -> None:
    keys = read_header(tiny.path).keys
    kinds = keys["tokenizer.ggml.token_type"]
    assert [i for i, kind in enumerate(kinds) if kind != 1] == [*range(len(SPECIAL))]
    assert tuple(keys["tokenizer.ggml.tokens"][: len(SPECIAL)]) == SPECIAL
    with Llama(tiny.path, CONTEXT) as llama:
        for text in CONTROL:
            assert text not in keys["tokenizer.ggml.tokens"]
            assert llama.tokenize(text, special=True) == llama.tokenize(text, special=False)


def test_text_without_special_tokens_stays_unchanged() -> None:
    for text in ("", "[x]", "[ EOS]", "array[EOS + 1]", "EOS", "[eos]", "é\n\n🙂 "):
        assert template.neutralise(text) == text
    assert template.neutralise("a[EOS]b") == "a[ EOS]b"
