"""What params.yaml says of the network, of its loss and of how a text is drawn from it.

Apart from the code that they steer, so that values are checked without importing torch.
"""

from dataclasses import dataclass

from antimatter.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    n_layer: int
    n_head: int
    n_embd: int  # C
    block_size: int  # longest context, in tokens
    negative_slope: float  # of the Leaky ReLU; 0 is ReLU, 1 is linear
    dropout: float
    tied_embeddings: bool  # the head shares its matrix with the token embedding
    seed: int  # of the initial weights

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_embd", "block_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise UserError(
                f"n_embd must be a multiple of n_head ({self.n_head}), got {self.n_embd}"
            )
        if not 0 <= self.negative_slope <= 1:
            raise UserError(f"negative_slope must lie in [0, 1], got {self.negative_slope}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class GPTConfig(ModelConfig):
    vocab_size: int  # V; comes from the tokenizer, never from params.yaml


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The rare-token balance. Bins of tokens by their frequency get weights that rise with their loss."""

    rare_token_power: float  # of a bin's loss relative to the mean; 0 is plain cross-entropy
    # A bin's weight lies between 1 / this and this, before weights are scaled to average 1
    rare_token_limit: float
    rare_token_decay: float  # of the moving average of a bin's loss, a step

    def __post_init__(self) -> None:
        if self.rare_token_power < 0:
            raise UserError(f"rare_token_power must not be negative, got {self.rare_token_power}")
        if self.rare_token_limit < 1:
            raise UserError(f"rare_token_limit must be at least 1, got {self.rare_token_limit}")
        if not 0 <= self.rare_token_decay < 1:
            raise UserError(f"rare_token_decay must lie in [0, 1), got {self.rare_token_decay}")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    temperature: float  # 0 is greedy
    top_k: int  # most likely tokens to choose among; 0 is all
    top_p: float  # smallest set of tokens with this probability together; 1 is all
    max_new_tokens: int

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"temperature must not be negative, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top_k must not be negative, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
