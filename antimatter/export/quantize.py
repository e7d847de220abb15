"""ggml's block-wise quantisation, by ggml itself: the functions of the llama.cpp that the wheel carries, called through ctypes.

gguf-py writes Q8_0 but no K-quants, and llama-quantize needs a compiler. Which tensor of a Q4_K_M file gets which type is the rule of llama-quantize
(llama.cpp, src/llama-quant.cpp), as far as it speaks of the tensors that we write; the tests compare with a file that it made.
"""

import ctypes
import functools
import importlib.util
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from antimatter.export.config import FileType

Kind = GGMLQuantizationType
CHUNK = 1 << 22  # values that are converted at a time: 16 MB in float32
# 32 values in a block in place of 256
_SMALLER_BLOCKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}
# As what ggml reads a state that it multiplies with a matrix of that type: vec_dot_type in
# ggml-cpu.c
_STATES = {
    Kind.Q8_0: Kind.Q8_0,
    Kind.Q5_0: Kind.Q8_0,
    Kind.Q4_K: Kind.Q8_K,
    Kind.Q6_K: Kind.Q8_K,
}


def tensor_kind(name: str, columns: int, file_type: FileType, *, layers: int, tied: bool) -> Kind:
    """The type of a tensor in a file of that type.

    Norms, biases, scales and positions stay float32: llama.cpp adds them to float32 values, and they are few. A matrix whose rows do not divide into
    blocks of 256 gets a type with blocks of 32 and more bits, one whose rows do not divide into those float16.
    """
    if not name.endswith(".weight") or "norm" in name or name == "position_embd.weight":
        return Kind.F32
    if file_type in ("f32", "f16"):
        return Kind.F32 if file_type == "f32" else Kind.F16
    kind = Kind.Q8_0 if file_type == "q8_0" else _q4_k_m(name, layers, tied)
    if columns % _block(kind):
        kind = _SMALLER_BLOCKS.get(kind, kind)
    return kind if columns % _block(kind) == 0 else Kind.F16


def _q4_k_m(name: str, layers: int, tied: bool) -> Kind:
    """M for mixed, more bits where they help most: in the output matrix, and in `attn_qkv` and `ffn_down` of the first and the last eighth of the
    layers and of each third one between them."""
    if name == ("token_embd.weight" if tied else "output.weight"):
        return Kind.Q6_K
    if name.endswith(("attn_qkv.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return Kind.Q6_K
    return Kind.Q4_K


def n_bytes(kind: Kind, values: int) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return values // block * size


def quantise(matrix: np.ndarray, kind: Kind) -> Iterator[np.ndarray]:
    """The rows of a finite float32 matrix (R, C) in the bytes of `kind`, a few at a time, in order. The threads change no byte."""
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    rows = max(1, CHUNK // matrix.shape[1])
    parts = [matrix[start : start + rows] for start in range(0, len(matrix), rows)]
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:  # ctypes lets go of the interpreter's lock
        for start in range(0, len(parts), workers):  # no more in memory than are worked on
            yield from pool.map(lambda part: _quantised(part, kind), parts[start : start + workers])


def dequantise(data: np.ndarray, kind: Kind) -> np.ndarray:
    """float32 values of rows that stand in a file, by gguf-py."""
    return np.asarray(quants.dequantize(data, kind), dtype=np.float32)


def as_multiplied(states: np.ndarray, kind: Kind) -> np.ndarray:
    """What is left of float32 states (T, C) when ggml multiplies them with a matrix of `kind`: it rounds them to that kind's partner first."""
    partner = _STATES.get(kind)
    if partner is None:
        return states.astype(np.float16).astype(np.float32) if kind == Kind.F16 else states
    if partner == Kind.Q8_K:
        return _through_q8_k(states)
    return dequantise(_quantised(np.ascontiguousarray(states, dtype=np.float32), partner), partner)


def _quantised(rows: np.ndarray, kind: Kind) -> np.ndarray:
    """(R, C) float32 -> (R, bytes of a row) uint8."""
    out = np.empty((len(rows), n_bytes(kind, rows.shape[1])), dtype=np.uint8)
    written = _ggml().ggml_quantize_chunk(
        int(kind), rows.ctypes.data, out.ctypes.data, 0, len(rows), rows.shape[1], None
    )
    assert written == out.nbytes, f"ggml wrote {written} of {out.nbytes} bytes of {kind.name}"
    return out


def _through_q8_k(states: np.ndarray) -> np.ndarray:
    """ggml's reference quantize_row_q8_K in numpy: no file holds this type, so gguf-py does not know it. A block's largest value becomes -127."""
    blocks = states.reshape(-1, 256)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    inverse = np.divide(np.float32(-127), largest, out=np.zeros_like(largest), where=largest != 0)
    levels = np.minimum(np.rint(inverse * blocks), 127)
    scale = np.divide(np.float32(1), inverse, out=np.zeros_like(inverse), where=inverse != 0)
    return (levels * scale).reshape(states.shape)


def _block(kind: Kind) -> int:
    return GGML_QUANT_SIZES[kind][0]


@functools.cache
def _ggml() -> ctypes.CDLL:
    """Raises OSError if the wheel has no library that exports what we need."""
    spec = importlib.util.find_spec("xllamacpp")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("xllamacpp")
    for path in sorted(folder.glob("*.so")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "ggml_quantize_chunk"):
            c, size = ctypes, ctypes.c_int64
            library.ggml_quantize_chunk.argtypes = [
                c.c_int,
                c.c_void_p,
                c.c_void_p,
                size,
                size,
                size,
                c.c_void_p,
            ]
            library.ggml_quantize_chunk.restype = c.c_size_t
            return library
    raise OSError(
        f"{folder} exports no ggml_quantize_chunk: install the xllamacpp of requirements.lock, or take q8_0 and q4_k_m from `types` under `gguf:`"
    )
