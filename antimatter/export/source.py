"""A checkpoint as the export reads it: tensor by tensor.

So the export of a model does not need as much memory as the model.
"""

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
from antimatter.model import gpt2, weights
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT

# The prefixes that DistributedDataParallel and torch.compile add to each name
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
# The keys under which training states hold the weights
_INSIDE = ("model", "state_dict", "model_state_dict")
# Of the pipeline, relative to the root of the project
TOKENIZER = Path("data/tokenizer/tokenizer.json")


@dataclass(frozen=True)
class Source:
    config: GPTConfig
    # A tensor by its name in GPT.state_dict(): float32, not to be changed
    read: Callable[[str], Tensor]
    origin: str  # for messages
    # From config.json, if recorded there
    provenance: dict[str, Any] = field(default_factory=dict)
    # How a chat with it begins (weights.CHAT); None for a base model, which continues text
    chat: dict[str, Any] | None = None
    # What the training measured at its end (weights.RESULT)
    result: dict[str, Any] = field(default_factory=dict)

    def load(self) -> GPT:
        """The whole model, in eval mode."""
        names = _tensor_names(self.config)
        return weights.from_state(
            {name: self.read(name) for name in names}, self.config, self.origin
        )


def open_checkpoint(path: Path, config: Path | None = None) -> Source:
    """Opens a checkpoint folder, a folder for transformers, a .safetensors file, or a file of
    torch.save.

    The last may hold a state dict of GPT or a training state with one inside. The file is
    memory-mapped, and opened again for each tensor, so that its pages leave memory together with
    the tensor. No code in a file is executed.

    Args:
        config: a config.json; by default the one beside the weights. Without one, the shapes of the
            model come from the weights, and the rest (heads, slope) from params.yaml.

    Raises:
        UserError: the file is missing or damaged, or is not a GPT of this project.
    """
    is_folder = path.is_dir()
    if is_folder:
        path = weights.path_of(path)
    beside = path.parent / weights.CONFIG
    if not path.is_file():
        if beside.is_file():
            # If the folder is another program's, this error says more than that a file is missing
            weights.read_config(beside)
        names = "a checkpoint folder, a .safetensors file or a .pt file"
        raise UserError(f"{path} is missing: name {names} (`dvc repro checkpoints` makes one)")
    if path.suffix == ".gguf":
        fix = "name the checkpoint that it was exported from"
        raise UserError(f"{path} is for llama.cpp, and torch cannot read it: {fix}")
    load = _load_safetensors if path.suffix == ".safetensors" else _load_torch
    state = load(path, None)
    # By the model's own names
    stored_names = {_WRAPPERS.sub("", name): name for name in state}
    shapes = {name: tuple(state[stored].shape) for name, stored in stored_names.items()}
    provenance: dict[str, Any] = {}
    chat: dict[str, Any] | None = None
    result: dict[str, Any] = {}
    # A folder without its config would become a model without its chat, with guessed heads
    if config or beside.is_file() or is_folder:
        shape, provenance, chat = weights.read_config(config or beside)
        result = weights.read_result(config or beside)
    else:
        shape = _from_shapes(shapes, _is_tied(state, stored_names), path)
    if gpt2.is_state(state):
        model = weights.from_state(weights.own_names(state, shape, path), shape, str(path))
        return Source(shape, model.state_dict().__getitem__, str(path), provenance, chat, result)
    _check_shapes(shapes, shape, path)
    del state

    def read(name: str) -> Tensor:
        stored = stored_names[name]
        return load(path, stored)[stored].float()

    return Source(shape, read, str(path), provenance, chat, result)


def find_tokenizer(checkpoint: Path) -> Path:
    """The tokenizer.json of a checkpoint: in its own folder, where a folder for transformers has
    it, or else in data/tokenizer of the nearest folder above it, or else of the current one.

    Raises:
        UserError: there is none.
    """
    folder = checkpoint.absolute() if checkpoint.is_dir() else checkpoint.absolute().parent
    candidates = [folder / TOKENIZER.name]
    candidates += [parent / TOKENIZER for parent in (*folder.parents, Path.cwd())]
    for path in candidates:
        if path.is_file():
            return path
    fix = "name its tokenizer.json, or the folder of that"
    raise UserError(f"neither {folder} nor a folder above it has {TOKENIZER}: {fix}")


def _load_safetensors(path: Path, only: str | None) -> dict[str, Tensor]:
    """All tensors, or `only` the one of that name."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in ([only] if only else file.keys())}
    except SafetensorError as error:
        fix = "is it complete? `dvc repro checkpoints` makes one"
        raise UserError(f"{path} is not a safetensors file ({error}): {fix}") from None


def _load_torch(path: Path, only: str | None) -> dict[str, Tensor]:
    """All tensors: none is in memory before it is used, so `only` does not matter."""
    mmap = zipfile.is_zipfile(path)  # torch before 1.6 wrote another format
    try:
        # torch's warnings repeat what the errors below say
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    # The message of torch has dozens of lines. A text is a pickle of any fault
    except Exception as error:
        # A file of torch before 1.6 begins like any other pickle, with its protocol
        is_pickle = mmap or _begin(path) == b"\x80"
        if isinstance(error, pickle.UnpicklingError) and is_pickle:
            fault = "holds Python objects, and those could run code"
            fix = "save `model.state_dict()` instead of the model"
            raise UserError(f"{path} {fault}: {fix}") from None
        if isinstance(error, MemoryError):
            raise
        fix = "name a checkpoint folder, a .safetensors or a .pt file"
        raise UserError(f"{path} is damaged, or was not written by torch.save: {fix}") from None
    for name in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    is_state = isinstance(content, Mapping) and all(map(_is_named_tensor, content.items()))
    if not is_state or not content:
        what = _describe(content)
        fix = "save `model.state_dict()`"
        raise UserError(f"{path} holds {what}, not the state dict of a GPT: {fix}")
    return dict(content)


def _begin(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1)


def _is_named_tensor(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    # A sparse tensor has no storage to map
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def _describe(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict of {', '.join(map(str, list(content)[:5]))}" if content else "an empty dict"
    return f"a {type(content).__name__}"


def _is_tied(state: Mapping[str, Tensor], stored_names: Mapping[str, str]) -> bool:
    """A state dict holds a tied head under two names, a file of ours under one."""
    head, embedding = (stored_names.get(name) for name in ("head.weight", "token_embedding.weight"))
    if head is None:
        return True
    return embedding is not None and torch.equal(state[head], state[embedding])


def _from_shapes(shapes: Mapping[str, tuple[int, ...]], tied: bool, path: Path) -> GPTConfig:
    """The config from the shapes of the weights, completed by params.yaml."""
    fix = "put its config.json beside it, or name one with --config"
    try:
        vocab_size, n_embd = shapes["token_embedding.weight"]
        block_size, _ = shapes["position_embedding.weight"]
    except (KeyError, ValueError):
        content = ", ".join(list(shapes)[:5]) or "nothing"
        raise UserError(
            f"{path} is not the state dict of a GPT of this project: it holds {content}"
        ) from None
    layers = {match[1] for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    if not params.PARAMS.is_file():
        absent = f"does not tell n_head and negative_slope, and there is no {params.PARAMS} here"
        raise UserError(f"{path} {absent}: {fix}")
    assumed = asdict(params.read(ModelConfig, "model"))
    known = {
        "vocab_size": vocab_size,
        "n_embd": n_embd,
        "block_size": block_size,
        "n_layer": len(layers),
        "tied_embeddings": tied,
    }
    try:
        return GPTConfig(**(assumed | known))
    except UserError as error:
        raise UserError(f"{path} does not fit `model:` in params.yaml ({error}): {fix}") from None


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], config: GPTConfig, path: Path) -> None:
    """Raises UserError if a tensor is missing, unknown or of another shape."""
    state = {
        name: torch.empty(shape, device="meta")
        for name, shape in shapes.items()
        if not _is_tied_copy(name, config)
    }
    weights.from_state(state, config, str(path))


def _tensor_names(config: GPTConfig) -> list[str]:
    with torch.device("meta"):
        return [name for name in GPT(config).state_dict() if not _is_tied_copy(name, config)]


def _is_tied_copy(name: str, config: GPTConfig) -> bool:
    return config.tied_embeddings and name == "head.weight"
