"""How well the model predicts text that it has not seen: in all, and by how often it has seen the token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from antimatter.data.batches import in_order
from antimatter.model.gpt import GPT
from antimatter.model.loss import frequency_bins, sum_losses

BATCH = 16  # sequences in a forward pass: memory only


@dataclass(frozen=True)
class Bin:
    """The tokens of the vocabulary that occur `least` to `most` times in train, as targets of validation."""

    least: int
    most: int
    vocabulary: int  # how many different ones
    tokens: int  # of the validation split
    loss: float  # mean negative log-likelihood, nats per token


@dataclass(frozen=True)
class Evaluation:
    loss: float  # mean negative log-likelihood, nats per token
    perplexity: float  # its exponential
    bits_per_byte: float  # all of it in bits over the bytes of text: comparable between models with other tokenizers
    bins: list[Bin]  # rarest first; those without a token in validation are left out


def evaluate(model: GPT, token_files: Sequence[np.ndarray], text_bytes: int, counts: np.ndarray) -> Evaluation:
    """Every token of the files, each context window on its own, in float32. Losses are never weighted here.

    Args:
        text_bytes: UTF-8 length of the documents in the files.
        counts: how often each token occurs in train, (V,).
    """
    bins = frequency_bins(torch.from_numpy(counts.astype(np.int64)))
    windows = in_order(token_files, batch_size=BATCH, block_size=model.config.block_size)
    sums, tokens = sum_losses(model, windows, bins)
    total, loss = float(sums.sum()), float(sums.sum() / tokens.sum())
    return Evaluation(
        loss=loss,
        perplexity=math.exp(loss),
        bits_per_byte=total / math.log(2) / text_bytes,
        bins=[
            Bin(4**i if i else 0, 4 ** (i + 1) - 1, int((bins == i).sum()), int(tokens[i]), float(sums[i] / tokens[i]))
            for i in range(len(tokens))
            if tokens[i]
        ],
    )
