"""How well the model predicts text that it has not seen."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from antimatter.data.batches import in_order
from antimatter.model.gpt import GPT
from antimatter.model.loss import cross_entropy

BATCH = 16  # sequences in a forward pass: memory only


@torch.no_grad()
def evaluate(model: GPT, token_files: Sequence[np.ndarray], text_bytes: int) -> dict[str, float]:
    """Every token of the files, each context window on its own, in float32.

    Args:
        text_bytes: UTF-8 length of the documents in the files.

    Returns:
        loss: mean negative log-likelihood, nats per token;
        perplexity: its exponential;
        bits_per_byte: total negative log-likelihood in bits over text_bytes, which models with other tokenizers can be compared by.
    """
    total, tokens = 0.0, 0
    for inputs, targets in in_order(token_files, batch_size=BATCH, block_size=model.config.block_size):
        total += cross_entropy(model(inputs), targets, reduction="none").double().sum().item()
        tokens += targets.numel()
    loss = total / tokens
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": total / math.log(2) / text_bytes}
