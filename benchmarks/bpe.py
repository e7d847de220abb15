"""Training the BPE: Hugging Face's trainer, which the stage uses, against rustbpe, on growing
samples, each in a separate process.

    pip install rustbpe
    python benchmarks/bpe.py data/cleaned --megabytes 25 50 100 200

Prints CPU and wall-clock seconds, peak memory, which grows with the sample, and how many tokens
both have learnt.
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
    arguments = parser.parse_args()
    if arguments.one:
        run(arguments.one, arguments.corpus, arguments.megabytes[0])
        return
    for megabytes in arguments.megabytes:
        tokens = []
        for name in ("tokenizers", "rustbpe"):
            options = ["--megabytes", str(megabytes), "--one", name]
            command = [sys.executable, __file__, str(arguments.corpus), *options]
            process = subprocess.run(command, capture_output=True, text=True)
            if process.returncode:
                print(f"{name}: {process.stderr.strip().splitlines()[-1]}")
                continue
            report = json.loads(process.stdout)
            tokens.append(set(report["tokens"]))
            print(
                f"{name:12}{megabytes:7.0f} MB {report['cpu']:7.1f} s CPU "
                f"{report['wall']:7.1f} s wall {report['peak_mb']:7.0f} MB peak",
                flush=True,
            )
        if len(tokens) == 2:
            ours, theirs = tokens
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

        from antimatter.data.tokenizer import byte_characters

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(texts(corpus, megabytes), trainer)
        to_byte = {character: byte for byte, character in enumerate(byte_characters())}
        learnt = bpe.get_vocab().keys() - {*SPECIAL}
        tokens = [bytes(map(to_byte.__getitem__, token)).hex() for token in learnt]
    # Of ru_maxrss, in bytes
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    seconds = {"cpu": time.process_time() - cpu, "wall": time.monotonic() - begin}
    print(json.dumps({**seconds, "peak_mb": peak, "tokens": tokens}))


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
