"""The rungs of a ladder: small relatives of the run in params.yaml, in widths and token budgets that a scaling law can be fitted to."""

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

# Of the largest rung's. A third of nano's 192 no longer kept to the law of the others (docs/log.md)
WIDTHS = (0.5, 0.75, 1.0)
BUDGETS = (
    0.125,
    0.25,
    0.5,
    # Of its tokens, besides all of them. A shorter run needs its own cosine: half a long one is no
    # short one (Hoffmann et al. 2022)
)
# The peak rate falls with the width: theory has 1 for the matrices and 0 for embeddings and norms
# under Adam (Yang et al. 2022, Tensor Programs V);
# a single rate for all lies between. Measured here 0.8 from 64 to 192 channels (docs/log.md).
RATE_BY_WIDTH = 0.8
RATE_BY_BATCH = 0.5  # the square-root rule of Adam (Malladi et al. 2022)
# Of a rung only the loss on the validation split is read: samples are few and short, and windows
# that slide by their whole length are the plain ones
QUICK = {"evaluation.seeds": [1], "evaluation.max_new_tokens": 16, "evaluation.stride": 1_000_000}

Kind = Literal["rung", "rate", "batch"]


@dataclass(frozen=True, kw_only=True)
class Base:
    """What params.yaml describes, and the text that it is trained on."""

    model: GPTConfig
    training: TrainConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    # What decides a rung's result besides its own values: other sections, code, data
    fixed: Mapping[str, Any]
    train_tokens: int  # different ones; 0 before there are shards
    train_bytes: int
    cpu: bool

    @property
    def bytes_per_token(self) -> float:
        return self.train_bytes / self.train_tokens


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One run. All values that differ from params.yaml follow from these."""

    # Rung: of the ladder itself; rate, batch: a neighbour of its smallest ones, for guidance
    kind: Kind
    model: GPTConfig
    steps: int
    batch_size: int  # sequences
    warmup_steps: int
    learning_rate: float
    threads: int

    @property
    def label(self) -> str:
        name = f"{self.model.n_embd}x{self.model.n_layer}-{self.steps}"
        return {
            "rung": name,
            "rate": f"{name}-rate-{self.learning_rate:g}",
            "batch": f"{name}-batch-{self.batch_size}",
        }[self.kind].replace(".", "_")

    @property
    def weights(self) -> int:
        """N: of the matrix products, as in 6·N FLOPs a token; with the head, without look-ups and norms."""
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
        """The experiment's name. Its digest is of all that decides the result, so a rung is found again under any commit, and never mistaken."""
        text = json.dumps({**base.fixed, **self.values()}, sort_keys=True)
        return f"ladder-{self.label}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read(root: Path, *, before_shards: bool = False) -> Base:
    """
    Args:
        before_shards: ask nothing of data/shards, which may not be there yet or be those of other parameters.

    Raises:
        ValueError, FileNotFoundError: in one line, for parameters or shards that cannot be used.
    """
    path, tokens = root / params.PARAMS, root / "data/shards"
    shards = None if before_shards else Shards(tokens)
    vocabulary = (
        shards.vocab_size if shards else params.read(TokenizerConfig, "tokenizer", path).vocab_size
    )
    model = GPTConfig(**asdict(params.read(ModelConfig, "model", path)), vocab_size=vocabulary)
    training = params.read(TrainConfig, "checkpoints", path)
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
    return Base(
        model=model,
        training=training,
        optimizer=optimizer,
        schedule=schedule,
        fixed={
            "code": closure.digests("stages.checkpoints", root)
            | closure.digests("antimatter.evaluation.perplexity", root),
            "shards": files.sha256(index) if (index := tokens / "index.json").is_file() else None,
            **{
                f"{section}.{key}": value
                for section, config in sections.items()
                for key, value in asdict(config).items()
            },
        },
        train_tokens=shards.tokens("train") if shards else 0,
        train_bytes=shards.bytes("train") if shards else 0,
        cpu=params.read(TrainRuntime, "runtime", path, part=True).device_type() == "cpu",
    )


def largest(base: Base, limit: float) -> Rung:
    """The run of params.yaml itself if it takes no more than `limit` FLOPs, else the widest of its halves that does, with as many tokens a weight."""
    share = 1.0
    while (found := _scaled(base, share)).flops > limit:
        share /= 2
        if base.model.n_head * share < 1:
            raise UserError(
                f"--flops {limit:g} is too little: the largest rung would be narrower than a head; with one it takes {found.flops:.2g}"
            )
    return found


def family(base: Base, limit: float) -> list[Rung]:
    """All rungs: the grid of widths and budgets, then the neighbours for guidance.

    Raises:
        ValueError: `limit` is too small, or the model too narrow.
    """
    top = largest(base, limit)
    heads = top.model.n_head
    widths = sorted({heads * round(top.model.n_embd // heads * share) for share in WIDTHS})
    if len(widths) < 2 or widths[0] == 0:
        raise UserError(
            f"model.n_embd must be at least {2 * heads} for a ladder with {heads} heads, got {top.model.n_embd}"
        )
    # Even, so that a batch can be doubled
    budgets = sorted({top.steps, *(max(2, 2 * round(top.steps * share / 2)) for share in BUDGETS)})
    grid = [_narrower(base, top, width, steps) for width in widths for steps in budgets]
    low = [rung for rung in grid if rung.steps == budgets[0]]
    rates = [
        replace(rung, kind="rate", learning_rate=_round(rung.learning_rate * factor))
        for rung in (low[0], low[-1])
        for factor in (0.5, 2.0)
    ]
    return [*grid, *rates, *_batches(low[0])]


def _batches(rung: Rung) -> list[Rung]:
    """Half and twice the batch over the same tokens."""
    found = []
    for factor in (0.5, 2.0):
        size, steps = rung.batch_size * factor, int(rung.steps / factor)
        if size == int(size):
            rate, warmup = (
                _round(rung.learning_rate * factor**RATE_BY_BATCH),
                min(steps - 1, round(rung.warmup_steps / factor)),
            )
            found.append(
                replace(
                    rung,
                    kind="batch",
                    batch_size=int(size),
                    steps=steps,
                    warmup_steps=warmup,
                    learning_rate=rate,
                )
            )
    return found


def _scaled(base: Base, share: float) -> Rung:
    head = base.model.n_embd // base.model.n_head
    heads = max(1, int(base.model.n_head * share))
    model = replace(base.model, n_head=heads, n_embd=heads * head)
    ratio = matmul_weights(model) / matmul_weights(base.model)  # of weights, and so of tokens
    training = base.training
    batch = (
        training.batch_size
        if ratio == 1
        else 2 ** round(math.log2(max(1, training.batch_size * ratio**0.5)))
    )
    steps = max(1, round(training.steps * ratio * training.batch_size / batch))
    # On a CPU, rungs side by side make better use of the cores than threads
    threads = 1 if base.cpu else training.threads
    rate = base.optimizer.learning_rate
    rung = Rung(
        kind="rung",
        model=model,
        steps=steps,
        batch_size=batch,
        warmup_steps=0,
        learning_rate=rate,
        threads=threads,
    )
    return _narrower(base, rung, model.n_embd, steps)


def _narrower(base: Base, top: Rung, width: int, steps: int) -> Rung:
    """A relative of the largest rung with as many heads. The warm-up keeps its share of the steps."""
    batch = (top.batch_size / base.training.batch_size) ** RATE_BY_BATCH
    return replace(
        top,
        model=replace(top.model, n_embd=width),
        steps=steps,
        warmup_steps=min(
            steps - 1, round(base.schedule.warmup_steps * steps / base.training.steps)
        ),
        learning_rate=_round(
            base.optimizer.learning_rate * batch * (base.model.n_embd / width) ** RATE_BY_WIDTH
        ),
    )


def _round(rate: float) -> float:
    return float(f"{rate:.3g}")
