"""Conversations from all sources as files to tune on: what the stage `conversations` does.

Each conversation becomes pieces of at most one context; a hash of its group decides whether it is
held out, and what resembles a conversation of the training split more than `max_similarity` is
trained on. All that depends on the text alone, so any number of workers leaves the same bytes.
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
from antimatter.chat import held_out, packing, persona
from antimatter.chat.config import ConversationsConfig
from antimatter.chat.conversation import Conversation, problem
from antimatter.chat.persona import Persona
from antimatter.chat.template import Message, Role
from antimatter.data.cleaning import duplicates
from antimatter.data.cleaning.config import NearDuplicatesConfig
from antimatter.data.documents import CONVERSATION, SEPARATOR
from antimatter.data.shards.writer import resembles
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
    """A conversation that is cut, encoded and judged. It has no piece if every exchange is too long."""

    conversation: Conversation
    copies: int  # in an epoch
    candidate: bool  # for the held-out split
    sketch: np.ndarray  # (S,) uint8
    pieces: list[packing.Piece]


def facts(parameters: int, context: int, config: ConversationsConfig) -> dict[str, str]:
    """What a persona can say of the size and the training of its model."""
    unit, name = (1e9, "billion") if parameters >= 1e9 else (1e6, "million")
    return {
        "parameters": f"{parameters / unit:.2g} {name}",
        "context": f"{context} tokens",
        **config.persona.facts,
    }


def of_persona(config: ConversationsConfig, who: Persona) -> Iterator[Conversation]:
    yield from persona.conversations(who, config.persona.per_topic, config.seed)
    yield from persona.held_out(who)


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
        made_of: digests of what was read, for the index: so they reach the tuned model.

    Raises:
        ValueError: a conversation cannot be learnt from, or a split is empty.
    """
    folder.mkdir(parents=True)
    found = _prepare(sources, who, tokenizer, context, config, workers, folder / TABLE)
    withdrawn = _keep_to_held_out(found, config.max_similarity)
    words = Tokenizer.load(tokenizer)
    train = [
        piece.rendered
        for one in found
        if not one.candidate
        for piece in one.pieces
        for _ in range(one.copies)
    ]
    kept = [one for one in found if one.candidate and one.pieces]
    if not train or not kept:
        side = "to learn from" if not train else "held out"
        raise UserError(
            f"no conversation is {side}: give conversations.persona, weights, files or hub more, or change conversations.held_out ({config.held_out})"
        )
    splits = {"train": train, "held_out": [piece.rendered for one in kept for piece in one.pieces]}
    index: dict[str, Any] = {
        "vocab_size": words.vocab_size,
        "context": context,
        "chat": persona.known(who) | ({} if config.system_share else {"system": ""}),
        "made_of": dict(made_of),
        "files": {},
    }
    metrics: dict[str, Any] = {}
    for split, rendered in splits.items():
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
    held_out.write(folder / held_out.NAME, [one.conversation for one in kept])
    texts = [words.token_bytes(id).decode("latin-1") for id in range(words.vocab_size)]
    files.write_json(folder / "texts.json", texts)
    files.write_json(folder / "index.json", index)
    by_source = _by_source(found)
    return {**metrics, "look_alikes": withdrawn, "sources": by_source}


def _by_source(found: Sequence[Prepared]) -> dict[str, dict[str, int]]:
    """Figures of each source and kind, the source with the most tokens first. Openings, which
    conversations share, are not counted.
    """
    figures: dict[str, Counter[str]] = {}
    for one in found:
        kind = one.conversation.kind
        name = one.conversation.source + ("" if kind in ("open", "persona") else f" ({kind})")
        counts = figures.setdefault(name, Counter())
        counts["conversations"] += 1
        counts["held_out"] += one.candidate
        counts["too_long"] += not one.pieces
        for piece in one.pieces:
            if not one.candidate:
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
    work = partial(_prepared, tokenizer, context, config, system)
    chunks = (
        (chunk, source.weight) for source in sources for chunk in _chunks(source.conversations)
    )
    found: list[Prepared] = []
    with ExitStack() as held:
        apply = map if workers == 1 else held.enter_context(processes(workers)).map
        writer = held.enter_context(pq.ParquetWriter(table, _TABLE, compression="zstd"))
        for part in apply(work, chunks):
            found += part
            writer.write_table(_as_table([one.conversation for one in part]))
    return found


def _chunks(conversations: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    left = iter(conversations)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


_tokenizer = cache(Tokenizer.load)  # once a worker


def _prepared(
    tokenizer: Path,
    context: int,
    config: ConversationsConfig,
    system: str,
    chunk: tuple[Sequence[Conversation], float],
) -> list[Prepared]:
    words, found = _tokenizer(tokenizer), []
    for one in chunk[0]:
        if why := problem(one.messages):
            raise UserError(f"conversation {one.id} of {one.source}: {why}")
        group = one.group or " ".join(message.text for message in one.messages)
        candidate = one.held_out
        if candidate is None:
            candidate = share(f"{one.source} {group}", config.seed) < config.held_out
        messages, chosen = one.messages, share(one.id, config.seed + 1)
        if (
            system
            and not candidate
            and messages[0].role != "system"
            and chosen < config.system_share
        ):
            messages = (Message("system", system), *messages)
        more = dict(one.more)
        sketch = more.pop("sketch", None) or _sketch(one.messages)
        whole = int(chunk[1])
        copies = whole + (share(one.id, config.seed + 2) < chunk[1] - whole)
        found.append(
            Prepared(
                replace(one, group=group, more=more),
                copies,
                candidate,
                np.frombuffer(sketch, np.uint8),
                packing.pieces(messages, words, context + 1),
            )
        )
    return found


def share(text: str, seed: int) -> float:
    """A number in [0, 1) that is a text's own."""
    return xxhash.xxh3_64_intdigest(text, seed) / 2**64


def _sketch(messages: Sequence[Message]) -> bytes:
    """The low byte of each MinHash value of the words, as `cleaned` writes it for documents."""
    words = " ".join(message.text for message in messages).lower().split()
    return duplicates.signature(words, SHINGLES).astype(np.uint8).tobytes()


def _keep_to_held_out(found: list[Prepared], max_similarity: float) -> int:
    """Moves what resembles a conversation to learn from to the training split, with its group, until
    nothing does; how many were moved. What holds out phrasings of what it trains stays as it is.
    """
    movable = np.array([one.conversation.kind not in BY_PHRASING for one in found])
    candidate = np.array([one.candidate for one in found])
    width = max(len(one.sketch) for one in found)
    sketches = np.zeros((len(found), width), np.uint8)
    for row, one in enumerate(found):
        sketches[row, : len(one.sketch)] = one.sketch
    groups = np.array(
        [
            xxhash.xxh3_64_intdigest(f"{c.source} {c.group}")
            for c in (one.conversation for one in found)
        ],
        np.uint64,
    )
    others, moved = movable & ~candidate, 0
    while others.any():
        rows_of = np.flatnonzero(candidate & movable)
        close = resembles(sketches[rows_of], sketches[others], max_similarity)
        gone = np.isin(groups, groups[rows_of[close]]) & candidate & movable
        candidate[gone] = False
        others, moved = gone, moved + int(gone.sum())
    for row, one in enumerate(found):
        if one.candidate != candidate[row]:
            found[row] = replace(one, candidate=bool(candidate[row]))
    return moved


# ---- the table of all of them

_TABLE = pa.schema(
    [(name, pa.string()) for name in ("id", "source", "kind", "licence", "messages")]
)


def _as_table(conversations: Sequence[Conversation]) -> pa.Table:
    columns = [[getattr(one, name) for one in conversations] for name in _TABLE.names[:-1]]
    columns.append(
        [
            json.dumps(
                [{"role": m.role, "content": m.text} for m in one.messages], ensure_ascii=False
            )
            for one in conversations
        ]
    )
    return pa.Table.from_arrays(
        [pa.array(column, pa.string()) for column in columns], schema=_TABLE
    )
