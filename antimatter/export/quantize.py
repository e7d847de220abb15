"""ggml's block-wise quantization, computed by ggml itself.

The functions are those of the llama.cpp inside the wheel xllamacpp, called through ctypes: gguf-py
writes Q8_0 but no K-quants, and llama-quantize needs a compiler. The rule for the type of each
tensor in a Q4_K_M file is that of llama-quantize (llama.cpp, src/llama-quant.cpp), for the tensors
that we write; the tests compare with a file that llama-quantize made.
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

from antimatter.errors import UserError
from antimatter.export.config import FileType

Kind = GGMLQuantizationType
CHUNK = 1 << 22  # values that are converted at a time: 16 MB in float32
# Used where a row does not divide into blocks of 256: types with blocks of 32 values
_SMALLER_BLOCKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}
# The type of most matrices in a file
_MOST: dict[FileType, Kind] = {"q8_0": Kind.Q8_0, "q4_k_m": Kind.Q4_K}
MIXED: tuple[FileType, ...] = ("q4_k_m",)
# The type to which ggml converts a state before it multiplies it with a matrix: vec_dot_type in
# ggml-cpu.c
_STATE_KINDS = {
    Kind.Q8_0: Kind.Q8_0,
    Kind.Q5_0: Kind.Q8_0,
    Kind.Q4_K: Kind.Q8_K,
    Kind.Q6_K: Kind.Q8_K,
}


def tensor_kind(name: str, columns: int, file_type: FileType, *, layers: int, tied: bool) -> Kind:
    """The type of one tensor in a file of `file_type`.

    Norms, biases, scales and positions stay float32: llama.cpp adds them to float32 values, and
    they are few. If the rows of a matrix do not divide into blocks of 256, it gets a type with
    blocks of 32 and more bits; if they do not divide into those either, float16.
    """
    if not name.endswith(".weight") or "norm" in name or name == "position_embd.weight":
        return Kind.F32
    if file_type in ("f32", "f16"):
        return Kind.F32 if file_type == "f32" else Kind.F16
    kind = _MOST[file_type]
    if file_type in MIXED:
        kind = _mixed(name, kind, layers, tied)
    if columns % _block(kind):
        kind = _SMALLER_BLOCKS.get(kind, kind)
    return kind if columns % _block(kind) == 0 else Kind.F16


def _mixed(name: str, most: Kind, layers: int, tied: bool) -> Kind:
    """The type of a matrix in a mixed file (K_M), which has more bits where they help most.

    That is in the output matrix, and in `attn_qkv` and `ffn_down` of the first and the last eighth
    of the layers and of every third layer between them. `attn_qkv` counts as llama-quantize's
    attn_v: its own branch for attn_qkv is never reached for these types (decision 20).

    Args:
        most: the type of all other matrices.
    """
    if name == ("token_embd.weight" if tied else "output.weight"):
        return Kind.Q6_K
    if name.endswith(("attn_qkv.weight", "ffn_down.weight")):
        layer, eighth = int(name.split(".")[1]), layers // 8
        if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
            return Kind.Q6_K
    return most


def n_bytes(kind: Kind, values: int) -> int:
    block, size = GGML_QUANT_SIZES[kind]
    return values // block * size


def quantize(matrix: np.ndarray, kind: Kind) -> Iterator[np.ndarray]:
    """The rows of a finite float32 matrix (R, C) in the bytes of `kind`, some at a time, in order.

    The number of threads does not change the bytes.
    """
    matrix = np.ascontiguousarray(matrix, dtype=np.float32)
    rows = max(1, CHUNK // matrix.shape[1])
    parts = [matrix[start : start + rows] for start in range(0, len(matrix), rows)]
    workers = os.cpu_count() or 1
    # Threads help because ctypes releases the GIL. One part for each thread at a time, so that no
    # more results are in memory
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(parts), workers):
            group = parts[start : start + workers]
            yield from pool.map(lambda part: _quantize_rows(part, kind), group)


def dequantize(data: np.ndarray, kind: Kind) -> np.ndarray:
    """The float32 values of rows as a file holds them, by gguf-py."""
    return np.asarray(quants.dequantize(data, kind), dtype=np.float32)


def round_states(states: np.ndarray, kind: Kind) -> np.ndarray:
    """float32 states (T, C) with the rounding of ggml's multiplication by a matrix of `kind`.

    ggml first converts a state to the type that belongs to the matrix.
    """
    if kind == Kind.F16:
        return states.astype(np.float16).astype(np.float32)
    if kind not in _STATE_KINDS:
        return states
    if _STATE_KINDS[kind] == Kind.Q8_K:
        return _round_q8_k(states)
    states = np.ascontiguousarray(states, dtype=np.float32)
    return dequantize(_quantize_rows(states, _STATE_KINDS[kind]), _STATE_KINDS[kind])


def _quantize_rows(rows: np.ndarray, kind: Kind) -> np.ndarray:
    """(R, C) float32 -> (R, bytes of a row) uint8."""
    out = np.empty((len(rows), n_bytes(kind, rows.shape[1])), dtype=np.uint8)
    written = _ggml().ggml_quantize_chunk(
        int(kind), rows.ctypes.data, out.ctypes.data, 0, len(rows), rows.shape[1], None
    )
    assert written == out.nbytes, f"ggml wrote {written} of {out.nbytes} bytes of {kind.name}"
    return out


def _round_q8_k(states: np.ndarray) -> np.ndarray:
    """ggml's reference quantize_row_q8_K in numpy. The largest value of a block becomes -127.

    No file has this type, so gguf-py does not know it.
    """
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
    """Raises UserError if the installed wheel has no library with ggml_quantize_chunk."""
    spec = importlib.util.find_spec("xllamacpp")
    folder = Path(spec.origin).parent if spec and spec.origin else Path("xllamacpp")
    for path in sorted(folder.glob("*.so")):
        library = ctypes.CDLL(str(path))
        if hasattr(library, "ggml_quantize_chunk"):
            size, pointer = ctypes.c_int64, ctypes.c_void_p
            function = library.ggml_quantize_chunk
            function.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
            function.restype = ctypes.c_size_t
            return library
    fix = "install the xllamacpp of requirements.lock, or keep only f32 and f16 in gguf.types"
    raise UserError(f"{folder} exports no ggml_quantize_chunk: {fix}")
