"""Do three runtimes give a model the same perplexity? This project's torch, Hugging Face's
transformers and llama.cpp, on the same windows of text.

    python benchmarks/agreement.py                   # the default model, the validation split
    python benchmarks/agreement.py --text README.md  # any text, as one document
    python benchmarks/agreement.py --checkpoint … --tokenizer … --gguf a.gguf --gguf b.gguf

The windows are those of the stage evaluation. Transformers load the folder that `antimatter export
--type hf` writes. llama.cpp is asked in two ways. In every window: for the final state of each
token, from which the matrix in the file makes logits, as in the stage gguf. In a few windows: for
the probabilities of the next token, where the output matrix and the softmax are its own too, which
takes a request for each token. Fails if a perplexity differs from ours by more than --most.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, logging

from antimatter.data.batches import Batch, sequential_batches
from antimatter.data.shards.reader import Shards
from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.export import huggingface, parity
from antimatter.export.source import open_checkpoint
from antimatter.llama.server import Llama
from antimatter.model.gpt import GPT
from antimatter.model.loss import sum_losses

BATCH = 16  # windows in a forward pass


def ours(model: GPT, batches: Sequence[Batch]) -> float:
    sums, tokens = sum_losses(model, batches)
    return math.exp(float(sums.sum() / tokens.sum()))


@torch.inference_mode()
def transformers(folder: Path, batches: Sequence[Batch]) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder)
    total, tokens = 0.0, 0
    for batch in batches:
        logits = model(batch.inputs).logits.double().flatten(0, 1)
        total += float(F.cross_entropy(logits, batch.targets.flatten(), reduction="sum"))
        tokens += batch.targets.numel()
    return math.exp(total / tokens)


def llama_states(model: GPT, path: Path, batches: Sequence[Batch]) -> float:
    """From the final states that llama.cpp computes."""
    windows = [
        torch.cat([row, target[-1:]])
        for batch in batches
        for row, target in zip(batch.inputs, batch.targets, strict=True)
    ]
    return parity.compare(model, path, windows).perplexity


def llama_probabilities(path: Path, batches: Sequence[Batch], vocab_size: int) -> float:
    """From the probabilities that llama.cpp gives the next token: no number of ours is in them."""
    total, tokens = 0.0, 0
    pairs = [pair for batch in batches for pair in zip(batch.inputs, batch.targets, strict=True)]
    for inputs, targets in pairs:
        row = inputs.tolist()
        with Llama(path, len(row) + 1, threads=parity.THREADS) as llama:
            for end, target in enumerate(targets.tolist(), 1):
                body = {
                    "prompt": row[:end],
                    "n_predict": 1,
                    "n_probs": vocab_size,
                    "temperature": 0,
                    "stream": False,
                    "cache_prompt": True,
                }
                answer = llama.post("/completion", body)["completion_probabilities"][0]
                entries = {entry["id"]: entry["logprob"] for entry in answer["top_logprobs"]}
                total -= entries[target]
                tokens += 1
        print(f"{tokens:,} tokens by the probabilities of {path.name} ...", file=sys.stderr)
    return math.exp(total / tokens)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    # The model in models/gguf, by `gguf.model` of params.yaml
    parser.add_argument("--checkpoint", type=Path, default=Path("models/tuned"))
    parser.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer"))
    parser.add_argument(
        "--gguf", type=Path, action="append", help="default: the f32 and f16 files in models/gguf"
    )
    parser.add_argument(
        "--text", type=Path, help="a text file (default: the validation split in data/shards)"
    )
    parser.add_argument("--tokens", type=int, help="at most about this many (default: all)")
    parser.add_argument(
        "--probabilities",
        type=int,
        default=2,
        metavar="WINDOWS",
        help="for the second way of asking llama.cpp (default: 2)",
    )
    parser.add_argument(
        "--most",
        type=float,
        default=1e-3,
        help="relative difference that is allowed (default: 1e-3)",
    )
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.disable_progress_bar()
    source, tokenizer = open_checkpoint(options.checkpoint), Tokenizer.load(options.tokenizer)
    model, T = source.load(), source.config.block_size
    if options.text:
        text = options.text.read_text(encoding="utf-8")
        stream = [np.array([BOS, *tokenizer.encode(text)])]
    else:
        stream = Shards(Path("data/shards")).split("validation")
    batches = list(
        sequential_batches(stream, batch_size=BATCH, block_size=T, tokens=options.tokens)
    )
    whole = list(sequential_batches(stream, batch_size=1, block_size=T))[: options.probabilities]
    # llama.cpp needs room for one token more
    few = [Batch(batch.inputs[:, : T - 1], batch.targets[:, : T - 1]) for batch in whole]
    count = sum(batch.targets.numel() for batch in batches)
    print(f"{count:,} tokens in windows of {T}, from {options.text or 'the validation split'}")

    def has_failed(name: str, perplexity: float, expected: float) -> bool:
        difference = perplexity / expected - 1
        print(f"{name:70} {perplexity:.6f}  {difference:+.1e}", flush=True)
        return not abs(difference) <= options.most

    expected = ours(model, batches)
    print(f"{'antimatter':70} {expected:.6f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        huggingface.write(source, options.tokenizer / "tokenizer.json", Path(folder) / "hf")
        theirs = transformers(Path(folder) / "hf", batches)
    failed = has_failed("transformers", theirs, expected)
    for path in options.gguf or sorted(Path("models/gguf").glob("*-f[13][62].gguf"), reverse=True):
        perplexity = llama_states(model, path, batches)
        failed |= has_failed(f"llama.cpp, {path.name}", perplexity, expected)
        if few:
            perplexity = llama_probabilities(path, few, model.config.vocab_size)
            name = f"llama.cpp's own probabilities, {path.name}, first {len(few)} windows"
            failed |= has_failed(name, perplexity, ours(model, few))
    if failed:
        raise SystemExit(f"error: a perplexity differs from ours by more than {options.most:g}")


if __name__ == "__main__":
    main()
