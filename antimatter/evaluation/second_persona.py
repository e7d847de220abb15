"""Another persona for a model that converses already, in a minute or two: `antimatter tune`.

The model goes on from its weights with the conversations of the new persona, and with others of
data/conversations, so that it does not forget what it could.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import xxhash

from antimatter import files, params
from antimatter.chat import collection, held_out, packing, persona
from antimatter.chat.config import ConversationsConfig
from antimatter.chat.persona import Persona
from antimatter.chat.template import Message, Rendered
from antimatter.data.special_tokens import ASSISTANT, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.evaluation.conversation import identity
from antimatter.model import weights
from antimatter.model.config import GPTConfig
from antimatter.model.gpt import GPT
from antimatter.training import tuning
from antimatter.training.config import TrainRuntime, TuneConfig
from antimatter.training.log import Curves
from antimatter.training.trainer import PackedData, Places, train

VALIDATION = 32  # rows
# Of the tokens, one in so many is of other conversations, so that the model does not forget them
OTHERS = 3
NEW_TOKENS = 64  # of an answer, at most
# Conversations of a topic, a fraction of those of the pipeline: the model can converse already.
# What
# the file trains more often than the rest says who it is, and that is what is new
PER_TOPIC = 12
OFTENER = 2


@dataclass(frozen=True, kw_only=True)
class SecondPersona:
    persona: Path  # the file
    initial: Path  # a checkpoint folder
    tokenizer: Path
    conversations: Path  # data/conversations
    output: Path  # a checkpoint folder
    epochs: float


def tune(asked: SecondPersona, say: Callable[[str], None]) -> tuple[int, int]:
    """Writes the tuned model; the held-out questions of identity that it answers right, of how many.

    Raises:
        ValueError, FileNotFoundError: a persona, a model or conversations that do not go together.
    """
    config = params.read(TuneConfig, "tuned")
    collected = params.read(ConversationsConfig, "conversations")
    runtime = replace(params.read(TrainRuntime, "runtime", part=True), devices=1)
    found = tuning.Conversations(asked.conversations)
    shape, made = weights.read_config(asked.initial / weights.CONFIG)[:2]
    tuning.check_start(asked.initial, shape, made, found)
    words = Tokenizer.load(asked.tokenizer)
    who = persona.read(
        asked.persona, collection.facts(parameters(shape), shape.block_size, collected)
    )
    own = _of_persona(who, words, shape.block_size, collected)
    most = sum(map(_own_tokens, own)) // OTHERS
    others = _others(asked.conversations, words, shape.block_size, most)
    tokens, marks = packing.pack([*own, *others], shape.block_size)
    data = found.data(config, end=EOS, role=ASSISTANT)
    data = PackedData(
        train=tokens,
        validation=np.asarray(data.validation[:VALIDATION]),
        train_marks=marks,
        validation_marks=np.asarray(data.validation_marks[:VALIDATION]),
        counts=np.bincount(tokens.ravel(), minlength=shape.vocab_size),
        decode=data.decode,
        question=data.question,
        emphasis=data.emphasis,
        end=EOS,
    )
    recipe, _ = tuning.recipe(replace(config, epochs=asked.epochs), made, len(tokens), runtime)
    say(
        f"{len(own):,} conversations of {asked.persona}, {len(others):,} others: {recipe.training.steps:,} steps"
    )
    model = weights.load(asked.initial)
    with TemporaryDirectory(prefix="antimatter-") as folder:
        work = Path(folder)
        names = ("training", "validation", "backtracks", "throughput")
        curves = Curves(*(work / f"{name}.csv" for name in names))
        train(model, data, recipe, Places(work, curves))
    known = {
        "initial": made,
        "data": {"persona": files.sha256(asked.persona)},
        "params": {"tuned": asdict(config)},
    }
    with files.replacing(asked.output) as partial:
        partial.mkdir()
        weights.save(model, partial, known, persona.known(who))
    asked_of = persona.held_out(who)
    return identity(model.eval(), words, asked_of, max_new_tokens=NEW_TOKENS, system=who.system)


def parameters(shape: GPTConfig) -> int:
    import torch

    with torch.device("meta"):
        return GPT(shape).n_parameters()


def _of_persona(
    who: Persona, words: Tokenizer, context: int, config: ConversationsConfig
) -> list[Rendered]:
    system = Message("system", who.system)
    often = {part: OFTENER * times for part, times in who.often.items()}
    found = []
    for one in persona.conversations(replace(who, often=often), PER_TOPIC, config.seed):
        chosen = collection.share(one.id, config.seed + 1) < config.system_share
        messages = (system, *one.messages) if chosen else one.messages
        found += [piece.rendered for piece in packing.pieces(messages, words, context + 1)]
    return found


def _own_tokens(conversation: Rendered) -> int:
    """Without those of the opening, which the conversations of a row share."""
    return len(conversation.ids) - packing.opening(conversation)


def _others(folder: Path, words: Tokenizer, context: int, most: int) -> list[Rendered]:
    """Conversations of no persona that the first tuning learnt from, of at most that many tokens."""
    unseen = {one.id for one in held_out.read(folder / held_out.NAME)}
    columns = ["id", "kind", "messages"]
    listed = [
        row
        for row in pq.read_table(folder / collection.TABLE, columns=columns).to_pylist()
        if row["kind"] != "persona" and row["id"] not in unseen
    ]
    listed.sort(key=lambda row: xxhash.xxh3_64_intdigest(row["id"]))
    found: list[Rendered] = []
    for row in listed:
        messages = [Message(one["role"], one["content"]) for one in json.loads(row["messages"])]
        for piece in packing.pieces(messages, words, context + 1):
            most -= _own_tokens(piece.rendered)
            found.append(piece.rendered)
        if most <= 0:
            break
    return found
