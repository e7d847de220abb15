"""The section `conversations` of params.yaml.

In a module without other imports, so that values are checked without importing datatrove.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any

from antimatter.data.sources.config import LIST, HubDataSet
from antimatter.errors import UserError
from antimatter.params import Count, Fraction, NonNegative, Positive, PositiveInt, Section, Within


@dataclass(frozen=True, kw_only=True)
class ConversationFiles(Section):
    pattern: str  # glob
    licence: str  # goes with each conversation
    weight: Positive  # relative to the other sources

    def validate(self) -> None:
        for name in ("pattern", "licence"):
            if not getattr(self, name):
                raise UserError(f"{name} must not be empty")


@dataclass(frozen=True, kw_only=True)
class ConversationHub(Section):
    name: str  # owner/name
    config: str  # the hub calls it subset; "default" if there is only one
    split: str
    revision: str  # the commit that fixes the bytes: 40 hexadecimal digits
    column: str  # holds a list of messages, as OpenAI or ShareGPT has them
    licence: str  # goes with each conversation
    weight: Positive  # relative to the other sources
    most: Count  # rows to fetch, the first of each lane of files; 0: all

    def validate(self) -> None:
        Messages.of(self)


@dataclass(frozen=True, kw_only=True)
class Messages(HubDataSet):
    """A data set whose documents are the JSON of lists of messages."""

    stage = "conversations"
    column_key = "column"
    holds = "a list of messages"
    instead = "take it out of conversations.hub"

    @classmethod
    def of(cls, config: ConversationHub) -> "Messages":
        """The values that a fetch depends on, so not the weight."""
        return cls(
            name=config.name,
            config=config.config,
            split=config.split,
            revision=config.revision,
            text_column=config.column,
            licence=config.licence,
            weight=1.0,
        )

    def accepts(self, dtype: str) -> bool:
        return dtype == LIST

    def text(self, value: Any) -> str | None:
        if not isinstance(value, list):
            return None
        # A message may have keys that formats does not read, such as a date
        return json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True)
class PersonaConfig(Section):
    file: str  # who the model is
    per_topic: PositiveInt  # conversations made of each topic
    weight: Positive
    facts: dict[str, str]  # about this training, by name; the file refers to them as {name}


@dataclass(frozen=True, kw_only=True)
class WeightConfig(Section):
    """The weights of conversations made from the embedded corpus. 0 leaves a kind out."""

    dialogues: NonNegative  # between people, from data/cleaned
    questions: NonNegative  # what a function does, from docstrings
    grounded: NonNegative  # about a text in the prompt, from docstrings


@dataclass(frozen=True, kw_only=True)
class PassagesConfig(Section):
    """Conversations made of texts that are no conversations: what a text says under a heading."""

    weight: NonNegative  # 0: none
    words: PositiveInt  # of an answer, at most
    prompts: tuple[str, ...]  # how a user asks; {title} is the heading

    def validate(self) -> None:
        for prompt in self.prompts:
            if "{title}" not in prompt:
                raise UserError(f"prompts must each hold {{title}}, got {prompt!r}")
        if self.weight and not self.prompts:
            raise UserError("prompts must hold at least one, such as '{title}', got none")


@dataclass(frozen=True, kw_only=True)
class ConversationsConfig(Section):
    """A weight is the number of copies in an epoch; at 0.25 one conversation in four is in it."""

    persona: PersonaConfig
    weights: WeightConfig
    passages: PassagesConfig
    files: tuple[ConversationFiles, ...]
    hub: tuple[ConversationHub, ...]
    system_share: Fraction  # of the conversations; these begin with the persona's system text
    held_out: Annotated[float, Within("(0, 1)")]  # of the groups, for evaluation
    # Jaccard, between a held-out conversation and one to train on
    max_similarity: Annotated[float, Within("(0, 1]")]
    seed: Count  # of the hashes that choose
