import hashlib
from pathlib import Path
from typing import get_args

import gguf as reference
import numpy as np
import pytest
import torch
from helpers.gguf_model import CONFIG, CONTEXT, VOCAB, Tiny, of_model

from antimatter.export import gguf, quantize
from antimatter.export.config import FileType
from antimatter.export.quantize import Kind
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

# digest() of the files that llama-quantize (of the llama.cpp in the wheel) made from this model in
# f32. To add a type:
#   pip download --no-deps --no-binary xllamacpp xllamacpp==<of requirements.lock>
#   tar xf xllamacpp-*.tar.gz && cd xllamacpp-*/
#   cmake -S thirdparty/llama.cpp -B build && cmake --build build --target llama-quantize
#   PYTHONPATH=.:tests python tests/export/test_quantize.py FOLDER   # writes FOLDER/f32.gguf
#   build/bin/llama-quantize FOLDER/f32.gguf FOLDER/q5_k_m.gguf Q5_K_M
# The Python command again prints the digests of all GGUF files in FOLDER.
LLAMA_QUANTIZE = {
    "f16": "5c7945f63e349cd1a331025b5e96514382c5892d48f9e4b548d667ae9aba22ce",
    "q8_0": "51f284beb2cd56285a7e4d75c3410f304114f2440bb1f4cd10d582e5d16bb516",
    "q4_k_m": "b173617208ff6fb43d09df71bd8506d299923096a781b5f7e613d3e0d7bdf9c8",
}


def model_of_plain_numbers() -> GPT:
    """Nine layers, so that each rule of Q4_K_M applies. No value is rounded on any machine."""
    config = GPTConfig(
        n_layer=9,
        n_head=4,
        n_embd=256,
        block_size=CONTEXT,
        negative_slope=0.0,
        residual_scale=1.0,
        dropout=0.0,
        tied_embeddings=True,
        seed=1,
        vocab_size=VOCAB,
    )
    model, generator = GPT(config).requires_grad_(False).eval(), np.random.default_rng(1)
    for parameter in model.parameters():
        values = generator.integers(-1000, 1000, tuple(parameter.shape)) / 4096
        parameter.copy_(torch.from_numpy(values))
    return model


def digest(path: Path) -> str:
    sha256 = hashlib.sha256()
    for tensor in reference.GGUFReader(path).tensors:
        head = f"{tensor.name}{tensor.tensor_type.name}"
        sha256.update(head.encode() + tensor.data.tobytes())
    return sha256.hexdigest()


def write(tokenizer_folder: Path, path: Path, file_type: FileType) -> Path:
    source, tokenizer = of_model(model_of_plain_numbers()), tokenizer_folder / "tokenizer.json"
    gguf.write(source, tokenizer, path, file_type, CONFIG)
    return path


def quantized(matrix: np.ndarray, kind: Kind) -> np.ndarray:
    return np.concatenate(list(quantize.quantize(matrix, kind)))


def test_every_type_is_compared() -> None:
    untested = {*get_args(FileType)} - {"f32", *LLAMA_QUANTIZE}
    assert not untested, f"{untested}: no digest of llama-quantize, see above LLAMA_QUANTIZE"


@pytest.mark.parametrize("file_type", LLAMA_QUANTIZE)
def test_the_tensors_are_those_of_llama_quantize(
    tiny: Tiny, tmp_path: Path, file_type: FileType
) -> None:
    path = write(tiny.tokenizer_folder, tmp_path / "a.gguf", file_type)
    assert digest(path) == LLAMA_QUANTIZE[file_type]


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_0, Kind.Q4_K, Kind.Q6_K])
def test_quantized_values_are_near_the_values(kind: Kind) -> None:
    matrix = np.random.default_rng(0).normal(size=(300, 512)).astype(np.float32)
    data = quantized(matrix, kind)
    error = np.linalg.norm(quantize.dequantize(data, kind) - matrix) / np.linalg.norm(matrix)
    assert error < {Kind.Q8_0: 0.006, Kind.Q5_0: 0.05, Kind.Q4_K: 0.08, Kind.Q6_K: 0.02}[kind]
    assert data.shape == (300, quantize.n_bytes(kind, 512))


def test_q8_0_is_gguf_pys_own() -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 96)).astype(np.float32)
    theirs = reference.quants.quantize(matrix, Kind.Q8_0)
    np.testing.assert_array_equal(quantized(matrix, Kind.Q8_0), theirs)


def test_chunks_change_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.random.default_rng(0).normal(size=(50, 256)).astype(np.float32)
    whole = quantized(matrix, Kind.Q4_K)
    monkeypatch.setattr(quantize, "CHUNK", 3 * 256)
    assert len(list(quantize.quantize(matrix, Kind.Q4_K))) == 17
    np.testing.assert_array_equal(quantized(matrix, Kind.Q4_K), whole)


@pytest.mark.parametrize(
    ("name", "columns", "file_type", "expected"),
    [
        ("token_embd.weight", 256, "q4_k_m", Kind.Q6_K),  # tied, so also the output matrix
        ("token_embd.weight", 192, "q4_k_m", Kind.Q8_0),
        ("blk.5.attn_output.weight", 256, "q4_k_m", Kind.Q4_K),
        ("blk.5.attn_output.weight", 192, "q4_k_m", Kind.Q5_0),
        ("blk.5.attn_output.weight", 48, "q4_k_m", Kind.F16),
        ("blk.5.attn_output.weight", 48, "q8_0", Kind.F16),
        ("blk.5.attn_output.weight", 192, "q8_0", Kind.Q8_0),
        ("blk.5.attn_output.bias", 256, "q4_k_m", Kind.F32),
        ("blk.5.attn_norm.weight", 256, "q8_0", Kind.F32),
        ("blk.5.ffn.act.scales", 256, "q8_0", Kind.F32),
        ("position_embd.weight", 256, "q8_0", Kind.F32),
        ("output.weight", 256, "f16", Kind.F16),
        ("output.weight", 256, "f32", Kind.F32),
    ],
)
def test_the_type_of_a_tensor(name: str, columns: int, file_type: FileType, expected: Kind) -> None:
    assert quantize.tensor_kind(name, columns, file_type, layers=24, tied=True) == expected


def test_more_bits_go_to_the_first_the_last_and_every_third_layer_between() -> None:
    def kind(name: str) -> Kind:
        return quantize.tensor_kind(name, 512, "q4_k_m", layers=24, tied=False)

    for matrix in ("ffn_down", "attn_qkv"):
        kinds = [kind(f"blk.{i}.{matrix}.weight") for i in range(24)]
        large = [i for i in range(24) if kinds[i] == Kind.Q6_K]
        assert large == [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]
    assert (kind("output.weight"), kind("token_embd.weight")) == (Kind.Q6_K, Kind.Q4_K)


if __name__ == "__main__":
    import sys

    from helpers import gguf_model

    folder = Path(sys.argv[1])
    if not (folder / "tokenizer").exists():
        gguf_model.save_tokenizer(folder / "tokenizer")
    write(folder / "tokenizer", folder / "f32.gguf", "f32")
    for path in sorted(folder.glob("*.gguf")):
        print(path.name, digest(path))
