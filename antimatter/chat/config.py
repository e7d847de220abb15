"""What params.yaml says of the conversations to tune on.

Apart from the code that it steers, so that values are checked without importing datatrove.
"""

import json
from dataclasses import dataclass
from typing import Any

from antimatter.data.sources.config import LIST, HubDataSet
from antimatter.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ConversationFiles:
    pattern: str  # glob
    licence: str  # goes with each conversation
    weight: float  # relative to the other sources

    def __post_init__(self) -> None:
        for name in ("pattern", "licence"):
            if not getattr(self, name):
                raise UserError(f"{name} must not be empty")
        _check_weight(self.weight)


@dataclass(frozen=True, kw_only=True)
class ConversationHub:
    name: str  # owner/name
    config: str  # the hub calls it subset; "default" where there is but one
    split: str
    revision: str  # the commit that fixes the bytes: 40 hexadecimal digits
    column: str  # holds a list of messages, as OpenAI or ShareGPT has them
    licence: str  # goes with each conversation
    weight: float  # relative to the other sources
    most: int  # rows to fetch, the first of each lane of files; 0: all

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"weight of {self.name} must exceed 0, got {self.weight}")
        if self.most < 0:
            raise UserError(f"most of {self.name} must be 0, for all, or more; got {self.most}")
        Messages.of(self)


@dataclass(frozen=True, kw_only=True)
class Messages(HubDataSet):
    """A data set whose documents are the JSON of lists of messages."""

    stage = "conversations"
    column_key = "column"
    holds = "list of messages"
    instead = "take it out of conversations.hub"

    @classmethod
    def of(cls, config: ConversationHub) -> "Messages":
        """What a fetch depends on; the weight is not part of it."""
        return cls(
            name=config.name,
            config=config.config,
            split=config.split,
            revision=config.revision,
            text_column=config.column,
            licence=config.licence,
            weight=1.0,
        )

    def takes(self, held: str) -> bool:
        return held == LIST

    def text(self, value: Any) -> str | None:
        if not isinstance(value, list):
            return None
        # A message may have more keys than those that formats reads, a date for instance
        return json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True)
class PersonaConfig:
    per_topic: int  # conversations made of each topic
    weight: float
    facts: dict[str, str]  # of this training, by name; the file has them as {name}

    def __post_init__(self) -> None:
        if self.per_topic < 1:
            raise UserError(f"per_topic must be at least 1, got {self.per_topic}")
        _check_weight(self.weight)


@dataclass(frozen=True, kw_only=True)
class WeightConfig:
    """Of conversations that are made of the embedded corpus. 0 leaves a kind out."""

    dialogues: float  # between people, from data/cleaned
    questions: float  # what a function does, from docstrings
    grounded: float  # on a text that stands in the prompt, from docstrings

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise UserError(f"{name} must not be negative, got {value}")


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig:
    """A weight is how often a conversation stands in an epoch; of 0.25 each fourth stands once."""

    persona: PersonaConfig
    weights: WeightConfig
    files: tuple[ConversationFiles, ...]
    hub: tuple[ConversationHub, ...]
    system_share: float  # of the conversations that begin with the persona's system text
    held_out: float  # of the groups, for evaluation
    max_similarity: float  # Jaccard, of a conversation that is held out and one that is not
    seed: int  # of the hashes that choose

    def __post_init__(self) -> None:
        if not 0 <= self.system_share <= 1:
            raise UserError(f"system_share must lie in [0, 1], got {self.system_share}")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out must lie between 0 and 1, got {self.held_out}")
        if not 0 < self.max_similarity <= 1:
            raise UserError(f"max_similarity must lie in (0, 1], got {self.max_similarity}")
        if self.seed < 0:
            raise UserError(f"seed must be at least 0, got {self.seed}")


def _check_weight(weight: float) -> None:
    if not weight > 0:
        raise UserError(f"weight must exceed 0, got {weight}")
