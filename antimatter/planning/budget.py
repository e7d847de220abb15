"""A session from raw text to the chat model, part by part: its hours and its disk, by calculation.

Training is plan.seconds(). The other rates were measured on the cores of benchmarks/RESULTS.md, and
a machine says how its own compare with those.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from antimatter import text
from antimatter.errors import UserError
from antimatter.planning import gpus, plan
from antimatter.planning.gpus import Card
from antimatter.planning.plan import Plan
from antimatter.planning.reads import KEPT, Reads
from antimatter.text import size

# MB of text per second and core (docs/log.md); rendering and packing conversations is assumed
CLEANING, LEARNING, ENCODING, PACKING = 3.3, 3.8, 5.0, 2.0
ZSTD = 0.45  # bytes of parquet per byte of English text
# Evaluation reads the validation split in plain windows, and twice more in windows that overlap by
# half
READINGS = 3
# The share of a T4's fp16 peak at which evaluation runs: it computes in float32, where the data
# sheet has 8.1 of 65 TFLOP/s, and a third of that is assumed
FLOAT32 = 0.04
SAVING = 0.2e9  # bytes of a saved state written per second, assumed


@dataclass(frozen=True)
class Machine:
    cores: int
    core: float  # speed of one, relative to the measured ones
    network: float  # MB of text per second from the hub, assumed


@dataclass(frozen=True)
class Session:
    """A machine that is lent for some hours."""

    name: str
    machine: Machine
    gpu: str
    devices: int
    hours: float
    disk: float  # bytes that the output may have
    fixed: float  # hours for what depends on no preset


HOME = Machine(cores=4, core=1.0, network=10.0)
# Four hyperthreads at about 2 GHz, each assumed to be 0.4 of a measured core. Fixed: 0.2 h for the
# installation (3 minutes were measured elsewhere), 0.3 h for samples and answers, which are written
# 32 at a time, 0.2 h for GGUF files, their comparison in llama.cpp, Ollama and the report
KAGGLE = Session("Kaggle", Machine(4, 0.4, 10.0), "T4", devices=2, hours=11.5, disk=20e9, fixed=0.7)


@dataclass(frozen=True)
class Part:
    name: str
    hours: float
    kept: float = 0.0  # bytes that stay
    working: float = 0.0  # further bytes while it runs


def data(reads: Reads, machine: Machine) -> list[Part]:
    """From the hub to shards."""
    raw, clean = reads.raw_bytes, reads.raw_bytes * KEPT
    core = machine.core * 1e6 * 3600  # MB/s of a measured core in bytes an hour of this one
    shards = 2 * clean / reads.bytes_per_token
    # A finished output is in .state too until DVC has recorded it (decision 33)
    return [
        Part("raw", raw / (machine.network * 1e6 * 3600), raw * ZSTD, raw * ZSTD),
        # Its steps hold the text three times (docs/data.md)
        Part("cleaned", raw / (CLEANING * machine.cores * core), clean * ZSTD, 3 * raw * ZSTD),
        Part("tokenizer", reads.learn_bytes / (LEARNING * core)),
        Part("shards", clean / (ENCODING * machine.cores * core), shards, shards),
    ]


def parts(planned: Plan, reads: Reads, session: Session, card: Card) -> list[Part]:
    """Every stage, on the devices of the plan."""
    n = sum(plan.parameters(planned.model).values())
    training, tuning = planned.training, planned.tuning
    tokens = tuning.epochs * reads.conversation_tokens
    steps = tokens / (tuning.batch_size * planned.model.block_size)
    # Forward alone is a third of the arithmetic
    validation = training.steps / training.validate_every * training.validation_tokens / 3
    state = 12.0 * n
    saves = training.steps / training.save_every, steps / tuning.save_every
    alone = replace(planned, devices=1, mfu=FLOAT32)
    # Weights of 4 bytes and, while it runs, the newest state, the last stable one and the next
    weights = {"kept": 4.0 * n, "working": 3 * state}
    # Tokens have 2 bytes and a mark 1; the conversations are there as text too
    packed = 3 * reads.conversation_tokens + reads.conversation_bytes * ZSTD
    packing = reads.conversation_bytes / (PACKING * session.machine.core * 1e6)

    def trained(name: str, tokens: float, saves: float, batch: int) -> Part:
        seconds = plan.seconds(planned, card, tokens, batch) + saves * state / SAVING
        return Part(name, seconds / 3600, **weights)

    # Of the text, however often the training reads it; own text is assumed to be read once
    written = reads.kept_tokens or planned.tokens
    read = written * reads.validation_fraction * READINGS / 3
    return [
        *data(reads, session.machine),
        Part("conversations", packing / 3600, packed),
        trained("checkpoints", planned.tokens + validation, saves[0], training.batch_size),
        Part("evaluation", plan.seconds(alone, card, read) / 3600),
        trained("tuned", tokens, saves[1], tuning.batch_size),
        # f16, q8_0 and q4_k_m in the cache and among the results, and the same of Ollama's f16
        Part("installation, answers, gguf", session.fixed, 2 * (2 + 1.1 + 0.7 + 2) * n),
    ]


def peak(of: Sequence[Part]) -> tuple[float, str]:
    """The largest number of bytes on the disk, and the part that needs them."""
    kept, peaks = 0.0, []
    for part in of:
        kept += part.kept
        peaks.append((kept + part.working, part.name))
    return max(peaks)


def report(planned: Plan, reads: Reads, session: Session = KAGGLE) -> list[str]:
    """The parts in lines, and whether their sum fits the session.

    Raises:
        UserError: the batch cannot be divided among its GPUs, or the GPU is too small.
    """
    [card] = gpus.choose([session.gpu], None)
    planned = replace(planned, devices=session.devices)
    if plan.fitting(planned, card) is None:
        raise UserError(f"a {card.name} is too small for this model: see its line without --kaggle")
    all_parts = parts(planned, reads, session, card)
    hours = sum(part.hours for part in all_parts)
    most, during = peak(all_parts)
    rows = [(part.name, f"{part.hours:.1f}", size(part.kept)) for part in all_parts]
    time = f"{hours:.1f} of {session.hours:g} hours"
    disk = f"at most {size(most)} of {size(session.disk)}, during {during}"
    fits = hours < session.hours and most < session.disk
    machine = session.machine
    return [
        f"A session on {session.name}: {session.devices} {card.name} at an MFU of "
        f"{100 * plan.mfu(planned, card):.2g}%, {machine.cores} cores of {machine.core:g} of those "
        "in",
        f"benchmarks/RESULTS.md, {machine.network:g} MB/s of text from the hub: all assumed.",
        *text.table([("part", "hours", "disk"), *rows], right=(1, 2)),
        f"{'It fits' if fits else 'It does NOT fit'}: {time}; {disk}.",
    ]
