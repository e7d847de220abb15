"""How well the model predicts text that it has not seen: in all, and by how often it has seen the token, by its position in the context, by source.

One core scores tokens, score(); every figure and every table is a sum over what it yields.
"""

# N scored tokens, B windows side by side, T time, V vocabulary, G groups
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from antimatter.data.shards.reader import Shards
from antimatter.model.gpt import GPT
from antimatter.model.loss import frequency_bins, linear_cross_entropy, perplexity

BATCH = 16  # windows in a forward pass: memory only


@dataclass(frozen=True)
class Score:
    """What a number of tokens cost."""

    tokens: int
    nats: float  # negative log-likelihood of all of them
    bytes: int  # of the UTF-8 text that they stand for

    def figures(self) -> dict[str, float]:
        """loss: nats per token. perplexity: its exponential. bits_per_byte: comparable between models with other tokenizers."""
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": self.nats / math.log(2) / self.bytes,
        }


@dataclass(frozen=True)
class Bin:
    """The scored tokens of which some number lies between `least` and `most`."""

    least: int
    most: int
    tokens: int
    loss: float  # mean negative log-likelihood, nats per token

    @property
    def name(self) -> str:
        return f"{self.least}-{self.most}" if self.least < self.most else str(self.least)

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)


@dataclass(frozen=True)
class FrequencyBin(Bin):
    vocabulary: int  # how many different tokens train has that often


@dataclass(frozen=True)
class Evaluation:
    windows: Score  # each window on its own, as in training
    sliding: Score  # windows that overlap
    # By how often train has the token, rarest first; sums up to `windows`
    frequencies: list[FrequencyBin]
    # By how many tokens of its window stand before the token; sums up to `windows`
    positions: list[Bin]
    sources: dict[str, Score]  # sums up to `sliding`


# ---- the core


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


@torch.no_grad()
def score(model: GPT, windows: Iterable[Window]) -> Iterator[Scored]:
    """Scores the targets of each window that count, in float32, a batch of windows at a time.

    Args:
        model: in eval mode.
    """
    device = model.head.weight.device
    for group in _batches(windows):
        shape = len(group), max(len(window.ids) for window in group) - 1
        inputs, targets, wanted = (
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
            np.zeros(shape, bool),
        )  # padding changes nothing before it
        for row, window in enumerate(group):
            length = len(window.ids) - 1
            inputs[row, :length], targets[row, :length], wanted[row, window.first : length] = (
                window.ids[:-1],
                window.ids[1:],
                True,
            )
        mask = torch.from_numpy(wanted).to(device)
        hidden = model.hidden(torch.from_numpy(inputs).to(device))[mask]  # (N, C)
        _, losses = linear_cross_entropy(
            hidden[None], model.head.weight, torch.from_numpy(targets).to(device)[mask][None]
        )
        rows, places = np.nonzero(wanted)
        yield Scored(
            targets[wanted],
            np.array([window.stream for window in group])[rows],
            places + 1,
            losses[0].double().cpu().numpy(),
        )


def sliding(streams: Iterable[np.ndarray], context: int, stride: int) -> Iterator[Window]:
    """Windows of `context` tokens in which every token of each stream but its first counts once.

    One starts every `stride` tokens and counts for what the one before has not reached: a token has at least context - stride tokens before it in
    its window, where the stream has that many (Press et al. 2021). With a stride of `context` the windows do not overlap.

    Args:
        streams: token ids, (length,) each; a window never holds two of them.
        stride: 1 to `context`.
    """
    assert 1 <= stride <= context, f"a stride of {stride} with a context of {context}"
    for number, ids in enumerate(streams):
        start = done = 0
        while done < len(ids) - 1:
            end = min(start + context, len(ids) - 1)
            yield Window(number, ids[start : end + 1], done - start)
            done, start = end, start + stride


def _batches(windows: Iterable[Window]) -> Iterator[list[Window]]:
    group: list[Window] = []
    for window in windows:
        group.append(window)
        if len(group) == BATCH:
            yield group
            group = []
    if group:
        yield group


class _Sums:
    """Losses summed by group."""

    def __init__(self, groups: int) -> None:
        self.nats, self.tokens = np.zeros(groups), np.zeros(groups, np.int64)  # both (G,)

    def add(self, group: np.ndarray, losses: np.ndarray) -> None:
        self.nats += np.bincount(group, losses, len(self.nats))
        self.tokens += np.bincount(group, minlength=len(self.tokens))


# ---- the validation split


def evaluate(model: GPT, shards: Shards, stride: int) -> Evaluation:
    """Every token of validation, without loss weights. Windows hold what stands side by side in a file, several documents too, as in training.

    Args:
        model: in eval mode.
        stride: of the sliding windows; block_size if that is less.

    Raises:
        ValueError: the shards do not say where their documents come from.
    """
    context = model.config.block_size
    documents = shards.validation_documents()
    bins = frequency_bins(torch.from_numpy(shards.token_counts().astype(np.int64))).numpy()  # (V,)
    names, first_of = shards.sources(), _position(np.arange(1, context + 1))
    by_frequency, by_position, by_source = (
        _Sums(bins.max() + 1),
        _Sums(first_of[-1] + 1),
        _Sums(len(names)),
    )
    for scored in score(model, sliding(shards.split("validation"), context, context)):
        by_frequency.add(bins[scored.ids], scored.losses)
        by_position.add(_position(scored.context), scored.losses)
    begun = 0  # documents whose BOS was a target; that of a stream's first never is
    for scored in score(model, sliding(shards.split("validation"), context, min(stride, context))):
        begins = np.cumsum(scored.ids == shards.index["bos"])
        by_source.add(documents["source"][scored.stream + begun + begins], scored.losses)
        begun += int(begins[-1])
    sizes = np.bincount(documents["source"], documents["bytes"], len(names))
    text = shards.bytes("validation")
    return Evaluation(
        windows=Score(int(by_frequency.tokens.sum()), float(by_frequency.nats.sum()), text),
        sliding=Score(int(by_source.tokens.sum()), float(by_source.nats.sum()), text),
        frequencies=[
            FrequencyBin(
                4**i if i else 0, 4 ** (i + 1) - 1, int(n), float(nats / n), int((bins == i).sum())
            )
            for i, (n, nats) in enumerate(zip(by_frequency.tokens, by_frequency.nats, strict=True))
            if n
        ],
        positions=[
            Bin(2 ** (i - 1) + 1 if i else 1, min(2**i, context), int(n), float(nats / n))
            for i, (n, nats) in enumerate(zip(by_position.tokens, by_position.nats, strict=True))
            if n
        ],
        sources={
            name: Score(int(n), float(nats), int(size))
            for name, n, nats, size in zip(
                names, by_source.tokens, by_source.nats, sizes, strict=True
            )
            if n
        },
    )


def _position(context: np.ndarray) -> np.ndarray:
    """The bin of a number of tokens of context: 1, 2, 3 to 4, 5 to 8, ..."""
    return np.ceil(np.log2(context)).astype(np.int64)
