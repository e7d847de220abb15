"""The training objective, and the same quantity as evaluation sums it."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Negative log-likelihood of the targets, in nats: (B, T, V) and (B, T) -> a scalar, or (B, T) with reduction "none".

    The softmax is taken in float32: in bf16 its sum over V terms keeps three digits only.
    """
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)
    return losses.view_as(targets) if reduction == "none" else losses
