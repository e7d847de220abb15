"""The model as a GGUF file that stock llama.cpp and stock Ollama run with the same logits as torch.

No architecture of llama.cpp has both learned positions and a Leaky ReLU. `mpt` comes nearest: it
has pre-LayerNorm with biases, fused QKV, learned positions, and a GELU whose output is divided by a
tensor, `ffn.act.scales`. So the feed-forward network is rewritten into one with GELU (gelu_form).
"""

# C channels, V vocabulary, T context length. ggml and torch both store a matrix as (out, in), row
# by row
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from antimatter import files
from antimatter.chat import template
from antimatter.data.special_tokens import BOS, EOS, PAD, USER, check_ids
from antimatter.errors import UserError
from antimatter.export import facts, quantize
from antimatter.export.config import FileType, GGUFConfig
from antimatter.export.quantize import Kind
from antimatter.export.source import Source
from antimatter.llama import header
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

ARCHITECTURE = "mpt"
# Of the keys that no specification has
PREFIX = "antimatter"
FLOAT16_MAX = 65504.0
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}


@dataclass(frozen=True)
class GELUForm:
    """down @ (gelu(up @ x + up_bias) / scales) + down_bias"""

    up: Tensor  # (6C, C)
    up_bias: Tensor  # (6C,)
    scales: Tensor  # (6C,)
    down: Tensor  # (C, 6C)
    down_bias: Tensor  # (C,)


@dataclass(frozen=True)
class _Lazy:
    """A tensor whose shape is known before its values are computed."""

    shape: tuple[int, ...]
    values: Callable[[], Tensor]


def gelu_form(w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, slope: float, scale: int) -> GELUForm:
    """The Leaky ReLU network as a GELU network with 6C hidden units.

    With slope a, W1 (4C, C) and W2 (C, 4C): leaky(h) = a h + (1-a) relu(h), so
    - the linear part W2 (a h) = A x + a W2 b1 with A = a W2 W1 passes through GELU exactly, because
      gelu(u) - gelu(-u) = u. It takes 2C units, with rows [A; -A] and columns [I, -I].
    - the ReLU part: gelu(c h) / c -> relu(h) as c grows. The error is at most 0.17 / c, and only
      near zero. It takes 4C units.

    Every unit is scaled by c and divided by it afterwards. llama.cpp looks up GELU in a float16
    table between -10 and 10 and is exact outside, so a large c moves the linear part out of the
    table too. Rows that would exceed float16 get a smaller power of two.

    Values that have to be rounded are computed in float64 and rounded once.
    """
    dtype, n_embd = w1.dtype, len(w2)
    identity = torch.eye(n_embd, dtype=dtype)
    linear = (slope * w2.double() @ w1.double()).to(dtype)  # A, (C, C)
    up = torch.cat([w1, linear, -linear])  # (6C, C)
    room = FLOAT16_MAX / 2 / up.abs().amax(dim=1)  # inf for a row of zeros
    scales = torch.exp2(torch.floor(torch.log2(room))).clamp(max=scale)  # (6C,)
    return GELUForm(
        up=up.mul_(scales[:, None]),  # a power of two: exact
        up_bias=torch.cat([b1, torch.zeros(2 * n_embd, dtype=dtype)]) * scales,
        scales=scales,
        down=torch.cat([((1 - slope) * w2.double()).to(dtype), identity, -identity], dim=1),
        down_bias=(b2.double() + slope * w2.double() @ b1.double()).to(dtype),
    )


def path_of(folder: Path, name: str, file_type: str) -> Path:
    return folder / f"{name}-{file_type}.gguf"


def write(
    source: Source,
    tokenizer: Path,
    path: Path,
    file_type: FileType,
    config: GGUFConfig,
    data_sets: Sequence[str] = (),
) -> None:
    """Writes the model and its tokenizer.json to one GGUF file. Equal weights give equal bytes.

    Tensors are read, computed and written one at a time. The order of the tensors and of the last
    two keys is that of llama-quantize. `ollama create` passes every file through it, so with this
    order the sha256 stays the same.

    Args:
        data_sets: names of what the model was pretrained on, see facts.data_sets().

    Raises:
        UserError: the tokenizer does not fit the model, or a weight does not fit the file type.
    """
    shape = source.config
    tensors = dict(sorted(_tensors(source, config.relu_scale), key=lambda pair: _sort_key(pair[0])))
    kinds = {
        name: quantize.tensor_kind(
            name, tensor.shape[-1], file_type, layers=shape.n_layer, tied=shape.tied_embeddings
        )
        for name, tensor in tensors.items()
    }
    with files.replacing(path) as partial:
        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        try:
            _add_keys(writer, source, config, data_sets)
            _add_provenance(writer, source.provenance)
            _add_provenance(writer, source.result, f"{PREFIX}.result")
            _add_tokenizer(writer, tokenizer, shape)
            _add_chat(writer, source.chat)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_file_type(FILE_TYPES[file_type])
            _write_all(writer, tensors, kinds)
        finally:
            writer.close()


def _write_all(
    writer: gguf.GGUFWriter, tensors: dict[str, _Lazy], kinds: Mapping[str, Kind]
) -> None:
    """Writes the keys, and then the tensors, which are removed from `tensors` one by one."""
    for name, tensor in tensors.items():
        size = quantize.n_bytes(kinds[name], math.prod(tensor.shape))
        writer.add_tensor_info(
            name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kinds[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    out = writer.fout[0]
    for name in list(tensors):
        writer.write_padding(out, out.tell())
        for part in _encoded(name, tensors.pop(name).values(), kinds[name]):
            out.write(part.data)
    writer.write_padding(out, out.tell())


def _tensors(source: Source, scale: int) -> Iterator[tuple[str, _Lazy]]:
    """Each tensor with its name in llama.cpp."""
    C, V, T = source.config.n_embd, source.config.vocab_size, source.config.block_size

    def stored(name: str, *shape: int) -> _Lazy:
        return _Lazy(shape, lambda: source.read(name))

    yield "token_embd.weight", stored("token_embedding.weight", V, C)
    yield "position_embd.weight", stored("position_embedding.weight", T, C)
    yield "output_norm.weight", stored("norm.weight", C)
    yield "output_norm.bias", stored("norm.bias", C)
    # Without output.weight llama.cpp uses token_embd
    if not source.config.tied_embeddings:
        yield "output.weight", stored("head.weight", V, C)
    for i in range(source.config.n_layer):
        ours, theirs = f"blocks.{i}", f"blk.{i}"
        for name, module, shape in (
            ("attn_norm", "attn_norm", (C,)),
            ("attn_qkv", "attn.qkv", (3 * C, C)),
            ("attn_output", "attn.proj", (C, C)),
            ("ffn_norm", "ffn_norm", (C,)),
        ):
            yield f"{theirs}.{name}.weight", stored(f"{ours}.{module}.weight", *shape)
            yield f"{theirs}.{name}.bias", stored(f"{ours}.{module}.bias", shape[0])
        for name, tensor in _feed_forward(source, i, scale):
            yield f"{theirs}.{name}", tensor


def _feed_forward(source: Source, layer: int, scale: int) -> Iterator[tuple[str, _Lazy]]:
    """The five tensors of a layer's GELU form, which is computed when the first one is written."""

    @functools.cache
    def form() -> GELUForm:
        w1, b1, w2, b2 = (
            source.read(f"blocks.{layer}.ffn.{name}")
            for name in ("up.weight", "up.bias", "down.weight", "down.bias")
        )
        return gelu_form(w1, b1, w2, b2, source.config.negative_slope, scale)

    C = source.config.n_embd
    yield "ffn_up.weight", _Lazy((6 * C, C), lambda: form().up)
    yield "ffn_up.bias", _Lazy((6 * C,), lambda: form().up_bias)
    yield "ffn.act.scales", _Lazy((6 * C,), lambda: form().scales)
    yield "ffn_down.weight", _Lazy((C, 6 * C), lambda: form().down)
    yield "ffn_down.bias", _Lazy((C,), lambda: form().down_bias)


def _sort_key(name: str) -> tuple[int, str]:
    """llama-quantize's order: tensors outside the layers first, then layer by layer, by name."""
    layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
    return layer, name


def _encoded(name: str, values: Tensor, kind: Kind) -> Iterator[np.ndarray]:
    """The values in the bytes of `kind`, some rows at a time."""
    rows = values.view(len(values), -1) if values.ndim > 1 else values[None]
    parts = rows.split(max(1, quantize.CHUNK // rows.shape[1]))
    for part in parts:
        _check_range(name, part, kind)
    if kind in (Kind.F32, Kind.F16):
        dtype = torch.float32 if kind == Kind.F32 else torch.float16
        for part in parts:
            yield part.to(dtype).contiguous().numpy()
    else:
        yield from quantize.quantize(rows.numpy(), kind)


def _check_range(name: str, values: Tensor, kind: Kind) -> None:
    """Raises UserError if a value is not finite or exceeds the file type."""
    if not bool(values.isfinite().all()):
        fix = "lower its learning rate and run `dvc repro`"
        raise UserError(
            f"tensor {name} has values that are not finite: the training diverged; {fix}"
        )
    largest = float(values.abs().max())
    # The scale of a quantized block is a float16 too
    if kind != Kind.F32 and largest > FLOAT16_MAX:
        fix = "write `types: [f32]` under `gguf:` in params.yaml"
        raise UserError(
            f"tensor {name} has {largest:.6g}, float16 ends at {FLOAT16_MAX:.6g}: {fix}"
        )


def _add_keys(
    writer: gguf.GGUFWriter, source: Source, config: GGUFConfig, data_sets: Sequence[str]
) -> None:
    shape = source.config
    with torch.device("meta"):
        model = GPT(shape)
    writer.add_type(gguf.GGUFType.MODEL)
    facts.add(writer, source, model.n_parameters(), config, data_sets)
    writer.add_string(f"{PREFIX}.parameters", str(model.n_parameters()))
    writer.add_context_length(shape.block_size)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(6 * shape.n_embd)
    writer.add_head_count(shape.n_head)
    # There is none, but llama.cpp until b9452, and so Ollama until 0.30, requires the key of an mpt
    writer.add_max_alibi_bias(0.0)
    writer.add_layer_norm_eps(model.norm.eps)


def _add_provenance(
    writer: gguf.GGUFWriter, provenance: Mapping[str, Any], prefix: str = PREFIX
) -> None:
    """Adds what is recorded as keys `antimatter.*`; the parameters are one key, in JSON."""
    for key, value in provenance.items():
        if isinstance(value, Mapping) and key != "params":
            _add_provenance(writer, value, f"{prefix}.{key}")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            writer.add_string(f"{prefix}.{key}", text)


def _add_tokenizer(writer: gguf.GGUFWriter, path: Path, shape: GPTConfig) -> None:
    """Adds the byte-level BPE of tokenizer.json."""
    values = files.read_json(path)
    try:
        vocabulary, merges = values["model"]["vocab"], values["model"]["merges"]
        special = {token["content"]: token["id"] for token in values["added_tokens"]}
        tokens = {index: token for token, index in [*vocabulary.items(), *special.items()]}
    except (KeyError, TypeError, AttributeError) as error:
        fix = "run `dvc repro tokenizer` to rebuild it"
        raise UserError(f"{path} is not a byte-level BPE tokenizer ({error!r}): {fix}") from None
    if sorted(tokens) != list(range(shape.vocab_size)):
        sizes = f"{len(tokens)} tokens, the checkpoint was trained with {shape.vocab_size}"
        raise UserError(f"{path} has {sizes}: run `dvc repro checkpoints`")
    check_ids(special, path)
    types = [gguf.TokenType.NORMAL] * len(tokens)
    for index in special.values():
        types[index] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    # Chooses the splitting pattern in llama.cpp; without it many texts give other tokens
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[i] for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    )
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    # The only place that adds [BOS]: the template has none
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _add_chat(writer: gguf.GGUFWriter, chat: Mapping[str, Any] | None) -> None:
    """Adds the chat template, and how a chat begins. A base model's template continues text."""
    writer.add_chat_template(template.CONTINUED_JINJA if chat is None else template.JINJA)
    if chat is None:
        return
    # A model that begins the user's turn has ended its own. Runtimes do not print control tokens,
    # so a stop text would not match
    writer.add_eot_token_id(USER)
    for key, text in (
        (header.CHAT_SYSTEM, chat["system"]),
        (header.CHAT_GREETING, chat["greeting"]),
        (header.CHAT_STARTERS, json.dumps(list(chat["starters"]), ensure_ascii=False)),
    ):
        # GGUFWriter leaves out a key with an empty text
        writer.add_string(key, text)
