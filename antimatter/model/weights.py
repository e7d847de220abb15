"""Weights on disk: a folder with `final.safetensors` and `config.json`.

The config has the shape of the model, its provenance, and for a model that was tuned to chat, how a
chat with it begins. Neither format can execute code when it is read.

What reads such a folder also reads one for Hugging Face's transformers (antimatter/model/gpt2.py).
"""

import os
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
from antimatter.model import gpt2
from antimatter.model.config import EARLIER_VALUES, GPTConfig
from antimatter.model.gpt import GPT

FINAL = "final.safetensors"
CONFIG = "config.json"
# A key of the config: the provenance of the weights (pipeline.provenance)
PROVENANCE = "provenance"
# A key of the config: how a chat begins. A model without it is a base model, which continues text
#   system: the system text of its tuning, "" if there was none
#   greeting: the text to show before the first turn
#   starters: STARTERS texts with which a user might begin
CHAT = "chat"
STARTERS = 3
# A key of the config: what the training measured at its end
#   steps, tokens: read, also more than once
#   train_loss, validation_loss: nats per token, as in metrics/
#   initial: the same of the training that the weights began with, if there was one
RESULT = "result"
# The largest valid number of layers, channels or tokens: no model has more, and no product of two
# overflows
_MOST = 1 << 24


def save(
    model: GPT,
    folder: Path,
    provenance: Mapping[str, Any] | None = None,
    chat: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    """Writes the weights in float32 and the config. The same weights give the same bytes.

    Args:
        provenance: as provenance.of() returns it.
        chat: for a model that was tuned to chat: the keys under CHAT.
        result: the keys under RESULT.

    Raises:
        UserError: a key of `chat` is missing, unknown or of another type.
    """
    if chat is not None:
        _check_chat(chat)
    state = {}
    for name, tensor in model.state_dict().items():
        if not _is_tied_copy(model, name):
            state[name] = tensor.detach().cpu().float().contiguous()
    with files.replacing(folder / FINAL) as partial:
        # Without metadata: safetensors writes two or more keys of it in random order
        save_file(state, partial)
    config: dict[str, Any] = asdict(model.config)
    if provenance:
        config[PROVENANCE] = provenance
    if chat is not None:
        config[CHAT] = chat
    if result:
        config[RESULT] = result
    files.write_json(folder / CONFIG, config)


def path_of(folder: Path) -> Path:
    """The file with the weights, FINAL unless the folder is one for transformers."""
    theirs = folder / gpt2.WEIGHTS
    is_theirs = theirs.is_file() and not (folder / FINAL).exists()
    return theirs if is_theirs else folder / FINAL


def load(folder: Path) -> GPT:
    """The model of a checkpoint folder, in float32 on the CPU, in eval mode.

    Raises:
        UserError: one of the files is missing or damaged, or they do not fit each other.
    """
    fix = "run `dvc repro checkpoints` to write it again"
    config, _, _ = read_config(folder / CONFIG, fix)
    path = path_of(folder)
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `dvc repro checkpoints` to train it, or `dvc pull` to fetch it"
        )
    try:
        state = load_file(path)
    # safetensors calls an unreadable file a missing one
    except (OSError, SafetensorError) as error:
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} cannot be read: change its permissions") from None
        raise UserError(f"{path} is not a safetensors file ({error}): {fix}") from None
    return from_state(own_names(state, config, path), config, str(path))


def own_names(state: Mapping[str, Tensor], config: GPTConfig, path: Path) -> Mapping[str, Tensor]:
    """Weights by their names in GPT, whether they have these or those of transformers.

    Args:
        path: their name in error messages.

    Raises:
        UserError: they are those of another network.
    """
    if not gpt2.is_state(state):
        return state
    try:
        return gpt2.from_state(state, config)
    except UserError as error:
        raise UserError(f"{path} cannot be read back: {error}") from None


def read_config(
    path: Path, fix: str = ""
) -> tuple[GPTConfig, dict[str, Any], dict[str, Any] | None]:
    """Reads a config.json of ours, or of a GPT-2 for transformers.

    Args:
        fix: what the message of an error advises, if the caller knows how to write the file again.

    Returns:
        The shape of the model, its provenance ({} if it has none), and the keys under CHAT, or None
        for a base model.

    Raises:
        UserError: there is no such file, or it is not the config of a GPT.
    """
    values = files.read_json(path)
    try:
        if not isinstance(values, dict):
            raise UserError(f"it must be an object, got {values!r:.60}")
        if "model_type" in values:
            values = gpt2.from_config(values)
        provenance = values.pop(PROVENANCE, {})
        if not isinstance(provenance, dict):
            raise UserError(f"{PROVENANCE} must be an object, got {provenance!r:.60}")
        values.pop(RESULT, None)
        chat = None
        if CHAT in values:
            chat = values.pop(CHAT)
            _check_chat(chat)
        return _shape(values), provenance, chat
    except UserError as error:
        advice = f"; {fix}" if fix else ""
        raise UserError(f"{path} is not a model config: {error}{advice}") from None


def read_result(path: Path) -> dict[str, Any]:
    """The keys under RESULT of a config.json, {} if it has none. See read_config()."""
    values = files.read_json(path)
    if "model_type" in values:
        values = gpt2.from_config(values)
    result = values.get(RESULT)
    return result if isinstance(result, dict) else {}


def _check_chat(chat: Any) -> None:
    """Raises UserError if the keys under CHAT are not valid."""
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


def _shape(values: dict[str, Any]) -> GPTConfig:
    """Raises UserError if a key is missing or unknown, or has a value of another type."""
    types = get_type_hints(GPTConfig)
    values = EARLIER_VALUES | values
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

    Args:
        origin: the name of the weights in error messages.

    Raises:
        UserError: a tensor is missing, unknown or of another shape than in the config; the message
            names the first of them.
    """
    misfit = f"{origin} does not fit its config"
    # Checked before the model is built: n_layer may be huge
    if config.n_layer > len(state):
        raise UserError(f"{misfit}: n_layer is {config.n_layer}, it has {len(state)} tensors")
    with torch.device("meta"):
        model = GPT(config)
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not _is_tied_copy(model, name)
    }
    for name in sorted(expected.keys() | state.keys()):
        if name not in state:
            raise UserError(f"{misfit}: tensor {name} is missing")
        if name not in expected:
            raise UserError(f"{misfit}: tensor {name} is unknown")
        shape, expected_shape = tuple(state[name].shape), tuple(expected[name].shape)
        if shape != expected_shape:
            raise UserError(f"{misfit}: {name} is {shape}, the config asks for {expected_shape}")
    model.load_state_dict(state, strict=False, assign=True)
    # assign=True has broken the tie
    if config.tied_embeddings:
        model.head.weight = model.token_embedding.weight
    return model.requires_grad_(False).eval()


def _is_tied_copy(model: GPT, name: str) -> bool:
    return model.config.tied_embeddings and name == "head.weight"
