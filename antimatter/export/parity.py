"""Does llama.cpp compute what torch computes? The exported file against the model it came from, on
real text and on conversations.

llama.cpp gives the final state of every token (`/embeddings` without pooling); the output matrix that stands in the file makes logits of it. So every
position counts, with the whole distribution, where `/completion` would give a few probabilities of one.
"""

# N windows, T time, C channels, V vocabulary
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from antimatter.chat import template
from antimatter.chat.template import Message, Role
from antimatter.data.special_tokens import PAD, SPECIAL
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.export import quantize
from antimatter.export.quantize import Kind
from antimatter.llama.header import read_header
from antimatter.llama.server import Llama
from antimatter.model.gpt import GPT
from antimatter.model.loss import perplexity

ROWS = 256  # of logits held at once in float64: 100 MB at a vocabulary of 50,257
THREADS = 2  # fixed, so that a machine's core count changes nothing
SPEED_TOKENS = 128  # that speed() has the file write
CONVERSATIONS = 300  # of the check of prompts


@dataclass(frozen=True)
class Parity:
    kl: float  # KL(torch || llama.cpp), nats per token
    top1_agreement: float  # share of tokens where both put the same token first
    perplexity: float  # of llama.cpp
    torch_perplexity: float  # on the same tokens, in float32


def windows(tokens: Sequence[np.ndarray], block_size: int, count: int) -> Tensor:
    """`count` windows, evenly spread over the split: (N, T + 1) token ids, one more than the context, for the last target.

    A split shorter than that gives fewer windows, or one short window.

    Raises:
        ValueError: not even two tokens.
    """
    stream = np.concatenate(list(tokens)) if len(tokens) else np.empty(0, dtype=np.uint16)
    length = min(block_size + 1, len(stream))
    if length < 2:
        raise UserError(
            f"the validation split has {len(stream)} tokens, the check needs at least 2: give it a larger share under `shards:`"
        )
    count = min(count, len(stream) // length)
    starts = np.linspace(0, len(stream) - length, count).astype(int)
    return torch.from_numpy(
        np.stack([stream[start : start + length] for start in starts]).astype(np.int64)
    )


def held_out(path: Path, block_size: int, count: int) -> list[Tensor]:
    """`count` rows of held-out conversations, evenly spread over the file, each without the padding
    at its end: (at most T + 1,) token ids.

    Args:
        path: of a .npy file, (R, T + 1) uint16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no conversation, or rows longer than the model reads.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: run `dvc repro conversations` to make it")
    rows = np.load(path, mmap_mode="r")
    if rows.ndim != 2 or not len(rows):
        shape = "x".join(map(str, rows.shape))
        fix = "give the held-out part a larger share under `conversations:`"
        raise UserError(f"{path} is {shape}, no rows of conversations: {fix}")
    if rows.shape[1] > block_size + 1:
        fix = "run `dvc repro conversations` to make it anew"
        found = f"rows of {rows.shape[1]} tokens, the model needs at most {block_size + 1}"
        raise UserError(f"{path} has {found}: {fix}")
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
    return [_without_padding(rows[number]) for number in chosen]


def _without_padding(row: np.ndarray) -> Tensor:
    used = np.flatnonzero(row != PAD)
    return torch.from_numpy(row[: used[-1] + 1 if len(used) else 0].astype(np.int64))


@torch.inference_mode()
def compare(model: GPT, path: Path, ids: Sequence[Tensor] | Tensor) -> Parity:
    """Both runtimes on the windows `ids`: (N, T + 1), or N of their own lengths."""
    matrix, kind = _output_matrix(path)
    kl = agreement = torch_loss = llama_loss = 0.0
    with Llama(path, model.config.block_size, embeddings=True, threads=THREADS) as llama:
        for window in ids:
            inputs, targets = window[:-1], window[1:]  # (T,)
            ours = model.hidden(inputs[None])[0]  # (T, C)
            answer = llama.post("/embeddings", {"input": inputs.tolist(), "embd_normalize": -1})
            theirs = torch.tensor(answer[0]["embedding"], dtype=torch.float32)  # (T, C)
            for start in range(0, len(inputs), ROWS):
                rows = slice(start, start + ROWS)
                p = model.head(ours[rows]).double().log_softmax(-1)  # (ROWS, V)
                q = _logits(theirs[rows], matrix, kind).double().log_softmax(-1)
                kl += float((p.exp() * (p - q)).sum())
                agreement += float((p.argmax(-1) == q.argmax(-1)).sum())
                target = targets[rows, None]
                torch_loss -= float(p.gather(1, target).sum())
                llama_loss -= float(q.gather(1, target).sum())
    n = sum(len(window) - 1 for window in ids)
    return Parity(kl / n, agreement / n, perplexity(llama_loss / n), perplexity(torch_loss / n))


def _output_matrix(path: Path) -> tuple[Tensor, Kind]:
    """The matrix that llama.cpp multiplies the final state with, as it stands in the file: (V, C) float32, and its type there."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensor = tensors.get("output.weight", tensors["token_embd.weight"])
    return torch.from_numpy(
        quantize.dequantise(tensor.data, tensor.tensor_type).copy()
    ), tensor.tensor_type


def _logits(hidden: Tensor, matrix: Tensor, kind: Kind) -> Tensor:
    """As ggml does it: a float16 or quantised matrix meets a state rounded to a type of its own, and sums are float32."""
    return torch.from_numpy(quantize.as_multiplied(hidden.numpy(), kind)) @ matrix.T


def speed(path: Path, ids: Tensor) -> dict[str, float]:
    """Tokens per second of llama.cpp on THREADS threads: reading a prompt of half a context, and writing after it. A look, not a benchmark."""
    n_ctx = read_header(path).context_length
    with Llama(path, n_ctx, threads=THREADS) as llama:
        body = {
            "prompt": ids[0, : n_ctx // 2].tolist(),
            "n_predict": min(SPEED_TOKENS, n_ctx // 2 - 1),
            "ignore_eos": True,
            "temperature": 0,
            "stream": False,
        }
        # The first touches every page of the file
        llama.post("/completion", body | {"n_predict": 1})
        timings = llama.post("/completion", body | {"cache_prompt": False})["timings"]
    return {
        "prompt": round(timings["prompt_per_second"], 1),
        "answer": round(timings["predicted_per_second"], 1),
    }


def strings(tokenizer: Tokenizer, ids: Tensor, seed: int = 0) -> Iterator[str]:
    """Texts to tokenize twice: the corpus itself, then what breaks tokenizers, then random characters of every kind."""
    for window in ids:
        # A window may cut a character
        yield tokenizer.decode(window.tolist()).replace("\ufffd", "")
    yield from ADVERSARIAL
    generator = random.Random(seed)
    for _ in range(500):
        low, high = generator.choice(ALPHABETS)
        common = generator.choices(" \n\t'0", k=generator.randrange(1, 60))
        yield "".join(
            chr(generator.randrange(low, high)) if generator.random() < 0.8 else character
            for character in common
        )


# Ranges of code points: ASCII, Latin, Greek to Arabic, India to Thailand, symbols, East Asia,
# Hangul, emoji
ALPHABETS = (
    *((0x20, 0x7F), (0x20, 0x250), (0x370, 0x600), (0x900, 0xE00)),
    *((0x2000, 0x2C00), (0x3000, 0xA000), (0xAC00, 0xD7A4), (0x1F300, 0x1FB00)),
)


ADVERSARIAL = (
    *(
        "",
        " ",
        "  ",
        "   x",
        "x   ",
        "\n",
        "\n\n\n",
        "\t\tx",
        " \n \n ",
        "\r\n",
        "a\r\nb",
        "\u00a0",
        "\u3000x",
        "\u200b",
        "\ufeffx",
    ),
    *(
        "\x00",
        "a\x00b",
        "\x7f",
        "\U0010ffff",
        "\ue000",
        "\ufffd",
        "a\u0300\u0301\u0302",
        "\u202eabc",
        "e\u0301",
    ),
    *("[USER]", "[ASSISTANT]", "[SYSTEM]", "[ USER]", "[USER[USER]]", "[USER", "ASSISTANT]"),
    *(
        "[EOS]",
        "[BOS]",
        "[PAD]",
        "[EOS",
        "EOS]",
        "a[EOS]b",
        "[[EOS]]",
        " [EOS] ",
        "[EOS][BOS]",
        "[eos]",
        "[EO[EOS]S]",
    ),
    *("<|endoftext|>", "<|im_end|>", "<s>", "</s>", "<pad>", "<|eot_id|>", "<unk>"),
    *(
        "I'm you're he'll we've it's I'd",
        "I'M YOU'RE",
        "'s",
        "'",
        "''",
        "'re're",
        "don't'll",
        "\u2019s",
        "x's's",
    ),
    *(
        "0",
        "007",
        "1234567890",
        "3.14159",
        "1,000,000",
        "1e-5",
        "½",
        "²",
        "٣٤٥",
        "Ⅷ",
        "x2y3",
        "0x1F",
    ),
    *(
        "...",
        "!!!",
        "?!?!",
        "a.b.c",
        "foo_bar",
        "__init__",
        "->",
        "=>",
        "//",
        "/* */",
        "#include <stdio.h>",
        "{}[]()",
        "`code`",
        "\\n",
        '"""',
    ),
    *(
        "é",
        "naïve café",
        "Straße",
        "ÅÄÖ",
        "İstanbul",
        "ﬁ",
        "Ǆ",
        "ß",
        "日本語",
        "中文字符",
        "한국어",
        "Русский",
        "ελληνικά",
    ),
    *(
        "العربية",
        "עברית",
        "हिन्दी",
        "ไทย",
        "𝒳",
        "𐍈",
        "👍",
        "👍🏽",
        "👨\u200d👩\u200d👧",
        "🇩🇪",
        "☺\ufe0f",
    ),
    *(
        "a" * 200,
        " " * 100,
        "ab" * 100,
        "\n" * 50,
        "." * 100,
        "🙂" * 30,
        "x " * 60,
        "aA" * 50,
        "1" * 90,
    ),
    *(
        "def f(x):\n    return x + 1\n",
        "http://example.org/a?b=c&d=%20",
        "C:\\Users\\x",
        "a@b.co",
        "| a | b |\n|---|---|",
        "- item\n- item",
    ),
)


# What is code in some template language, or looks like the border of a turn
_TEMPLATE_CODE = (
    *("{{ x }}", "{% if %}", "{{", "}}", "{% endfor %}", "{# x #}", "{{ .Content }}", "{{ end }}"),
    *("'+'", "' }}", '"""', "`", "\\", "\\n", "%s", "{0}", "${x}", "<b>&amp;</b>", "'|upper"),
    *("USER:", "user", "Assistant: ", "###", "<|im_start|>user", "[INST]", "[user]", "\n\n"),
)


def conversations(count: int = CONVERSATIONS, seed: int = 0) -> Iterator[list[Message]]:
    """Hostile ones: texts out of special tokens, code of templates, blanks, and ADVERSARIAL. The
    last message may be anybody's.
    """
    generator = random.Random(seed)
    pieces = (*SPECIAL * 2, *_TEMPLATE_CODE, *ADVERSARIAL, "Hello!", " I am", "\n", " ", "[", "]")
    roles: tuple[Role, Role] = ("user", "assistant")
    for _ in range(count):
        texts = ["".join(generator.choices(pieces, k=generator.randrange(6))) for _ in range(6)]
        turns = [Message(roles[i % 2], text) for i, text in enumerate(texts[1:])]
        turns = turns[: generator.randrange(1, 6)]
        has_system = generator.random() < 0.4
        yield [Message("system", texts[0]), *turns] if has_system else turns


def mismatches(tokenizer: Tokenizer, path: Path, texts: Sequence[str]) -> list[str]:
    """The texts that llama.cpp cuts into other tokens than the tokenizer of the training data."""
    with Llama(path, read_header(path).context_length, threads=THREADS) as llama:
        return [
            text for text in texts if llama.tokenize(text, special=False) != tokenizer.encode(text)
        ]


def check(
    model: GPT,
    path: Path,
    ids: Tensor,
    max_kl: float,
    conversations: Sequence[Tensor] = (),
) -> dict[str, Any]:
    """The metrics of one file, with how many tensors of each type it holds.

    Args:
        conversations: as held_out() gives them; without them the metrics say nothing of them.

    Raises:
        ValueError: llama.cpp and torch are further apart than `max_kl`.
    """

    def measure(windows: Sequence[Tensor] | Tensor, on: str) -> Parity:
        found = compare(model, path, windows)
        if not found.kl <= max_kl:  # a NaN fails too
            bound = f"exceeds {max_kl:g}, its `max_kl` under `gguf:`"
            distance = f"KL from torch {found.kl:.3g} nats per token on {on}"
            raise UserError(f"{path.name} is not the model: {distance} {bound}")
        return found

    result = measure(ids, "text")
    report = {
        "kl": _rounded(result.kl),
        "top1_agreement": result.top1_agreement,
        "perplexity": result.perplexity,
        "torch_perplexity": result.torch_perplexity,
        "bytes": path.stat().st_size,
        "tensors": dict(
            sorted(
                Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors).items()
            )
        ),
    }
    if conversations:
        talk = measure(conversations, "conversations")
        kl, agreement = _rounded(talk.kl), talk.top1_agreement
        report["conversations"] = {"kl": kl, "top1_agreement": agreement}
    return report


def _rounded(kl: float) -> float:
    """What follows the second digit is rounding noise, and differs from CPU to CPU."""
    return float(f"{kl:.2g}")


def check_tokenizer(tokenizer: Tokenizer, path: Path, ids: Tensor) -> dict[str, int]:
    """How many texts and prompts of conversations were compared, and how many differ: none.

    Raises:
        ValueError: some do; the message shows the first.
    """
    texts = list(strings(tokenizer, ids))
    bad = mismatches(tokenizer, path, texts)
    if bad:
        raise UserError(
            f"{path.name} cuts {len(bad)} of {len(texts)} texts into other tokens than tokenizer.json, the first is {bad[0][:80]!r}"
        )
    prompts = list(conversations())
    wrong = _wrong_prompts(tokenizer, path, prompts)
    if wrong:
        share = f"{len(wrong)} of {len(prompts)} prompts of conversations"
        first = f"the first is {wrong[0][:80]!r}"
        raise UserError(f"{path.name} cuts {share} into other tokens than the tuning, {first}")
    return {"strings": len(texts), "prompts": len(prompts), "mismatches": len(bad) + len(wrong)}


def _wrong_prompts(
    tokenizer: Tokenizer,
    path: Path,
    conversations: Sequence[Sequence[Message]],
) -> list[str]:
    """The prompts that llama.cpp, which looks for special tokens in them, cuts otherwise."""
    wrong = []
    with Llama(path, read_header(path).context_length, threads=THREADS) as llama:
        for messages in conversations:
            text = template.prompt(messages)
            _, *expected = template.prompt_tokens(messages, tokenizer)  # [BOS] comes by itself
            if llama.tokenize(text, special=True) != expected:
                wrong.append(text)
    return wrong
