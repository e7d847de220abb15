"""Estimates the FLOPs, memory, hours and money of a training from params.yaml alone.

Nothing is allocated and nothing runs.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from antimatter import files, params, text
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.flops import flops_per_token, matmul_weights, muon_flops, peak_flops
from antimatter.model.loss import LOGITS
from antimatter.planning.gpus import CARDS, PRICED, Card
from antimatter.text import size
from antimatter.training.config import OptimizerConfig, TrainConfig, TuneConfig
from antimatter.training.numerics import DTYPES

CONVERSATIONS = Path("data/conversations/index.json")
# The share of a device's memory that is usable. The rest is for the CUDA context, fragmentation,
# and the gradients that backward passes from layer to layer
USABLE = 0.92
# Channels from which on a GPU's matrix products are large enough for the MFU of gpus.CARDS; below,
# the assumed MFU falls in proportion to the width
WIDE = 768
# Seconds of a pass forward and backward in a layer that no GPU goes below: about 100 kernels, which
# Python starts one by one
LAUNCH = 1e-3


@dataclass(frozen=True, kw_only=True)
class PlanRuntime:
    """The part of TrainRuntime that matters here.

    `device` is about this machine, and the plan is for another one.
    """

    micro_batch: int  # sequences in one forward pass

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise UserError(f"micro_batch must be at least 1, got {self.micro_batch}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    model: GPTConfig
    training: TrainConfig
    optimizer: OptimizerConfig
    runtime: PlanRuntime
    tuning: TuneConfig
    conversations: int | None  # rows to tune on; None if the stage `conversations` has not run
    devices: int
    # Assumed: the share of a GPU's peak that the training reaches; None: that of gpus.CARDS
    mfu: float | None

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UserError(f"--devices must be at least 1, got {self.devices}")
        if self.mfu is not None and not 0 < self.mfu <= 1:
            raise UserError(f"--mfu must lie in (0, 1], got {self.mfu:g}: 0.4 is 40% of the peak")
        batch = self.training.batch_size
        if batch % self.devices:
            raise UserError(
                f"--devices must divide checkpoints.batch_size ({batch}), got {self.devices}"
            )
        if self.sequences % self.micro_batch:
            share = f"(checkpoints.batch_size {batch} / {self.devices})"
            raise UserError(
                f"runtime.micro_batch must divide the {self.sequences} sequences of a device "
                f"{share}, got {self.micro_batch}"
            )

    @property
    def sequences(self) -> int:
        """The sequences of one device in one step."""
        return self.training.batch_size // self.devices

    @property
    def micro_batch(self) -> int:
        return min(self.runtime.micro_batch, self.sequences)

    @property
    def tokens(self) -> int:
        """The tokens of the whole run."""
        return self.training.steps * self.training.batch_size * self.model.block_size

    def flops(self, tokens: float, batch: int | None = None) -> float:
        """The FLOPs of steps with that many tokens, over all devices.

        Args:
            batch: sequences of a step; None: checkpoints.batch_size.
        """
        return tokens * flops_per_token(self.model) + self.muon_flops(tokens, batch)

    def muon_flops(self, tokens: float, batch: int | None = None) -> float:
        """Those of flops() that Muon's updates take. Each device updates all matrices."""
        if self.optimizer.kind != "muon":
            return 0.0
        steps = tokens / ((batch or self.training.batch_size) * self.model.block_size)
        return steps * self.devices * muon_flops(self.model)


def read(path: Path, devices: int, mfu: float | None) -> Plan:
    """The plan of a params.yaml. Raises UserError if one of the arguments is wrong."""
    vocab_size = params.read(TokenizerConfig, "tokenizer", path).vocab_size
    return Plan(
        model=GPTConfig(**asdict(params.read(ModelConfig, "model", path)), vocab_size=vocab_size),
        training=params.read(TrainConfig, "checkpoints", path),
        optimizer=params.read(OptimizerConfig, "optimizer", path),
        runtime=params.read(PlanRuntime, "runtime", path, part=True),
        tuning=params.read(TuneConfig, "tuned", path),
        conversations=_rows(path.parent / CONVERSATIONS),
        devices=devices,
        mfu=mfu,
    )


def _rows(index: Path) -> int | None:
    if not index.is_file():
        return None
    return int(files.read_json(index)["files"]["train_tokens.npy"]["rows"])


def parameters(config: GPTConfig) -> dict[str, int]:
    """Parameters of each part of the model. Their sum is GPT(config).n_parameters()."""
    layers, C = config.n_layer, config.n_embd
    return {
        # 13·C: biases 3 + 1 + 4 + 1, two norms of 2
        "blocks": layers * (12 * C * C + 13 * C),
        "embeddings": (config.vocab_size + config.block_size) * C,
        "head": 0 if config.tied_embeddings else config.vocab_size * C,
        "norm": 2 * C,
    }


def moment_bytes(plan: Plan) -> int:
    """Bytes of the moments: two of each parameter, but one of a hidden matrix under Muon."""
    n, hidden = sum(parameters(plan.model).values()), 12 * plan.model.n_layer * plan.model.n_embd**2
    return 8 * n - (4 * hidden if plan.optimizer.kind == "muon" else 0)


def activation_bytes(config: GPTConfig, tokens: int, width: int) -> int:
    """Bytes that autograd keeps of GPT.hidden between forward and backward.

    The figure is for eager mode, and an upper bound: torch.compile recomputes cheap values, such as
    norms and the Leaky ReLU, and keeps less.

    Args:
        tokens: in one micro-batch.
        width: bytes of a value in the matrix products: 2 under autocast, 4 in float32.
    """
    C = config.n_embd
    # Its input, the residual stream, which stays float32, and its mean and inverse deviation
    norm = 4 * C + 8
    # The input of qkv; q, k, v; the output, which is the input of proj; logsumexp
    attention = width * (C + 3 * C + C) + 4 * config.n_head
    # The inputs of up, of the Leaky ReLU and of down
    ffn = width * (C + 4 * C + 4 * C)
    # A mask of one byte per value; attention keeps only a seed
    dropout = C if config.dropout else 0
    layer = 2 * norm + attention + ffn + 2 * dropout
    # The last norm follows the layers; a token id has 8 bytes
    return tokens * (config.n_layer * layer + norm + dropout + 8)


def memory(plan: Plan, micro_batch: int) -> dict[str, int]:
    """Bytes on one device at the peak of a step, by purpose.

    DDP adds none: its buckets are the gradients themselves.
    """
    config, is_half = plan.model, plan.training.precision in DTYPES
    n, tokens = sum(parameters(config).values()), micro_batch * config.block_size
    width = 2 if is_half else 4
    V, C = config.vocab_size, config.n_embd
    # One chunk of logits and its gradient, and the softmax in float32
    logits = min(LOGITS["cuda"], tokens * V) * (2 * width + 4)
    return {
        "weights": 4 * n,
        "gradients": 4 * n,
        "moments": moment_bytes(plan),
        # Made by autocast
        f"{plan.training.precision} copies": 2 * matmul_weights(config) if is_half else 0,
        "activations": activation_bytes(config, tokens, width),
        # With the gradient of its matrix over the chunks, and the last state and its gradient
        "head": logits + 4 * V * C + 8 * tokens * C,
    }


def fitting(plan: Plan, card: Card) -> int | None:
    """The micro-batch for a card: runtime.micro_batch, or the largest power of two that fits.

    None if not even one sequence fits.
    """
    powers = [2**k for k in reversed(range(plan.micro_batch.bit_length()))]
    for batch in (plan.micro_batch, *powers):
        needed = sum(memory(plan, batch).values())
        if plan.sequences % batch == 0 and needed <= USABLE * card.memory * 1e9:
            return batch
    return None


def mfu(plan: Plan, card: Card) -> float:
    """The share of its peak that a card is assumed to reach."""
    return assumed_mfu(card, plan.model.n_embd) if plan.mfu is None else plan.mfu


def assumed_mfu(card: Card, width: int) -> float:
    """Of a model of that many channels: small matrices do not fill a GPU."""
    return card.mfu * min(1.0, width / WIDE)


def seconds(plan: Plan, card: Card, tokens: float, step: int | None = None) -> float:
    """Seconds of training on that many tokens alone, without validation and saving.

    More GPUs divide them, and do not change the price as long as they reach the same MFU.

    Args:
        step: its sequences; None: checkpoints.batch_size.
    """
    peak = peak_flops(card.device)
    assert peak, f"{card.device} has no peak in flops.py"
    model = plan.model
    arithmetic = plan.flops(tokens, step) / (plan.devices * peak * mfu(plan, card))
    batch = fitting(plan, card)
    if plan.mfu is not None or batch is None:
        return arithmetic
    passes = tokens / (plan.devices * batch * model.block_size)
    return max(arithmetic, passes * model.n_layer * LAUNCH)


def hours(plan: Plan, card: Card) -> float:
    """Hours of the pretraining, as seconds() has them."""
    return seconds(plan, card, plan.tokens) / 3600


def report(plan: Plan, shown: Sequence[Card], text_tokens: float | None = None) -> list[str]:
    """The plan in lines of at most 100 characters.

    Args:
        text_tokens: tokens of the text, each once; None: unknown.
    """
    config, training, counts = plan.model, plan.training, parameters(plan.model)
    n, flops, needed = sum(counts.values()), flops_per_token(config), memory(plan, plan.micro_batch)
    embeddings = "embeddings (head tied)" if config.tied_embeddings else "embeddings and head"
    outside = counts["embeddings"] + counts["head"]
    matrices = f"6 x {_millions(matmul_weights(config))} in matrix products + 12·L·C·T"
    parts = [f"{name} {size(value)}" for name, value in needed.items() if value]
    step_tokens = training.batch_size * config.block_size
    return [
        f"model       {config.n_layer} layers, {config.n_embd:,} wide, {config.n_head} heads, "
        f"context {config.block_size:,}, vocabulary {config.vocab_size:,}",
        f"parameters  {_millions(counts['blocks'])} in blocks, "
        f"{_millions(outside)} in {embeddings}, {_millions(n)} in all",
        f"run         {training.steps:,} steps x {step_tokens:,} tokens "
        f"= {_millions(plan.tokens)} tokens",
        f"            {plan.tokens / n:.1f} tokens a parameter (Chinchilla's optimum: 20)",
        f"FLOPs       {flops:.3g} a token ({matrices}), {plan.flops(plan.tokens):.3g} in all",
        *_muon(plan),
        f"memory      {size(sum(needed.values()))} a device at micro-batch {plan.micro_batch}, "
        "without torch.compile, which needs less:",
        f"            {', '.join(parts[:3])},",
        f"            {', '.join(parts[3:])}",
        f"disk        {size(4 * n + needed['moments'])} a saved state, about 3 at once; "
        f"{_shards(plan, text_tokens)}",
        _tuning(plan),
        "",
        *table(plan, shown),
    ]


def _muon(plan: Plan) -> list[str]:
    own = plan.muon_flops(plan.tokens)
    share = f"{own / plan.flops(plan.tokens):.1%}"
    return [f"            of them {own:.3g} in Muon's updates ({share})"] if own else []


def _shards(plan: Plan, text_tokens: float | None) -> str:
    """A token has 2 bytes."""
    if text_tokens is None:
        return f"{size(2 * plan.tokens)} of shards to read no token twice"
    return f"{size(2 * text_tokens)} of shards, read {plan.tokens / text_tokens:.1f} times"


def _tuning(plan: Plan) -> str:
    """What the stage `tuned` adds. Only the stage `conversations` knows the number of rows."""
    epochs, rows = plan.tuning.epochs, plan.conversations
    if rows is None:
        return (
            f"tuning      {epochs:g} x the rows of the stage conversations, which has not run yet"
        )
    tokens = epochs * rows * plan.model.block_size
    share = f"{tokens / plan.tokens:.1%} of the run on top"
    return f"tuning      {epochs:g} x {rows:,} rows = {_millions(tokens)} tokens: {share}"


def table(plan: Plan, shown: Sequence[Card]) -> list[str]:
    """Hours and money on each of the cards."""
    header = ("GPU", "memory", "micro-batch", "peak TFLOP/s", "MFU", "hours", "US$/GPU-hour", "US$")
    obstacles = [_obstacle(plan, card) for card in shown]
    rows = [_row(plan, card, not one) for card, one in zip(shown, obstacles, strict=True)]
    remarks = [one or _remark(plan, card) for card, one in zip(shown, obstacles, strict=True)]
    top, *lines = text.table([header, *rows], right=range(1, len(header)))
    return [
        f"On {text.plural(plan.devices, 'GPU')}, at the MFU of each line, which is assumed:",
        top,
        *(f"{line}  {remark}".rstrip() for line, remark in zip(lines, remarks, strict=True)),
        "micro-batch: runtime.micro_batch, or the largest power of two that fits, or none.",
        # Other prices are the user's own
        *([f"Prices: {PRICED}."] if set(shown) <= set(CARDS) else []),
    ]


def _obstacle(plan: Plan, card: Card) -> str:
    """Why a card has no hours and no costs; nothing if it has."""
    if fitting(plan, card) is None:
        return f"too small: micro-batch 1 needs {size(sum(memory(plan, 1).values()))}"
    if plan.training.precision == "fp32":
        best = "bf16" if card.bf16 else "fp16"
        return f"no estimate in fp32: set checkpoints.precision to {best}"
    return ""


def _remark(plan: Plan, card: Card) -> str:
    """A GPU without bf16 computes in fp16, which is as fast (training/numerics.py)."""
    return "in fp16" if plan.training.precision == "bf16" and not card.bf16 else ""


def _row(plan: Plan, card: Card, is_possible: bool) -> list[str]:
    row = [card.name, f"{card.memory} GB", f"{fitting(plan, card) or '-'}"]
    if not is_possible:
        return [*row, *[""] * 5]
    time, peak = hours(plan, card), (peak_flops(card.device) or 0) / 1e12
    price, cost = f"{card.price:.2f}", _decimal(time * plan.devices * card.price, 2)
    share = f"{100 * mfu(plan, card):.2g}%"
    return [*row, f"{peak:,.0f}", share, _decimal(time, 1), price, cost]


def _decimal(value: float, places: int) -> str:
    least = 10**-places
    return f"<{least:g}" if 0 < value < least else f"{value:,.{places}f}"


def _millions(value: float) -> str:
    """With one more digit than text.count, so that the sum of the parts shows."""
    return f"{value / 1e9:.2f} B" if value >= 1e9 else f"{value / 1e6:.1f} M"
