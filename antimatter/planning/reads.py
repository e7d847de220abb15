"""How much text and how many conversations a params.yaml reads, estimated before any stage runs."""

from dataclasses import dataclass
from pathlib import Path

from antimatter import params
from antimatter.chat.config import ConversationsConfig
from antimatter.data.shards.config import ShardsConfig
from antimatter.data.sources.config import RawConfig
from antimatter.data.tokenizer_config import TokenizerConfig

# Bytes of English text per token, by size of the vocabulary, measured on 285 MB of books in the
# formats of C4 and RefinedWeb (docs/log.md)
BYTES_PER_TOKEN = {8192: 3.90, 16384: 4.18, 50257: 4.47}
# Of a smaller vocabulary: that of the default run on its own text
FEWEST_BYTES = 3.7
# The share of C4's and RefinedWeb's text that `cleaned` keeps, which the seed of this project
# expects: 38 of 45 GB. Books kept 95% (docs/log.md)
KEPT = 38 / 45

# Bytes of text that `conversations` makes, from metrics/conversations/summary.json of the default
# run (3.7 bytes a token): of the persona for per_topic 1, and of the embedded corpus for weight 1
PERSONA = 271_000
EMBEDDED = {"dialogues": 6_800_000, "questions": 1_470_000, "grounded": 3_490_000}
# Conversations of a data set, and bytes of each. smol-smoltalk has 460,000 in 920 MB of parquet,
# which packs text to about half
HUB = {"HuggingFaceTB/smol-smoltalk": (460_000, 4_000)}
UNKNOWN = (0, 2_000)


@dataclass(frozen=True)
class Reads:
    """What the stages before the training read."""

    raw_bytes: float  # of text, from the hub or packages; 0: unknown, as with own files
    learn_bytes: float  # of it, that the tokenizer learns from
    conversation_bytes: float  # in one epoch of tuning
    hub_conversations: int  # to fetch
    bytes_per_token: float
    validation_fraction: float  # of the text

    @property
    def kept_bytes(self) -> float | None:
        """Of text to train on, each once; None: unknown."""
        return self.raw_bytes * KEPT or None

    @property
    def kept_tokens(self) -> float | None:
        """Of the shards; None: unknown."""
        kept = self.kept_bytes
        return None if kept is None else kept / self.bytes_per_token

    @property
    def conversation_tokens(self) -> float:
        """In one epoch of tuning."""
        return self.conversation_bytes / self.bytes_per_token


def read(path: Path) -> Reads:
    """From a params.yaml alone. Passages of own text are not in it, as their number is unknown.

    Raises:
        UserError: a section that cannot be read.
    """
    raw = params.read(RawConfig, "raw", path)
    tokenizer = params.read(TokenizerConfig, "tokenizer", path)
    conversations = params.read(ConversationsConfig, "conversations", path)
    raw_bytes = raw.hub.total_mb * 1e6 if raw.source == "hub" else 0.0
    persona = conversations.persona
    talk = PERSONA * persona.per_topic * persona.weight
    if raw.source == "embedded":
        weights = conversations.weights
        talk += sum(size * getattr(weights, name) for name, size in EMBEDDED.items())
    fetched = 0
    for one in conversations.hub:
        held, size = HUB.get(one.name, UNKNOWN)
        number = one.most or held
        fetched += number
        talk += number * size * one.weight
    return Reads(
        raw_bytes=raw_bytes,
        learn_bytes=min(tokenizer.train_mb * 1e6, raw_bytes * KEPT),
        conversation_bytes=talk,
        hub_conversations=fetched,
        bytes_per_token=BYTES_PER_TOKEN.get(tokenizer.vocab_size, FEWEST_BYTES),
        validation_fraction=params.read(ShardsConfig, "shards", path).validation_fraction,
    )
