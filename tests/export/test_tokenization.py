import random
from pathlib import Path

import pytest
import tokenizers
from helpers import gguf_model
from helpers.gguf_model import CONTEXT, Tiny

from antimatter.data.special_tokens import SPECIAL
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.export import tokenization
from antimatter.llama.server import Llama


def test_both_tokenizers_split_alike(tiny: Tiny) -> None:
    counts = tokenization.check(tiny.tokenizer, tiny.path, gguf_model.windows(tiny.tokenizer))
    assert counts["mismatches"] == 0
    assert counts["strings"] >= 600 and counts["prompts"] >= 300


def test_a_tokenizer_with_other_merges_fails_the_check(tiny: Tiny, tmp_path: Path) -> None:
    text = "entirely different words " * 50 + gguf_model.TEXT.upper()
    gguf_model.save_tokenizer(tmp_path / "other", text=text)
    other, ids = Tokenizer.load(tmp_path / "other"), gguf_model.windows(tiny.tokenizer)
    share = r"\d+ of \d+ texts into other tokens than tokenizer\.json, the first is"
    with pytest.raises(UserError, match=rf"tiny-f16\.gguf splits {share}"):
        tokenization.check(other, tiny.path, ids)


def test_prompts_alone_can_fail_the_check(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A llama.cpp that does not find the special tokens in a prompt."""
    tokenize = Llama.tokenize
    monkeypatch.setattr(Llama, "tokenize", lambda *args, special: tokenize(*args, special=False))
    with pytest.raises(UserError, match=r"300 of 300 prompts of conversations"):
        tokenization.check(tiny.tokenizer, tiny.path, gguf_model.windows(tiny.tokenizer))


def test_hf_and_llama_cpp_split_many_texts_alike_also_with_special_tokens(tiny: Tiny) -> None:
    """More than the stage's own check: every block of Unicode, and special tokens as such."""
    hf = tokenizers.Tokenizer.from_file(str(tiny.tokenizer_folder / "tokenizer.json"))
    generator = random.Random(1)
    characters = [chr(code) for code in range(0x11_0000) if not 0xD800 <= code < 0xE000]
    # Each character of the first blocks, beside its neighbors
    texts = ["".join(characters[start : start + 500]) for start in range(0, 0x3000, 500)]
    texts += [
        "".join(generator.choices(characters, k=generator.randrange(1, 30))) for _ in range(500)
    ]
    pieces = [*SPECIAL, "[", "]", "EOS", " ", "  ", "\n", "\t", "'s", "'S", "don't", "x", "1", "_"]
    pieces += ["é", "e\u0301", "٣", "½", "日本", "🙂", "\u200d", "\u00a0"]
    texts += ["".join(generator.choices(pieces, k=generator.randrange(1, 12))) for _ in range(1000)]
    with Llama(tiny.path, CONTEXT) as llama:
        different = [
            text
            for text in texts
            if llama.tokenize(text, special=True) != hf.encode(text, add_special_tokens=False).ids
        ]
    assert not different, f"{len(different)} of {len(texts)}: {different[:3]!r}"
