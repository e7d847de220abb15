"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only."""

import torch
from torch import nn

from antimatter.training.config import OptimizerConfig

# Part of the names of its parameters; a tied head is the same parameter
EMBEDDING = "token_embedding"


def build(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with three groups of parameters.

    Biases and norms do not decay: pulling a gain towards zero does not regularise. The token
    embedding has another learning rate, because a row of it learns only from its own token, and a
    matrix of a block from every token (docs/log.md has the gain).
    """
    named = list(model.named_parameters())
    embeddings = [p for name, p in named if EMBEDDING in name]
    matrices = [p for name, p in named if p.ndim >= 2 and EMBEDDING not in name]
    vectors = [p for _, p in named if p.ndim < 2]
    decay, multiple = config.weight_decay, config.embedding_rate
    groups = [
        {"params": embeddings, "weight_decay": decay, "times": multiple},
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
    """Sets the learning rate of the matrices; that of the other groups is a multiple of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["times"]
