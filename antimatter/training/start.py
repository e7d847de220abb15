"""The weights that a training starts from, where params.yaml names some (`initial`).

DVC tracks the name of their folder, not its content, so their digest is part of the identity of a
run, and of the provenance of its result.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from antimatter import files
from antimatter.data.sources.paths import located
from antimatter.errors import UserError
from antimatter.model import weights
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.gpt import GPT
from antimatter.pipeline import provenance

# Keys of `model:` that may differ from those of the weights, which are not drawn
FREE = ("seed", "residual_scale", "dropout")


@dataclass(frozen=True)
class Start:
    """A checkpoint folder, or a folder for transformers."""

    folder: Path
    shape: GPTConfig
    provenance: dict[str, Any]
    # What their training measured (weights.RESULT)
    result: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, key: str) -> "Start":
        """
        Args:
            name: the folder, relative to this one or to the main repository.
            key: in params.yaml, for errors.

        Raises:
            UserError: there is no such folder, or no model in it.
        """
        folder = located(name)
        fix = f"correct {key}"
        if not weights.path_of(folder).is_file():
            raise UserError(f"{key}: {name} is no folder of a model: {fix}")
        config = folder / weights.CONFIG
        shape, recorded, _ = weights.read_config(config, fix)
        return cls(folder, shape, recorded, weights.read_result(config))

    @property
    def tokenizer(self) -> str | None:
        """The digest of the tokenizer that they were trained with, if it is recorded."""
        digest: str | None = provenance.nearest(self.provenance, "data", "tokenizer")
        return digest

    def sha256(self) -> str:
        return files.sha256(weights.path_of(self.folder))

    def load(self, shape: GPTConfig) -> GPT:
        """The model, with the keys FREE of `shape`."""
        state = weights.load(self.folder).state_dict()
        if shape.tied_embeddings:
            del state["head.weight"]
        return weights.from_state(state, shape, str(self.folder))


def of_pretraining(name: str, model: ModelConfig) -> Start:
    """The weights that `checkpoints.initial` names, for the network of `model:`.

    Raises:
        UserError: there are none, or they are of another network.
    """
    start = Start.of(name, "checkpoints.initial")
    theirs = asdict(start.shape)
    different = [
        f"{key} {theirs[key]} (params.yaml: {value})"
        for key, value in asdict(model).items()
        if theirs[key] != value and key not in FREE
    ]
    if different:
        fix = "write its values under `model:`, or correct checkpoints.initial"
        raise UserError(f"{name} is a model with {', '.join(different)}: {fix}")
    return start


def check_vocabulary(start: Start, vocab_size: int, tokenizer: str | None) -> None:
    """
    Args:
        vocab_size: of the shards.
        tokenizer: the digest of the tokenizer that made the shards, if it is recorded.

    Raises:
        UserError: the weights have another vocabulary.
    """
    is_other = start.tokenizer and tokenizer and start.tokenizer != tokenizer
    if is_other or start.shape.vocab_size != vocab_size:
        sizes = f"{start.shape.vocab_size:,} tokens, the shards {vocab_size:,}"
        raise UserError(
            f"{start.folder} was trained with another vocabulary; it has {sizes}: name the folder "
            "of its tokenizer in tokenizer.initial, so that none is trained"
        )
