"""Conversations from all sources as files to tune on: the work of the stage `conversations`.

Each conversation becomes pieces of at most one context. A hash of its group decides whether it is
held out; a conversation that resembles one of the training split more than `max_similarity` moves
to that split. All this depends on the texts alone, so any number of workers writes the same bytes.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from antimatter import files
from antimatter.chat import held_out, packing, persona_conversations
from antimatter.chat.config import ConversationsConfig
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.persona import Persona
from antimatter.chat.template import Message, Rendered, Role
from antimatter.data.cleaning import duplicates
from antimatter.data.cleaning.config import NearDuplicatesConfig
from antimatter.data.documents import CONVERSATION, SEPARATOR
from antimatter.data.shards.split import resembles
from antimatter.data.special_tokens import COUNTS, PAD
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.tasks.workers import processes

CHUNK = 500  # conversations that a worker takes at a time
TABLE = "conversations.parquet"  # all of them with source and licence, to look at
# Short texts share few long runs of words; the sketches are as long as those of `cleaned`
SHINGLES = NearDuplicatesConfig(enabled=True, ngram=3, bands=20, rows=6, seed=1)
# Kinds that are trained and held out by phrasing: the rest of such conversations is alike
BY_PHRASING = ("persona", "recall")
TURNS: tuple[Role, Role] = ("user", "assistant")


@dataclass(frozen=True)
class Weighted:
    """A source: its conversations, and how often each counts."""

    conversations: Iterable[Conversation]
    weight: float


@dataclass(frozen=True)
class Prepared:
    """A conversation in pieces of tokens. It has no piece if every exchange is too long."""

    conversation: Conversation
    copies: int  # in an epoch
    is_held_out: bool
    sketch: np.ndarray  # (S,) uint8
    pieces: list[packing.Piece]


def facts(parameters: int, context: int, config: ConversationsConfig) -> dict[str, str]:
    """The facts for the persona about the size and the training of its model."""
    unit, name = (1e9, "billion") if parameters >= 1e9 else (1e6, "million")
    return {
        "parameters": f"{parameters / unit:.2g} {name}",
        "context": f"{context} tokens",
        **config.persona.facts,
    }


def of_persona(config: ConversationsConfig, who: Persona) -> Iterator[Conversation]:
    yield from persona_conversations.for_training(who, config.persona.per_topic, config.seed)
    yield from persona_conversations.for_evaluation(who)


def of_corpus(cleaned: Path, is_candidate: Callable[[str], bool]) -> Iterator[Conversation]:
    """The conversations among the cleaned documents, split as `shards` splits them: the base model
    has read the training side.

    Args:
        is_candidate: whether a text is for validation there.
    """
    columns = ["id", "text", "source", "licence", "kind", "sketch"]
    for path in sorted(cleaned.glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(1000, columns=columns):
            for row in batch.to_pylist():
                if row["kind"] != CONVERSATION:
                    continue
                turns = row["text"].split(SEPARATOR)
                messages = [Message(TURNS[i % 2], turn) for i, turn in enumerate(turns)]
                yield Conversation(
                    id=row["id"],
                    source=row["source"],
                    kind="open",
                    messages=tuple(messages),
                    licence=row["licence"],
                    group=row["id"],
                    held_out=is_candidate(row["text"]),
                    more={"sketch": row["sketch"]},
                )


def write(
    sources: Sequence[Weighted],
    who: Persona,
    tokenizer: Path,
    context: int,
    config: ConversationsConfig,
    folder: Path,
    workers: int,
    made_of: Mapping[str, str],
) -> dict[str, Any]:
    """Writes the files of data/conversations to `folder`; returns the metrics.

    Args:
        context: tokens that the model reads.
        made_of: digests of the inputs, for the index: through it they reach the tuned model.

    Raises:
        UserError: a conversation cannot be learnt from, or a split is empty.
    """
    folder.mkdir(parents=True)
    prepared = _prepare(sources, who, tokenizer, context, config, workers, folder / TABLE)
    moved = _move_look_alikes(prepared, config.max_similarity)
    words = Tokenizer.load(tokenizer)
    index: dict[str, Any] = {
        "vocab_size": words.vocab_size,
        "context": context,
        "chat": who.chat_settings() | ({} if config.system_share else {"system": ""}),
        "made_of": dict(made_of),
        "files": {},
    }
    metrics: dict[str, Any] = {}
    for split, rendered in _splits(prepared, config).items():
        ids, marks = packing.pack(rendered, context)
        for name, array in ((f"{split}_tokens.npy", ids), (f"{split}_marks.npy", marks)):
            np.save(folder / name, array)
            index["files"][name] = {"rows": len(array), "sha256": files.sha256(folder / name)}
        tokens = int((ids != PAD).sum())
        metrics[split] = {
            "rows": len(ids),
            "tokens": tokens,
            "answer_tokens": int((marks & COUNTS > 0).sum()),
            "filled": tokens / ids.size,
        }
    unseen = [one.conversation for one in prepared if one.is_held_out and one.pieces]
    held_out.write(folder / held_out.NAME, unseen)
    # A token may hold part of a character; latin-1 maps any bytes to text and back
    texts = [words.token_bytes(id).decode("latin-1") for id in range(words.vocab_size)]
    files.write_json(folder / "texts.json", texts)
    files.write_json(folder / "index.json", index)
    return {**metrics, "look_alikes": moved, "sources": _by_source(prepared)}


def _splits(
    prepared: Sequence[Prepared],
    config: ConversationsConfig,
) -> dict[str, list[Rendered]]:
    train: list[Rendered] = []
    unseen: list[Rendered] = []
    for one in prepared:
        for piece in one.pieces:
            if one.is_held_out:
                unseen.append(piece.rendered)
            else:
                train += [piece.rendered] * one.copies
    if not train or not unseen:
        side = "held out" if train else "to learn from"
        raise UserError(
            f"no conversation is {side}: give conversations.persona, weights, files or hub more, "
            f"or change conversations.held_out ({config.held_out})"
        )
    return {"train": train, "held_out": unseen}


def _by_source(prepared: Sequence[Prepared]) -> dict[str, dict[str, int]]:
    """Figures of each source and kind, the source with the most tokens first. Openings, which
    conversations share, are not counted.
    """
    figures: dict[str, Counter[str]] = {}
    for one in prepared:
        kind = one.conversation.kind
        name = one.conversation.source + ("" if kind in ("open", "persona") else f" ({kind})")
        counts = figures.setdefault(name, Counter())
        counts["conversations"] += 1
        counts["held_out"] += one.is_held_out
        counts["too_long"] += not one.pieces
        for piece in one.pieces:
            if not one.is_held_out:
                own = len(piece.rendered.ids) - packing.opening(piece.rendered)
                counts["tokens"] += one.copies * own
                counts["answer_tokens"] += one.copies * sum(piece.rendered.mask)
    names = ("conversations", "held_out", "too_long", "tokens", "answer_tokens")
    ordered = sorted(figures, key=lambda name: (-figures[name]["tokens"], name))
    return {name: {key: figures[name][key] for key in names} for name in ordered}


# ---- one conversation


def _prepare(
    sources: Sequence[Weighted],
    who: Persona,
    tokenizer: Path,
    context: int,
    config: ConversationsConfig,
    workers: int,
    table: Path,
) -> list[Prepared]:
    system = who.system if config.system_share else ""
    work = partial(_prepare_chunk, tokenizer, context, config, system)
    chunks = (
        (chunk, source.weight) for source in sources for chunk in _chunks(source.conversations)
    )
    prepared: list[Prepared] = []
    with ExitStack() as stack:
        apply = map if workers == 1 else stack.enter_context(processes(workers)).map
        writer = stack.enter_context(pq.ParquetWriter(table, _TABLE, compression="zstd"))
        for part in apply(work, chunks):
            prepared += part
            writer.write_table(_as_table([one.conversation for one in part]))
    return prepared


def _chunks(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    remaining = iter(conversations)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


# Once in each worker process
_tokenizer = cache(Tokenizer.load)


def _prepare_chunk(
    tokenizer: Path,
    context: int,
    config: ConversationsConfig,
    system: str,
    chunk: tuple[Sequence[Conversation], float],
) -> list[Prepared]:
    words = _tokenizer(tokenizer)
    conversations, weight = chunk
    return [_prepared(one, weight, words, context, config, system) for one in conversations]


def _prepared(
    conversation: Conversation,
    weight: float,
    words: Tokenizer,
    context: int,
    config: ConversationsConfig,
    system: str,
) -> Prepared:
    id, source, messages = conversation.id, conversation.source, conversation.messages
    if fault := problem(messages):
        raise UserError(f"conversation {id} of {source}: {fault}")
    group = conversation.group or " ".join(message.text for message in messages)
    is_held_out = conversation.held_out
    if is_held_out is None:
        is_held_out = share(f"{source} {group}", config.seed) < config.held_out
    more = dict(conversation.more)
    # Conversations of the corpus have the sketches of `cleaned`
    sketch = more.pop("sketch", None) or _sketch(messages)
    # Another seed for each choice makes them independent
    can_open = system and not is_held_out and messages[0].role != "system"
    if can_open and share(id, config.seed + 1) < config.system_share:
        messages = (Message("system", system), *messages)
    whole = int(weight)
    return Prepared(
        replace(conversation, group=group, more=more),
        # Of a weight of 2.5, two copies or three
        whole + (share(id, config.seed + 2) < weight - whole),
        is_held_out,
        np.frombuffer(sketch, np.uint8),
        packing.pieces(messages, words, context + 1),
    )


def share(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on a text and a seed alone."""
    return xxhash.xxh3_64_intdigest(text, seed) / 2**64


def _sketch(messages: Sequence[Message]) -> bytes:
    """The low byte of each MinHash value of the words, as `cleaned` writes it for documents."""
    words = " ".join(message.text for message in messages).lower().split()
    return duplicates.signature(words, SHINGLES).astype(np.uint8).tobytes()


def _move_look_alikes(prepared: list[Prepared], max_similarity: float) -> int:
    """Moves each held-out conversation that resembles one of the training split to that split, with
    its group, until none does; returns how many were moved. Kinds that hold out phrasings of what
    they train stay unchanged.
    """
    movable = np.array([one.conversation.kind not in BY_PHRASING for one in prepared])
    is_held_out = np.array([one.is_held_out for one in prepared])
    width = max(len(one.sketch) for one in prepared)
    sketches = np.zeros((len(prepared), width), np.uint8)
    for row, one in enumerate(prepared):
        sketches[row, : len(one.sketch)] = one.sketch
    names = (f"{one.conversation.source} {one.conversation.group}" for one in prepared)
    groups = np.array([xxhash.xxh3_64_intdigest(name) for name in names], np.uint64)
    # What moves may resemble a conversation that was kept, so it is compared in the next round
    others, moved = movable & ~is_held_out, 0
    while others.any():
        rows = np.flatnonzero(is_held_out & movable)
        close = resembles(sketches[rows], sketches[others], max_similarity)
        others = np.isin(groups, groups[rows[close]]) & is_held_out & movable
        is_held_out[others] = False
        moved += int(others.sum())
    for row, one in enumerate(prepared):
        if one.is_held_out != is_held_out[row]:
            prepared[row] = replace(one, is_held_out=bool(is_held_out[row]))
    return moved


# ---- the table of all of them

_TABLE = pa.schema(
    [(name, pa.string()) for name in ("id", "source", "kind", "licence", "messages")]
)


def _as_table(conversations: Sequence[Conversation]) -> pa.Table:
    columns = [[getattr(one, name) for one in conversations] for name in _TABLE.names[:-1]]
    columns.append([_as_json(one.messages) for one in conversations])
    return pa.Table.from_arrays(
        [pa.array(column, pa.string()) for column in columns], schema=_TABLE
    )


def _as_json(messages: Sequence[Message]) -> str:
    listed = [{"role": message.role, "content": message.text} for message in messages]
    return json.dumps(listed, ensure_ascii=False)
