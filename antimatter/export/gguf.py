"""The model as a GGUF file that stock llama.cpp and stock Ollama run with the same logits as torch.

No llama.cpp architecture joins learned positions with a Leaky ReLU. `mpt` comes nearest: pre-LayerNorm with biases, fused QKV, learned positions,
and a GELU whose output it divides by a tensor, `ffn.act.scales`. So the feed-forward network is rewritten into one with GELU (gelu_form).
"""

# C channels, V vocabulary, T context length; ggml and torch both store a matrix as (out, in), row by row
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import torch
from torch import Tensor, nn

from antimatter import files
from antimatter.export import template
from antimatter.model.gpt import GPT, Block, FeedForward, GPTConfig

FileType = Literal["f16", "f32"]
ARCHITECTURE = "mpt"
FLOAT16_MAX = 65504.0
_FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}


@dataclass(frozen=True, kw_only=True)
class GGUFConfig:
    name: str  # of the model, and of the files: <name>-<type>.gguf
    license: str  # of the weights, an SPDX identifier
    types: tuple[FileType, ...]
    relu_scale: int  # c of gelu_form
    windows: int  # of the validation split, each one whole context, on which llama.cpp is compared with torch
    max_kl: float  # nats per token; above it the stage fails

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or not self.name[0].isalnum():
            raise ValueError(f"name must be letters, digits, dots, dashes and underscores, got {self.name!r}")
        if not self.license:
            raise ValueError("license must be an SPDX identifier such as mit, got nothing")
        if not self.types or len(set(self.types)) < len(self.types):
            raise ValueError(f"types must name at least one type, each once, got {list(self.types)}")
        if self.relu_scale < 1 or self.relu_scale & (self.relu_scale - 1):
            raise ValueError(f"relu_scale must be a power of two (scaling by it is then exact), got {self.relu_scale}")
        if self.windows < 1:
            raise ValueError(f"windows must be at least 1, got {self.windows}")
        if self.max_kl <= 0:
            raise ValueError(f"max_kl must be positive, got {self.max_kl}")


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


def gelu_form(ffn: FeedForward, scale: int) -> GELUForm:
    """The Leaky ReLU network as a GELU network with 6C hidden units, in float64.

    With slope a, W1 (4C, C) and W2 (C, 4C): leaky(h) = a h + (1-a) relu(h), so
    - the linear part W2 (a h) = A x + a W2 b1 with A = a W2 W1 goes through GELU exactly, because gelu(u) - gelu(-u) = u: 2C units, rows [A; -A],
      columns [I, -I];
    - the relu part: gelu(c h) / c -> relu(h) as c grows; the error is at most 0.17 / c, and only near zero: 4C units.

    Every unit is scaled by c and divided by it afterwards. llama.cpp looks up GELU in a float16 table between -10 and 10 and is exact outside, so a
    large c takes the linear part past the table as well. Rows that would leave float16 get a smaller power of two.
    """
    w1, b1 = ffn.up.weight.double(), ffn.up.bias.double()  # (4C, C), (4C,)
    w2, b2 = ffn.down.weight.double(), ffn.down.bias.double()  # (C, 4C), (C,)
    slope, identity = ffn.negative_slope, torch.eye(w2.shape[0], dtype=torch.float64)
    linear = slope * w2 @ w1  # A, (C, C)
    up = torch.cat([w1, linear, -linear])  # (6C, C)
    room = FLOAT16_MAX / 2 / up.abs().amax(dim=1)  # inf for a row of zeros
    scales = torch.exp2(torch.floor(torch.log2(room))).clamp(max=scale)  # (6C,)
    return GELUForm(
        up=up * scales[:, None],
        up_bias=torch.cat([b1, torch.zeros(2 * len(identity), dtype=torch.float64)]) * scales,
        scales=scales,
        down=torch.cat([(1 - slope) * w2, identity, -identity], dim=1),  # (C, 6C)
        down_bias=b2 + slope * w2 @ b1,
    )


def path_of(folder: Path, name: str, file_type: str) -> Path:
    return folder / f"{name}-{file_type}.gguf"


def write(model: GPT, tokenizer: Path, path: Path, file_type: FileType, config: GGUFConfig) -> None:
    """Writes the model and its tokenizer.json to one GGUF file. The same weights give the same bytes.

    Tensors are computed and written one at a time. Their order, and that of the last two keys, is the one that llama-quantize leaves, so
    `ollama create`, which sends every file through it, keeps the sha256.

    Raises:
        ValueError: the tokenizer does not fit the model, or a weight does not fit the file type.
    """
    tensors = dict(sorted(_tensors(model, config.relu_scale), key=lambda item: _canonical(item[0])))
    with files.replacing(path) as partial:
        writer = gguf.GGUFWriter(partial, ARCHITECTURE)
        try:
            _add_keys(writer, model, config)
            _add_tokenizer(writer, tokenizer, model.config)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_file_type(_FILE_TYPES[file_type])
            for name, tensor in tensors.items():
                dtype = _dtype(name, file_type)
                writer.add_tensor_info(name, tensor.shape, torch.empty(0, dtype=dtype).numpy().dtype, math.prod(tensor.shape) * dtype.itemsize)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name in list(tensors):
                writer.write_tensor_data(_cast(name, tensors.pop(name).values(), _dtype(name, file_type)).numpy())
        finally:
            writer.close()


def _tensors(model: GPT, scale: int) -> Iterator[tuple[str, _Lazy]]:
    """Each tensor by its name in llama.cpp."""
    yield "token_embd.weight", _stored(model.token_embedding.weight)
    yield "position_embd.weight", _stored(model.position_embedding.weight)
    yield "output_norm.weight", _stored(model.norm.weight)
    yield "output_norm.bias", _stored(model.norm.bias)
    if not model.config.tied_embeddings:  # without it llama.cpp takes token_embd
        yield "output.weight", _stored(model.head.weight)
    C = model.config.n_embd
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        modules: list[tuple[str, nn.Linear | nn.LayerNorm]] = [
            ("attn_norm", block.attn_norm),
            ("attn_qkv", block.attn.qkv),
            ("attn_output", block.attn.proj),
            ("ffn_norm", block.ffn_norm),
        ]
        for name, module in modules:
            yield f"blk.{i}.{name}.weight", _stored(module.weight)
            yield f"blk.{i}.{name}.bias", _stored(module.bias)
        form = functools.cache(functools.partial(gelu_form, block.ffn, scale))  # computed when the first of the five is written
        yield f"blk.{i}.ffn_up.weight", _Lazy((6 * C, C), lambda form=form: form().up)  # type: ignore[misc]
        yield f"blk.{i}.ffn_up.bias", _Lazy((6 * C,), lambda form=form: form().up_bias)  # type: ignore[misc]
        yield f"blk.{i}.ffn.act.scales", _Lazy((6 * C,), lambda form=form: form().scales)  # type: ignore[misc]
        yield f"blk.{i}.ffn_down.weight", _Lazy((C, 6 * C), lambda form=form: form().down)  # type: ignore[misc]
        yield f"blk.{i}.ffn_down.bias", _Lazy((C,), lambda form=form: form().down_bias)  # type: ignore[misc]


def _stored(tensor: Tensor) -> _Lazy:
    return _Lazy(tuple(tensor.shape), lambda: tensor)


def _canonical(name: str) -> tuple[int, str]:
    """llama-quantize's order: tensors of no layer first, then layer by layer, by name."""
    return (int(name.split(".")[1]) if name.startswith("blk.") else -1), name


def _dtype(name: str, file_type: FileType) -> torch.dtype:
    """Norms, biases, scales and positions stay float32: llama.cpp adds them to float32 values, and they are few."""
    is_matrix = name.endswith(".weight") and "norm" not in name and name != "position_embd.weight"
    return torch.float16 if file_type == "f16" and is_matrix else torch.float32


def _cast(name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
    values = values.detach()
    if not bool(values.isfinite().all()):
        raise ValueError(f"tensor {name} holds values that are not finite: the training diverged; lower its learning rate and run `dvc repro`")
    largest = float(values.abs().max())
    if dtype == torch.float16 and largest > FLOAT16_MAX:
        raise ValueError(f"tensor {name} holds {largest:.6g}, float16 ends at {FLOAT16_MAX:.6g}: write `types: [f32]` under `gguf:` in params.yaml")
    return values.to(dtype).contiguous()


def _add_keys(writer: gguf.GGUFWriter, model: GPT, config: GGUFConfig) -> None:
    shape = model.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(config.name)
    writer.add_size_label(gguf.size_label(model.n_parameters(), 0, 0, 0))
    writer.add_license(config.license)
    writer.add_context_length(shape.block_size)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(6 * shape.n_embd)
    writer.add_head_count(shape.n_head)
    writer.add_layer_norm_eps(model.norm.eps)


def _add_tokenizer(writer: gguf.GGUFWriter, path: Path, shape: GPTConfig) -> None:
    """The byte-level BPE of tokenizer.json. `pre` picks the splitting pattern in llama.cpp: without it many strings come out otherwise."""
    values = files.read_json(path)
    try:
        vocabulary, merges, added = values["model"]["vocab"], values["model"]["merges"], values["added_tokens"]
        special = {token["content"]: token["id"] for token in added}
        tokens = {index: token for token, index in [*vocabulary.items(), *special.items()]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a byte-level BPE tokenizer ({error!r}): run `dvc repro tokenizer` to make it anew") from None
    if [*sorted(tokens)] != [*range(shape.vocab_size)]:
        raise ValueError(f"{path} has {len(tokens)} tokens, the checkpoint was trained with {shape.vocab_size}: run `dvc repro checkpoints`")
    if [special.get(name) for name in ("[PAD]", "[BOS]", "[EOS]")] != [0, 1, 2]:
        raise ValueError(f"{path} must have [PAD]=0, [BOS]=1, [EOS]=2, got {json.dumps(special)}: run `dvc repro tokenizer` to make it anew")
    control = set(special.values())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens[i] for i in range(len(tokens))])
    writer.add_token_types([gguf.TokenType.CONTROL if i in control else gguf.TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(True)  # here and nowhere else: the template has none
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template.JINJA)
