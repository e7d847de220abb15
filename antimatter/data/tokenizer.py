"""Text to token ids and back: byte-level BPE (Sennrich et al. 2016) with the bytes and the word
pattern of GPT-2 (Radford et al. 2019).

`tokenizers` learns the merges and stores them in tokenizer.json. tiktoken applies them, faster and
with the same ids (tests compare them).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import tokenizers
import xxhash
from tokenizers import decoders, models, pre_tokenizers, trainers

from antimatter import files
from antimatter.data.documents import text_bytes
from antimatter.data.parquet import read_rows
from antimatter.data.special_tokens import SPECIAL, check_ids
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError

# GPT-2's: merges never cross its pieces
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Bytes of a piece to learn merges from. The trainer's time is quadratic in the length of a piece,
# and no token is that long
MAX_PIECE = 1_000
# Characters of white space to encode at once: the engine of PATTERN fails at somewhat less than a
# million
MAX_BLANK = 100_000
BLANK = re.compile(rf"(?<!\s)\s{{{MAX_BLANK + 1},}}")
# Of the hash that draws the sample. It differs from the seeds of the split, so that the sample
# resembles validation no more than train
SAMPLE_SEED = 0x70CE


class Tokenizer:
    """Encodes and decodes. No text encodes to a special token, and they decode to nothing."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        to_byte = {character: byte for byte, character in enumerate(byte_characters())}
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
    def load(cls, path: Path) -> "Tokenizer":
        """The tokenizer in a .json file, or in the file tokenizer.json of a folder.

        Raises:
            UserError: the file is missing, or was not written by this pipeline.
        """
        if path.suffix != ".json":
            path /= "tokenizer.json"
        content = files.read_json(path)
        try:
            vocabulary = content["model"]["vocab"]
            check_ids(vocabulary, path)
            if sorted(vocabulary.values()) != list(range(len(vocabulary))):
                raise KeyError(f"its ids are not 0 to {len(vocabulary) - 1}")
            return cls(vocabulary)
        except (AttributeError, KeyError, TypeError) as error:
            fix = "`dvc repro tokenizer` writes one"
            raise UserError(
                f"{path} is not a tokenizer of this pipeline ({error}): {fix}"
            ) from None

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS and EOS."""
        return [id for part in _parts(text) for id in self._encoding.encode_ordinary(part)]

    def encode_array(self, text: str) -> np.ndarray:
        """Like encode(), without a Python object for each token; releases the GIL. (T,) uint32."""
        arrays = [
            self._encoding.encode_to_numpy(part, disallowed_special=()) for part in _parts(text)
        ]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def decode(self, ids: Sequence[int]) -> str:
        """The text. Bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return b"".join(self._bytes[i] for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of a token: part of a character, often a word, none for a special token."""
        return self._bytes[id]


def own_text(path: Path) -> str:
    """The content of a tokenizer.json as train() writes it.

    That of a folder for transformers also adds [BOS], and may cut or fill texts.
    """
    added = dict.fromkeys(("truncation", "padding", "post_processor"))
    return json.dumps(files.read_json(path) | added, indent=2, ensure_ascii=False) + "\n"


def digest(path: Path) -> str:
    """What the provenance of a model records of its tokenizer, from the tokenizer.json."""
    content = hashlib.sha256(own_text(path).encode()).hexdigest()
    return files.digest({"tokenizer.json": content})


def train(corpus: Path, folder: Path, config: TokenizerConfig, workers: int) -> dict[str, Any]:
    """Learns merges from a sample of the parquet files in `corpus`, writes folder/tokenizer.json,
    and returns its metrics. Deterministic.

    Memory holds the distinct words of the sample with their counts, never its text: see
    benchmarks/RESULTS.md for how it grows.

    Raises:
        UserError: `corpus` has no files or a damaged one, or the text yields fewer tokens than the
            vocabulary has.
    """
    paths, share = _corpus(corpus, config)
    bpe = tokenizers.Tokenizer(models.BPE())
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bounded = pre_tokenizers.FixedLength(MAX_PIECE)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([by_bytes, bounded])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(([text for _, text in rows] for rows in sample(paths, share)), trainer)
    # Only the trainer needs bounded pieces
    bpe.pre_tokenizer = by_bytes
    if (learnt := bpe.get_vocab_size()) < config.vocab_size:
        raise UserError(
            f"tokenizer.vocab_size is {config.vocab_size}, but the text yields only {learnt} "
            "tokens: lower it in params.yaml, or clean more text"
        )
    folder.mkdir(parents=True)
    files.write_json(folder / "tokenizer.json", json.loads(bpe.to_str()))
    return _metrics(Tokenizer.load(folder), sample(paths, share), workers)


def keep(
    path: Path, corpus: Path, folder: Path, config: TokenizerConfig, workers: int
) -> dict[str, Any]:
    """As train(), with the tokenizer of `path` instead of a new one.

    Raises:
        UserError: as kept().
    """
    file = kept(path, config)
    paths, share = _corpus(corpus, config)
    folder.mkdir(parents=True)
    files.write_text(folder / "tokenizer.json", own_text(file))
    return _metrics(Tokenizer.load(folder), sample(paths, share), workers)


def kept(path: Path, config: TokenizerConfig) -> Path:
    """The tokenizer.json in `path`, which is to be used with this configuration.

    Raises:
        UserError: it is not of this pipeline, or has another size than the configuration says.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    words = Tokenizer.load(file)
    if words.vocab_size != config.vocab_size:
        raise UserError(
            f"tokenizer.initial: {file} has {words.vocab_size:,} tokens, but tokenizer.vocab_size "
            f"is {config.vocab_size:,}: set it to {words.vocab_size}"
        )
    return file


def _corpus(folder: Path, config: TokenizerConfig) -> tuple[list[Path], float]:
    """The parquet files, and the share of their documents to read."""
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise UserError(f"{folder} holds no .parquet file: run `dvc repro cleaned` to make it")
    return paths, config.train_mb * 1e6 / sum(map(text_bytes, paths))


def sample(paths: Sequence[Path], share: float) -> Iterator[list[tuple[str, str]]]:
    """(source, text) of about that share of the documents, in batches: those with the smallest
    hashes, so evenly from the whole corpus.
    """
    limit = share * 2**64
    for path in paths:
        for rows in read_rows(path, ("source", "text"), "cleaned"):
            yield [
                (source, text)
                for source, text in rows
                if xxhash.xxh3_64_intdigest(text, SAMPLE_SEED) < limit
            ]


def _metrics(
    tokenizer: Tokenizer, batches: Iterator[list[tuple[str, str]]], workers: int
) -> dict[str, Any]:
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    tokens, size = Counter[str](), Counter[str]()
    # Threads, because tiktoken releases the GIL
    with ThreadPoolExecutor(workers) as pool:
        for rows in batches:
            encoded = list(pool.map(tokenizer.encode_array, (text for _, text in rows)))
            # A batch may have no document in the sample
            all_ids = np.concatenate([np.empty(0, np.uint32), *encoded])
            counts += np.bincount(all_ids, minlength=len(counts))
            for (source, text), ids in zip(rows, encoded, strict=True):
                tokens[source] += len(ids)
                size[source] += len(text.encode())
    return {
        "vocab_size": tokenizer.vocab_size,
        "sample_bytes": size.total(),
        "bytes_per_token": size.total() / tokens.total(),
        # Bytes that never occur, and intermediate merges of longer tokens
        "unused_tokens": int((counts[len(SPECIAL) :] == 0).sum()),
        "bytes_per_token_by_source": {
            source: size[source] / n for source, n in sorted(tokens.items())
        },
    }


def _parts(text: str) -> list[str]:
    """The text, cut inside white space that is too long to encode at once."""
    parts, start = [], 0
    if len(text) > MAX_BLANK:
        for run in BLANK.finditer(text):
            for cut in range(run.start() + MAX_BLANK, run.end(), MAX_BLANK):
                parts.append(text[start:cut])
                start = cut
    return [*parts, text[start:]]


def byte_characters() -> list[str]:
    """The printable character that GPT-2 uses for each byte: itself, or one from U+0100 on."""
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
