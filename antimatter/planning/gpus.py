"""GPUs for rent: their memory and their price. Their peak speed is in model/flops.py."""

import math
from dataclasses import dataclass, replace

from antimatter.errors import UserError


@dataclass(frozen=True)
class Card:
    name: str
    device: str  # its name in torch
    memory: int  # GB
    price: float  # US$ per GPU-hour
    bf16: bool = True


# Memory: NVIDIA's data sheets (B200: 180 of its 192 GB are usable). Prices: RunPod on demand in
# March 2026, from https://deploybase.ai/articles/runpod-gpu-pricing. Kaggle offers two free T4 for
# 30 hours a week.
PRICED = "RunPod on demand, March 2026; T4: Kaggle offers two free for 30 hours a week"
CARDS = (
    Card("T4", "Tesla T4", 16, 0.0, bf16=False),
    Card("RTX 4090", "NVIDIA GeForce RTX 4090", 24, 0.60),
    Card("L4", "NVIDIA L4", 24, 0.78),
    Card("L40S", "NVIDIA L40S", 48, 1.40),
    Card("A100", "NVIDIA A100-SXM4-80GB", 80, 2.45),
    Card("H100", "NVIDIA H100 80GB HBM3", 80, 4.76),
    Card("H200", "NVIDIA H200", 141, 6.35),
    Card("B200", "NVIDIA B200", 180, 10.57),
)


def choose(name: str | None, price: float | None) -> list[Card]:
    """All cards, or the one with that name.

    Args:
        price: US$ per GPU-hour of all of them; None takes the list prices.
    """
    chosen = [card for card in CARDS if name is None or card.name.lower() == name.lower()]
    if not chosen:
        known = ", ".join(card.name for card in CARDS)
        raise UserError(f"--gpu {name!r} is not known: take one of {known}")
    if price is None:
        return chosen
    if not 0 <= price < math.inf:
        raise UserError(f"--price must be 0 or more US$ per GPU-hour, got {price:g}")
    return [replace(card, price=price) for card in chosen]
