"""The model as a folder that Hugging Face's transformers load with nothing of ours: as their GPT-2, which is this network but for the activation."""

# C channels, V vocabulary; GPT-2 keeps the matrices inside its blocks as (in, out), ours are (out,
# in)
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from torch import Tensor

from antimatter import files
from antimatter.chat import template
from antimatter.data.special_tokens import BOS, EOS, PAD, SPECIAL, USER
from antimatter.errors import UserError
from antimatter.export.source import Source
from antimatter.model.config import GPTConfig

SLOPE = 0.01  # of their "leaky_relu", torch's default; a config.json cannot name another
BLOCK = {
    "attn_norm": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{name}-hf"


def write(source: Source, tokenizer: Path, folder: Path) -> None:
    """Writes config.json, model.safetensors, generation_config.json, tokenizer.json and tokenizer_config.json, all or nothing, in float32.

    `AutoModelForCausalLM.from_pretrained(folder)` and `AutoTokenizer.from_pretrained(folder)` read
    them, and `apply_chat_template` works where the model was tuned to chat. The same weights give
    the same bytes. The whole model is in memory meanwhile.

    Raises:
        ValueError: the tokenizer does not fit the model.
    """
    shape = source.config
    bpe = _tokenizer(tokenizer, shape)
    tensors = _tensors(source)
    with files.replacing(folder) as partial:
        partial.mkdir()
        # Transformers ask for this key; a second one would come in random order
        save_file(tensors, partial / "model.safetensors", {"format": "pt"})
        files.write_json(
            partial / "config.json", _config(shape, len(tensors["transformer.h.0.mlp.c_fc.bias"]))
        )
        files.write_json(partial / "generation_config.json", _generation_config(source))
        files.write_json(partial / "tokenizer.json", json.loads(bpe.to_str()))
        files.write_json(partial / "tokenizer_config.json", _tokenizer_config(source))


def leaky_form(
    up: Tensor, up_bias: Tensor, down: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A network with the Leaky ReLU of any slope a as one with the slope s = SLOPE: leaky_a(h) = p leaky_s(h) + q leaky_s(-h), where p - s q = 1
    (h > 0) and s p - q = a (h < 0). Twice as many hidden units, and what is rounded, is rounded once. A network with the slope s stays as it is.

    Args:
        up: (4C, C), with its bias (4C,).
        down: (C, 4C); its bias does not change.
    """
    p = (1 - SLOPE * slope) / (1 - SLOPE**2)
    q = SLOPE * p - slope
    if slope == SLOPE:  # p is 1 and q is 0
        return up, up_bias, down
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
        wide = leaky_form(
            block["ffn.up.weight"],
            block["ffn.up.bias"],
            block["ffn.down.weight"],
            source.config.negative_slope,
        )
        block["ffn.up.weight"], block["ffn.up.bias"], block["ffn.down.weight"] = wide
        for name, tensor in block.items():
            module, kind = name.rsplit(".", 1)
            tensors[f"transformer.h.{i}.{BLOCK[module]}.{kind}"] = (
                tensor.T.contiguous() if tensor.ndim == 2 else tensor
            )
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
    """The same tokenizer, which puts [BOS] before a text as llama.cpp does: a document of the training begins with it."""
    try:
        bpe = Tokenizer.from_str(json.dumps(files.read_json(path)))
    except Exception as error:  # tokenizers raise nothing narrower
        if isinstance(error, OSError):
            raise
        raise UserError(
            f"{path} is not a tokenizer ({error}): run `dvc repro tokenizer` to make it anew"
        ) from None
    if bpe.get_vocab_size() != shape.vocab_size:
        raise UserError(
            f"{path} has {bpe.get_vocab_size()} tokens, the checkpoint was trained with {shape.vocab_size}: run `dvc repro checkpoints`"
        )
    if any(bpe.token_to_id(name) != i for i, name in enumerate(SPECIAL)):
        needed = ", ".join(f"{name}={i}" for i, name in enumerate(SPECIAL))
        fix = "run `dvc repro tokenizer` to make it anew"
        raise UserError(f"{path} lacks the role tokens: it must have {needed}; {fix}")
    special = [("[BOS]", BOS)]
    bpe.post_processor = processors.TemplateProcessing(single="[BOS] $A", special_tokens=special)
    return bpe


def _generation_config(source: Source) -> dict[str, Any]:
    """A model that was tuned to chat and takes the user's turn has ended its own."""
    ends = EOS if source.chat is None else [EOS, USER]
    return {"bos_token_id": BOS, "eos_token_id": ends, "pad_token_id": PAD}


def _tokenizer_config(source: Source) -> dict[str, Any]:
    """With the chat template of a model that was tuned to chat. A template names its tokens, so
    there a text that says [EOS] is the token, and the template changes such texts of users.
    Elsewhere a text that says [EOS] stays a text.
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
