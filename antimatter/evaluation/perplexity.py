"""How well the model predicts text that it has not seen."""

import math
from collections.abc import Sequence

import numpy as np

from antimatter.data.batches import in_order
from antimatter.model.gpt import GPT
from antimatter.model.loss import mean_loss

BATCH = 16  # sequences in a forward pass: memory only


def evaluate(model: GPT, token_files: Sequence[np.ndarray], text_bytes: int) -> dict[str, float]:
    """Every token of the files, each context window on its own, in float32.

    Args:
        text_bytes: UTF-8 length of the documents in the files.

    Returns:
        loss: mean negative log-likelihood, nats per token;
        perplexity: its exponential;
        bits_per_byte: total negative log-likelihood in bits over text_bytes, which models with other tokenizers can be compared by.
    """
    loss, tokens = mean_loss(model, in_order(token_files, batch_size=BATCH, block_size=model.config.block_size))
    return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss * tokens / math.log(2) / text_bytes}
