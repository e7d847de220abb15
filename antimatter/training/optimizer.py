"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only."""

import torch
from torch import nn

from antimatter.training.config import OptimizerConfig

EMBEDDING = "token_embedding"  # in the names of its parameters; a tied head is the same parameter


def build(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the model. Biases and norms do not decay: pulling a gain towards zero is no
    regularisation. The token embedding has a rate of its own: a row of it meets its token now and
    then, where a matrix of a block learns from every token (docs/log.md has what that is worth).
    """
    named = list(model.named_parameters())
    words = [p for name, p in named if EMBEDDING in name]
    matrices = [p for name, p in named if p.ndim >= 2 and EMBEDDING not in name]
    vectors = [p for _, p in named if p.ndim < 2]
    decay, rate = config.weight_decay, config.embedding_rate
    groups = [
        {"params": words, "weight_decay": decay, "times": rate},
        {"params": matrices, "weight_decay": decay, "times": 1.0},
        {"params": vectors, "weight_decay": 0.0, "times": 1.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )
    set_learning_rate(optimizer, config.learning_rate)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the matrices; other groups have a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]
