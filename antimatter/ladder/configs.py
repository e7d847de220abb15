"""The runs of a ladder: smaller versions of the run in params.yaml, in widths and token budgets
that determine a scaling law.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from antimatter import files, params
from antimatter.data.shards.reader import Shards
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError
from antimatter.model.config import GPTConfig, LossConfig, ModelConfig
from antimatter.model.flops import flops_per_token, matmul_weights
from antimatter.pipeline import closure
from antimatter.training.config import OptimizerConfig, TrainConfig, TrainRuntime
from antimatter.training.schedule import ScheduleConfig
from antimatter.training.spikes import SpikeConfig

# Relative to the largest rung. A third of nano's 192 no longer followed the law of the others
# (docs/log.md)
WIDTHS = (0.5, 0.75, 1.0)
# Shares of the largest rung's tokens, besides all of them. A shorter run needs its own cosine: half
# a long one is not a short one (Hoffmann et al. 2022)
BUDGETS = (0.125, 0.25, 0.5)
# The peak rate falls with the width: theory has the exponent 1 for the matrices and 0 for
# embeddings and norms under Adam (Yang et al. 2022, Tensor Programs V); a single rate for all has
# one between them. Measured here: 0.8 from 64 to 192 channels (docs/log.md).
RATE_BY_WIDTH = 0.8
RATE_BY_BATCH = 0.5  # the square-root rule of Adam (Malladi et al. 2022)
# The ladder reads only the loss on the validation split: samples are few and short, and windows
# that slide by their whole length are the plain ones
QUICK = {"evaluation.seeds": [1], "evaluation.max_new_tokens": 16, "evaluation.stride": 1_000_000}

Kind = Literal["rung", "rate", "batch"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """The run that params.yaml describes, and the size of its text."""

    model: GPTConfig
    training: TrainConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    # What decides the result of a run besides its own values: other sections, code, data
    fixed: Mapping[str, Any]
    train_tokens: int  # without repetition; 0 before there are shards
    train_bytes: int
    cpu: bool

    @property
    def bytes_per_token(self) -> float:
        return self.train_bytes / self.train_tokens


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. All values that differ from params.yaml follow from these."""

    # rung: of the ladder itself; rate, batch: a neighbour of the shortest rungs, for the advice
    kind: Kind
    model: GPTConfig
    steps: int
    batch_size: int  # sequences
    warmup_steps: int
    learning_rate: float
    threads: int

    @property
    def label(self) -> str:
        label = f"{self.model.n_embd}x{self.model.n_layer}-{self.steps}"
        if self.kind == "rate":
            label += f"-rate-{self.learning_rate:g}"
        if self.kind == "batch":
            label += f"-batch-{self.batch_size}"
        return label.replace(".", "_")

    @property
    def weights(self) -> int:
        """N: of the matrix products, as in 6·N FLOPs per token; with the head, without look-ups and
        norms.
        """
        return matmul_weights(self.model)

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size * self.model.block_size

    @property
    def flops(self) -> float:
        return float(self.tokens) * flops_per_token(self.model)

    def values(self) -> dict[str, Any]:
        """As `dvc exp run --set-param` takes them."""
        return {
            "model.n_embd": self.model.n_embd,
            "model.n_head": self.model.n_head,
            "checkpoints.steps": self.steps,
            "checkpoints.batch_size": self.batch_size,
            "checkpoints.threads": self.threads,
            "schedule.warmup_steps": self.warmup_steps,
            "optimizer.learning_rate": self.learning_rate,
        }

    def experiment(self, base: Base) -> str:
        """The experiment's name. It contains a digest of everything that decides the result, so a
        run is recognised under any commit, and never mistaken for another.
        """
        text = json.dumps({**base.fixed, **self.values()}, sort_keys=True)
        return f"ladder-{self.label}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read(root: Path, *, before_shards: bool = False) -> Base:
    """Reads the params.yaml and the shards of a checkout.

    Args:
        before_shards: do not read data/shards, which may be missing or belong to other parameters.

    Raises:
        UserError: parameters or shards that cannot be used.
    """
    path, folder = root / params.PARAMS, root / "data/shards"
    if before_shards:
        shards = None
        vocab_size = params.read(TokenizerConfig, "tokenizer", path).vocab_size
    else:
        shards = Shards(folder)
        vocab_size = shards.vocab_size
    model = GPTConfig(**asdict(params.read(ModelConfig, "model", path)), vocab_size=vocab_size)
    training = params.read(TrainConfig, "checkpoints", path)
    if training.initial:
        fix = "write `initial: ''` under `checkpoints:`"
        raise UserError(
            f"checkpoints.initial is {training.initial!r}, but the smaller models of a ladder "
            f"start from random weights: {fix}"
        )
    optimizer = params.read(OptimizerConfig, "optimizer", path)
    schedule = params.read(ScheduleConfig, "schedule", path)
    sections: dict[str, Any] = {
        "model": model,
        "checkpoints": training,
        "optimizer": optimizer,
        "schedule": schedule,
        "loss": params.read(LossConfig, "loss", path),
        "spikes": params.read(SpikeConfig, "spikes", path),
    }
    index = folder / "index.json"
    fixed: dict[str, Any] = {
        "code": closure.digests("stages.checkpoints", root)
        | closure.digests("antimatter.evaluation.perplexity", root),
        "shards": files.sha256(index) if index.is_file() else None,
    }
    for section, config in sections.items():
        fixed |= {f"{section}.{key}": value for key, value in asdict(config).items()}
    return Base(
        model=model,
        training=training,
        optimizer=optimizer,
        schedule=schedule,
        fixed=fixed,
        train_tokens=shards.tokens("train") if shards else 0,
        train_bytes=shards.bytes("train") if shards else 0,
        cpu=params.read(TrainRuntime, "runtime", path, part=True).device_type() == "cpu",
    )


def largest(base: Base, limit: float) -> RunConfig:
    """The largest rung: the run of params.yaml itself if it takes at most `limit` FLOPs. Otherwise
    its width is halved until it does, with the same number of tokens per weight.
    """
    share = 1.0
    while (run := _scaled(base, share)).flops > limit:
        share /= 2
        if base.model.n_head * share < 1:
            raise UserError(
                f"--flops {limit:g} is too little: the largest rung would be narrower than one"
                f" attention head; with one head it takes {run.flops:.2g}"
            )
    return run


def runs(base: Base, limit: float) -> list[RunConfig]:
    """All runs: first the rungs, a grid of widths and budgets, then their neighbours.

    Raises:
        UserError: `limit` is too small, or the model too narrow.
    """
    top = largest(base, limit)
    heads = top.model.n_head
    widths = sorted({heads * round(top.model.n_embd // heads * share) for share in WIDTHS})
    if len(widths) < 2 or widths[0] == 0:
        raise UserError(
            f"model.n_embd must be at least {2 * heads} for a ladder with {heads} heads,"
            f" got {top.model.n_embd}"
        )
    # Even, so that a batch can be doubled
    budgets = sorted({top.steps, *(max(2, 2 * round(top.steps * share / 2)) for share in BUDGETS)})
    grid = [_narrower(base, top, width, steps) for width in widths for steps in budgets]
    shortest = [run for run in grid if run.steps == budgets[0]]
    rates = [
        replace(run, kind="rate", learning_rate=_round(run.learning_rate * factor))
        for run in (shortest[0], shortest[-1])
        for factor in (0.5, 2.0)
    ]
    return [*grid, *rates, *_batches(shortest[0])]


def _batches(run: RunConfig) -> list[RunConfig]:
    """Half and twice the batch over the same tokens."""
    neighbours = []
    for factor in (0.5, 2.0):
        size, steps = run.batch_size * factor, int(run.steps / factor)
        if size == int(size):
            neighbour = replace(
                run,
                kind="batch",
                batch_size=int(size),
                steps=steps,
                warmup_steps=min(steps - 1, round(run.warmup_steps / factor)),
                learning_rate=_round(run.learning_rate * factor**RATE_BY_BATCH),
            )
            neighbours.append(neighbour)
    return neighbours


def _scaled(base: Base, share: float) -> RunConfig:
    """The run of params.yaml with a share of its heads, and as many tokens per weight."""
    training = base.training
    head = base.model.n_embd // base.model.n_head
    heads = max(1, int(base.model.n_head * share))
    model = replace(base.model, n_head=heads, n_embd=heads * head)
    ratio = matmul_weights(model) / matmul_weights(base.model)  # of weights, and so of tokens
    batch = training.batch_size
    if ratio != 1:
        batch = 2 ** round(math.log2(max(1, training.batch_size * ratio**0.5)))
    steps = max(1, round(training.steps * ratio * training.batch_size / batch))
    run = RunConfig(
        kind="rung",
        model=model,
        steps=steps,
        batch_size=batch,
        warmup_steps=0,
        learning_rate=base.optimizer.learning_rate,
        # On a CPU, several runs at a time use the cores better than threads do
        threads=1 if base.cpu else training.threads,
    )
    return _narrower(base, run, model.n_embd, steps)


def _narrower(base: Base, top: RunConfig, width: int, steps: int) -> RunConfig:
    """The largest rung with another width and as many heads.

    The warm-up keeps its share of the steps. Where that has become short it keeps its steps, up to
    a quarter of the run: a high rate fails after too few of them (docs/log.md).
    """
    share = round(base.schedule.warmup_steps * steps / base.training.steps)
    warmup = max(share, min(base.schedule.warmup_steps, steps // 4))
    batch = (top.batch_size / base.training.batch_size) ** RATE_BY_BATCH
    rate = base.optimizer.learning_rate * batch * (base.model.n_embd / width) ** RATE_BY_WIDTH
    return replace(
        top,
        model=replace(top.model, n_embd=width),
        steps=steps,
        warmup_steps=min(steps - 1, warmup),
        learning_rate=_round(rate),
    )


def _round(rate: float) -> float:
    return float(f"{rate:.3g}")
