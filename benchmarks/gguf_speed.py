"""How fast llama.cpp reads and generates with each file type, also as a ratio to f16.

    python benchmarks/gguf_speed.py     # the shape of the 300m preset

For the shape of nano: --layers 2 --heads 3 --channels 192 --vocabulary 4096 --context 256. The
weights are random, which are as fast as trained ones. The types are measured in turns.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from export import CONFIG, TYPES, write_tokenizer

from antimatter.export import gguf, parity
from antimatter.export.config import FileType
from antimatter.export.source import open_checkpoint
from antimatter.model import weights
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, arguments.vocabulary, (1, arguments.context), generator=generator)
    with tempfile.TemporaryDirectory(dir=".") as name:
        paths = write(Path(name), arguments)
        speeds: dict[str, list[dict[str, float]]] = {file_type: [] for file_type in TYPES}
        for _ in range(arguments.rounds):
            for file_type, path in paths.items():
                speeds[file_type].append(parity.speed(path, ids))
        for file_type, path in paths.items():
            line = f"{file_type:8}{path.stat().st_size / 1e6:8.1f} MB"
            for key in ("prompt", "answer"):
                values, others = ([run[key] for run in speeds[kind]] for kind in (file_type, "f16"))
                ratios = [value / other for value, other in zip(values, others, strict=True)]
                line += f"   {key} {statistics.median(values):8.1f} tokens/s"
                line += f", {statistics.median(ratios):.2f} x f16"
            print(line)


def write(folder: Path, arguments: argparse.Namespace) -> dict[FileType, Path]:
    """A GGUF file of each type."""
    config = GPTConfig(
        n_layer=arguments.layers,
        n_head=arguments.heads,
        n_embd=arguments.channels,
        block_size=arguments.context,
        vocab_size=arguments.vocabulary,
        negative_slope=0.01,
        residual_scale=1.0,
        dropout=0.0,
        tied_embeddings=True,
        seed=1,
    )
    weights.save(GPT(config), folder / "model")
    source, tokenizer = open_checkpoint(folder / "model"), folder / "tokenizer.json"
    write_tokenizer(tokenizer, arguments.vocabulary)
    paths = {file_type: folder / f"{file_type}.gguf" for file_type in TYPES}
    for file_type, path in paths.items():
        gguf.write(source, tokenizer, path, file_type, CONFIG)
    return paths


if __name__ == "__main__":
    main()
