"""A checkpoint as the export reads it: tensor by tensor, so that a model larger than memory becomes a file too."""

# C channels, V vocabulary
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from antimatter import params
from antimatter.errors import UserError
from antimatter.model import weights
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT

# What DistributedDataParallel and torch.compile put before each name
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
# Where training states keep the weights among other things
_INSIDE = ("model", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class Source:
    config: GPTConfig
    # A tensor by its name in GPT.state_dict(), float32, not to be changed
    read: Callable[[str], Tensor]
    origin: str  # as messages call it
    # What made it, if its config.json tells
    provenance: dict[str, Any] = field(default_factory=dict)
    # How a chat with it begins (weights.CHAT); None: a base model, which continues text
    chat: dict[str, Any] | None = None

    def load(self) -> GPT:
        """The whole model, in eval mode."""
        return weights.from_state(
            {name: self.read(name) for name in _expected(self.config)}, self.config, self.origin
        )


def of_model(model: GPT) -> Source:
    state = model.state_dict()
    return Source(model.config, lambda name: state[name].detach().float(), "the model")


def open_checkpoint(path: Path, config: Path | None = None) -> Source:
    """A checkpoint folder, a .safetensors file, or what torch.save wrote: a state dict of GPT, alone or inside a training state.

    The file is opened anew for each tensor, and memory-mapped: so its pages leave memory with the tensor. Nothing in a file is executed.

    Args:
        config: a config.json. By default the one beside the weights; without one, shapes come from the weights, and what shapes do not tell (heads,
            slope) from params.yaml.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or not a GPT of ours.
    """
    if path.is_dir():
        path = path / weights.FINAL
    if not path.is_file():
        if (path.parent / weights.CONFIG).is_file():
            # Of another program's folder this says more than that a file is missing
            weights.read_config(path.parent / weights.CONFIG)
        raise FileNotFoundError(
            f"{path} is missing: name a checkpoint folder, a .safetensors file or a .pt file (`dvc repro checkpoints` makes one)"
        )
    everything = _safetensors if path.suffix == ".safetensors" else _torch_file
    state = everything(path, None)
    names = {_WRAPPERS.sub("", name): name for name in state}
    shapes = {name: tuple(state[stored].shape) for name, stored in names.items()}
    beside = path.parent / weights.CONFIG
    told = config or (beside if beside.is_file() else None)
    if told:
        shape, made, chat = weights.read_config(told)
    else:
        shape, made, chat = _from_shapes(shapes, _is_tied(state, names), path), {}, None
    _check(shapes, shape, path)
    del state

    def read(name: str) -> Tensor:
        return everything(path, names[name])[names[name]].float()

    return Source(shape, read, str(path), made, chat)


def _safetensors(path: Path, only: str | None) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in ([only] if only else file.keys())}
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}): is it whole? `dvc repro checkpoints` makes one anew"
        ) from None


def _torch_file(path: Path, only: str | None) -> dict[str, Tensor]:
    mmap = zipfile.is_zipfile(path)  # not the format before torch 1.6
    try:
        with warnings.catch_warnings(action="ignore"):  # about what the errors below say better
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:  # torch's own words for it fill a screen
        raise UserError(
            f"{path} holds Python objects, and those could run code: save `model.state_dict()` instead of the model"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError):
        raise UserError(
            f"{path} is damaged, or torch.save did not write it: name a checkpoint folder, a .safetensors or a .pt file"
        ) from None
    for name in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(map(_is_named_tensor, found.items())):
        raise UserError(
            f"{path} holds {_what(found)}, not the state dict of a GPT: save `model.state_dict()`"
        )
    return dict(found)


def _is_named_tensor(pair: tuple[Any, Any]) -> bool:
    return isinstance(pair[0], str) and isinstance(pair[1], Tensor)


def _what(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dict of {', '.join(map(str, list(found)[:5]))}" if found else "an empty dict"
    return f"a {type(found).__name__}"


def _is_tied(state: Mapping[str, Tensor], names: Mapping[str, str]) -> bool:
    """A state dict holds a tied head under two names, a file of ours under one."""
    return "head.weight" not in names or (
        "token_embedding.weight" in names
        and torch.equal(state[names["head.weight"]], state[names["token_embedding.weight"]])
    )


def _from_shapes(shapes: Mapping[str, tuple[int, ...]], tied: bool, path: Path) -> GPTConfig:
    try:
        (vocab_size, n_embd), (block_size, _) = (
            shapes["token_embedding.weight"],
            shapes["position_embedding.weight"],
        )
    except (KeyError, ValueError):
        raise UserError(
            f"{path} is not the state dict of a GPT of ours: it holds {', '.join(list(shapes)[:5]) or 'nothing'}"
        ) from None
    layers = {int(found[1]) for name in shapes if (found := re.match(r"blocks\.(\d+)\.", name))}
    try:
        assumed = asdict(params.read(ModelConfig, "model"))
    except FileNotFoundError:
        absent = f"does not tell n_head and negative_slope, and there is no {params.PARAMS} here"
        fix = "put its config.json beside it, or name one with --config"
        raise UserError(f"{path} {absent}: {fix}") from None
    known = {
        "vocab_size": vocab_size,
        "n_embd": n_embd,
        "block_size": block_size,
        "n_layer": len(layers),
        "tied_embeddings": tied,
    }
    try:
        return GPTConfig(**(assumed | known))
    except ValueError as error:
        raise UserError(
            f"{path} does not fit `model:` in params.yaml ({error}): put its config.json beside it, or name one with --config"
        ) from None


def _check(shapes: Mapping[str, tuple[int, ...]], config: GPTConfig, path: Path) -> None:
    found = {
        name: shape
        for name, shape in shapes.items()
        if not (config.tied_embeddings and name == "head.weight")
    }
    weights.from_state(
        {name: torch.empty(shape, device="meta") for name, shape in found.items()},
        config,
        str(path),
    )


def _expected(config: GPTConfig) -> list[str]:
    with torch.device("meta"):
        return [
            name
            for name in GPT(config).state_dict()
            if not (config.tied_embeddings and name == "head.weight")
        ]
