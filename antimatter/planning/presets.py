"""The table of all presets: what each needs on the GPUs and the CPU of its user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap

from antimatter import text
from antimatter.errors import UserError
from antimatter.planning import budget, plan, reads
from antimatter.planning.gpus import CARDS, PRICED, Card
from antimatter.planning.plan import Plan

# Without --gpu: the cards that the presets are for
USUAL = ("T4", "RTX 4090", "H100")
# FLOP/s of a CPU. Two cores with AVX2 reach 0.16e12, two with AVX512-BF16 0.4e12 on the default
# model and 0.56e12 on a wider one (benchmarks/RESULTS.md)
CPU = 0.3e12
LONGEST = 48 * 3600  # seconds that somebody may let a CPU run
HEADER = (
    *("preset", "params", "tokens", "bits", "perplexity", "on"),
    *("batch", "memory", "training", "tuning", "US$"),
)
LEFT = ("preset", "perplexity", "on")


@dataclass(frozen=True)
class Preset:
    name: str
    plan: Plan  # on one device
    reads: reads.Reads


def read(paths: Sequence[Path], mfu: float | None) -> list[Preset]:
    """The presets, the least computation first.

    Raises:
        UserError: one of them cannot be planned.
    """
    presets = [Preset(path.stem, plan.read(path, 1, mfu), reads.read(path)) for path in paths]
    return sorted(presets, key=lambda one: one.plan.flops(one.plan.tokens))


def table(
    presets: Sequence[Preset],
    cards: Sequence[tuple[Card, int]],
    losses: Mapping[str, tuple[str, str]],
) -> list[str]:
    """A row for each preset and device, in lines of at most 100 characters.

    Args:
        cards: each with the number of them that share the batch.
        losses: bits per byte and perplexity by the name of a preset; the others have none.
    """
    rows = []
    for preset in presets:
        head = [
            preset.name,
            text.count(sum(plan.parameters(preset.plan.model).values())),
            text.count(preset.plan.tokens),
            *losses.get(preset.name, ("-", "-")),
        ]
        for cells in _on_devices(preset, cards):
            rows.append([*head, *cells])
            head = [""] * len(head)
    right = [i for i, name in enumerate(HEADER) if name not in LEFT]
    return [*text.table([HEADER, *rows], right=right), "", *_legend(presets, cards)]


def _on_devices(preset: Preset, cards: Sequence[tuple[Card, int]]) -> list[list[str]]:
    cpu = [_on_cpu(preset)] if _cpu_seconds(preset, preset.plan.tokens) < LONGEST else []
    return [*cpu, *(_on_gpus(preset, card, number) for card, number in cards)]


def _on_gpus(preset: Preset, card: Card, devices: int) -> list[str]:
    name = card.name if devices == 1 else f"{devices} {card.name}"
    try:
        shared = replace(preset.plan, devices=devices)
    except UserError:
        return [name, "-", "-", "no share", "-", "-"]
    # A GPU without bf16 computes in fp16, which takes as much memory (training/numerics.py)
    batch = plan.fitting(shared, card)
    needed = text.size(sum(plan.memory(shared, batch or 1).values()))
    if batch is None:
        return [name, "-", needed, "too small", "-", "-"]
    training = plan.seconds(shared, card, shared.tokens)
    tuning = plan.seconds(shared, card, _tuning_tokens(preset), shared.tuning.batch_size)
    cost = (training + tuning) / 3600 * devices * card.price
    money = f"{cost:,.2f}" if cost < 1000 else f"{cost:,.0f}"
    return [name, str(batch), needed, duration(training), duration(tuning), money]


def _on_cpu(preset: Preset) -> list[str]:
    batch = preset.plan.micro_batch
    # AVX2 has neither bf16 nor fp16 (training/numerics.py)
    computed = replace(preset.plan, training=replace(preset.plan.training, precision="fp32"))
    needed = text.size(sum(plan.memory(computed, batch).values()))
    training = _cpu_seconds(preset, preset.plan.tokens)
    tuning = _cpu_seconds(preset, _tuning_tokens(preset), preset.plan.tuning.batch_size)
    return ["CPU", str(batch), needed, duration(training), duration(tuning), "-"]


def _cpu_seconds(preset: Preset, tokens: float, batch: int | None = None) -> float:
    return preset.plan.flops(tokens, batch) / CPU


def _tuning_tokens(preset: Preset) -> float:
    return preset.plan.tuning.epochs * preset.reads.conversation_tokens


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `9.5 h` or `127 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def _data_seconds(preset: Preset) -> float:
    return 3600 * sum(part.hours for part in budget.data(preset.reads, budget.HOME))


def _legend(presets: Sequence[Preset], cards: Sequence[tuple[Card, int]]) -> list[str]:
    """The assumptions behind the table."""
    shown = list(dict.fromkeys(card for card, _ in cards))
    given = presets[0].plan.mfu
    shares = ", ".join(f"{card.name} {100 * card.mfu:.0f}%" for card in shown)
    assumed = f"an assumption: {shares}; less below {plan.WIDE} channels"
    on_cpu = [one for one in presets if _cpu_seconds(one, one.plan.tokens) < LONGEST]
    speeds = [f"{one.name} {CPU / one.plan.flops(1):,.0f}" for one in on_cpu]
    home = budget.HOME
    before = [
        f"{one.name} {duration(_data_seconds(one))}" for one in presets if one.reads.raw_bytes
    ]
    notes = {
        "bits": "per byte of text, and perplexity, per token of the vocabulary: median (90%) of the"
        " law of the ladder of 2026-11-25, before embedding_rate, for text like its own;"
        " docs/seed.md has a narrower forecast of 300m",
        "batch": "the micro-batch that fits; no share: the devices do not divide"
        " checkpoints.batch_size",
        "MFU": assumed if given is None else f"{100 * given:.3g}%, of --mfu",
        "CPU": f"{CPU / 1e12:g} TFLOP/s in fp32 (four cores with AVX2);"
        f" tokens/s: {', '.join(speeds)}",
        "data": f"not included; {home.cores} cores, {home.network:g} MB/s: {', '.join(before)}",
        "others": "not included: installation, validation, evaluation, answers, export",
    }
    if set(shown) <= set(CARDS):
        notes["prices"] = PRICED
    texts = [f"{name:<9}{note}" for name, note in notes.items()]
    return [line for one in texts for line in wrap(one, 100, subsequent_indent=" " * 9)]
