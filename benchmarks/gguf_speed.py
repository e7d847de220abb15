"""How fast llama.cpp reads and writes with each file type, interleaved, as a ratio to f16: on random weights, which are as fast as trained ones.

python benchmarks/gguf_speed.py                                   # the shape of the 300m preset
python benchmarks/gguf_speed.py --layers 2 --channels 192 --vocabulary 4096 --context 256 --heads 3      # nano
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from export import CONFIG, TYPES, write_tokenizer

from antimatter.export import gguf, parity
from antimatter.export.source import of_model
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
    given = parser.parse_args()
    config = GPTConfig(
        n_layer=given.layers, n_head=given.heads, n_embd=given.channels, block_size=given.context, vocab_size=given.vocabulary,
        negative_slope=0.01, dropout=0.0, tied_embeddings=True, seed=1,
    )  # fmt: skip
    ids = torch.randint(
        3, given.vocabulary, (1, given.context), generator=torch.Generator().manual_seed(1)
    )
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder, source = Path(name), of_model(GPT(config).requires_grad_(False))
        write_tokenizer(folder / "tokenizer.json", given.vocabulary)
        paths = {file_type: folder / f"{file_type}.gguf" for file_type in TYPES}
        for file_type, path in paths.items():
            gguf.write(source, folder / "tokenizer.json", path, file_type, CONFIG)  # type: ignore[arg-type]
        found: dict[str, list[dict[str, float]]] = {file_type: [] for file_type in TYPES}
        for _ in range(given.rounds):
            for file_type, path in paths.items():
                found[file_type].append(parity.speed(path, ids))
        for file_type in TYPES:
            shown = f"{file_type:8}{paths[file_type].stat().st_size / 1e6:8.1f} MB"
            for what in ("prompt", "answer"):
                ratio = statistics.median(
                    run[what] / peer[what]
                    for run, peer in zip(found[file_type], found["f16"], strict=True)
                )
                shown += f"   {what} {statistics.median(run[what] for run in found[file_type]):8.1f} tokens/s, {ratio:.2f} x f16"
            print(shown)


if __name__ == "__main__":
    main()
