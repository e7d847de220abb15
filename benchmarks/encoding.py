"""Encoding text to token ids on one core: ours (tiktoken with our merges) against Hugging Face's
encode_batch, and others if they are installed. They run in turn on each chunk.

    pip install kitoken gigatoken
    python benchmarks/encoding.py data/tokenizer data/cleaned --megabytes 40

Prints MB/s of one core, the ratio to encode_batch, and in how many documents the ids differ.
"""

import os

# Before the libraries start their threads
os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tokenizers

from antimatter.data.tokenizer import Tokenizer

Encoder = Callable[[list[str]], Sequence[Sequence[int] | np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("corpus", type=Path, help="a folder of parquet files with a column `text`")
    parser.add_argument("--megabytes", type=float, default=40)
    arguments = parser.parse_args()
    encoders = dict(encoders_for(arguments.tokenizer))
    rates: dict[str, list[float]] = defaultdict(list)
    different: dict[str, int] = dict.fromkeys(encoders, 0)
    documents, size = 0, 0.0
    for texts in chunks(arguments.corpus, arguments.megabytes):
        megabytes = sum(len(text.encode()) for text in texts) / 1e6
        encoded = {}
        for name, encode in encoders.items():
            begin = time.process_time()
            encoded[name] = encode(texts)
            rates[name].append(megabytes / (time.process_time() - begin))
        for name, ids in encoded.items():
            pairs = zip(encoded["encode_batch"], ids, strict=True)
            different[name] += sum(not np.array_equal(one, other) for one, other in pairs)
        documents, size = documents + len(texts), size + megabytes
    # The first chunk warms up
    base = statistics.median(rates["encode_batch"][1:])
    print(f"{documents:,} documents, {size:.0f} MB")
    for name, values in rates.items():
        rate = statistics.median(values[1:])
        print(
            f"{name:26}{rate:8.1f} MB/s of a core {rate / base:6.1f} x, "
            f"ids different in {different[name]} documents"
        )


def encoders_for(folder: Path) -> Iterator[tuple[str, Encoder]]:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    # A literal [EOS] in a document is text
    theirs.encode_special_tokens = True
    yield "encode_batch", lambda texts: [encoding.ids for encoding in theirs.encode_batch(texts)]
    fast = getattr(theirs, "encode_batch_fast", None)
    if fast:
        yield "encode_batch_fast", lambda texts: [encoding.ids for encoding in fast(texts)]
    ours = Tokenizer.load(folder)
    yield "ours", lambda texts: [ours.encode_array(text) for text in texts]
    try:
        from kitoken import Kitoken

        kit = Kitoken.from_file(str(folder / "tokenizer.json"))
        yield "kitoken", lambda texts: [kit.encode(text, False) for text in texts]
    except ImportError:
        pass
    try:
        from gigatoken import Tokenizer as Gigatoken

        giga = Gigatoken(str(folder / "tokenizer.json"))
        yield "gigatoken", lambda texts: giga.encode_batch_list(texts, parallel=False)
    except ImportError:
        pass


def chunks(corpus: Path, megabytes: float) -> Iterator[list[str]]:
    """About a megabyte of documents at a time."""
    texts: list[str] = []
    done = 0
    for path in sorted(corpus.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(100, columns=["text"]):
            texts += batch.column(0).to_pylist()
            if (size := sum(map(len, texts))) > 1e6:
                yield texts
                done += size
                texts = []
                if done > megabytes * 1e6:
                    return
    if texts:
        yield texts


if __name__ == "__main__":
    main()
