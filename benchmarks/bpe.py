"""Training the BPE: Hugging Face's trainer, which the stage uses, against rustbpe, on growing samples, each in a process of its own.

    pip install rustbpe
    python benchmarks/bpe.py data/cleaned --megabytes 25 50 100 200

Prints seconds of CPU and of wall, peak memory, and how many of the first learnt tokens agree. Memory is what grows with the sample.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from antimatter.data.special_tokens import SPECIAL
from antimatter.data.tokenizer import PATTERN

VOCABULARY = 50_257


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path, help="a folder of parquet files with a column `text`")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--one", help="used by this script itself: the library to run")
    given = parser.parse_args()
    if given.one:
        run(given.one, given.corpus, given.megabytes[0])
        return
    for megabytes in given.megabytes:
        found = {}
        for name in ("tokenizers", "rustbpe"):
            done = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    str(given.corpus),
                    "--megabytes",
                    str(megabytes),
                    "--one",
                    name,
                ],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                continue
            found[name] = json.loads(done.stdout)
            report = found[name]
            print(
                f"{name:12}{megabytes:7.0f} MB {report['cpu']:7.1f} s CPU {report['wall']:7.1f} s wall {report['peak_mb']:7.0f} MB peak",
                flush=True,
            )
        if len(found) == 2:
            ours, theirs = (set(report["tokens"]) for report in found.values())
            print(f"{'':12}{len(ours & theirs):,} of {len(ours):,} tokens are the same")


def run(name: str, corpus: Path, megabytes: float) -> None:
    begin, cpu = time.monotonic(), time.process_time()
    if name == "rustbpe":
        import rustbpe

        learner = rustbpe.Tokenizer()
        learner.train_from_iterator(
            texts(corpus, megabytes), VOCABULARY - len(SPECIAL), pattern=PATTERN
        )
        tokens = [bytes(token).hex() for token, _ in learner.get_mergeable_ranks()]
    else:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        from antimatter.data.tokenizer import _byte_characters

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts(corpus, megabytes), trainer)
        to_byte = {character: byte for byte, character in enumerate(_byte_characters())}
        tokens = [
            bytes(to_byte[c] for c in token).hex()
            for token in bpe.get_vocab()
            if token not in SPECIAL
        ]
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    print(
        json.dumps(
            {
                "cpu": time.process_time() - cpu,
                "wall": time.monotonic() - begin,
                "peak_mb": peak,
                "tokens": tokens,
            }
        )
    )


def texts(corpus: Path, megabytes: float) -> Iterator[str]:
    done = 0
    for path in sorted(corpus.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=["text"]):
            for text in batch.column(0).to_pylist():
                yield text
                done += len(text)
                if done > megabytes * 1e6:
                    return


if __name__ == "__main__":
    main()
