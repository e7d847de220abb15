"""A new persona for a model that converses already, in a minute or two: `antimatter tune`.

Training continues from the weights of the model, on the conversations of the new persona and on
others of data/conversations, so that it does not forget how to converse.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from antimatter import files, params
from antimatter.chat import collection, held_out, packing, persona, persona_conversations
from antimatter.chat.config import ConversationsConfig
from antimatter.chat.persona import Persona
from antimatter.chat.template import Message, Rendered
from antimatter.data.special_tokens import ASSISTANT, EOS
from antimatter.data.tokenizer import Tokenizer
from antimatter.errors import UserError
from antimatter.evaluation.conversation import identity
from antimatter.model import weights
from antimatter.training import tuning
from antimatter.training.config import TrainRuntime, TuneConfig
from antimatter.training.console import Console
from antimatter.training.curves import Curves
from antimatter.training.distributed import SINGLE_PROCESS
from antimatter.training.start import Start
from antimatter.training.trainer import Trainer

VALIDATION = 32  # rows
# The other conversations have at most 1/3 of the tokens that those of the persona have
OTHERS = 3
NEW_TOKENS = 64  # of an answer, at most
# Conversations of a topic, a fraction of those of the pipeline: the model can converse already
PER_TOPIC = 12
# The parts in `often` say who the model is, which is new to it, so they are trained more often
OFTEN = 2


@dataclass(frozen=True, kw_only=True)
class PersonaTuning:
    """The arguments of `antimatter tune`."""

    persona: Path  # the file
    initial: Path  # a checkpoint folder
    tokenizer: Path
    conversations: Path  # data/conversations
    output: Path  # a checkpoint folder
    epochs: float


def tune(request: PersonaTuning, log: Callable[[str], None]) -> tuple[int, int]:
    """Writes the tuned model.

    Returns:
        The number of held-out questions about its identity that it answers correctly, and the
        number of all of them.

    Raises:
        UserError: a persona, a model or conversations that do not fit together.
    """
    config = params.read(TuneConfig, "tuned")
    collected = params.read(ConversationsConfig, "conversations")
    # A minute of training does not need a second device
    runtime = replace(params.read(TrainRuntime, "runtime", part=True), devices=1)
    packed = tuning.Conversations(request.conversations)
    start = Start.of(str(request.initial), "--from")
    shape, provenance = start.shape, start.provenance
    tuning.check_start(start, packed)
    model, words = weights.load(request.initial), Tokenizer.load(request.tokenizer)
    facts = collection.facts(model.n_parameters(), shape.block_size, collected)
    who = persona.read(request.persona, facts)

    own = _of_persona(who, words, shape.block_size, collected)
    most = sum(map(_own_tokens, own)) // OTHERS
    others = _others(request.conversations, words, shape.block_size, most)
    tokens, marks = packing.pack([*own, *others], shape.block_size)
    data = packed.data(config, end=EOS, role=ASSISTANT)
    data = replace(
        data,
        train=tokens,
        validation=np.asarray(data.validation[:VALIDATION]),
        train_marks=marks,
        validation_marks=np.asarray(data.validation_marks[:VALIDATION]),
        # Of the new rows, since the weights of rare tokens follow from them
        counts=np.bincount(tokens.ravel(), minlength=shape.vocab_size),
    )
    tune_config = replace(config, epochs=request.epochs)
    trainer_config, _ = tuning.trainer_config(tune_config, provenance, len(tokens), runtime)
    counts = f"{len(own):,} conversations of {request.persona}, {len(others):,} others"
    log(f"{counts}: {trainer_config.training.steps:,} steps")
    with TemporaryDirectory(prefix="antimatter-") as folder:
        work = Path(folder)
        console = Console(model, data, trainer_config, SINGLE_PROCESS)
        try:
            Trainer(model, data, trainer_config, work, Curves(work), observer=console).run()
        except InterruptedError:
            # Of a minute or two no state is kept, so the trainer's message would not be true
            raise InterruptedError(
                f"stopped, nothing was written to {request.output}: the next run starts from the "
                "beginning"
            ) from None

    record = {
        "initial": provenance,
        "data": {"persona": files.sha256(request.persona)},
        "params": {"tuned": asdict(config)},
    }
    with files.replacing(request.output) as partial:
        partial.mkdir()
        weights.save(model, partial, record, who.chat_settings())
    unseen = persona_conversations.for_evaluation(who)
    return identity(model.eval(), words, unseen, max_new_tokens=NEW_TOKENS, system=who.system)


def _of_persona(
    who: Persona, words: Tokenizer, context: int, config: ConversationsConfig
) -> list[Rendered]:
    system = Message("system", who.system)
    who = replace(who, often={part: OFTEN * times for part, times in who.often.items()})
    rendered = []
    for one in persona_conversations.for_training(who, PER_TOPIC, config.seed):
        has_system = collection.share(one.id, config.seed + 1) < config.system_share
        messages = (system, *one.messages) if has_system else one.messages
        rendered += [piece.rendered for piece in packing.pieces(messages, words, context + 1)]
    return rendered


def _own_tokens(conversation: Rendered) -> int:
    """The tokens without the opening, which the conversations of a row share."""
    return len(conversation.ids) - packing.opening(conversation)


def _others(folder: Path, words: Tokenizer, context: int, most: int) -> list[Rendered]:
    """Conversations without a persona from the training split, of about `most` tokens in all."""
    unseen = {one.id for one in held_out.read(folder / held_out.NAME)}
    columns, table = ["id", "kind", "messages"], folder / collection.TABLE
    try:
        rows = pq.read_table(table, columns=columns).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{table} is missing or damaged ({reason}): run `dvc repro conversations`"
        ) from None
    listed = [row for row in rows if row["kind"] != "persona" and row["id"] not in unseen]
    listed.sort(key=lambda row: xxhash.xxh3_64_intdigest(row["id"]))
    rendered: list[Rendered] = []
    for row in listed:
        messages = [Message(one["role"], one["content"]) for one in json.loads(row["messages"])]
        for piece in packing.pieces(messages, words, context + 1):
            most -= _own_tokens(piece.rendered)
            rendered.append(piece.rendered)
        if most <= 0:
            break
    return rendered
