"""Sampling with the key-value cache, relative to reading the whole text again for each token. The
two alternate in one process, and are greedy, so the texts must agree.

    python benchmarks/generate.py [--tokens 200]

Nano shape of benchmarks/train_step.py (6 layers, 256 channels, context 256), 4 rows, float32, two
threads.
"""

import argparse
import statistics
import time

import torch

from antimatter.model.config import GPTConfig, Sampling
from antimatter.model.gpt import GPT
from antimatter.model.sampling import generate

CONFIG = GPTConfig(
    n_layer=6,
    n_head=4,
    n_embd=256,
    block_size=256,
    vocab_size=8192,
    negative_slope=0.01,
    residual_scale=1.0,
    dropout=0.0,
    tied_embeddings=True,
    seed=1,
)
ROWS, PROMPT, ROUNDS = 4, [1, 5, 9], 7


@torch.no_grad()
def without_cache(model: GPT, tokens: int) -> list[list[int]]:
    ids = torch.tensor([PROMPT] * ROWS)
    for _ in range(tokens):
        logits = model.head(model.hidden(ids[:, -CONFIG.block_size :])[:, -1])
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[:, len(PROMPT) :].tolist()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=200)
    tokens = parser.parse_args().tokens
    torch.set_num_threads(2)
    model = GPT(CONFIG).eval()
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, max_new_tokens=tokens)
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        cached = generate(model, PROMPT, ROWS, greedy, end=-1, generator=torch.Generator())
        seconds["with"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        expected = without_cache(model, tokens)
        seconds["without"].append(time.perf_counter() - begin)
        assert cached == expected
    for name, times in seconds.items():
        print(f"{name:8}{statistics.median(times):7.2f} s for {ROWS} x {tokens} tokens")
    pairs = zip(seconds["with"], seconds["without"], strict=True)
    print(f"ratio   {statistics.median(without / cached for cached, without in pairs):7.2f}")


if __name__ == "__main__":
    main()
