"""The training objective, and the same quantity as evaluation sums it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of the targets, in nats: (B, T, V) and (B, T) -> a scalar, or (B, T) with reduction "none".

    The softmax is taken in float32: in bf16 its sum over V terms keeps three digits only.
    """
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)
    return losses.view_as(targets) if reduction == "none" else losses


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Mean negative log-likelihood of all targets, in nats per token, and how many they are. The model is in eval mode meanwhile.

    Args:
        batches: inputs and targets, both (B, T), of any sizes.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    total, count = 0.0, 0
    for inputs, targets in batches:
        total += cross_entropy(model(inputs.to(device)), targets.to(device), reduction="none").double().sum().item()
        count += targets.numel()
    model.train(training)
    return total / count, count
