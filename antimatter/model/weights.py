"""Weights on disk: `final.safetensors`, and `config.json`: the shape, what made the model, and of
one that was tuned to chat, how a chat with it begins. Nothing here can execute code from a file.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from antimatter import files
from antimatter.errors import UserError
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT

FINAL = "final.safetensors"
CONFIG = "config.json"
PROVENANCE = "provenance"  # its key for what made the model
# Its key for how a chat begins; without it, the model is a base model, which continues text:
#   system: the system text of its tuning, "" if there was none
#   greeting: what to show before the first turn
#   starters: STARTERS texts that a user might begin with
CHAT = "chat"
STARTERS = 3
_MOST = 1 << 24  # layers, channels, tokens: more than any model has, and no product overflows


def save(
    model: GPT,
    folder: Path,
    made: Mapping[str, Any] | None = None,
    chat: Mapping[str, Any] | None = None,
) -> None:
    """Writes the weights in float32 and the config. The same weights give the same bytes.

    Args:
        made: what made them (provenance.of).
        chat: of a model that was tuned to chat, as CHAT says.

    Raises:
        ValueError: `chat` is not as CHAT says.
    """
    if chat is not None:
        _check_chat(chat)
    state = {}
    for name, tensor in model.state_dict().items():
        if not _is_tied_copy(model, name):
            state[name] = tensor.detach().cpu().float().contiguous()
    with files.replacing(folder / FINAL) as partial:
        save_file(state, partial)  # no metadata: two keys or more come out in random order
    config: dict[str, Any] = asdict(model.config)
    if made:
        config[PROVENANCE] = made
    if chat is not None:
        config[CHAT] = chat
    files.write_json(folder / CONFIG, config)


def load(folder: Path) -> GPT:
    """The model of a checkpoint folder, in float32 on the CPU, in eval mode.

    Raises:
        FileNotFoundError: config.json or the weights are missing.
        ValueError: one of them is damaged, or they do not fit each other.
    """
    try:
        config, _, _ = read_config(folder / CONFIG)
    except ValueError as error:
        raise UserError(f"{error}; run `dvc repro checkpoints` to make it anew") from None
    path = folder / FINAL
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `dvc repro checkpoints` to make it, or `dvc pull` to fetch it"
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}); run `dvc repro checkpoints` to make it anew"
        ) from None
    return from_state(state, config, str(path))


def read_config(path: Path) -> tuple[GPTConfig, dict[str, Any], dict[str, Any] | None]:
    """A config.json: the shape of the model; what made it, if that is told; and how a chat with it
    begins, or None for a base model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no config of a GPT.
    """
    values = files.read_json(path)
    try:
        if not isinstance(values, dict):
            raise UserError(f"it must hold an object, got {values!r:.60}")
        made = values.pop(PROVENANCE, {})
        if not isinstance(made, dict):
            raise UserError(f"{PROVENANCE} must be an object, got {made!r:.60}")
        chat = None
        if CHAT in values:
            chat = values.pop(CHAT)
            _check_chat(chat)
        return _config(values), made, chat
    except ValueError as error:
        raise UserError(f"{path} is not a model config: {error}") from None


def _check_chat(chat: Any) -> None:
    """Raises ValueError if it is not as CHAT says."""
    keys = ("system", "greeting", "starters")
    if not isinstance(chat, Mapping) or sorted(chat) != sorted(keys):
        raise UserError(f"{CHAT} must be an object of {', '.join(keys)}, got {chat!r:.60}")
    for key in ("system", "greeting"):
        if not isinstance(chat[key], str):
            raise UserError(f"{CHAT}.{key} must be a text, got {chat[key]!r:.60}")
    starters = chat["starters"]
    texts = starters if isinstance(starters, list | tuple) else []
    if len(texts) != STARTERS or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"{CHAT}.starters must be {STARTERS} texts, got {starters!r:.60}")


def _config(values: dict[str, Any]) -> GPTConfig:
    """Raises ValueError if a key is missing or unknown, or has a value of another type."""
    if "model_type" in values:
        raise UserError(
            f"model_type {values['model_type']!r:.60} is for Hugging Face's transformers, as "
            "`antimatter export --type hf` writes it; name the checkpoint that it was made of"
        )
    types = get_type_hints(GPTConfig)
    for key in [*types, *values]:
        if key not in values:
            raise UserError(f"{key} is missing")
        if key not in types:
            raise UserError(f"{key} is unknown")
        value, kind = values[key], types[key]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"{key} must be of type {kind.__name__}, got {value!r:.60}")
        if kind is int and key != "seed" and not 1 <= value <= _MOST:
            raise UserError(f"{key} must lie in [1, {_MOST:,}], got {value}")
    if not -(2**63) <= values["seed"] < 2**63:
        raise UserError(f"seed must have at most 64 bits, got {values['seed']}")
    return GPTConfig(**values)


def from_state(state: Mapping[str, Tensor], config: GPTConfig, origin: str) -> GPT:
    """A GPT with these weights, in eval mode.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape than the config asks for; the message names the first and `origin`.
    """
    if config.n_layer > len(state):
        # Not left to the comparison below, which would build all of them first
        counts = f"n_layer is {config.n_layer}, it has {len(state)} tensors"
        raise UserError(f"{origin} does not fit its config: {counts}")
    with torch.device("meta"):
        model = GPT(config)
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not _is_tied_copy(model, name)
    }
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            raise UserError(f"{origin} does not fit its config: tensor {name} is missing")
        if name not in expected:
            raise UserError(f"{origin} does not fit its config: tensor {name} is unknown")
        if state[name].shape != expected[name].shape:
            raise UserError(
                f"{origin} does not fit its config: {name} is {tuple(state[name].shape)}, the config asks for {tuple(expected[name].shape)}"
            )
    model.load_state_dict(state, strict=False, assign=True)
    if config.tied_embeddings:
        model.head.weight = model.token_embedding.weight  # assign=True broke the tie
    return model.requires_grad_(False).eval()


def _is_tied_copy(model: GPT, name: str) -> bool:
    return model.config.tied_embeddings and name == "head.weight"
