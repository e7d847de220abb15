"""Text to token ids and back: byte-level BPE (Sennrich et al. 2016; bytes and word pattern of GPT-2, Radford et al. 2019).

`tokenizers` learns the merges and tokenizer.json keeps them; tiktoken applies them, faster and with the same ids (tests compare).
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tiktoken
import tokenizers
import xxhash
from tokenizers import decoders, models, pre_tokenizers, trainers

from antimatter import files
from antimatter.data.documents import text_bytes
from antimatter.data.special_tokens import SPECIAL
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError

# Of GPT-2: merges never cross its pieces
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Bytes of a piece to learn merges from: the time of the trainer grows with the square of a piece,
# and no token is as long
LONGEST_LEARNT = 1_000
# Of white space to encode in one go: the engine behind PATTERN gives up at somewhat less than a
# million characters
LONGEST_BLANK = 100_000
BLANK = re.compile(rf"(?<!\s)\s{{{LONGEST_BLANK + 1},}}")
SAMPLE_SEED = (
    # Of the hash that draws the sample: another than those of the split, so that the sample is no
    # more like validation than like train
    0x70CE
)


class Tokenizer:
    """Encodes and decodes. Special tokens are ids only: no text encodes to them, and they decode to nothing."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        to_byte = {character: byte for byte, character in enumerate(_byte_characters())}
        ranks = {
            bytes(to_byte[character] for character in token): rank
            for token, rank in vocabulary.items()
            if token not in SPECIAL
        }
        self.vocab_size = len(vocabulary)
        self._bytes = [b""] * self.vocab_size
        for token, rank in ranks.items():
            self._bytes[rank] = token
        self._encoding = tiktoken.Encoding(
            "antimatter",
            pat_str=PATTERN,
            mergeable_ranks=ranks,
            special_tokens={token: i for i, token in enumerate(SPECIAL)},
        )

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer in folder/tokenizer.json.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not one of ours.
        """
        path = folder / "tokenizer.json"
        content = files.read_json(path)
        try:
            vocabulary = content["model"]["vocab"]
            if any(vocabulary.get(token) != i for i, token in enumerate(SPECIAL)) or sorted(
                vocabulary.values()
            ) != list(range(len(vocabulary))):
                raise KeyError("it needs " + ", ".join(f"{t}={i}" for i, t in enumerate(SPECIAL)))
            return cls(vocabulary)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a tokenizer of this pipeline ({error}): delete it and run `dvc repro tokenizer`"
            ) from None

    def encode(self, text: str) -> list[int]:
        return [id for part in _parts(text) for id in self._encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> np.ndarray:
        """As encode(), without a Python object a token; runs free of the GIL. (T,) uint32."""
        arrays = [
            self._encoding.encode_to_numpy(part, disallowed_special=()) for part in _parts(text)
        ]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def decode(self, ids: Sequence[int]) -> str:
        """The text; bytes that are not UTF-8, as half a character at the end, become U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """What a token stands for: part of a character, often a word, nothing for a special token."""
        return self._bytes[id]


def train(corpus: Path, folder: Path, config: TokenizerConfig, workers: int) -> dict[str, Any]:
    """Learns merges from a sample of the parquet files in `corpus`, writes folder/tokenizer.json and returns its metrics. Deterministic.

    Memory holds the distinct words of the sample with their counts, never its text: see benchmarks/RESULTS.md for how it grows.

    Raises:
        FileNotFoundError: there is nothing in `corpus`.
        ValueError: the text has fewer distinct pieces than the vocabulary has places.
    """
    paths = sorted(corpus.glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(
            f"{corpus} holds no .parquet file: run `dvc repro cleaned` to make it"
        )
    share = config.train_mb * 1e6 / sum(map(text_bytes, paths))
    bpe = tokenizers.Tokenizer(models.BPE())
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [by_bytes, pre_tokenizers.FixedLength(LONGEST_LEARNT)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(([text for _, text in rows] for rows in sample(paths, share)), trainer)
    bpe.pre_tokenizer = by_bytes
    if (found := bpe.get_vocab_size()) < config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size is {config.vocab_size}, but the text yields only {found} tokens: lower it in params.yaml, or clean more text"
        )
    folder.mkdir(parents=True)
    files.write_json(folder / "tokenizer.json", json.loads(bpe.to_str()))
    return _metrics(Tokenizer.load(folder), sample(paths, share), workers)


def sample(paths: Sequence[Path], share: float) -> Iterator[list[tuple[str, str]]]:
    """(source, text) of about that share of the documents, in batches: those with the smallest hashes, so evenly from the whole corpus."""
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=["source", "text"]):
            rows = zip(
                batch.column("source").to_pylist(), batch.column("text").to_pylist(), strict=True
            )
            yield [
                row for row in rows if xxhash.xxh3_64_intdigest(row[1], SAMPLE_SEED) < share * 2**64
            ]


def _metrics(
    tokenizer: Tokenizer, batches: Iterator[list[tuple[str, str]]], workers: int
) -> dict[str, Any]:
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    tokens, size = Counter[str](), Counter[str]()
    with ThreadPoolExecutor(workers) as pool:  # tiktoken runs free of the GIL
        for rows in batches:
            encoded = list(pool.map(tokenizer.encode_array, (text for _, text in rows)))
            counts += np.bincount(
                np.concatenate([np.empty(0, np.uint32), *encoded]), minlength=len(counts)
            )
            for (source, text), ids in zip(rows, encoded, strict=True):
                tokens[source] += len(ids)
                size[source] += len(text.encode())
    return {
        "vocab_size": tokenizer.vocab_size,
        "sample_bytes": size.total(),
        "bytes_per_token": size.total() / tokens.total(),
        # Bytes that never occur, and steps on the way to longer tokens
        "unused_tokens": int((counts[len(SPECIAL) :] == 0).sum()),
        "bytes_per_token_by_source": {
            source: size[source] / n for source, n in sorted(tokens.items())
        },
    }


def _parts(text: str) -> list[str]:
    """The text, cut inside white space that is too long to encode in one go."""
    parts, start = [], 0
    if len(text) > LONGEST_BLANK:
        for run in BLANK.finditer(text):
            for cut in range(run.start() + LONGEST_BLANK, run.end(), LONGEST_BLANK):
                parts.append(text[start:cut])
                start = cut
    return [*parts, text[start:]]


def _byte_characters() -> list[str]:
    """The printable character that GPT-2 writes for each byte: itself, or one from U+0100 on."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
