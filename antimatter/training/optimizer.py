"""AdamW (Loshchilov & Hutter 2019) with weight decay on matrices only."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    learning_rate: float  # the peak of the schedule
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    grad_clip: float  # largest global norm of the gradient

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon", "grad_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


def build(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the model. Biases and norms do not decay: pulling a gain towards zero is no regularisation."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
