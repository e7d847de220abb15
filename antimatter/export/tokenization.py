"""Do llama.cpp and the tokenizer of the training data split texts into the same tokens?"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from antimatter.chat import template
from antimatter.chat.template import Message, Role
from antimatter.data.special_tokens import SPECIAL
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.llama.header import read_header
from antimatter.llama.server import Llama

RANDOM_TEXTS, CONVERSATIONS = 500, 300
# Ranges of code points: ASCII, Latin, Greek to Arabic, India to Thailand, symbols, East Asia,
# Hangul, emoji
ALPHABETS = (
    *((0x20, 0x7F), (0x20, 0x250), (0x370, 0x600), (0x900, 0xE00)),
    *((0x2000, 0x2C00), (0x3000, 0xA000), (0xAC00, 0xD7A4), (0x1F300, 0x1FB00)),
)

# fmt: off
ADVERSARIAL = (
    # White space
    "", " ", "  ", "   x", "x   ", "\n", "\n\n\n", "\t\tx", " \n \n ", "\r\n", "a\r\nb", "\u00a0",
    "\u3000x", "\u200b", "\ufeffx",
    # Control characters, unassigned ones, combining marks
    "\x00", "a\x00b", "\x7f", "\U0010ffff", "\ue000", "\ufffd", "a\u0300\u0301\u0302", "\u202eabc",
    "e\u0301",
    # Special tokens of ours and of others, whole and in parts
    "[USER]", "[ASSISTANT]", "[SYSTEM]", "[ USER]", "[USER[USER]]", "[USER", "ASSISTANT]",
    "[EOS]", "[BOS]", "[PAD]", "[EOS", "EOS]", "a[EOS]b", "[[EOS]]", " [EOS] ", "[EOS][BOS]",
    "[eos]", "[EO[EOS]S]",
    "<|endoftext|>", "<|im_end|>", "<s>", "</s>", "<pad>", "<|eot_id|>", "<unk>",
    # Contractions, which the pattern of GPT-2 splits
    "I'm you're he'll we've it's I'd", "I'M YOU'RE", "'s", "'", "''", "'re're", "don't'll",
    "\u2019s", "x's's",
    # Numbers and punctuation
    "0", "007", "1234567890", "3.14159", "1,000,000", "1e-5", "½", "²", "٣٤٥", "Ⅷ", "x2y3", "0x1F",
    "...", "!!!", "?!?!", "a.b.c", "foo_bar", "__init__", "->", "=>", "//", "/* */",
    "#include <stdio.h>", "{}[]()", "`code`", "\\n", '"""',
    # Other scripts and emoji
    "é", "naïve café", "Straße", "ÅÄÖ", "İstanbul", "ﬁ", "Ǆ", "ß", "日本語", "中文字符", "한국어",
    "Русский", "ελληνικά",
    "العربية", "עברית", "हिन्दी", "ไทย", "𝒳", "𐍈", "👍", "👍🏽", "👨\u200d👩\u200d👧", "🇩🇪",
    "☺\ufe0f",
    # Repetitions
    "a" * 200, " " * 100, "ab" * 100, "\n" * 50, "." * 100, "🙂" * 30, "x " * 60, "aA" * 50,
    "1" * 90,
    # Code, addresses, Markdown
    "def f(x):\n    return x + 1\n", "http://example.org/a?b=c&d=%20", "C:\\Users\\x", "a@b.co",
    "| a | b |\n|---|---|", "- item\n- item",
)
# Code of template languages, and texts that look like the border of a turn
_TEMPLATE_CODE = (
    "{{ x }}", "{% if %}", "{{", "}}", "{% endfor %}", "{# x #}", "{{ .Content }}", "{{ end }}",
    "'+'", "' }}", '"""', "`", "\\", "\\n", "%s", "{0}", "${x}", "<b>&amp;</b>", "'|upper",
    "USER:", "user", "Assistant: ", "###", "<|im_start|>user", "[INST]", "[user]", "\n\n",
)
# fmt: on


def texts(tokenizer: Tokenizer, ids: Tensor, seed: int = 0) -> Iterator[str]:
    """The corpus itself, then texts that break tokenizers, then random characters of every kind.

    Args:
        ids: windows of the corpus, (N, T).
    """
    for window in ids:
        # A window may begin or end within a character
        yield tokenizer.decode(window.tolist()).replace("\ufffd", "")
    yield from ADVERSARIAL
    generator = random.Random(seed)
    for _ in range(RANDOM_TEXTS):
        low, high = generator.choice(ALPHABETS)
        common = generator.choices(" \n\t'0", k=generator.randrange(1, 60))
        yield "".join(
            chr(generator.randrange(low, high)) if generator.random() < 0.8 else character
            for character in common
        )


def conversations(count: int = CONVERSATIONS, seed: int = 0) -> Iterator[list[Message]]:
    """Hostile conversations, of special tokens, template code, blanks and ADVERSARIAL.

    The last message may be anybody's.
    """
    generator = random.Random(seed)
    pieces = (*SPECIAL * 2, *_TEMPLATE_CODE, *ADVERSARIAL, "Hello!", " I am", "\n", " ", "[", "]")
    roles: tuple[Role, Role] = ("user", "assistant")
    for _ in range(count):
        contents = ["".join(generator.choices(pieces, k=generator.randrange(6))) for _ in range(6)]
        turns = [Message(roles[i % 2], text) for i, text in enumerate(contents[1:])]
        turns = turns[: generator.randrange(1, 6)]
        has_system = generator.random() < 0.4
        yield [Message("system", contents[0]), *turns] if has_system else turns


def check(tokenizer: Tokenizer, path: Path, ids: Tensor) -> dict[str, int]:
    """Compares the tokens of texts() and of prompts of conversations().

    Returns:
        The numbers of texts and prompts, and of those that differ: none.

    Raises:
        UserError: some differ; the message shows the first.
    """
    strings, prompts = list(texts(tokenizer, ids)), list(conversations())
    with Llama(path, read_header(path).context_length) as llama:
        wrong = [
            text
            for text in strings
            if llama.tokenize(text, special=False) != tokenizer.encode(text)
        ]
        _require_none(wrong, f"{len(strings)} texts", path)
        for messages in prompts:
            # llama.cpp looks for special tokens in a prompt, and adds [BOS] by itself
            _, *expected = template.prompt_tokens(messages, tokenizer)
            text = template.prompt(messages)
            if llama.tokenize(text, special=True) != expected:
                wrong.append(text)
        _require_none(wrong, f"{len(prompts)} prompts of conversations", path)
    return {"strings": len(strings), "prompts": len(prompts), "mismatches": len(wrong)}


def _require_none(wrong: Sequence[str], total: str, path: Path) -> None:
    if wrong:
        share = f"{len(wrong)} of {total} into other tokens than tokenizer.json"
        raise UserError(f"{path.name} splits {share}, the first is {wrong[0][:80]!r}")
