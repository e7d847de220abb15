"""What an export takes: seconds, peak memory and bytes of each file type, on random weights.

    python benchmarks/export.py                                                     # the shape of the 300m preset
    python benchmarks/export.py --converter convert_hf_to_gguf.py --quantize llama-quantize

Every export is a process of its own. Peak memory is VmHWM, which counts what of a mapped file is in memory. The peer is llama.cpp's own converter (in
the source archive of xllamacpp: thirdparty/llama.cpp) on a GPT-2 as large, which writes f32, f16 and q8_0; Q4_K_M is llama-quantize's work, on its
f16 file. A block of GPT-2 has 12 times C squared weights, ours in the GELU form 16 times, so seconds are also given by the value.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from antimatter.export.config import GGUFConfig, MaxKL
from antimatter.llama.header import read_header
from antimatter.model import weights
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

CONFIG = GGUFConfig(
    name="random",
    license="mit",
    types=("f16",),
    relu_scale=1024,
    windows=1,
    max_kl=MaxKL(f32=1, f16=1, q8_0=1, q4_k_m=1),
)
CONVERTER = """# it takes known tokenizers only, by the hash of what they make of a text; ours is as random as the weights
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TYPES = ("f32", "f16", "q8_0", "q4_k_m")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--channels", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--converter", type=Path, help="llama.cpp's convert_hf_to_gguf.py")
    parser.add_argument("--quantize", type=Path, help="llama.cpp's llama-quantize")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        config = GPTConfig(
            n_layer=given.layers, n_head=16, n_embd=given.channels, block_size=2048, negative_slope=0.01, dropout=0.0, tied_embeddings=True, seed=1,
            vocab_size=given.vocabulary,
        )  # fmt: skip
        model = GPT(config)
        weights.save(model, folder / "ours")
        torch.save(model.state_dict(), folder / "ours" / "state.pt")
        print(
            f"{model.n_parameters() / 1e6:.1f} M parameters, largest tensor {given.vocabulary * given.channels * 4 / 1e6:.0f} MB in float32"
        )
        write_tokenizer(folder / "tokenizer.json", given.vocabulary)
        if given.converter:
            write_gpt2(folder / "gpt2", config, folder / "tokenizer.json")
        del model
        _, floor = measured(
            [
                sys.executable,
                "-c",
                "import torch, safetensors.torch, gguf; from antimatter.export import gguf",
            ]
        )
        print(f"a process that only imports: {floor:.0f} MB")
        spent: dict[str, list[tuple[float, float]]] = {}
        sizes: dict[str, Path] = {}
        for _ in range(given.rounds):
            for file_type in TYPES:
                for checkpoint in ("final.safetensors", "state.pt"):
                    which, path = (
                        f"ours {file_type} of {checkpoint}",
                        folder / f"random-{file_type}.gguf",
                    )
                    spent.setdefault(which, []).append(
                        measured(
                            [
                                sys.executable,
                                __file__,
                                "--one",
                                folder / "ours" / checkpoint,
                                path,
                                file_type,
                                folder / "tokenizer.json",
                            ]
                        )
                    )
                    sizes[which] = path
                if given.converter and file_type != "q4_k_m":
                    which, path = f"llama.cpp {file_type}", folder / f"gpt2-{file_type}.gguf"
                    command = [
                        sys.executable,
                        "-c",
                        CONVERTER,
                        given.converter,
                        folder / "gpt2",
                        "--outtype",
                        file_type,
                        "--outfile",
                        path,
                    ]
                    spent.setdefault(which, []).append(measured(command))
                    sizes[which] = path
                elif given.converter and given.quantize:
                    which, path = "llama.cpp q4_k_m, from its f16", folder / "gpt2-q4_k_m.gguf"
                    spent.setdefault(which, []).append(
                        measured([given.quantize, folder / "gpt2-f16.gguf", path, "Q4_K_M"])
                    )
                    sizes[which] = path
        for which, runs in spent.items():
            seconds, memory = (statistics.median(values) for values in zip(*runs, strict=True))
            size, values = sizes[which].stat().st_size, read_header(sizes[which]).n_parameters
            above = memory - (floor if which.startswith("ours") else 0)
            print(
                f"{which:40} {seconds:6.1f} s  peak {memory:6.0f} MB{f' ({above:.0f} above the imports)' if above != memory else ''}"
                f"  {size / 1e6:7.1f} MB  {values / 1e6:6.1f} M values, {seconds / values * 1e9:.1f} ms a million"
            )


def one(checkpoint: Path, path: Path, file_type: str, tokenizer: Path) -> None:
    from antimatter.export import gguf
    from antimatter.export.source import open_checkpoint

    config = checkpoint.parent / weights.CONFIG
    gguf.write(open_checkpoint(checkpoint, config), tokenizer, path, file_type, CONFIG)  # type: ignore[arg-type]


def measured(command: list[object]) -> tuple[float, float]:
    """Seconds, and peak megabytes, of a process. getrusage would count the memory of this one, from which it was forked."""
    begin, peak = time.monotonic(), 0.0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) / 1e3 if found else 0)
            time.sleep(0.01)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{command} failed:\n{errors.read().decode()[-2000:]}")
    return time.monotonic() - begin, peak


def write_tokenizer(path: Path, size: int) -> None:
    """A vocabulary of that size: the bytes, and merges of them two by two until there are enough."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: i for i, name in enumerate(["[PAD]", "[BOS]", "[EOS]", *alphabet])}
    merges: list[tuple[str, str]] = []
    for first in alphabet:
        for second in alphabet:
            if len(vocabulary) < size:
                vocabulary[first + second] = len(vocabulary)
                merges.append((first, second))
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["[PAD]", "[BOS]", "[EOS]"])
    tokenizer.save(str(path))


def write_gpt2(folder: Path, config: GPTConfig, tokenizer: Path) -> None:
    """GPT-2 of transformers with the same layers, channels, context and vocabulary, in its own format."""
    import json

    from transformers import GPT2Config, GPT2LMHeadModel

    shape = GPT2Config(
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_positions=config.block_size,
        vocab_size=config.vocab_size,
    )
    peer = GPT2LMHeadModel(shape)
    folder.mkdir()
    state = {
        name: tensor.contiguous()
        for name, tensor in peer.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps(
            shape.to_dict() | {"architectures": ["GPT2LMHeadModel"], "n_ctx": config.block_size},
            default=str,
        )
    )
    values = json.loads(tokenizer.read_text())
    (folder / "tokenizer.json").write_text(json.dumps(values))
    (folder / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    (folder / "merges.txt").write_text(
        "\n".join(
            merge if isinstance(merge, str) else " ".join(merge)
            for merge in values["model"]["merges"]
        )
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "GPT2Tokenizer",
                "bos_token": "[BOS]",
                "eos_token": "[EOS]",
                "unk_token": "[EOS]",
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
    else:
        main()
