"""The model as a GGUF file that stock llama.cpp and stock Ollama run with the same logits as torch.

No llama.cpp architecture joins learned positions with a Leaky ReLU. `mpt` comes nearest: pre-LayerNorm with biases, fused QKV, learned positions,
and a GELU whose output it divides by a tensor, `ffn.act.scales`. So the feed-forward network is rewritten into one with GELU (gelu_form).
"""

# C channels, V vocabulary, T context length; ggml and torch both store a matrix as (out, in), row
# by row
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from antimatter import files
from antimatter.chat import template
from antimatter.data.special_tokens import BOS, EOS, PAD, SPECIAL, USER
from antimatter.errors import UserError
from antimatter.export import quantize
from antimatter.export.config import FileType, GGUFConfig
from antimatter.export.quantize import Kind
from antimatter.export.source import Source
from antimatter.llama import header
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

ARCHITECTURE = "mpt"
FLOAT16_MAX = 65504.0
_FILE_TYPES = {
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
    """The Leaky ReLU network as a GELU network with 6C hidden units. What is rounded, is computed in float64 and rounded once.

    With slope a, W1 (4C, C) and W2 (C, 4C): leaky(h) = a h + (1-a) relu(h), so
    - the linear part W2 (a h) = A x + a W2 b1 with A = a W2 W1 goes through GELU exactly, because gelu(u) - gelu(-u) = u: 2C units, rows [A; -A],
      columns [I, -I];
    - the relu part: gelu(c h) / c -> relu(h) as c grows; the error is at most 0.17 / c, and only near zero: 4C units.

    Every unit is scaled by c and divided by it afterwards. llama.cpp looks up GELU in a float16 table between -10 and 10 and is exact outside, so a
    large c takes the linear part past the table as well. Rows that would leave float16 get a smaller power of two.
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
        # (C, 6C)
        down=torch.cat([((1 - slope) * w2.double()).to(dtype), identity, -identity], dim=1),
        down_bias=(b2.double() + slope * w2.double() @ b1.double()).to(dtype),
    )


def path_of(folder: Path, name: str, file_type: str) -> Path:
    return folder / f"{name}-{file_type}.gguf"


def write(
    source: Source, tokenizer: Path, path: Path, file_type: FileType, config: GGUFConfig
) -> None:
    """Writes the model and its tokenizer.json to one GGUF file. The same weights give the same bytes.

    Tensors are read, computed and written one at a time. Their order, and that of the last two keys, is the one that llama-quantize leaves, so
    `ollama create`, which sends every file through it, keeps the sha256.

    Raises:
        ValueError: the tokenizer does not fit the model, or a weight does not fit the file type.
    """
    tensors = dict(
        sorted(_tensors(source, config.relu_scale), key=lambda item: _canonical(item[0]))
    )
    shape = source.config
    kinds = {
        name: quantize.tensor_kind(
            name, tensor.shape[-1], file_type, layers=shape.n_layer, tied=shape.tied_embeddings
        )
        for name, tensor in tensors.items()
    }
    with files.replacing(path) as partial:
        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        try:
            _add_keys(writer, shape, config)
            _add_provenance(writer, source.provenance)
            _add_tokenizer(writer, tokenizer, shape)
            _add_chat(writer, source.chat)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_file_type(_FILE_TYPES[file_type])
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
                for part in _stored_as(name, tensors.pop(name).values(), kinds[name]):
                    out.write(part.data)
            writer.write_padding(out, out.tell())
        finally:
            writer.close()


def _tensors(source: Source, scale: int) -> Iterator[tuple[str, _Lazy]]:
    """Each tensor by its name in llama.cpp."""
    C, V, T = source.config.n_embd, source.config.vocab_size, source.config.block_size

    def stored(name: str, *shape: int) -> _Lazy:
        return _Lazy(shape, lambda: source.read(name))

    yield "token_embd.weight", stored("token_embedding.weight", V, C)
    yield "position_embd.weight", stored("position_embedding.weight", T, C)
    yield "output_norm.weight", stored("norm.weight", C)
    yield "output_norm.bias", stored("norm.bias", C)
    if not source.config.tied_embeddings:  # without it llama.cpp takes token_embd
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
        # Computed when the first of the five is written
        form = functools.cache(functools.partial(_form, source, i, scale))
        yield f"{theirs}.ffn_up.weight", _Lazy((6 * C, C), lambda form=form: form().up)  # type: ignore[misc]
        yield f"{theirs}.ffn_up.bias", _Lazy((6 * C,), lambda form=form: form().up_bias)  # type: ignore[misc]
        yield f"{theirs}.ffn.act.scales", _Lazy((6 * C,), lambda form=form: form().scales)  # type: ignore[misc]
        yield f"{theirs}.ffn_down.weight", _Lazy((C, 6 * C), lambda form=form: form().down)  # type: ignore[misc]
        yield f"{theirs}.ffn_down.bias", _Lazy((C,), lambda form=form: form().down_bias)  # type: ignore[misc]


def _form(source: Source, layer: int, scale: int) -> GELUForm:
    w1, b1, w2, b2 = (
        source.read(f"blocks.{layer}.ffn.{name}")
        for name in ("up.weight", "up.bias", "down.weight", "down.bias")
    )
    return gelu_form(w1, b1, w2, b2, source.config.negative_slope, scale)


def _canonical(name: str) -> tuple[int, str]:
    """llama-quantize's order: tensors of no layer first, then layer by layer, by name."""
    return (int(name.split(".")[1]) if name.startswith("blk.") else -1), name


def _stored_as(name: str, values: Tensor, kind: Kind) -> Iterator[np.ndarray]:
    """The values in the bytes of `kind`, some rows at a time."""
    rows = values.view(len(values), -1) if values.ndim > 1 else values[None]
    for part in rows.split(max(1, quantize.CHUNK // rows.shape[1])):
        if not bool(part.isfinite().all()):
            raise UserError(
                f"tensor {name} holds values that are not finite: the training diverged; lower its learning rate and run `dvc repro`"
            )
        largest = float(part.abs().max())
        if kind != Kind.F32 and largest > FLOAT16_MAX:  # the scale of a block is a float16 too
            raise UserError(
                f"tensor {name} holds {largest:.6g}, float16 ends at {FLOAT16_MAX:.6g}: write `types: [f32]` under `gguf:` in params.yaml"
            )
    if kind in (Kind.F32, Kind.F16):
        dtype = torch.float32 if kind == Kind.F32 else torch.float16
        for part in rows.split(max(1, quantize.CHUNK // rows.shape[1])):
            yield part.to(dtype).contiguous().numpy()
    else:
        yield from quantize.quantise(rows.numpy(), kind)


def _add_keys(writer: gguf.GGUFWriter, shape: GPTConfig, config: GGUFConfig) -> None:
    with torch.device("meta"):
        model = GPT(shape)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(config.name)
    writer.add_size_label(gguf.size_label(model.n_parameters(), 0, 0, 0))
    writer.add_license(config.license)
    writer.add_context_length(shape.block_size)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(6 * shape.n_embd)
    writer.add_head_count(shape.n_head)
    # None; llama.cpp until b9452, and so Ollama until 0.30, refuses an mpt that does not say so
    writer.add_max_alibi_bias(0.0)
    writer.add_layer_norm_eps(model.norm.eps)


def _add_provenance(
    writer: gguf.GGUFWriter, made: Mapping[str, Any], name: str = "antimatter"
) -> None:
    """What made the model, as keys `antimatter.*`; the parameters as one, in JSON."""
    for key, value in made.items():
        if isinstance(value, Mapping) and key != "params":
            _add_provenance(writer, value, f"{name}.{key}")
        else:
            writer.add_string(
                f"{name}.{key}", value if isinstance(value, str) else json.dumps(value)
            )


def _add_tokenizer(writer: gguf.GGUFWriter, path: Path, shape: GPTConfig) -> None:
    """The byte-level BPE of tokenizer.json. `pre` picks the splitting pattern in llama.cpp: without it many strings come out otherwise."""
    values = files.read_json(path)
    try:
        vocabulary, merges, added = (
            values["model"]["vocab"],
            values["model"]["merges"],
            values["added_tokens"],
        )
        special = {token["content"]: token["id"] for token in added}
        tokens = {index: token for token, index in [*vocabulary.items(), *special.items()]}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a byte-level BPE tokenizer ({error!r}): run `dvc repro tokenizer` to make it anew"
        ) from None
    if [*sorted(tokens)] != [*range(shape.vocab_size)]:
        raise UserError(
            f"{path} has {len(tokens)} tokens, the checkpoint was trained with {shape.vocab_size}: run `dvc repro checkpoints`"
        )
    if any(special.get(name) != i for i, name in enumerate(SPECIAL)):
        needed = ", ".join(f"{name}={i}" for i, name in enumerate(SPECIAL))
        got = f"got {json.dumps(special)}: run `dvc repro tokenizer` to make it anew"
        raise UserError(f"{path} lacks the role tokens: it must have {needed}, {got}")
    control = set(special.values())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[i] for i in range(len(tokens))])
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL
            for i in range(len(tokens))
        ]
    )
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    )
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(True)  # here and nowhere else: the template has none
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _add_chat(writer: gguf.GGUFWriter, chat: Mapping[str, Any] | None) -> None:
    """The chat template, and how a chat begins. Of a base model the template continues text."""
    writer.add_chat_template(template.CONTINUED_JINJA if chat is None else template.JINJA)
    if chat is None:
        return
    # A model that takes the user's turn has ended its own. Runtimes print no control token, so a
    # stop text would not find it
    writer.add_eot_token_id(USER)
    for key, text in (
        (header.CHAT_SYSTEM, chat["system"]),
        (header.CHAT_GREETING, chat["greeting"]),
        (header.CHAT_STARTERS, json.dumps(list(chat["starters"]), ensure_ascii=False)),
    ):
        writer.add_string(key, text)  # an empty one makes no key
