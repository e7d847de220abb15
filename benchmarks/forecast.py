"""The forecast of presets/300m.yaml from published trainings of its size, in place of an
extrapolation from small ones.

    python benchmarks/forecast.py

A published loss is of another text, tokenizer, network and recipe. Each difference is a correction
in nats per token with a standard deviation. Corrections without a measurement are estimates, and
the table marks them. docs/log.md discusses them.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from antimatter import params
from antimatter.ladder import scaling
from antimatter.model.config import LossConfig
from antimatter.planning import plan
from antimatter.planning.reads import BYTES_PER_TOKEN, KEPT
from antimatter.training.config import OptimizerConfig

PRESET = Path("presets/300m.yaml")
DRAWS = 200_000
TARGET = 20.0

# Hoffmann et al. 2022 (approach 3) and Besiroglu et al. 2024: E, A, alpha, B, beta
LAWS = {
    "Hoffmann": (1.69, 406.4, 0.34, 410.7, 0.28),
    "Besiroglu": (1.8172, 482.01, 0.3478, 2085.43, 0.3658),
}
# Wen et al. 2025, "Fantastic Pretraining Optimizers" (arXiv 2509.02046; the tables are in
# marin-community/marin, experiments/optimizer_sweep/Analysis): AdamW with tuned values, trained on
# DCLM, code and mathematics. Parameters without embeddings, tokens, loss on C4 per Llama-3 token
TUNED_ADAMW = [
    *((134e6, 2.7e9, 3.529), (134e6, 5.4e9, 3.409), (134e6, 10.7e9, 3.322)),
    *((134e6, 21.5e9, 3.262), (302e6, 6.0e9, 3.264), (302e6, 12.1e9, 3.166)),
    *((302e6, 24.2e9, 3.094), (302e6, 48.3e9, 3.043), (537e6, 10.7e9, 3.110)),
    *((537e6, 21.5e9, 3.023), (537e6, 42.9e9, 2.958), (537e6, 85.9e9, 2.913)),
]
# There, at 134 M parameters, 6e-4 in place of 8e-3 needs twice the text, and half of the best rate
# about 5% more: text counts 2^-(octaves / OCTAVES)^2 as much. At 1,024 channels 4e-3 is the best
OCTAVES = math.log2(8e-3 / 6e-4)
BEST_RATE = 4e-3
# Of the rare-token balance by its power, nats per token: 0.5 and 1 were measured on the default
# corpus (0.027 and 0.062, docs/log.md), the others are a parabola through them
BALANCE = {0.0: 0.0, 0.1: 0.005, 0.25: 0.012, 0.5: 0.027}


@dataclass(frozen=True)
class Anchor:
    """A published training, and what makes ours different from it: nats per token, deviation."""

    loss: float  # of theirs, at our amount of text and rate, per token of theirs
    corrections: dict[str, tuple[float, float]]
    # Our tokens are longer by this factor, and so is the loss of one
    length: tuple[float, float]

    def draw(self, random: np.random.Generator) -> np.ndarray:
        losses = np.full(DRAWS, self.loss)
        for mean, deviation in self.corrections.values():
            losses += mean + deviation * random.standard_normal(DRAWS)
        return losses * (self.length[0] + self.length[1] * random.standard_normal(DRAWS))

    @property
    def spread(self) -> float:
        deviations = [deviation for _, deviation in self.corrections.values()]
        return math.hypot(*deviations, self.loss * self.length[1])


def efficiency(rate: float) -> float:
    return float(2.0 ** -((math.log2(rate / BEST_RATE) / OCTAVES) ** 2))


def law(name: str, weights: float, tokens: float) -> float:
    E, A, alpha, B, beta = LAWS[name]
    return float(E + A / weights**alpha + B / tokens**beta)


def anchors(tokens: float) -> dict[str, Anchor]:
    """
    Args:
        tokens: read, in new text at the best rate.
    """
    N, D, y = zip(*TUNED_ADAMW, strict=True)
    tuned = scaling.fit(N, D, y).expected(302e6, tokens).median
    # llm.c, GPT-2 350M: 2.92 on FineWeb after 31.5 B tokens at 3e-4
    # (github.com/karpathy/llm.c, scripts/run_gpt2_350M.sh)
    llmc = 31.5e9 * efficiency(3e-4)
    step = law("Besiroglu", 355e6, tokens) - law("Besiroglu", 355e6, llmc)
    # Zhao et al. 2024 (GaLore, arXiv 2403.03507): Llama 350M, perplexity 18.80 on C4 (table 2). The
    # tokens are those of table 5 and of the script, 60,000 steps of 131,072; table 2 has 6.4 B
    galore = math.log(18.80) + tuned
    galore -= scaling.fit(N, D, y).expected(302e6, 7.86e9 * efficiency(1e-3)).median
    network = ("learned positions, LayerNorm, Leaky ReLU (estimate)", (0.03, 0.02))
    beta2 = ("beta2 0.95 (measured there)", (0.005, 0.005))
    decay = ("cosine to 10%, not to 0 (estimate)", (0.008, 0.01))
    refinedweb = ("half of the text is RefinedWeb, 0.09 above C4 (estimate)", (0.045, 0.02))
    return {
        "tuned AdamW, 302 M": Anchor(
            tuned,
            dict(
                [
                    *(network, beta2, decay, refinedweb),
                    ("trained on the text that it is scored on (estimate)", (-0.12, 0.06)),
                ]
            ),
            (1.0, 0.02),
        ),
        "llm.c, GPT-2 350M": Anchor(
            2.92 + step,
            {
                "batches of 1 M tokens, not 0.5 M (measured in the other)": (0.01, 0.01),
                **dict([decay]),
                "C4 and RefinedWeb, not FineWeb (estimate)": (0.0, 0.05),
            },
            (1.035, 0.015),
        ),
        "GaLore, Llama 350M": Anchor(
            galore,
            dict(
                [
                    # It decays to 10% too
                    *(network, beta2, refinedweb),
                    ("contexts of 2,048, not 256 (estimate)", (-0.12, 0.06)),
                ]
            ),
            (1.07, 0.04),
        ),
    }


def combined(tokens: float, balance: float, seed: int = 1) -> np.ndarray:
    """Losses of the preset per token of its tokenizer: the mean of the anchors, each by its
    certainty, with a deviation of 0.04 that they have in common.
    """
    random = np.random.default_rng(seed)
    found = anchors(tokens).values()
    weights = np.array([anchor.spread**-2 for anchor in found])
    draws = np.stack([anchor.draw(random) for anchor in found])
    common = 0.04 * random.standard_normal(DRAWS)
    return np.asarray(weights @ draws / weights.sum() + common + balance)


def report(name: str, tokens: float, rate: float, unique: float, balance: float) -> None:
    new = scaling.worth(tokens, unique)
    least = new * efficiency(rate)
    print(f"\n{name}: {tokens / 1e9:.1f} B tokens, as good as {new / 1e9:.1f} B new ones; at the")
    print(f"rate {rate:g} as {least / 1e9:.1f} B at the best rate")
    for law_name in LAWS:
        loss = law(law_name, 356e6, new)
        print(f"  {law_name:22} {loss:.3f} on its own text and tokens")
    for anchor_name, anchor in anchors(least).items():
        drawn = anchor.draw(np.random.default_rng(1)) + balance
        low, median, high = np.quantile(drawn, (0.05, 0.5, 0.95))
        print(f"  {anchor_name:22} {median:.3f} ({low:.3f} to {high:.3f})", end="")
        print(f", perplexity {math.exp(median):.1f}")
    losses = combined(least, balance)
    low, median, high = np.exp(np.quantile(losses, (0.05, 0.5, 0.95)))
    below = float((np.exp(losses) < TARGET).mean())
    print(f"  {'together':22} perplexity {median:.1f} ({low:.1f} to {high:.1f}),", end="")
    print(f" below {TARGET:g} with {100 * below:.0f}%")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for one in anchors(30e9).values():
        for text, (mean, deviation) in one.corrections.items():
            print(f"{mean:+.3f} ± {deviation:.3f}  {text}")
        print(f"x {one.length[0]:.3f} ± {one.length[1]:.3f} for longer tokens\n")
    preset = plan.read(PRESET, devices=1, mfu=0.4)
    rate = params.read(OptimizerConfig, "optimizer", PRESET).learning_rate
    power = params.read(LossConfig, "loss", PRESET).rare_token_power
    unique = 45e9 * KEPT / BYTES_PER_TOKEN[50257]
    report("before", 8300 * 2**20, 6e-4, unique, BALANCE[0.5])
    report("before, at the new rate", 8300 * 2**20, rate, unique, BALANCE[0.5])
    report("four passes at the new rate", preset.tokens, rate, unique, BALANCE[0.5])
    report("the preset", preset.tokens, rate, unique, BALANCE[power])
    report("and without the balance", preset.tokens, rate, unique, 0.0)
    report("and six passes", 6 * unique, rate, unique, 0.0)


if __name__ == "__main__":
    main()
