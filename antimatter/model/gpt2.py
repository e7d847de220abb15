"""The network as the GPT-2 of Hugging Face's transformers, and back: config, names and weights.

Their GPT-2 is the same network except for the activation, which can be their "leaky_relu". They
store the matrices of its blocks as (in, out), ours are (out, in).
"""

# C channels, F hidden units of a feed-forward network in transformers: 4C, or 8C (leaky_form)
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from antimatter.errors import UserError
from antimatter.model.config import GPTConfig

WEIGHTS = "model.safetensors"
# The slope of their "leaky_relu", torch's default; a config.json cannot set another
SLOPE = 0.01
# A key of their config.json: what ours has and theirs has not. transformers keep it when they save
OWN = "antimatter"
EPSILON = 1e-5
_TOP = {
    "token_embedding.weight": "transformer.wte.weight",
    "position_embedding.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
}
_HEAD = {"head.weight": "lm_head.weight"}
_BLOCK = {
    "attn_norm": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.proj": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
}
# Keys of their config that must have these values, which are also transformers' defaults
_FIXED = {
    "layer_norm_epsilon": EPSILON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
_SHAPE = ("n_layer", "n_head", "n_embd", "vocab_size")
# Keys of ours under OWN
_OWN = ("negative_slope", "residual_scale", "seed")


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
    p, q = _factors(slope)
    wide = torch.cat([p * down.double(), q * down.double()], dim=1)
    return torch.cat([up, -up]), torch.cat([up_bias, -up_bias]), wide.to(down.dtype)


def narrow_form(
    up: Tensor, up_bias: Tensor, down: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The network that leaky_form() returned these matrices for.

    The last bit of a value of `down` may differ where two values become the same in leaky_form().

    Raises:
        UserError: they are of no such network, for example after more training.
    """
    if slope == SLOPE:
        return up, up_bias, down
    half = len(up) // 2
    p, _ = _factors(slope)
    nearest = (down[:, :half].double() / p).to(down.dtype)
    # Divided and rounded, a value may be the one beside that which was multiplied
    infinity = torch.full_like(nearest, torch.inf)
    narrow = nearest.clone()
    for candidate in (nearest.nextafter(infinity), nearest.nextafter(-infinity)):
        wide = leaky_form(up[:half], up_bias[:half], candidate, slope)[2]
        fits = (wide[:, :half] == down[:, :half]) & (wide[:, half:] == down[:, half:])
        narrow = torch.where(fits, candidate, narrow)
    again = leaky_form(up[:half], up_bias[:half], narrow, slope)
    if not all(map(torch.equal, again, (up, up_bias, down))):
        raise UserError(
            f"its feed-forward networks are not of a Leaky ReLU with slope {slope:g} any more: a "
            f"model that is trained elsewhere and read back needs `negative_slope: {SLOPE}`"
        )
    return up[:half], up_bias[:half], narrow


def _factors(slope: float) -> tuple[float, float]:
    """p and q of leaky_form()."""
    p = (1 - SLOPE * slope) / (1 - SLOPE**2)
    return p, SLOPE * p - slope


def to_state(read: Callable[[str], Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The weights by their names in GPT2LMHeadModel.

    Args:
        read: a tensor by its name in GPT.
    """
    tensors = {theirs: read(ours) for ours, theirs in _TOP.items()}
    if not config.tied_embeddings:
        tensors |= {theirs: read(ours) for ours, theirs in _HEAD.items()}
    for i in range(config.n_layer):
        block = {
            f"{module}.{kind}": read(f"blocks.{i}.{module}.{kind}")
            for module in _BLOCK
            for kind in ("weight", "bias")
        }
        rewritten = ("ffn.up.weight", "ffn.up.bias", "ffn.down.weight")
        up, up_bias, down = (block[name] for name in rewritten)
        block |= zip(rewritten, leaky_form(up, up_bias, down, config.negative_slope), strict=True)
        for name, tensor in block.items():
            module, kind = name.rsplit(".", 1)
            # (out, in) -> (in, out)
            theirs = tensor.T.contiguous() if tensor.ndim == 2 else tensor
            tensors[f"transformer.h.{i}.{_BLOCK[module]}.{kind}"] = theirs
    return tensors


def is_state(names: Mapping[str, Any]) -> bool:
    """Whether the weights have the names of GPT2LMHeadModel."""
    return any(name.startswith("transformer.") for name in names)


def from_state(tensors: Mapping[str, Tensor], config: GPTConfig) -> dict[str, Tensor]:
    """The weights by their names in GPT, in float32. What has no name there keeps its own.

    Raises:
        UserError: as narrow_form().
    """
    names = {theirs: ours for ours, theirs in (_TOP | _HEAD).items()}
    modules = {theirs: ours for ours, theirs in _BLOCK.items()}
    state: dict[str, Tensor] = {}
    for theirs, tensor in tensors.items():
        name = names.get(theirs, theirs)
        # A few programs save the tied head too
        if name == "head.weight" and config.tied_embeddings:
            continue
        if match := re.fullmatch(r"transformer\.h\.(\d+)\.(.+)\.(weight|bias)", theirs):
            name = f"blocks.{match[1]}.{modules.get(match[2], match[2])}.{match[3]}"
            # (in, out) -> (out, in)
            tensor = tensor.T.contiguous() if tensor.ndim == 2 else tensor
        state[name] = tensor.float()
    if config.negative_slope == SLOPE:
        return state
    for i in range(config.n_layer):
        parts = [f"blocks.{i}.ffn.{part}" for part in ("up.weight", "up.bias", "down.weight")]
        # weights.from_state names one that is missing
        if all(name in state for name in parts):
            up, up_bias, down = (state[name] for name in parts)
            if len(up) == 8 * config.n_embd:
                form = narrow_form(up, up_bias, down, config.negative_slope)
                state |= zip(parts, form, strict=True)
    return state


def to_config(config: GPTConfig, own: Mapping[str, Any]) -> dict[str, Any]:
    """The content of their config.json, without the ids of special tokens.

    Args:
        own: further keys of our config.json.
    """
    wide = 1 if config.negative_slope == SLOPE else 2
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": "float32",
        **{key: getattr(config, key) for key in _SHAPE},
        "n_positions": config.block_size,
        "n_inner": 4 * wide * config.n_embd,
        "activation_function": "leaky_relu",
        "layer_norm_epsilon": EPSILON,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), config.dropout),
        "tie_word_embeddings": config.tied_embeddings,
        OWN: {**{key: getattr(config, key) for key in _OWN}, **own},
    }


def from_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of our config.json for theirs.

    It may be of a folder that the export wrote, that transformers saved after more training, or of
    any GPT-2 that is the same network.

    Raises:
        UserError: it is of another network. The message names all that differs.
    """
    recorded = values.get(OWN, {})
    own = dict(recorded) if isinstance(recorded, Mapping) else {}
    slope = _slope(values, own.pop("negative_slope", SLOPE))
    different = [
        f"{key} is {values[key]!r:.60}, ours is {fixed!r}"
        for key, fixed in {"model_type": "gpt2", **_FIXED}.items()
        if values.get(key, fixed) != fixed
    ]
    activation = values.get("activation_function", "gelu_new")
    if slope is None:
        different.append(f"activation_function is {activation!r:.60}, ours is 'leaky_relu'")
    width = values.get("n_embd")
    if type(width) is int:
        # transformers take 4C where it is null
        hidden = values.get("n_inner") or 4 * width
        is_wide = activation == "leaky_relu" and slope != SLOPE
        expected = (8 if is_wide else 4) * width
        if hidden != expected:
            different.append(f"n_inner is {hidden!r:.60}, ours is {expected}")
    if different:
        raise UserError(f"it is another network: {'; '.join(different)}")
    provenance = own.pop("provenance", {})
    # transformers write this key when they save, perhaps after more training
    if "transformers_version" in values:
        provenance = {"initial": provenance} if provenance else {}
        own.pop("result", None)
    ours = {key: values[key] for key in _SHAPE if key in values}
    ours |= {"block_size": values["n_positions"]} if "n_positions" in values else {}
    ours |= {
        "negative_slope": slope,
        "dropout": values.get("resid_pdrop", 0.1),
        "tied_embeddings": values.get("tie_word_embeddings", True),
        "seed": 0,
        **own,
    }
    return ours | ({"provenance": provenance} if provenance else {})


def _slope(values: Mapping[str, Any], recorded: Any) -> float | None:
    """The negative slope, or None for another activation.

    Args:
        recorded: the slope before leaky_form().
    """
    activation = values.get("activation_function")
    if activation == "leaky_relu":
        return float(recorded) if isinstance(recorded, int | float) else SLOPE
    return 0.0 if activation == "relu" else None
