"""What a training takes, before a cent is spent: FLOPs, memory, hours and money, from params.yaml alone. Nothing is allocated, nothing runs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from antimatter import files, params
from antimatter.data.tokenizer_config import TokenizerConfig
from antimatter.errors import UserError
from antimatter.model.config import GPTConfig, ModelConfig
from antimatter.model.flops import flops_per_token, matmul_weights, peak_flops
from antimatter.model.loss import LOGITS
from antimatter.planning.gpus import CARDS, PRICED, Card
from antimatter.training.config import TrainConfig, TuneConfig
from antimatter.training.numerics import DTYPES

CONVERSATIONS = Path("data/conversations/index.json")
# Of a device; the rest is for the CUDA context, gaps in the allocator and the gradients that
# backward hands from layer to layer
USABLE = 0.92


@dataclass(frozen=True, kw_only=True)
class PlanRuntime:
    """Of TrainRuntime what matters here: `device` speaks of this machine, and the plan is for another."""

    micro_batch: int  # sequences in one forward pass

    def __post_init__(self) -> None:
        if self.micro_batch < 1:
            raise UserError(f"micro_batch must be at least 1, got {self.micro_batch}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    model: GPTConfig
    training: TrainConfig
    runtime: PlanRuntime
    tuning: TuneConfig
    conversations: int | None  # rows to tune on; None: the stage that makes them has not run
    devices: int
    mfu: float  # assumed: the share of a GPU's peak that the training reaches

    def __post_init__(self) -> None:
        if self.devices < 1:
            raise UserError(f"--devices must be at least 1, got {self.devices}")
        if not 0 < self.mfu <= 1:
            raise UserError(f"--mfu must lie in (0, 1], got {self.mfu:g}: 0.4 is 40% of the peak")
        batch = self.training.batch_size
        if batch % self.devices:
            raise UserError(
                f"--devices must divide checkpoints.batch_size ({batch}), got {self.devices}"
            )
        if self.sequences % self.micro_batch:
            share = f"the {self.sequences} sequences of a device (checkpoints.batch_size {batch} / {self.devices})"
            raise UserError(f"runtime.micro_batch must divide {share}, got {self.micro_batch}")

    @property
    def sequences(self) -> int:
        """Of one device in one step."""
        return self.training.batch_size // self.devices

    @property
    def micro_batch(self) -> int:
        return min(self.runtime.micro_batch, self.sequences)

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.training.steps * self.training.batch_size * self.model.block_size


def read(path: Path, devices: int, mfu: float) -> Plan:
    """Raises ValueError or FileNotFoundError, in one line, for what is wrong with the file or with the other two."""
    vocab_size = params.read(TokenizerConfig, "tokenizer", path).vocab_size
    return Plan(
        model=GPTConfig(**asdict(params.read(ModelConfig, "model", path)), vocab_size=vocab_size),
        training=params.read(TrainConfig, "checkpoints", path),
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
    """How many in each part of the model; their sum is GPT(config).n_parameters()."""
    layers, C = config.n_layer, config.n_embd
    return {
        "blocks": layers * (12 * C * C + 13 * C),  # 13·C: biases 3 + 1 + 4 + 1, two norms of 2
        "embeddings": (config.vocab_size + config.block_size) * C,
        "head": 0 if config.tied_embeddings else config.vocab_size * C,
        "norm": 2 * C,
    }


def activation_bytes(config: GPTConfig, tokens: int, width: int) -> int:
    """What autograd keeps of GPT.hidden between forward and backward, in bytes.

    That is eager mode, the upper bound: torch.compile recomputes cheap values, such as norms and the Leaky ReLU, and keeps less.

    Args:
        tokens: in one micro-batch.
        width: bytes of a value in the matrix products: 2 under autocast, 4 in float32.
    """
    C = config.n_embd
    # Its input, the residual stream, which stays float32; mean and inverse deviation of it
    norm = 4 * C + 8
    # The input of qkv; q, k, v; the output, which proj reads; logsumexp
    attention = width * (C + 3 * C + C) + 4 * config.n_head
    ffn = width * (C + 4 * C + 4 * C)  # the input of up, of the Leaky ReLU, of down
    dropout = C if config.dropout else 0  # a mask of one byte a value (attention keeps a seed)
    layer = 2 * norm + attention + ffn + 2 * dropout
    # After the layers the last norm; 8: an id
    return tokens * (config.n_layer * layer + norm + dropout + 8)


def memory(plan: Plan, micro_batch: int) -> dict[str, int]:
    """Bytes on one device at the height of a step, by what they are for. DDP adds none: its buckets are the gradients themselves."""
    config, half = plan.model, plan.training.precision in DTYPES
    n, tokens, width = (
        sum(parameters(config).values()),
        micro_batch * config.block_size,
        2 if half else 4,
    )
    V, C = config.vocab_size, config.n_embd
    # Of one chunk, their softmax in float32 and its gradient
    logits = min(LOGITS["cuda"], tokens * V) * (2 * width + 4)
    return {
        "weights": 4 * n,
        "gradients": 4 * n,
        "AdamW's moments": 8 * n,
        # That autocast makes
        f"{plan.training.precision} copies": 2 * matmul_weights(config) if half else 0,
        "activations": activation_bytes(config, tokens, width),
        # The gradient of its matrix over the chunks; the last state and its gradient
        "head": logits + 4 * V * C + 8 * tokens * C,
    }


def fitting(plan: Plan, card: Card) -> int | None:
    """The micro-batch of the parameters if the card holds it, else the largest power of two that it holds, else None."""
    powers = [
        2**k for k in reversed(range(plan.micro_batch.bit_length())) if plan.sequences % 2**k == 0
    ]
    candidates = [plan.micro_batch, *(power for power in powers if power < plan.micro_batch)]
    return next(
        (
            size
            for size in candidates
            if sum(memory(plan, size).values()) <= USABLE * card.memory * 1e9
        ),
        None,
    )


def hours(plan: Plan, card: Card) -> float:
    """Of training alone, without validation and saving. More GPUs divide the hours, and leave the price as long as the MFU holds."""
    peak = peak_flops(card.device)
    assert peak, f"{card.device} has no peak in flops.py"
    return plan.tokens * flops_per_token(plan.model) / (plan.devices * peak * plan.mfu) / 3600


def report(plan: Plan, shown: Sequence[Card]) -> list[str]:
    """The plan in lines of at most 100 characters."""
    config, training, counts = plan.model, plan.training, parameters(plan.model)
    n, flops, needed = sum(counts.values()), flops_per_token(config), memory(plan, plan.micro_batch)
    embeddings = "embeddings (head tied)" if config.tied_embeddings else "embeddings and head"
    parts = [f"{name} {_bytes(size)}" for name, size in needed.items() if size]
    return [
        f"model       {config.n_layer} layers, {config.n_embd:,} wide, {config.n_head} heads, "
        f"context {config.block_size:,}, vocabulary {config.vocab_size:,}",
        f"parameters  {_count(counts['blocks'])} in blocks, {_count(counts['embeddings'] + counts['head'])} in {embeddings}, {_count(n)} in all",
        f"run         {training.steps:,} steps x {training.batch_size * config.block_size:,} tokens = {_count(plan.tokens)} tokens",
        f"            {plan.tokens / n:.1f} tokens a parameter (Chinchilla's optimum: 20)",
        f"FLOPs       {flops:.3g} a token (6 x {_count(matmul_weights(config))} in matrix products + 12·L·C·T), {plan.tokens * flops:.3g} in all",
        f"memory      {_bytes(sum(needed.values()))} a device at micro-batch {plan.micro_batch}, without torch.compile, which needs less:",
        f"            {', '.join(parts[:3])},",
        f"            {', '.join(parts[3:])}",
        f"disk        {_bytes(12 * n)} a saved state, about 3 at once; {_bytes(2 * plan.tokens)} of shards to read no token twice",
        *_tuning(plan),
        "",
        *table(plan, shown),
    ]


def _tuning(plan: Plan) -> list[str]:
    """What the stage `tuned` adds. How much there is to read only `conversations` can tell."""
    epochs, rows = plan.tuning.epochs, plan.conversations
    if rows is None:
        return [
            f"tuning      {epochs:g} x what the stage conversations finds, which has not run yet"
        ]
    tokens = epochs * rows * plan.model.block_size
    share = f"{tokens / plan.tokens:.1%} of the run on top"
    return [f"tuning      {epochs:g} x {rows:,} rows = {_count(tokens)} tokens: {share}"]


def table(plan: Plan, shown: Sequence[Card]) -> list[str]:
    """Hours and money on each of the cards."""
    plural = "" if plan.devices == 1 else "s"
    return [
        f"On {plan.devices} GPU{plural}, at an assumed MFU of {100 * plan.mfu:.3g}% (torchtitan: 33-39%, Llama 8B on H100; tiny models far less):",
        "GPU       memory  micro-batch  peak TFLOP/s     hours  US$/GPU-hour        US$",
        *(_row(plan, card) for card in shown),
        "micro-batch: runtime.micro_batch, or the largest power of two that fits, or none.",
        # Else they are the user's own
        *([f"Prices: {PRICED}."] if set(shown) <= set(CARDS) else []),
    ]


def _row(plan: Plan, card: Card) -> str:
    start, size, precision = (
        f"{card.name:<9}{card.memory:>4} GB",
        fitting(plan, card),
        plan.training.precision,
    )
    if size is None:
        return f"{start}{'-':>13}  too small: micro-batch 1 needs {_bytes(sum(memory(plan, 1).values()))}"
    if precision == "fp32":
        return f"{start}{size:>13}  no estimate in fp32: set checkpoints.precision to {'bf16' if card.bf16 else 'fp16'}"
    if precision == "bf16" and not card.bf16:
        return f"{start}{size:>13}  no bf16: set checkpoints.precision to fp16"
    time, peak = hours(plan, card), (peak_flops(card.device) or 0) / 1e12
    return f"{start}{size:>13}{peak:>14,.0f}{_decimal(time, 1):>10}{card.price:>14.2f}{_decimal(time * plan.devices * card.price, 2):>11}"


def _decimal(value: float, places: int) -> str:
    least = 10**-places
    return f"<{least:g}" if 0 < value < least else f"{value:,.{places}f}"


def _count(value: float) -> str:
    return f"{value / 1e9:.2f} B" if value >= 1e9 else f"{value / 1e6:.1f} M"


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"
