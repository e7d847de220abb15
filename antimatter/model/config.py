"""The sections of params.yaml about the network, its loss and sampling from it.

In a module of their own, so that values are checked without importing torch.
"""

from dataclasses import dataclass
from typing import Annotated

from antimatter.errors import UserError
from antimatter.params import (
    BelowOne,
    Count,
    Fraction,
    NonNegative,
    PositiveInt,
    Section,
    Within,
)

# The values of options that earlier models did not have: what they were made with
EARLIER_VALUES = {"residual_scale": 1.0}


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    n_layer: PositiveInt
    n_head: PositiveInt
    n_embd: PositiveInt  # C
    block_size: PositiveInt  # longest context, in tokens
    negative_slope: Fraction  # of the Leaky ReLU; 0 is ReLU, 1 is linear
    dropout: BelowOne
    tied_embeddings: bool  # the head shares its matrix with the token embedding
    # Of the initial deviation of the matrices that write into the residual path, as a multiple of
    # that of the others. GPT-2 has 1 / sqrt(2 * n_layer)
    residual_scale: NonNegative
    seed: Count  # of the initial weights

    def validate(self) -> None:
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd must be a multiple of n_head ({self.n_head}), got {self.n_embd}"
            )


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    vocab_size: int  # V; from the tokenizer, never from params.yaml


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The rare-token balance: bins of tokens by frequency, whose weights rise with their loss."""

    # Exponent of a bin's loss relative to the mean; 0 is plain cross-entropy
    rare_token_power: NonNegative
    # A bin's weight is between 1 / this and this, before weights are scaled to average 1
    rare_token_limit: Annotated[float, Within("[1, inf)")]
    # Of the moving average of a bin's loss, per step
    rare_token_decay: BelowOne


@dataclass(frozen=True, kw_only=True)
class Sampling(Section):
    temperature: NonNegative  # 0 is greedy
    top_k: Count  # choose among this many of the most likely tokens; 0 is all
    # Choose among the smallest set of tokens with this total probability; 1 is all
    top_p: Annotated[float, Within("(0, 1]")]
    max_new_tokens: PositiveInt
