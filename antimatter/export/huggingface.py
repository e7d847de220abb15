"""The model as a folder that Hugging Face's transformers load without code of this project.

They load it as their GPT-2, which is the same network except for the activation.
"""

# C channels, V vocabulary. GPT-2 stores the matrices of its blocks as (in, out), ours are (out, in)
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from torch import Tensor

from antimatter import files, outputs
from antimatter.chat import template
from antimatter.data.special_tokens import BOS, EOS, PAD, SPECIAL, USER, check_ids
from antimatter.errors import UserError
from antimatter.export.source import Source
from antimatter.model.config import GPTConfig

# The slope of their "leaky_relu", torch's default; a config.json cannot set another
SLOPE = 0.01
BLOCK = {
    "attn_norm": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}
# Of what write() writes
NAMES = (
    *("config.json", "model.safetensors", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name}-hf"


def check_output(folder: Path) -> None:
    """Checks that write() would replace nothing but what it wrote.

    Raises:
        UserError: the folder holds something else, or was saved by transformers, perhaps after
            more training.
    """
    outputs.check_folder(folder, "--output", NAMES)
    config = folder / "config.json"
    if config.exists() and "transformers_version" in files.read_json(config):
        raise UserError(f"{folder} was saved by transformers: name another folder, or move it")


def write(source: Source, tokenizer: Path, folder: Path) -> None:
    """Writes the folder, in float32, or nothing if there is an error.

    It has the files NAMES. `AutoModelForCausalLM.from_pretrained(folder)` and
    `AutoTokenizer.from_pretrained(folder)` read them, and `apply_chat_template` works if the model
    was tuned to chat. Equal weights give equal bytes. The whole model is in memory at once.

    Raises:
        UserError: the tokenizer does not fit the model.
    """
    shape = source.config
    bpe = _tokenizer(tokenizer, shape)
    tensors = _tensors(source)
    with files.replacing(folder) as partial:
        partial.mkdir()
        # Transformers need this key. A second one would make the order of the bytes random
        save_file(tensors, partial / "model.safetensors", {"format": "pt"})
        n_inner = len(tensors["transformer.h.0.mlp.c_fc.bias"])
        files.write_json(partial / "config.json", _config(shape, n_inner))
        files.write_json(partial / "generation_config.json", _generation_config(source))
        files.write_json(partial / "tokenizer.json", json.loads(bpe.to_str()))
        files.write_json(partial / "tokenizer_config.json", _tokenizer_config(source))


def leaky_form(
    up: Tensor, up_bias: Tensor, down: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A network with a Leaky ReLU of any slope a as one with the slope s = SLOPE.

    leaky_a(h) = p leaky_s(h) + q leaky_s(-h), where p - s q = 1 (h > 0) and s p - q = a (h < 0).
    It has twice as many hidden units, and values are rounded once. A network with the slope s is
    returned unchanged.

    Args:
        up: (4C, C), with its bias (4C,).
        down: (C, 4C); its bias does not change.
    """
    if slope == SLOPE:
        return up, up_bias, down
    p = (1 - SLOPE * slope) / (1 - SLOPE**2)
    q = SLOPE * p - slope
    wide = torch.cat([p * down.double(), q * down.double()], dim=1)
    return torch.cat([up, -up]), torch.cat([up_bias, -up_bias]), wide.to(down.dtype)


def _tensors(source: Source) -> dict[str, Tensor]:
    """The weights by their names in GPT2LMHeadModel."""
    names = {
        "token_embedding.weight": "wte.weight",
        "position_embedding.weight": "wpe.weight",
        "norm.weight": "ln_f.weight",
        "norm.bias": "ln_f.bias",
    }
    tensors = {f"transformer.{theirs}": source.read(ours) for ours, theirs in names.items()}
    if not source.config.tied_embeddings:
        tensors["lm_head.weight"] = source.read("head.weight")
    for i in range(source.config.n_layer):
        block = {
            f"{module}.{kind}": source.read(f"blocks.{i}.{module}.{kind}")
            for module in BLOCK
            for kind in ("weight", "bias")
        }
        rewritten = ("ffn.up.weight", "ffn.up.bias", "ffn.down.weight")
        up, up_bias, down = (block[name] for name in rewritten)
        form = leaky_form(up, up_bias, down, source.config.negative_slope)
        block |= zip(rewritten, form, strict=True)
        for name, tensor in block.items():
            module, kind = name.rsplit(".", 1)
            # (out, in) -> (in, out)
            theirs = tensor.T.contiguous() if tensor.ndim == 2 else tensor
            tensors[f"transformer.h.{i}.{BLOCK[module]}.{kind}"] = theirs
    return tensors


def _config(shape: GPTConfig, n_inner: int) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": "float32",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.block_size,
        "n_embd": shape.n_embd,
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_inner": n_inner,
        "activation_function": "leaky_relu",
        "layer_norm_epsilon": 1e-5,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), shape.dropout),
        "tie_word_embeddings": shape.tied_embeddings,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }


def _tokenizer(path: Path, shape: GPTConfig) -> Tokenizer:
    """The same tokenizer, which also adds [BOS] before a text, as llama.cpp does.

    Every document of the training begins with it.
    """
    content = json.dumps(files.read_json(path))
    try:
        bpe = Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing narrower
        fix = "run `dvc repro tokenizer` to rebuild it"
        raise UserError(f"{path} is not a tokenizer ({error}): {fix}") from None
    if bpe.get_vocab_size() != shape.vocab_size:
        sizes = f"{bpe.get_vocab_size()} tokens, the checkpoint was trained with {shape.vocab_size}"
        raise UserError(f"{path} has {sizes}: run `dvc repro checkpoints`")
    check_ids({name: bpe.token_to_id(name) for name in SPECIAL}, path)
    special = [("[BOS]", BOS)]
    bpe.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=special)
    return bpe


def _generation_config(source: Source) -> dict[str, Any]:
    """A model that was tuned to chat and begins the user's turn has ended its own."""
    ends = EOS if source.chat is None else [EOS, USER]
    return {"bos_token_id": BOS, "eos_token_id": ends, "pad_token_id": PAD}


def _tokenizer_config(source: Source) -> dict[str, Any]:
    """With the chat template, if the model was tuned to chat.

    A template writes special tokens by name, so for a chat model a literal [EOS] is the token, and
    the template changes such texts of users. For a base model a literal [EOS] is plain text.
    """
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.config.block_size,
        "bos_token": "[BOS]",
        "eos_token": "[EOS]",
        "pad_token": "[PAD]",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": source.chat is None,
    }
    if source.chat is not None:
        config["chat_template"] = template.HUGGING_FACE
    return config
