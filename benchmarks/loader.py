"""Random batches from large token shards: batches per second and resident memory, against nanoGPT's
loader. The two run in turn.

    python benchmarks/loader.py --gigabytes 2

Writes shards of random tokens to a temporary folder in the current one. nanoGPT opens a memory map
for each batch and takes windows at random offsets, with replacement. Ours takes each window once an
epoch, in an order that a resumed run reproduces.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from antimatter.data.batches import Batches
from antimatter.model.config import GPTConfig
from antimatter.model.flops import flops_per_token

BATCH, BLOCK, FILE_TOKENS, ROUNDS = 32, 2048, 50_000_000, 200
# FLOP/s of an H200 at an MFU of 55%, an upper bound of what we expect
SPEED = 0.55 * 989e12
PRESET = GPTConfig(
    n_layer=24,
    n_head=16,
    n_embd=1024,
    block_size=BLOCK,
    vocab_size=50257,
    negative_slope=0.01,
    residual_scale=1.0,
    dropout=0.0,
    tied_embeddings=True,
    seed=1,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2)
    gigabytes = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory(dir=".") as name:
        paths = write(Path(name), int(gigabytes * 1e9 / 2))
        begin = time.monotonic()
        maps = [np.load(path, mmap_mode="r") for path in paths]
        batches = Batches(maps, batch_size=BATCH, block_size=BLOCK, seed=1)
        batches.at(0)
        print(
            f"{gigabytes} GB in {len(paths)} files, {batches.windows:,} windows; "
            f"first batch after {time.monotonic() - begin:.2f} s"
        )
        random = np.random.default_rng(0)
        spent: dict[str, list[float]] = {"ours": [], "memmap": []}
        before = anonymous()
        for step in range(ROUNDS):
            for which, take in (
                ("ours", lambda step=step: batches.at(step)),
                ("memmap", lambda: nanogpt(paths, random)),
            ):
                begin = time.perf_counter()
                inputs, targets, *_ = take()
                spent[which].append(time.perf_counter() - begin)
                assert inputs.shape == targets.shape == (BATCH, BLOCK)
        for which, times in spent.items():
            # The first batches warm up
            median = statistics.median(times[10:])
            print(
                f"{which:8}{1 / median:8.0f} batches/s of {BATCH} x {BLOCK}, "
                f"{BATCH * BLOCK / median / 1e6:.1f} M tokens/s"
            )
        ratios = np.array(spent["memmap"][10:]) / np.array(spent["ours"][10:])
        print(f"ratio   {np.median(ratios):8.2f}")
        needed = SPEED / flops_per_token(PRESET)
        share = statistics.median(spent["ours"][10:]) / (BATCH * BLOCK) * needed
        print(
            f"an H200 at an MFU of 55% trains the 300M preset on {needed:,.0f} tokens/s: reading "
            f"takes {share:.2%} of the time of a step,"
        )
        print("and overlaps with it (batches.Prefetcher)")
        grown = (anonymous() - before) / 1e6
        print(f"memory outside of the page cache grew by {grown:.1f} MB in {2 * ROUNDS} batches")


def anonymous() -> int:
    """Resident bytes outside of files, which the system cannot reclaim as those of a memory map."""
    lines = Path("/proc/self/status").read_text().splitlines()
    resident = next(line for line in lines if line.startswith("RssAnon"))
    return int(resident.split()[1]) * 1024


def nanogpt(paths: list[Path], random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    data = np.load(paths[random.integers(len(paths))], mmap_mode="r")
    starts = random.integers(0, len(data) - BLOCK - 1, BATCH)
    inputs = torch.stack([torch.from_numpy(data[i : i + BLOCK].astype(np.int64)) for i in starts])
    targets = torch.stack(
        [torch.from_numpy(data[i + 1 : i + 1 + BLOCK].astype(np.int64)) for i in starts]
    )
    return inputs, targets


def write(folder: Path, tokens: int) -> list[Path]:
    random = np.random.default_rng(0)
    paths = []
    for number, start in enumerate(range(0, tokens, FILE_TOKENS)):
        paths.append(folder / f"train-{number:05d}.npy")
        np.save(paths[-1], random.integers(0, 50257, min(FILE_TOKENS, tokens - start), np.uint16))
    return paths


if __name__ == "__main__":
    main()
