"""GPUs for rent: their memory, their price, and the share of their peak that a training reaches.
Their peak speed is in model/flops.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from antimatter.errors import UserError


@dataclass(frozen=True)
class Card:
    name: str
    device: str  # its name in torch
    memory: int  # GB
    price: float  # US$ per GPU-hour
    mfu: float  # assumed, for models at least plan.WIDE wide
    bf16: bool = True


# Memory: NVIDIA's data sheets (B200: 180 of its 192 GB are usable). Prices: RunPod on demand in
# March 2026, from https://deploybase.ai/articles/runpod-gpu-pricing. Kaggle offers two free T4 for
# 30 hours a week.
PRICED = "RunPod on demand, March 2026; T4: Kaggle offers two free for 30 hours a week"
# MFU: assumptions, as none of these has run this code yet. Others reach 46% on H100 and 62% on A100
# (llm.c, GPT-2 350M), 40% on H100 (autoresearch, 50M), and 70% on an RTX 4090 (a fork of nanochat,
# 124M at 135,000 tokens/s). T4 and L4 cannot hold their peak within 70 W, and a T4 lacks
# FlashAttention: a model 384 wide reaches 11% there (GuppyLM: 10,000 steps of 32 x 128 tokens in 5
# minutes). No training of this size on a B200 is known.
CARDS = (
    Card("T4", "Tesla T4", 16, 0.0, mfu=0.2, bf16=False),
    Card("RTX 4090", "NVIDIA GeForce RTX 4090", 24, 0.60, mfu=0.4),
    Card("L4", "NVIDIA L4", 24, 0.78, mfu=0.3),
    Card("L40S", "NVIDIA L40S", 48, 1.40, mfu=0.4),
    Card("A100", "NVIDIA A100-SXM4-80GB", 80, 2.45, mfu=0.4),
    Card("H100", "NVIDIA H100 80GB HBM3", 80, 4.76, mfu=0.4),
    Card("H200", "NVIDIA H200", 141, 6.35, mfu=0.4),
    Card("B200", "NVIDIA B200", 180, 10.57, mfu=0.3),
)


def choose(names: Sequence[str], price: float | None) -> list[Card]:
    """The cards with those names, or all of them if there are none.

    Args:
        names: in any case; each may hold several, with commas between them.
        price: US$ per GPU-hour of all of them; None takes the list prices.

    Raises:
        UserError: an unknown name, or a price that is none.
    """
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price must be 0 or more US$ per GPU-hour, got {price:g}")
    wanted = [name.strip() for several in names for name in several.split(",")]
    by_name = {card.name.lower(): card for card in CARDS}
    for name in wanted:
        if name.lower() not in by_name:
            known = ", ".join(card.name for card in CARDS)
            raise UserError(f"--gpu {name!r} is not known: take one of {known}")
    # Without repetitions, in the user's order
    chosen = list(dict.fromkeys(by_name[name.lower()] for name in wanted)) or list(CARDS)
    return chosen if price is None else [replace(card, price=price) for card in chosen]
