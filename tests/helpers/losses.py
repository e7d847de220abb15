"""The loss of each token by a forward pass of its own: slow, and too simple to be wrong."""

import numpy as np
import torch
from torch.nn import functional as F

from antimatter.model.gpt import GPT


@torch.no_grad()
def one_by_one(model: GPT, ids: np.ndarray, stride: int) -> list[float]:
    """The loss of each token but the first, after the tokens before it in the first sliding window
    of that stride that reaches it.
    """
    context = model.config.block_size
    losses = []
    for target in range(1, len(ids)):
        start = max(0, -(-(target - context) // stride)) * stride
        before = torch.from_numpy(ids[start:target].astype(np.int64))
        logits = model(before[None])[:, -1].double()
        losses.append(F.cross_entropy(logits, torch.tensor([int(ids[target])])).item())
    return losses
