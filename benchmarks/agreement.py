"""Do three runtimes give a model the same perplexity? This project's torch, Hugging Face's transformers and llama.cpp, on the same windows of text.

    python benchmarks/agreement.py                       # the default model, the whole validation split, as the stage evaluation cuts it
    python benchmarks/agreement.py --text README.md      # any text, as one document
    python benchmarks/agreement.py --checkpoint … --tokenizer … --gguf a.gguf --gguf b.gguf

Transformers load the folder that `antimatter export --type hf` writes. llama.cpp is asked in two ways: for the final state of each token, from which
the matrix in the file makes logits (as the stage gguf does; every window), and for the probabilities of the next token, where the output matrix and
the softmax are its own too (one request a token, so for a few windows, on which ours is computed again). Fails if one differs by more than --most.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, logging

from antimatter.data.batches import in_order
from antimatter.data.shards.reader import Shards
from antimatter.data.special_tokens import BOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.export import huggingface, parity
from antimatter.export.source import open_checkpoint
from antimatter.llama.server import Llama
from antimatter.model.gpt import GPT
from antimatter.model.loss import sum_losses

BATCH = 16  # windows in a forward pass
Batches = list[tuple[Tensor, Tensor]]  # inputs and targets, (B, T) each


def ours(model: GPT, batches: Batches) -> float:
    sums, tokens = sum_losses(model, batches)
    return math.exp(float(sums.sum() / tokens.sum()))


@torch.inference_mode()
def transformers(folder: Path, batches: Batches) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder)
    total = sum(
        float(
            F.cross_entropy(
                model(inputs).logits.double().flatten(0, 1), targets.flatten(), reduction="sum"
            )
        )
        for inputs, targets in batches
    )
    return math.exp(total / sum(targets.numel() for _, targets in batches))


def llama_states(model: GPT, path: Path, batches: Batches) -> float:
    """From the final states that llama.cpp gives."""
    total, tokens = 0.0, 0
    for length in sorted({inputs.shape[1] for inputs, _ in batches}):
        # (N, T + 1)
        ids = torch.cat(
            [
                torch.cat([inputs, targets[:, -1:]], 1)
                for inputs, targets in batches
                if inputs.shape[1] == length
            ]
        )
        total += math.log(parity.compare(model, path, ids).perplexity) * ids[:, 1:].numel()
        tokens += ids[:, 1:].numel()
    return math.exp(total / tokens)


def llama_probabilities(path: Path, batches: Batches, vocab_size: int) -> float:
    """From the probabilities that llama.cpp gives the next token: no number of ours is in them."""
    total, tokens = 0.0, 0
    for inputs, targets in batches:
        for row, wanted in zip(inputs.tolist(), targets.tolist(), strict=True):
            with Llama(path, len(row) + 1, threads=parity.THREADS) as llama:
                for end, target in enumerate(wanted, 1):
                    body = {
                        "prompt": row[:end],
                        "n_predict": 1,
                        "n_probs": vocab_size,
                        "temperature": 0,
                        "stream": False,
                        "cache_prompt": True,
                    }
                    found = llama.post("/completion", body)["completion_probabilities"][0][
                        "top_logprobs"
                    ]
                    total -= next(entry["logprob"] for entry in found if entry["id"] == target)
                    tokens += 1
            print(f"{tokens:,} tokens by the probabilities of {path.name} ...", file=sys.stderr)
    return math.exp(total / tokens)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=Path("models/checkpoints"))
    parser.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer"))
    parser.add_argument(
        "--gguf", type=Path, action="append", help="default: the f32 and f16 files in models/gguf"
    )
    parser.add_argument(
        "--text", type=Path, help="a text file (default: the validation split in data/shards)"
    )
    parser.add_argument("--tokens", type=int, help="at most about that many (default: all)")
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
    given = parser.parse_args()
    logging.disable_progress_bar()
    source, tokenizer = open_checkpoint(given.checkpoint), Tokenizer.load(given.tokenizer)
    model, T = source.load(), source.config.block_size
    stream: Sequence[np.ndarray]
    if given.text:
        stream = [np.array([BOS, *tokenizer.encode(given.text.read_text(encoding="utf-8"))])]
    else:
        stream = Shards(Path("data/shards")).split("validation")
    batches = list(in_order(stream, batch_size=BATCH, block_size=T, tokens=given.tokens))
    whole = list(in_order(stream, batch_size=1, block_size=T))[: given.probabilities]
    # llama.cpp wants room for one token more
    few = [(inputs[:, : T - 1], targets[:, : T - 1]) for inputs, targets in whole]
    print(
        f"{sum(targets.numel() for _, targets in batches):,} tokens in windows of {T}, from {given.text or 'the validation split'}"
    )

    def compare(name: str, perplexity: float, ours: float) -> bool:
        difference = perplexity / ours - 1
        print(f"{name:70} {perplexity:.6f}  {difference:+.1e}", flush=True)
        return not abs(difference) <= given.most

    expected, failed = ours(model, batches), False
    print(f"{'antimatter':70} {expected:.6f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        huggingface.write(source, given.tokenizer / "tokenizer.json", Path(folder) / "hf")
        failed |= compare("transformers", transformers(Path(folder) / "hf", batches), expected)
    for path in given.gguf or sorted(Path("models/gguf").glob("*-f[13][62].gguf"), reverse=True):
        failed |= compare(f"llama.cpp, {path.name}", llama_states(model, path, batches), expected)
        if few:
            found = llama_probabilities(path, few, model.config.vocab_size)
            failed |= compare(
                f"llama.cpp's own probabilities, {path.name}, first {len(few)} windows",
                found,
                ours(model, few),
            )
    if failed:
        raise SystemExit(f"error: a perplexity differs from ours by more than {given.most:g}")


if __name__ == "__main__":
    main()
