"""The loss of every token: perplexity, cloze, next turns and lm-eval are sums over score()."""

# N scored tokens, B windows side by side, T time, C channels
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from antimatter.model.gpt import GPT
from antimatter.model.loss import linear_cross_entropy, perplexity

BATCH = 16  # windows in a forward pass: memory and speed only
ROWS = 256  # tokens whose logits argmax() holds at once: 50 MB at a vocabulary of 50,257


@dataclass(frozen=True)
class Score:
    """The loss of some text."""

    tokens: int
    nats: float  # negative log-likelihood of all tokens
    bytes: int  # of the text in UTF-8

    def figures(self) -> dict[str, float]:
        """loss: nats per token. perplexity: its exponential. bits_per_byte: can be compared between
        models with different tokenizers.
        """
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": self.nats / math.log(2) / self.bytes,
        }


@dataclass(frozen=True)
class Window:
    """Tokens that the model reads at a time, and which of them count."""

    stream: int  # the number of the text that it is part of
    ids: np.ndarray  # (T + 1,): T inputs, and the T targets that follow them
    first: int  # targets before it do not count


@dataclass(frozen=True)
class Scored:
    """Tokens in their order, of one stream and then of the next. N tokens."""

    ids: np.ndarray  # (N,) int64
    stream: np.ndarray  # (N,) int64: the number of the stream
    context: np.ndarray  # (N,) int64: tokens that the model has read before it, at most block_size
    losses: np.ndarray  # (N,) float64: negative log-likelihood, nats
    is_likeliest: np.ndarray  # (N,) bool; (0,) unless score() was asked for it


@torch.no_grad()
def score(
    model: GPT,
    windows: Iterable[Window],
    *,
    batch_size: int = BATCH,
    likeliest: bool = False,
) -> Iterator[Scored]:
    """Scores the counted targets of each window in float32, a batch of windows at a time.

    Args:
        model: in eval mode.
        likeliest: also find out whether each token is the one that greedy decoding would take,
            which costs a second product with the head.
    """
    device = model.head.weight.device
    for batch in _batches(windows, batch_size):
        # Padding follows the tokens of a window, so it changes nothing
        shape = len(batch), max(len(window.ids) for window in batch) - 1
        inputs = np.zeros(shape, np.int64)  # (B, T)
        targets = np.zeros(shape, np.int64)
        counts = np.zeros(shape, bool)
        for row, window in enumerate(batch):
            length = len(window.ids) - 1
            inputs[row, :length] = window.ids[:-1]
            targets[row, :length] = window.ids[1:]
            counts[row, window.first : length] = True
        # Only counted targets go through the head, which is a large part of a small model
        mask = torch.from_numpy(counts).to(device)
        hidden = model.hidden(torch.from_numpy(inputs).to(device))[mask]  # (N, C)
        wanted = torch.from_numpy(targets).to(device)[mask]  # (N,)
        _, losses = linear_cross_entropy(hidden[None], model.head.weight, wanted[None])
        is_likeliest = np.zeros(0, bool)
        if likeliest:
            best = [model.head(part).argmax(-1) for part in hidden.split(ROWS)]
            is_likeliest = (torch.cat(best) == wanted).cpu().numpy()
        rows, places = np.nonzero(counts)
        yield Scored(
            targets[counts],
            np.array([window.stream for window in batch])[rows],
            places + 1,
            losses[0].double().cpu().numpy(),
            is_likeliest,
        )


def sums(model: GPT, windows: list[Window]) -> np.ndarray:
    """The loss of each window, in nats: (windows,). Their streams are numbered from 0."""
    nats = np.zeros(len(windows))
    for scored in score(model, windows):
        nats += np.bincount(scored.stream, scored.losses, len(windows))
    return nats


def sliding(streams: Iterable[np.ndarray], context: int, stride: int) -> Iterator[Window]:
    """Windows of `context` tokens in which every token of each stream but its first counts once.

    One window starts every `stride` tokens and counts the tokens that the one before does not
    reach: a token has at least context - stride tokens before it in its window, where the stream
    has them (Press et al. 2021). With a stride of `context` the windows do not overlap.

    Args:
        streams: token ids, (length,) each; a window never holds two of them.
        stride: 1 to `context`.
    """
    assert 1 <= stride <= context, f"a stride of {stride} with a context of {context}"
    for number, ids in enumerate(streams):
        # The first token of a stream has no context, so it is never a target
        start = done = 0
        while done < len(ids) - 1:
            end = min(start + context, len(ids) - 1)
            yield Window(number, ids[start : end + 1], done - start)
            done, start = end, start + stride


def _batches(windows: Iterable[Window], size: int) -> Iterator[list[Window]]:
    remaining = iter(windows)
    while batch := list(islice(remaining, size)):
        yield batch
