"""What a GGUF file tells people and the hub about its model: the keys `general.*` of the GGUF
specification, and what its training measured.
"""

from collections.abc import Sequence

import gguf

from antimatter.data.shards.reader import Shards
from antimatter.export.config import GGUFConfig
from antimatter.export.source import Source
from antimatter.pipeline.provenance import nearest

TAGS = ("antimatter", "text-generation")
# Of a model that was tuned to chat
CHAT = "conversational"


def tags(source: Source) -> list[str]:
    """As on the hub."""
    return [*TAGS, *([] if source.chat is None else [CHAT])]


def add(
    writer: gguf.GGUFWriter,
    source: Source,
    parameters: int,
    config: GGUFConfig,
    data_sets: Sequence[str],
) -> None:
    """Adds the keys.

    Args:
        parameters: of the model; the file has more, as its feed-forward networks are rewritten.
        data_sets: names of what it was pretrained on.
    """
    label = gguf.size_label(parameters, 0, 0, 0)
    writer.add_name(config.name)
    writer.add_basename(config.name)
    if source.chat is not None:
        writer.add_finetune("chat")
    writer.add_size_label(label)
    writer.add_license(config.license)
    writer.add_description(config.description or description(source, label))
    if config.url:
        writer.add_url(config.url)
    writer.add_languages(list(config.languages))
    writer.add_tags(tags(source))
    if data_sets:
        writer.add_dataset_count(len(data_sets))
    for number, name in enumerate(data_sets):
        writer.add_dataset_name(number, name)


def description(source: Source, size: str) -> str:
    """A sentence from what is recorded of the training."""
    result, before = source.result, source.result.get("initial", {})
    kind = "answers in conversations" if source.chat is not None else "continues text"
    text = f"A GPT of {size} parameters that {kind}"
    if source.chat is None and "tokens" in result:
        return f"{text}, trained on {result['tokens']:,} tokens of text."
    if "tokens" in result and "tokens" in before:
        trained = f"trained on {before['tokens']:,} tokens of text"
        return f"{text}, {trained} and tuned on {result['tokens']:,} tokens of conversations."
    return f"{text}."


def data_sets(source: Source, shards: Shards) -> list[str]:
    """The names of the sources of the shards, if the model was pretrained on these shards."""
    trained_on = nearest(source.provenance, "data", "shards")
    return shards.sources() if trained_on == shards.digests()["shards"] else []
