"""What an export takes: seconds, peak memory and bytes of each file type, on random weights.

    python benchmarks/export.py      # the shape of the 300m preset
    python benchmarks/export.py --converter convert_hf_to_gguf.py --quantize llama-quantize

Every export runs in its own process. Peak memory is VmHWM, which includes the pages of a mapped
file that are in memory. The comparison is llama.cpp's own converter (in the source archive of
xllamacpp: thirdparty/llama.cpp) on a GPT-2 of the same size. It writes f32, f16 and q8_0; for
Q4_K_M, llama-quantize converts its f16 file. A block of GPT-2 has 12 C^2 weights, ours in the GELU
form has 16 C^2, so seconds are also given per value.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from antimatter.data.special_tokens import SPECIAL
from antimatter.export.config import FileType, GGUFConfig, MaxKL
from antimatter.llama.header import read_header
from antimatter.model import weights
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

CONFIG = GGUFConfig(
    model="checkpoints",
    name="random",
    license="mit",
    description="",
    languages=("en",),
    url="",
    types=("f16",),
    relu_scale=1024,
    windows=1,
    max_kl=MaxKL(f32=1, f16=1, q8_0=1, q4_k_m=1),
)
# The converter knows tokenizers by the hash of the tokens of one text; ours is not among them
CONVERTER = """
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TYPES: tuple[FileType, ...] = ("f32", "f16", "q8_0", "q4_k_m")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--quantize", type=Path, help="llama.cpp's llama-quantize")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        prepare(folder, arguments)
        imports = "import torch, safetensors.torch, gguf; from antimatter.export import gguf"
        _, floor = measure([sys.executable, "-c", imports])
        print(f"a process that only imports: {floor:.0f} MB")
        runs: dict[str, list[tuple[float, float]]] = {}
        paths: dict[str, Path] = {}
        for _ in range(arguments.rounds):
            for label, path, command in exports(folder, arguments):
                runs.setdefault(label, []).append(measure(command))
                paths[label] = path
        for label, figures in runs.items():
            seconds, memory = (statistics.median(values) for values in zip(*figures, strict=True))
            above = f" ({memory - floor:.0f} above the imports)" if label.startswith("ours") else ""
            size, values = paths[label].stat().st_size, read_header(paths[label]).n_parameters
            print(
                f"{label:40} {seconds:6.1f} s  peak {memory:6.0f} MB{above}"
                f"  {size / 1e6:7.1f} MB  {values / 1e6:6.1f} M values, "
                f"{seconds / values * 1e9:.1f} ms a million"
            )


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """Writes a random model, its tokenizer and, for llama.cpp's converter, a GPT-2 as large."""
    config = GPTConfig(
        n_layer=arguments.layers,
        n_head=16,
        n_embd=arguments.channels,
        block_size=2048,
        negative_slope=0.01,
        residual_scale=1.0,
        dropout=0.0,
        tied_embeddings=True,
        seed=1,
        vocab_size=arguments.vocabulary,
    )
    model = GPT(config)
    weights.save(model, folder / "ours")
    torch.save(model.state_dict(), folder / "ours" / "state.pt")
    largest = f"{arguments.vocabulary * arguments.channels * 4 / 1e6:.0f} MB in float32"
    print(f"{model.n_parameters() / 1e6:.1f} M parameters, largest tensor {largest}")
    write_tokenizer(folder / "tokenizer.json", arguments.vocabulary)
    if arguments.converter:
        write_gpt2(folder / "gpt2", config, folder / "tokenizer.json")


def exports(
    folder: Path, arguments: argparse.Namespace
) -> Iterator[tuple[str, Path, list[object]]]:
    """All exports: a label, the file, and the command that writes it."""
    for file_type in TYPES:
        path = folder / f"random-{file_type}.gguf"
        for checkpoint in ("final.safetensors", "state.pt"):
            inputs = (folder / "ours" / checkpoint, path, file_type, folder / "tokenizer.json")
            command = [sys.executable, __file__, "--one", *inputs]
            yield f"ours {file_type} of {checkpoint}", path, command
        if not arguments.converter:
            continue
        path = folder / f"gpt2-{file_type}.gguf"
        if file_type != "q4_k_m":
            options = ("--outtype", file_type, "--outfile", path)
            converter = [sys.executable, "-c", CONVERTER, arguments.converter, folder / "gpt2"]
            yield f"llama.cpp {file_type}", path, [*converter, *options]
        elif arguments.quantize:
            command = [arguments.quantize, folder / "gpt2-f16.gguf", path, "Q4_K_M"]
            yield "llama.cpp q4_k_m, from its f16", path, command


def export(checkpoint: Path, path: Path, file_type: FileType, tokenizer: Path) -> None:
    from antimatter.export import gguf
    from antimatter.export.source import open_checkpoint

    source = open_checkpoint(checkpoint, checkpoint.parent / weights.CONFIG)
    gguf.write(source, tokenizer, path, file_type, CONFIG)


def measure(command: list[object]) -> tuple[float, float]:
    """Seconds and peak megabytes of a process.

    getrusage would include the memory of this process, from which the other is forked.
    """
    begin, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=errors)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
            peak = max(peak, int(match[1]) / 1e3 if match else 0)
            time.sleep(0.01)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{command} failed:\n{errors.read().decode()[-2000:]}")
    return time.monotonic() - begin, peak


def write_tokenizer(path: Path, size: int) -> None:
    """A vocabulary of that size: the bytes, and merges of pairs until there are enough."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate([*SPECIAL, *alphabet])}
    merges: list[tuple[str, str]] = []
    for first in alphabet:
        for second in alphabet:
            if len(vocabulary) < size:
                vocabulary[first + second] = len(vocabulary)
                merges.append((first, second))
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path))


def write_gpt2(folder: Path, config: GPTConfig, tokenizer: Path) -> None:
    """A GPT-2 of transformers with the same layers, channels, context and vocabulary."""
    import json

    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_positions=config.block_size,
        vocab_size=config.vocab_size,
    )
    state = GPT2LMHeadModel(shape).state_dict()
    del state["lm_head.weight"]
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads(tokenizer.read_text())
    merges = values["model"]["merges"]
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    contents = {
        "config.json": {
            **shape.to_dict(),
            "architectures": ["GPT2LMHeadModel"],
            "n_ctx": config.block_size,
        },
        "tokenizer.json": values,
        "vocab.json": values["model"]["vocab"],
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": "[BOS]",
            "eos_token": "[EOS]",
            "unk_token": "[EOS]",
        },
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, default=str))
    (folder / "merges.txt").write_text("\n".join(pairs))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        checkpoint, path, file_type, tokenizer = sys.argv[2:]
        export(Path(checkpoint), Path(path), TYPES[TYPES.index(file_type)], Path(tokenizer))
    else:
        main()
