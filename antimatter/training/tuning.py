"""Tuning: the training loop on conversations, from weights that were pretrained on text.

A tuning inherits the configuration of the pretraining, except for what the section `tuned` of
params.yaml sets.

Shapes: R rows, T tokens of context, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from antimatter import files, params
from antimatter.data.batches import Emphasis
from antimatter.errors import UserError
from antimatter.model.config import LossConfig
from antimatter.pipeline.provenance import nearest
from antimatter.training.config import (
    EARLIER_VALUES,
    OptimizerConfig,
    TrainConfig,
    TrainerConfig,
    TrainRuntime,
    TuneConfig,
)
from antimatter.training.data import ConversationData
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig
from antimatter.training.start import Start

T = TypeVar("T")


class Conversations:
    """The output of the stage `conversations`, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the index is missing or not JSON."""
        self.folder = folder
        self.index: dict[str, Any] = files.read_json(folder / "index.json")
        self.vocab_size: int = self.index["vocab_size"]
        self.context: int = self.index["context"]
        self.chat: dict[str, Any] = self.index["chat"]

    def digests(self) -> dict[str, str]:
        """The sha256 of the index, which includes that of every file, and of the stage's inputs."""
        return {"conversations": files.sha256(self.folder / "index.json"), **self.index["made_of"]}

    def rows(self, name: str) -> np.ndarray:
        """A file of rows, (R, T + 1). Raises UserError if it is missing or damaged."""
        path, entry = self.folder / name, self.index["files"].get(name)
        fix = f"delete {self.folder} and run `dvc repro conversations`"
        if entry is None:
            raise UserError(f"{self.folder} is of another version, it has no {name}: {fix}")
        try:
            array: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            raise UserError(f"{path} is missing or damaged: {fix}") from None
        expected = (entry["rows"], self.context + 1)
        if array.shape != expected:
            raise UserError(f"{path} is damaged, expected {expected}, found {array.shape}: {fix}")
        return array

    def data(self, config: TuneConfig, end: int, role: int) -> ConversationData:
        """The data of a training.

        Args:
            config: sets the tokens of an answer with a larger weight.
            end: the token that ends an answer.
            role: the token that begins an answer. A sample answers the first held-out question.
        """
        texts: list[str] = files.read_json(self.folder / "texts.json", list)
        train, held_out = self.rows("train_tokens.npy"), self.rows("held_out_tokens.npy")
        first = held_out[0].astype(int).tolist()
        question = first[: first.index(role) + 1] if role in first else first[:1]
        return ConversationData(
            train=train,
            validation=held_out,
            train_marks=self.rows("train_marks.npy"),
            validation_marks=self.rows("held_out_marks.npy"),
            counts=np.bincount(train.ravel(), minlength=self.vocab_size),
            decode=lambda ids: _decode(texts, ids),
            question=question,
            emphasis=Emphasis(config.first_tokens, config.first_weight),
            end=end,
        )


def _decode(texts: list[str], ids: Any) -> str:
    return b"".join(texts[id].encode("latin-1") for id in ids).decode("utf-8", errors="replace")


def trainer_config(
    config: TuneConfig,
    provenance: Mapping[str, Any],
    rows: int,
    runtime: TrainRuntime,
) -> tuple[TrainerConfig, dict[str, Any]]:
    """The configuration of a tuning, and the values that it inherits from the pretraining.

    Args:
        provenance: of the initial weights. Values that it lacks come from params.yaml. If they were
            tuned themselves, it contains that of their own initial weights, which counts.
        rows: R, in the training split.
    """
    pretraining = _section(TrainConfig, "checkpoints", provenance)
    # How this process computes was decided by params.yaml, before torch was imported
    if params.read(TrainConfig, "checkpoints").portable:
        pretraining = replace(pretraining, portable=True, precision="fp32", compile=False)
    else:
        pretraining = replace(pretraining, portable=False)
    loss = _section(LossConfig, "loss", provenance)
    optimizer = _section(OptimizerConfig, "optimizer", provenance)
    spikes = _section(SpikeConfig, "spikes", provenance)
    steps = max(1, math.ceil(config.epochs * rows / config.batch_size))
    warmup = min(steps - 1, round(config.warmup_fraction * steps))
    rate = config.learning_rate * optimizer.learning_rate
    inherited = {
        "optimizer": optimizer.kind,
        "peak of the pretraining": optimizer.learning_rate,
        "embedding_rate": optimizer.embedding_rate,
        "beta1": optimizer.beta1,
        "beta2": optimizer.beta2,
        "momentum": optimizer.momentum,
        "epsilon": optimizer.epsilon,
        "grad_clip": optimizer.grad_clip,
        "precision": pretraining.precision,
        "portable": pretraining.portable,
        "threads": pretraining.threads,
        "compile": pretraining.compile,
        "rare_token_power": loss.rare_token_power,
        "spikes.window": spikes.window,
    }
    training = replace(
        pretraining,
        initial="",
        steps=steps,
        batch_size=config.batch_size,
        seed=config.seed,
        validate_every=config.validate_every,
        save_every=config.save_every,
    )
    tuning = TrainerConfig(
        training=training,
        loss=loss,
        optimizer=replace(optimizer, learning_rate=rate, weight_decay=config.weight_decay),
        schedule=ScheduleConfig(warmup_steps=warmup, final_fraction=0.0, decay="linear"),
        spikes=replace(spikes, factor=config.spike_factor),
        runtime=runtime,
    )
    return tuning, inherited


def _section(kind: type[T], name: str, provenance: Mapping[str, Any]) -> T:
    """A section of the recorded parameters, or else of params.yaml."""
    recorded = nearest(provenance, "params", name)
    if recorded is not None:
        values = EARLIER_VALUES.get(name, {}) | recorded
        return params.build(kind, values, f"the provenance of the initial weights: {name}")
    return params.read(kind, name)


def check_start(start: Start, conversations: Conversations) -> None:
    """Raises UserError if the weights cannot be tuned on these conversations."""
    fix = "name another folder in tuned.initial, or run `dvc repro`"
    path, shape, own = start.folder, start.shape, start.tokenizer
    theirs = conversations.index["made_of"].get("tokenizer")
    if shape.vocab_size != conversations.vocab_size or (own and theirs and own != theirs):
        raise UserError(
            f"{path} was trained with another vocabulary ({shape.vocab_size:,} tokens) than that "
            f"of {conversations.folder} ({conversations.vocab_size:,}), so it lacks its role "
            f"tokens: {fix}"
        )
    if shape.block_size != conversations.context:
        raise UserError(
            f"{path} reads {shape.block_size} tokens, the conversations are packed for "
            f"{conversations.context}: {fix}"
        )
